/**
 * A drop-in for npm microlock 1.2.1, over version 3 of etcd's API. Times are in seconds.
 *
 * ```js
 * import Microlock, { AlreadyLockedError } from 'leasehold/compat/microlock'
 * ```
 */
import { EventEmitter } from 'node:events'
import type { TypedPromise } from './redislock.js'

/** What etcd answered to the original. `modifiedIndex` is the fencing token. */
export interface Answer {
  action: string
  node: { key: string; value: string; ttl: number; modifiedIndex: number; createdIndex: number }
}

/** A lock of one node. */
export default class Microlock extends EventEmitter {
  /**
   * @param etcd A node-etcd client, whose endpoints are used, or a URL: `etcd://h1,h2`.
   * @param ttl Default: 1. Leasehold's least is 2, and a shorter one lasts as long.
   */
  constructor(etcd: { hosts: string[] | string } | string | URL, key: string, node_id: string, ttl?: number)
  /** Rejects with `AlreadyLockedError` if any node has the lock. */
  lock(): TypedPromise<Answer>
  /** Rejects with `LockNotOwnedError` if this object does not have it. */
  unlock(): TypedPromise<Answer>
  /** Gives a full TTL. Rejects with `LockNotOwnedError` if this object does not have it. */
  renew(): TypedPromise<Answer>
  /** Stops to observe, and removes all listeners. Does not unlock. */
  destroy(): void
}

/** The names of the events: `locked` and `unlocked` of any node, and `error` with each error that is thrown. */
export const events: { locked: 'locked'; unlocked: 'unlocked'; error: 'error' }
export class EtcdClientRequiredError extends Error {}
export class KeyRequiredError extends Error {}
export class NodeIdRequiredError extends Error {}
export class InvalidTtlError extends Error {}
export class AlreadyLockedError extends Error {}
export class LockNotOwnedError extends Error {}
