// A drop-in for npm redislock 1.3.0: `require('leasehold/compat/redislock')`.
//
// The same names, arguments, defaults, units, errors, callbacks and promises, and the same key and value in Redis, so
// that old and new processes exclude each other. What is repaired is in docs/parity.md of the repository.
'use strict';

const { ContendedError, InvalidError, LostError } = require('../lib/errors.js');
const { clientOf } = require('./clients.js');
const { redisUrl } = require('./redis-url.js');
const { typed } = require('./promise.js');

/** The least TTL of Leasehold, in milliseconds. A shorter one lasts as long. */
const TTL_MIN = 100;

const defaults = { timeout: 10000, retries: 0, delay: 50 };
const acquired = new Set();

class RedislockError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = this.constructor.name;
  }
}

class LockAcquisitionError extends RedislockError {}
class LockReleaseError extends RedislockError {}
class LockExtendError extends RedislockError {}

class Lock {
  #url;
  #guard;
  #busy = false;

  constructor(client, options) {
    this.#url = redisUrl(client, '');
    this._id = null;
    Object.assign(this, defaults, checked(options));
  }

  get _locked() {
    return this.#guard?.held ?? false;
  }

  get _key() {
    return this._locked ? this.#guard.name : null;
  }

  acquire(key, fn) {
    return typed(() => this.#acquire(key)).nodeify(fn);
  }

  release(fn) {
    return typed(() => this.#release()).nodeify(fn);
  }

  extend(time, fn) {
    return typed(() => this.#extend(time)).nodeify(fn);
  }

  async #acquire(key) {
    if (this._locked || this.#busy) throw new LockAcquisitionError('Lock already held');
    this.#busy = true;
    try {
      const { timeout, retries, delay } = checked(this);
      const wait = retries < 0 ? { wait: Infinity } : { retries, interval: delay };
      const locks = await clientOf(this.#url);
      const lock = locks.lock(key, { ttl: Math.max(timeout, TTL_MIN), renew: false, ...wait });
      const guard = await lock.acquire();
      this.#guard = guard;
      this._id = guard.owner;
      acquired.add(this);
      guard.signal.addEventListener('abort', () => this.#guard === guard && acquired.delete(this), { once: true });
    } catch (cause) {
      const contended = cause instanceof ContendedError;
      throw new LockAcquisitionError(contended ? `Could not acquire lock on "${key}"` : cause.message, { cause });
    } finally {
      this.#busy = false;
    }
  }

  async #release() {
    const guard = this.#guard;
    if (guard === undefined) throw new LockReleaseError('Lock has not been acquired');
    this.#forget();
    try {
      await guard.release();
    } catch (cause) {
      throw new LockReleaseError(cause instanceof LostError ? expired(guard) : cause.message, { cause });
    }
  }

  async #extend(time) {
    if (!Number.isInteger(time) || time <= 0) throw new LockExtendError('Int time is required to extend lock');
    const guard = this.#guard;
    if (guard === undefined) throw new LockExtendError('Lock has not been acquired');
    try {
      await guard.extend(Math.max(time, TTL_MIN));
    } catch (cause) {
      const lost = cause instanceof LostError;
      if (lost && this.#guard === guard) this.#forget();
      throw new LockExtendError(lost ? expired(guard) : cause.message, { cause });
    }
  }

  #forget() {
    this.#guard = undefined;
    acquired.delete(this);
  }
}

function expired(guard) {
  return `Lock on "${guard.name}" had expired`;
}

/** Returns the known options as whole numbers. Refuses what the original misread, such as "10s". */
function checked(options) {
  const read = {};
  for (const name of Object.keys(defaults)) {
    const value = options?.[name];
    if (value === undefined || value === null) continue;
    if (name === 'retries' && value === Infinity) {
      read.retries = -1;
      continue;
    }
    const number = typeof value === 'string' && value.trim() !== '' ? Number(value) : value;
    const least = name === 'timeout' ? 1 : 0;
    if (typeof number !== 'number' || !Number.isFinite(number) || (name !== 'retries' && number < least)) {
      throw new InvalidError(`${name} is a number of ${name === 'retries' ? 'tries' : 'milliseconds'} ${name}=\`${String(value)}\``);
    }
    read[name] = Math.trunc(number);
  }
  return read;
}

exports.createLock = (client, options) => new Lock(client, options);

exports.setDefaults = (options) => {
  Object.assign(defaults, checked(options));
};

exports.getAcquiredLocks = () => [...acquired].filter((lock) => lock._locked);

exports.LockAcquisitionError = LockAcquisitionError;
exports.LockReleaseError = LockReleaseError;
exports.LockExtendError = LockExtendError;
