/**
 * A drop-in for npm redislock 1.3.0. Times are in milliseconds.
 *
 * ```js
 * const redislock = require('leasehold/compat/redislock')
 * ```
 */

/** A node-redis client of any version, or an ioredis client, of one server; or the URL of a storage. */
export type Client = object | string | URL

/** The options of a lock. */
export interface Options {
  /** How long the lock lasts unless it is extended. Default: 10000; at least 100. */
  timeout?: number | string | null
  /** Tries after the first one. Default: 0. Negative: without end, in the queue. */
  retries?: number | string | null
  /** The pause between two tries. Default: 50. */
  delay?: number | string | null
}

/** A promise whose `catch` may name classes of errors, as that of bluebird. */
export interface TypedPromise<T> extends Promise<T> {
  catch<R = never>(handler?: ((error: any) => R | PromiseLike<R>) | null): TypedPromise<T | R>
  catch<E, R>(kind: new (...args: any[]) => E, handler: (error: E) => R | PromiseLike<R>): TypedPromise<T | R>
}

/** What a callback is called with. */
export type Callback = (error: Error | null) => void

/** A lock, which holds one key at a time. It is not renewed by itself. */
export interface Lock {
  readonly timeout: number
  readonly retries: number
  readonly delay: number
  /** Acquires the lock of that key. Rejects with `LockAcquisitionError`. */
  acquire(key: string, callback?: Callback): TypedPromise<void>
  /** Releases it. Rejects with `LockReleaseError` if it had expired. */
  release(callback?: Callback): TypedPromise<void>
  /** Replaces the time that is left. Rejects with `LockExtendError` if it had expired. */
  extend(time: number, callback?: Callback): TypedPromise<void>
}

/** Returns a lock. */
export function createLock(client: Client, options?: Options): Lock
/** Sets the defaults of locks that are made later in this process. */
export function setDefaults(options: Options): void
/** Returns the locks that this process holds now. */
export function getAcquiredLocks(): Lock[]
/** The lock could not be acquired. `cause` is an error of Leasehold, which tells contention from an outage. */
export class LockAcquisitionError extends Error {}
/** The lock could not be released. */
export class LockReleaseError extends Error {}
/** The lock could not be extended. */
export class LockExtendError extends Error {}
