// A drop-in for npm distributed-locks 1.0.5 and its storages: `require('leasehold/compat/distributed-locks')`.
//
// On Redis, old and new processes exclude each other. PostgreSQL and MongoDB have tables and documents of their own.
// What is repaired is in docs/parity.md of the repository.
'use strict';

const { randomUUID } = require('node:crypto');
const { hostname } = require('node:os');
const { ContendedError, InvalidError, LostError } = require('../lib/errors.js');
const { clientOf, closeClient, forget, keep } = require('./clients.js');
const { redisUrl } = require('./redis-url.js');

const PREFIX = 'distributed-locks';

class FailedToObtainKey extends Error {
  constructor(key, { attempts, holder = null, cause } = {}) {
    super(`Failed to obtain lock for key ${key}, attempts: ${attempts}`, cause === undefined ? undefined : { cause });
    this.name = 'FailedToObtainKey';
    Object.assign(this, { key, attempts, holder });
  }
}

/** A storage over the engine. Its locks are acquired and released by guards. */
class EngineStorage {
  #url;

  constructor(url) {
    this.#url = url;
  }

  /** Connects. It is not needed: the first lock does so, too. */
  async init() {
    await clientOf(this.#url);
  }

  async close() {
    await closeClient(this.#url);
  }

  /** Returns a guard. */
  async take(key, { ttl, attempts, interval, label }) {
    const locks = await clientOf(this.#url);
    const options = { ttl: ttl * 1000, retries: attempts - 1, interval: interval * 1000, renew: false, label };
    return locks.lock(key, options).acquire();
  }
}

class RedisStorage extends EngineStorage {
  constructor({ url = 'redis://localhost', keyPrefix = PREFIX } = {}) {
    super(redisUrl(url, `${keyPrefix}:`));
  }
}

class PostgresqlStorage extends EngineStorage {
  constructor({ host, port, database, username, password, url, keyPrefix = PREFIX, tableName } = {}) {
    const login = { host, port, dbname: database, user: username, password };
    super(withOptions(url ?? 'postgres://', { ...(url === undefined ? login : {}), prefix: keyPrefix, table: tableName }));
  }
}

class MongoStorage extends EngineStorage {
  constructor({ url = 'mongodb://localhost', database, collectionName, keyPrefix } = {}) {
    super(withOptions(url, { database, collection: collectionName, prefix: keyPrefix }));
  }
}

/** Adds options to a URL that it does not have. */
function withOptions(url, options) {
  const given = Object.entries(options).filter(([name, value]) => {
    return value !== undefined && !new RegExp(`[?&]${name}=`).test(url);
  });
  const query = given.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('&');
  if (query === '') return url;
  // `mongodb://host` needs a path in front of its options.
  const start = /^[a-z+]+:\/\/[^/?]+$/.test(url) ? `${url}/` : url;
  return `${start}${start.includes('?') ? '&' : '?'}${query}`;
}

class LockFactory {
  #storage;
  #label;

  constructor(storage, { machineId } = {}) {
    if (storage === null || typeof storage !== 'object') throw new InvalidError('a storage is required');
    this.#storage = storage;
    this.#label = machineId ?? `${hostname()}:${process.pid}`;
  }

  async init() {
    await this.#storage.init();
  }

  createLock(key) {
    if (typeof key !== 'string' || key === '') throw new InvalidError('a key is text');
    return this.#storage instanceof EngineStorage
      ? new EngineLock(this.#storage, key, this.#label)
      : new StorageLock(this.#storage, key, this.#label);
  }

  async close() {
    await this.#storage.close();
  }
}

/** Returns the options of `lock`. Times are in seconds; `retries` counts all tries. */
function tries({ ttl = 10, retries = 3, interval = 1 } = {}) {
  if (!Number.isInteger(retries) || retries < 1) throw new InvalidError(`retries is the number of tries, 1 or more retries=\`${retries}\``);
  if (!(ttl > 0)) throw new InvalidError(`ttl is a number of seconds, more than 0 ttl=\`${ttl}\``);
  if (!(interval >= 0)) throw new InvalidError(`interval is a number of seconds interval=\`${interval}\``);
  return { ttl, attempts: retries, interval };
}

/** A lock over the engine. */
class EngineLock {
  #storage;
  #key;
  #label;
  #guard;
  #busy = false;

  constructor(storage, key, label) {
    this.#storage = storage;
    this.#key = key;
    this.#label = label;
  }

  async lock(options) {
    const wanted = tries(options);
    if (this.#busy || this.#guard?.held) throw new FailedToObtainKey(this.#key, { attempts: 0 });
    this.#busy = true;
    try {
      this.#guard = keep(await this.#storage.take(this.#key, { ...wanted, label: String(this.#label) }));
      return true;
    } catch (cause) {
      // An outage is no contention.
      if (!(cause instanceof ContendedError)) throw cause;
      throw new FailedToObtainKey(this.#key, { attempts: wanted.attempts, holder: cause.holder, cause });
    } finally {
      this.#busy = false;
    }
  }

  /** Returns `true` if the lock was held until now. */
  async unlock() {
    const guard = this.#guard;
    this.#guard = undefined;
    if (guard === undefined) return false;
    forget(guard);
    try {
      await guard.release();
      return true;
    } catch (error) {
      if (error instanceof LostError) return false;
      throw error;
    }
  }
}

/** A lock over a user's own `IStorage`: `init`, `set(key, value, { ttl })`, `unSet(key, value)`, `close`. */
class StorageLock {
  #storage;
  #key;
  #label;
  #value;
  #busy = false;

  constructor(storage, key, label) {
    this.#storage = storage;
    this.#key = key;
    this.#label = label;
  }

  async lock(options) {
    const { ttl, attempts, interval } = tries(options);
    if (this.#busy) throw new FailedToObtainKey(this.#key, { attempts: 0 });
    this.#busy = true;
    try {
      for (let attempt = 1; attempt <= attempts; attempt++) {
        if (attempt > 1) await new Promise((resolve) => setTimeout(resolve, interval * 1000));
        const value = `${this.#key}-${this.#label}-${randomUUID()}`;
        if (await this.#storage.set(this.#key, value, { ttl })) {
          this.#value = value;
          return true;
        }
      }
    } finally {
      this.#busy = false;
    }
    throw new FailedToObtainKey(this.#key, { attempts });
  }

  async unlock() {
    const value = this.#value;
    this.#value = undefined;
    return value !== undefined && Boolean(await this.#storage.unSet(this.#key, value));
  }
}

module.exports = LockFactory;
Object.assign(module.exports, { default: LockFactory, LockFactory, RedisStorage, PostgresqlStorage, MongoStorage, FailedToObtainKey });
