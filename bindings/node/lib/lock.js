// One lock by its name and options.
'use strict';

const { call } = require('./reactor.js');
const { LostError } = require('./errors.js');
const { Guard } = require('./guard.js');
const { abortable, lockOptions } = require('./options.js');

class Lock {
  #locks;
  #native;
  #name;
  #options;

  /** `locks` is the native client. */
  constructor(locks, name, options) {
    this.#locks = locks;
    this.#name = name;
    this.#options = options;
    this.#native = locks.lock(name, lockOptions(options));
  }

  get name() {
    return this.#name;
  }

  with(options) {
    lockOptions(options);
    return new Lock(this.#locks, this.#name, merged(this.#options, options));
  }

  acquire(options) {
    return this.#acquire(false, options);
  }

  tryAcquire(options) {
    return this.#acquire(true, options);
  }

  async run(work, options) {
    const guard = await this.acquire(options);
    const { signal } = guard;
    const lost = new Promise((_, reject) => {
      signal.addEventListener('abort', () => reject(signal.reason), { once: true });
    });
    let result;
    try {
      result = await Promise.race([lost, invoke(work, guard)]);
    } catch (error) {
      // The error of the work counts, and not that of the release.
      await guard.release().catch(() => {});
      throw error;
    }
    await guard.release().catch((error) => {
      // If only the release got no reply, the lock was held until the work ended.
      if (error instanceof LostError) throw error;
    });
    return result;
  }

  async #acquire(once, options) {
    const { signal } = abortable(options);
    const outcome = await call((reactor, id) => this.#native.acquire(reactor, id, once), { signal, lock: this.#name });
    return outcome === false ? null : new Guard(outcome);
  }

  [Symbol.for('nodejs.util.inspect.custom')](_depth, options, inspect) {
    return `Lock ${inspect({ name: this.#name, ...this.#options }, options)}`;
  }
}

async function invoke(work, guard) {
  return work(guard);
}

/** Returns the options of both. A wait replaces retries, and the other way around. */
function merged(first = {}, second = {}) {
  const { wait, retries, interval, ...rest } = first;
  const both = { ...first, ...second };
  if (second.wait !== undefined) return { ...rest, ...second };
  if (second.retries !== undefined || second.interval !== undefined) return { ...rest, retries, interval, ...second };
  return both;
}

module.exports = { Lock };
