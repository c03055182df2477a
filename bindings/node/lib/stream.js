// Changes and events as asynchronous iterators.
'use strict';

const { call } = require('./reactor.js');
const { asyncDispose } = require('./symbols.js');

class Records {
  #native;
  #signal;

  constructor(native, signal) {
    this.#native = native;
    this.#signal = signal;
  }

  async next() {
    if (this.#native === undefined) return { done: true, value: undefined };
    const native = this.#native;
    let record;
    try {
      record = await call((reactor, id) => native.next(reactor, id), { signal: this.#signal });
    } catch (error) {
      this.#end();
      throw error;
    }
    if (record !== false) return { done: false, value: record };
    this.#end();
    return { done: true, value: undefined };
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

  #end() {
    this.#native?.end();
    this.#native = undefined;
  }
}

module.exports = { Records };
