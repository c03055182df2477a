// A drop-in for npm microlock 1.2.1: `require('leasehold/compat/microlock')`.
//
// It runs over version 3 of etcd's API. It takes a URL, or a node-etcd client, of which it uses the endpoints. What is
// repaired is in docs/parity.md of the repository.
'use strict';

const { EventEmitter } = require('node:events');
const { ContendedError, LostError } = require('../lib/errors.js');
const { clientOf, forget, keep } = require('./clients.js');
const { typed } = require('./promise.js');

/** The least TTL of Leasehold on etcd, in seconds. A shorter one lasts as long. */
const TTL_MIN = 2;

const events = { locked: 'locked', unlocked: 'unlocked', error: 'error' };

class MicrolockError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = this.constructor.name;
  }
}

class EtcdClientRequiredError extends MicrolockError {
  constructor() {
    super('etcd client parameter is required');
  }
}

class KeyRequiredError extends MicrolockError {
  constructor() {
    super('key parameter of type String is required');
  }
}

class NodeIdRequiredError extends MicrolockError {
  constructor() {
    super('node_id parameter of type String is required');
  }
}

class InvalidTtlError extends MicrolockError {
  constructor() {
    super('ttl parameter must be of type Number');
  }
}

class AlreadyLockedError extends MicrolockError {
  constructor(key, options) {
    super(`Lock "${key}" is already locked`, options);
  }
}

class LockNotOwnedError extends MicrolockError {
  constructor(key, node_id, options) {
    super(`Lock "${key}" is not owned by node "${node_id}"`, options);
  }
}

class Microlock extends EventEmitter {
  #url;
  #key;
  #id;
  #ttl;
  #guard;
  #observing;

  constructor(etcd, key, node_id, ttl = 1) {
    if (!etcd) throw new EtcdClientRequiredError();
    if (typeof key !== 'string') throw new KeyRequiredError();
    if (typeof node_id !== 'string') throw new NodeIdRequiredError();
    if (typeof ttl !== 'number' || Number.isNaN(ttl)) throw new InvalidTtlError();
    super();
    this.#url = etcdUrl(etcd);
    this.#key = key;
    this.#id = node_id;
    this.#ttl = Math.max(ttl, TTL_MIN);
    // A lock without such a listener costs the server nothing.
    this.on('newListener', (event) => {
      if (event === events.locked || event === events.unlocked) this.#observe();
    });
  }

  lock() {
    return typed(async () => {
      const locks = await clientOf(this.#url);
      const options = { ttl: this.#ttl * 1000, wait: false, renew: false, label: this.#id };
      try {
        this.#guard = keep(await locks.lock(this.#key, options).acquire());
      } catch (cause) {
        if (cause instanceof ContendedError) this.#fail(new AlreadyLockedError(this.#key, { cause }));
        throw cause;
      }
      return this.#node('create', this.#guard);
    });
  }

  unlock() {
    return typed(async () => {
      const guard = this.#guard;
      this.#guard = undefined;
      forget(guard);
      await this.#owned(guard, () => guard.release());
      return this.#node('compareAndDelete', guard);
    });
  }

  renew() {
    return typed(async () => {
      const guard = this.#guard;
      await this.#owned(guard, () => guard.extend(this.#ttl * 1000));
      return this.#node('update', guard);
    });
  }

  /** Stops to observe, and removes all listeners. Does not unlock. */
  destroy() {
    this.#observing?.abort();
    this.removeAllListeners();
  }

  async #owned(guard, call) {
    try {
      if (guard !== undefined) return await call();
    } catch (cause) {
      if (!(cause instanceof LostError)) throw cause;
      this.#fail(new LockNotOwnedError(this.#key, this.#id, { cause }));
    }
    return this.#fail(new LockNotOwnedError(this.#key, this.#id));
  }

  /** Throws an error, and emits it if there is a listener. */
  #fail(error) {
    if (this.listenerCount(events.error) > 0) this.emit(events.error, error);
    throw error;
  }

  /** Returns what etcd answered to the original. The index is the fencing token. */
  #node(action, guard) {
    const modifiedIndex = Number(guard.token);
    const node = { key: `/${this.#key}`, value: this.#id, ttl: this.#ttl, modifiedIndex, createdIndex: modifiedIndex };
    return { action, node };
  }

  async #observe() {
    if (this.#observing !== undefined) return;
    const observing = new AbortController();
    const { signal } = observing;
    this.#observing = observing;
    while (!signal.aborted) {
      try {
        const locks = await clientOf(this.#url);
        let first = true;
        for await (const { type } of locks.observe(this.#key, { signal })) {
          // The first one is the state, and no change of it.
          if (!first) this.emit(type);
          first = false;
        }
        return;
      } catch {
        // A server that cannot be reached ends no process. Its changes are seen when it is back.
        await new Promise((resolve) => setTimeout(resolve, 1000).unref());
      }
    }
  }
}

/** Returns the URL of the servers of a node-etcd client. */
function etcdUrl(etcd) {
  if (typeof etcd === 'string' || etcd instanceof URL) return String(etcd);
  const hosts = [etcd.hosts ?? etcd.host ?? []].flat().map(String);
  if (hosts.length === 0) throw new EtcdClientRequiredError();
  const tls = hosts.some((host) => host.startsWith('https:'));
  const names = hosts.map((host) => host.replace(/^https?:\/\//, '').replace(/\/.*$/, ''));
  return `${tls ? 'etcds' : 'etcd'}://${names.join(',')}`;
}

module.exports = {
  default: Microlock, events,
  EtcdClientRequiredError, KeyRequiredError, NodeIdRequiredError, InvalidTtlError, AlreadyLockedError, LockNotOwnedError,
};
Object.defineProperty(module.exports, '__esModule', { value: true });
