// One class of errors for each kind of failure, and how a failure of the native half becomes one.
'use strict';

class LockError extends Error {
  constructor(message, { kind = 'internal', lock, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = `LEASEHOLD_${kind.toUpperCase()}`;
    if (lock !== undefined) this.lock = lock;
  }

  // The name that a stack trace shows. Not enumerable, as that of the built-in errors.
  get name() {
    return this.constructor.name;
  }
}

class ContendedError extends LockError {
  constructor(message, { holder = null, waited = 0, ...rest } = {}) {
    super(message, { ...rest, kind: 'contended' });
    this.holder = holder;
    this.waited = waited;
  }
}

class LostError extends LockError {
  constructor(message, { why = 'expired', ...rest } = {}) {
    super(message, { ...rest, kind: 'lost' });
    this.why = why;
  }
}

class UnavailableError extends LockError {
  constructor(message, { waited, ...rest } = {}) {
    super(message, { ...rest, kind: 'unavailable' });
    if (waited !== undefined) this.waited = waited;
  }
}

class InvalidError extends LockError {
  constructor(message, options) {
    super(message, { ...options, kind: 'invalid' });
  }
}

class UnsupportedError extends LockError {
  constructor(message, options) {
    super(message, { ...options, kind: 'unsupported' });
  }
}

class ClosedError extends LockError {
  constructor(message, options) {
    super(message, { ...options, kind: 'closed' });
  }
}

const classes = {
  closed: ClosedError,
  contended: ContendedError,
  invalid: InvalidError,
  lost: LostError,
  unavailable: UnavailableError,
  unsupported: UnsupportedError,
};

/** Returns the error of a failure. `lock` is the name of the lock of the call. */
function toError(failure, lock) {
  const cause = failure.causes.reduceRight((inner, text) => {
    return new Error(text, inner === undefined ? undefined : { cause: inner });
  }, undefined);
  const { kind, why, waited, holder } = failure;
  return new (classes[kind] ?? LockError)(failure.message, { kind, lock, cause, why, waited, holder });
}

/** Returns the error of a lock that was lost. */
function lostError(lock, why) {
  return new LostError(`the lock is lost; stop, the work is unfinished name=\`${lock}\` why=\`${why}\``, { lock, why });
}

module.exports = {
  LockError, ContendedError, LostError, UnavailableError, InvalidError, UnsupportedError, ClosedError,
  toError, lostError,
};
