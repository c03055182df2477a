// The proof of holding a lock.
'use strict';

const { call } = require('./reactor.js');
const { lostError, toError } = require('./errors.js');
const { millis } = require('./options.js');
const { asyncDispose } = require('./symbols.js');

class Guard {
  #native;
  #name;
  #controller;
  #released;

  constructor(native) {
    this.#native = native;
    this.#name = native.name();
  }

  get name() {
    return this.#name;
  }

  get token() {
    return this.#native.token();
  }

  get owner() {
    return this.#native.owner();
  }

  get held() {
    return this.#native.held();
  }

  get remaining() {
    return this.#native.remaining();
  }

  get signal() {
    if (this.#controller === undefined) {
      const controller = new AbortController();
      this.#controller = controller;
      const lost = call((reactor, id) => this.#native.lost(reactor, id), { background: true });
      abortAfter(lost, this.#name, controller);
    }
    return this.#controller.signal;
  }

  async ensure(least) {
    const wanted = millis(least, 'least');
    await this.#call((reactor, id) => this.#native.ensure(reactor, id, wanted));
  }

  async extend(ttl) {
    const wanted = millis(ttl, 'ttl');
    await this.#call((reactor, id) => this.#native.extend(reactor, id, wanted));
  }

  async verify() {
    await this.#call((reactor, id) => this.#native.verify(reactor, id));
  }

  async outliveProcess() {
    await this.#call((reactor, id) => this.#native.outliveProcess(reactor, id));
  }

  async release() {
    if (this.#released !== undefined) {
      // The first caller learns the result. This one learns only that the release has ended.
      await this.#released.catch(() => {});
      return;
    }
    this.#released = this.#call((reactor, id) => this.#native.release(reactor, id));
    await this.#released;
  }

  ticket() {
    return this.#native.ticket();
  }

  detach() {
    const ticket = this.#native.detach();
    if (typeof ticket !== 'string') throw toError(ticket, this.#name);
    return ticket;
  }

  [asyncDispose]() {
    return this.release();
  }

  [Symbol.for('nodejs.util.inspect.custom')](_depth, options, inspect) {
    const { name, token, held, remaining } = this;
    return `Guard ${inspect({ name, token, held, remaining }, options)}`;
  }

  #call(begin) {
    return call(begin, { lock: this.#name });
  }
}

/** Aborts a signal after a loss. It waits with nothing that refers to the guard, which can still be collected. */
async function abortAfter(loss, name, controller) {
  const lost = await loss;
  if (lost !== false) controller.abort(lostError(name, lost.why));
}

module.exports = { Guard };
