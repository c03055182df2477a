/**
 * A drop-in for npm distributed-locks 1.0.5, and its storages. Times are in seconds.
 *
 * ```js
 * const LockFactory = require('leasehold/compat/distributed-locks')
 * const { RedisStorage } = LockFactory
 * ```
 */
import type { Holder } from '../index.js'

declare class LockFactory {
  /** @param options `machineId`: the text that others see of the holder. Default: the host and the process. */
  constructor(storage: LockFactory.IStorage | LockFactory.EngineStorage, options?: { machineId?: string | number })
  /** Connects. It is not needed: the first lock does so, too. */
  init(): Promise<void>
  /** Returns the lock of that key. */
  createLock(key: string): LockFactory.Lock
  /** Closes the storage. What is held on one of the three storages is released. */
  close(): Promise<void>
}

declare namespace LockFactory {
  export { LockFactory, LockFactory as default }

  /** A storage of your own. */
  export interface IStorage {
    init(): Promise<void>
    /** Returns `true` if the key was free, and has that value for `ttl` seconds now. */
    set(key: string, value: string, options: { ttl: number }): Promise<boolean>
    /** Returns `true` if the key had that value, and is free now. */
    unSet(key: string, value: string): Promise<boolean>
    close(): Promise<void>
  }

  /** A storage of Leasehold. */
  export class EngineStorage {
    protected constructor()
    init(): Promise<void>
    close(): Promise<void>
  }

  /** The key in Redis is `keyPrefix`, a colon, and the key: the same as that of the original. */
  export class RedisStorage extends EngineStorage {
    constructor(options?: { url?: string | URL; keyPrefix?: string })
  }

  /** The table is one of Leasehold, `leasehold` unless `tableName` is set. Choose another one than the original's. */
  export class PostgresqlStorage extends EngineStorage {
    constructor(options?: {
      host?: string; port?: number; database?: string; username?: string; password?: string
      url?: string; keyPrefix?: string; tableName?: string
    })
  }

  /** The collection is one of Leasehold, `leasehold` unless `collectionName` is set. */
  export class MongoStorage extends EngineStorage {
    constructor(options?: { url?: string; database?: string; collectionName?: string; keyPrefix?: string })
  }

  export interface Lock {
    /**
     * Acquires the lock. `retries` counts all tries. Rejects with `FailedToObtainKey` if another client has it, and with
     * an error of Leasehold or of the storage after an outage.
     */
    lock(options?: { ttl?: number; retries?: number; interval?: number }): Promise<true>
    /** Returns `true` if the lock was held until now. */
    unlock(): Promise<boolean>
  }

  export class FailedToObtainKey extends Error {
    readonly key: string
    /** The number of tries. */
    readonly attempts: number
    /** The holder that was observed, if the storage tells. */
    readonly holder: Holder | null
  }
}

export = LockFactory
