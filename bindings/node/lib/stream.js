// Changes and events as asynchronous iterators.
'use strict';

const { call } = require('./reactor.js');
const { asyncDispose } = require('./symbols.js');

const DONE = Object.freeze({ done: true, value: undefined });

class Records {
  #native;
  #signal;
  /** The last call of `next`. Calls are answered in their order. */
  #last = Promise.resolve();
  /** Gives up the call in flight. */
  #stop;

  constructor(native, signal) {
    this.#native = native;
    this.#signal = signal;
  }

  next() {
    const next = this.#last.then(() => this.#next());
    this.#last = next.catch(() => {});
    return next;
  }

  async #next() {
    const native = this.#native;
    if (native === undefined) return DONE;
    const stop = new AbortController();
    const abort = () => stop.abort(this.#signal.reason);
    if (this.#signal?.aborted) abort();
    this.#signal?.addEventListener('abort', abort, { once: true });
    this.#stop = stop;
    try {
      const record = await call((reactor, id) => native.next(reactor, id), { signal: stop.signal });
      if (record !== false) return { done: false, value: record };
      this.#end();
      return DONE;
    } catch (error) {
      if (this.#native === undefined) return DONE;
      this.#end();
      throw error;
    } finally {
      this.#signal?.removeEventListener('abort', abort);
      this.#stop = undefined;
    }
  }

  async return(value) {
    this.#end();
    return { done: true, value };
  }

  async throw(error) {
    this.#end();
    throw error;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async [asyncDispose]() {
    this.#end();
  }

  /** Ends the stream, and with it a call in flight. */
  #end() {
    const native = this.#native;
    this.#native = undefined;
    native?.end();
    this.#stop?.abort();
  }
}

module.exports = { Records };
