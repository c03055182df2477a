/// <reference lib="esnext.disposable" />
/// <reference types="node" />

/**
 * Distributed locks over the database you already run: leases, fencing tokens, fair queues, honest loss signals.
 *
 * ```js
 * import { connect } from 'leasehold'
 *
 * const locks = await connect('redis://localhost')
 * await locks.lock('invoice/42').run(async (guard) => {
 *   await pay({ token: guard.token, signal: guard.signal })
 * })
 * ```
 */

/** Milliseconds, or text with a unit: `'250ms'`, `'10s'`, `'5m'`, `'1h 30m'`, `'1d'`. */
export type Duration = number | string

/**
 * The faults that a storage survives, from fewest to most. `'advisory'`: none. `'crash-safe'`: the crash of a holder.
 * `'restart-safe'`: also a crash of the storage. `'failover-safe'`: also the loss of a primary or of a minority.
 */
export type Tier = 'advisory' | 'crash-safe' | 'restart-safe' | 'failover-safe'

/**
 * Why a lock was lost. `'closed'`: the client was closed. `'expired'`: no renewal was answered in time. `'forked'`: this
 * process is a fork of the holder. `'max-hold'`: it was held for `maxHold`. `'taken'`: the storage ended the lease.
 */
export type Lost = 'closed' | 'expired' | 'forked' | 'max-hold' | 'taken'

/** How a lock is acquired and kept. */
export interface LockOptions {
  /** How long the lease lasts without a renewal: 100 ms to 24 h. Default: 10 s. A crashed holder frees the lock then. */
  ttl?: Duration
  /** How long to wait in the queue. Default: without a limit. `false` asks once: `ContendedError` if it is held. */
  wait?: Duration | false
  /** Tries after the first one, instead of `wait`. The caller has no place in the queue. */
  retries?: number
  /** The pause between two tries. Default: 50 ms. */
  interval?: Duration
  /** The renewal interval. Default: a third of the TTL. `false`: the lock is lost when its TTL is over. */
  renew?: Duration | boolean
  /** The longest time that the lock is held, whatever its holder does: at least 100 ms. Default: no limit. */
  maxHold?: Duration
  /** The text that others see of this holder. Default: `script@host:pid`. */
  label?: string
}

/** The options of a client. Those of `LockOptions` are the defaults of its locks. */
export interface ConnectOptions extends LockOptions, Abortable {
  /** Refuses a storage that promises less, with `UnsupportedError`. */
  require?: Tier
  /**
   * The longest time by which the end of the process is delayed to release what is held. Default: 500 ms. It works at a
   * natural exit, `process.exit` and an uncaught error, not at signals: see the README. `false`: leases are left to
   * their TTL.
   */
  releaseOnExit?: Duration | false
}

/** A call that can be given up. */
export interface Abortable {
  /** Gives the call up when it is aborted; the promise is rejected with its `reason`. A wait gives up its place. */
  signal?: AbortSignal
}

/**
 * Connects to a storage.
 *
 * | URL | storage |
 * |---|---|
 * | `sqlite:`, `sqlite:PATH` | a file, for the processes of this machine |
 * | `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`, `redis+quorum://A,B,C` | Redis or Valkey |
 * | `postgres://` | PostgreSQL, directly or behind a pooler |
 * | `mongodb://`, `mongodb+srv://` | MongoDB |
 * | `etcd://`, `etcds://` | etcd |
 * | `memory:`, `memory:NAME` | this client alone, or the clients of this process |
 *
 * @param url Default: the environment variable `LEASEHOLD_STORE`, else `sqlite:`.
 * @throws {InvalidError} The URL or an option is wrong.
 * @throws {UnavailableError} The storage cannot be reached.
 * @throws {UnsupportedError} The storage is not fit to keep locks, or promises less than is required.
 */
export function connect(url?: string | URL, options?: ConnectOptions): Promise<Locks>

/** A client of one storage. One per program is enough. Its engine is a thread of its own, so a blocked event loop loses no lock. */
export class Locks implements AsyncDisposable {
  private constructor()
  /** Returns the lock of that name. Makes no request. */
  lock(name: string, options?: LockOptions): Lock
  /**
   * Resumes the lease of a ticket, of this or of another process.
   * @throws {LostError} The lease has ended.
   */
  resume(ticket: string, options?: Abortable): Promise<Guard>
  /** Returns every holder of a lock, ordered by token; none if it is free. */
  inspect(name: string): Promise<Holder[]>
  /** Returns the holders of all locks whose names begin with `prefix`, ordered by name. */
  list(prefix?: string): Promise<Holder[]>
  /** Ends the lease of each holder of a lock, and returns those holders. They notice by `guard.signal`. */
  breakLock(name: string): Promise<Holder[]>
  /** Returns what the storage reports about its servers or files, and what to change for it to promise more. */
  findings(): Promise<Finding[]>
  /** The current state of a lock, and then every change by any holder. Ends when the client is closed. */
  observe(name: string, options?: Abortable): Records<Change>
  /** The events of the locks of this client from now on. Ends when the client is closed. */
  events(options?: Abortable): Records<LockEvent>
  /** The locks that this client holds now, ordered by name. Makes no request. */
  readonly held: Holder[]
  /** What the storage promises, as probed when it was connected. */
  readonly guarantees: Guarantees
  /**
   * Ends the client: its waits fail, and its locks are lost and released. Waits for the storage, for 5 s unless set.
   * @throws {UnavailableError} Some leases are left to their TTL.
   */
  close(options?: { limit?: Duration }): Promise<void>
  /** Closes the client: `await using locks = await connect()`. */
  [Symbol.asyncDispose](): Promise<void>
}

/** One lock by its name, with its options. Holds nothing, and may be used any number of times. */
export class Lock {
  private constructor()
  /** The name of the lock. */
  readonly name: string
  /** Returns the same lock with other options. */
  with(options: LockOptions): Lock
  /**
   * Acquires the lock. Waits in the queue for as long as `wait` allows.
   * @throws {ContendedError} Another client held it for the whole wait.
   * @throws {UnavailableError} The storage did not answer.
   * @throws {InvalidError} The name or an option is out of bounds.
   */
  acquire(options?: Abortable): Promise<Guard>
  /** Tries once. `null`: another client has the lock. */
  tryAcquire(options?: Abortable): Promise<Guard | null>
  /**
   * Acquires the lock, runs `work` and releases the lock. Rejects at the moment of the loss, even if the work goes on;
   * `guard.signal` is aborted then. `signal` gives up the wait, and not the work.
   * @throws {LostError} The lock was lost before the work ended.
   */
  run<T>(work: (guard: Guard) => T | PromiseLike<T>, options?: Abortable): Promise<T>
}

/**
 * The proof of holding a lock, until it is released or lost. A guard that is garbage collected is released, too, but
 * late: keep it and release it.
 */
export class Guard implements AsyncDisposable {
  private constructor()
  /** The name of the lock. */
  readonly name: string
  /** The fencing token: larger than that of every earlier grant of this name. */
  readonly token: bigint
  /** The id of this acquisition. */
  readonly owner: string
  /** Whether the lock is held right now. Makes no request, and is right even after a pause of the process. */
  readonly held: boolean
  /** The milliseconds that are left of the lease if it is not renewed again; 0 once it has ended. Makes no request. */
  readonly remaining: number
  /**
   * Aborted when the lock is lost, with a `LostError` as its reason: pass it to `fetch`, to queries, to timers. It does
   * not keep Node alive, is never an unhandled rejection, and is not aborted by a release.
   */
  readonly signal: AbortSignal
  /** Ensures that at least `least` is left of the lease. Renews it now if less is left. */
  ensure(least: Duration): Promise<void>
  /** Verifies with one request that the storage still has this lease. */
  verify(): Promise<void>
  /** Replaces the TTL: the lease lasts `ttl` from now, and as long after each renewal. */
  extend(ttl: Duration): Promise<void>
  /** Lets the lease outlive this process: if the process dies, the lease ends with its TTL or by its ticket. */
  outliveProcess(): Promise<void>
  /**
   * Releases the lock. Later calls do nothing.
   * @throws {LostError} It was lost before. Only the first call learns that.
   */
  release(): Promise<void>
  /** Returns the ticket of the lease, for another process, and keeps the guard. */
  ticket(): string
  /** Leaves the lease to its ticket, which it returns: renewals stop, and `locks.resume` continues the lease. */
  detach(): string
  /** Releases the lock: `await using guard = await lock.acquire()`. */
  [Symbol.asyncDispose](): Promise<void>
}

/** An asynchronous iterator that is also `await using`-able. Leaving the loop ends it. */
export interface Records<T> extends AsyncIterableIterator<T, undefined, undefined>, AsyncDisposable {
  [Symbol.asyncIterator](): Records<T>
}

/** The holder of a lock, as the storage reported it. Times are in milliseconds. */
export interface Holder {
  /** The name of the lock. */
  name: string
  /** The acquisition that holds it. */
  owner: string
  /** Its fencing token; `0n` for a lock of another library. */
  token: bigint
  /** The label that its client gave it. */
  label?: string
  /** What is left of its lease; `Infinity` if it has no end. */
  remaining: number
  /** How long it has held the lock, if the storage knows. */
  heldFor?: number
  /** How many processes wait behind it, if the storage knows. */
  waiters?: number
}

/** A fact about a server or a file of the storage. */
export interface Finding {
  /** The subject, in one word. */
  about: string
  /** The fact, and what to do if it falls short. */
  detail: string
  /** Whether something should be done about it. */
  severity: 'good' | 'warning' | 'fault'
}

/** What a storage promises. */
export interface Guarantees {
  /** The faults that it survives. */
  tier: Tier
  /** Whether the tokens of a name always grow. */
  fencing: boolean
  /** Whether waiters of different processes are served first come, first served. */
  fair: boolean
  /** Whether a release wakes the next waiter up, without polling. */
  push: boolean
  /** The clock that ends a lease. */
  clock: 'boot' | 'server-monotonic' | 'server-wall'
}

/** A change of a lock by any holder. */
export type Change = { type: 'locked'; holder: Holder } | { type: 'unlocked' }

/** An event of a lock of one client. Times are in milliseconds. */
export type LockEvent =
  | { type: 'acquired'; name: string; token: bigint; waited: number }
  | { type: 'broken'; name: string; token: bigint; owner: string }
  | { type: 'claim-failed'; name: string; waited: number }
  | { type: 'lost'; name: string; token: bigint; why: Lost }
  | { type: 'missed'; count: number }
  | { type: 'released'; name: string; token: bigint; held: number }
  | { type: 'renew-failed'; name: string; token: bigint; remaining: number }
  | { type: 'renewed'; name: string; token: bigint }
  | { type: 'waiting'; name: string; holder?: Holder }

/** The base of all errors. Programs look at the class or at `code`; the message is for people. */
export class LockError extends Error {
  /** `LEASEHOLD_` and the kind: `LEASEHOLD_LOST`. The same in every copy of the package, unlike the class. */
  readonly code: `LEASEHOLD_${Uppercase<string>}`
  /** The name of the lock, if the call had one. */
  readonly lock?: string
}

/** Another client held the lock for the whole wait. Try later, or skip the work. */
export class ContendedError extends LockError {
  readonly code: 'LEASEHOLD_CONTENDED'
  /** The holder that was observed; `null` if only waiters were ahead. */
  readonly holder: Holder | null
  /** How long the caller had waited, in milliseconds. */
  readonly waited: number
}

/** The lock was held and has been lost. Stop; treat the work as unfinished. */
export class LostError extends LockError {
  readonly code: 'LEASEHOLD_LOST'
  /** Why it was lost. */
  readonly why: Lost
}

/** The storage did not answer, so the state is unknown. Retry, or give up. */
export class UnavailableError extends LockError {
  readonly code: 'LEASEHOLD_UNAVAILABLE'
  /** How long the caller had waited, in milliseconds. */
  readonly waited?: number
}

/** A name, a URL, a ticket or an option is wrong. Fix the call. */
export class InvalidError extends LockError {
  readonly code: 'LEASEHOLD_INVALID'
}

/** The storage does not support the call, or lacks what it needs, such as a permission. */
export class UnsupportedError extends LockError {
  readonly code: 'LEASEHOLD_UNSUPPORTED'
}

/** The client was closed. Do nothing; the program is shutting down. */
export class ClosedError extends LockError {
  readonly code: 'LEASEHOLD_CLOSED'
}
