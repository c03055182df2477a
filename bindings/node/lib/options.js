// Checks the options of callers, and converts them for the native half.
'use strict';

const native = require('./native.js');
const { InvalidError, toError } = require('./errors.js');

/** Returns a duration in milliseconds. */
function millis(value, option) {
  if (typeof value === 'string') {
    const read = native.parseDuration(value);
    if (typeof read !== 'number') throw toError(read);
    return read;
  }
  if (typeof value === 'number' && value >= 0) return value;
  throw new InvalidError(
    `a duration is a number of milliseconds, or text such as 500ms, 5s, 2m or 1h ${option}=\`${shown(value)}\``,
  );
}

function shown(value) {
  return typeof value === 'object' ? Object.prototype.toString.call(value) : String(value).slice(0, 40);
}

const readers = {
  ttl: (value) => ({ ttl: millis(value, 'ttl') }),
  wait: (value) => (value === false ? { retries: 0 } : { wait: millis(value, 'wait') }),
  retries: (value) => {
    if (Number.isInteger(value) && value >= 0 && value < 0xffffffff) return { retries: value };
    throw new InvalidError(`retries is a whole number, 0 or more retries=\`${shown(value)}\``);
  },
  interval: (value) => ({ interval: millis(value, 'interval') }),
  renew: (value) => {
    if (typeof value === 'boolean') return { renew: value ? 0 : Infinity };
    const every = millis(value, 'renew');
    if (every > 0) return { renew: every };
    throw new InvalidError('the renewal interval is more than 0; false is never renew=`0`');
  },
  maxHold: (value) => ({ maxHold: millis(value, 'maxHold') }),
  label: (value) => {
    if (typeof value === 'string') return { label: value };
    throw new InvalidError(`a label is text label=\`${shown(value)}\``);
  },
};

/** Returns the options of a lock as the native half takes them. Refuses options that do not exist. */
function lockOptions(options = {}) {
  if (typeof options !== 'object' || options === null) {
    throw new InvalidError(`options are an object options=\`${shown(options)}\``);
  }
  const converted = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (!Object.hasOwn(readers, name)) {
      const valid = Object.keys(readers).join(', ');
      throw new InvalidError(`unknown option option=\`${name}\` valid=\`${valid}\``);
    }
    Object.assign(converted, readers[name](value));
  }
  if (converted.wait !== undefined && (converted.retries ?? converted.interval) !== undefined) {
    throw new InvalidError('a lock has either a wait or retries; a wait has a place in the queue option=`retries`');
  }
  return converted;
}

/** Checks the options of a call that can be given up. */
function abortable(options = {}) {
  const { signal } = options ?? {};
  if (signal === undefined || signal instanceof AbortSignal) return { signal };
  throw new InvalidError(`a signal is an AbortSignal signal=\`${shown(signal)}\``);
}

/** Checks a text argument. */
function text(value, argument) {
  if (typeof value === 'string') return value;
  throw new InvalidError(`expected text ${argument}=\`${shown(value)}\``);
}

module.exports = { abortable, lockOptions, millis, text };
