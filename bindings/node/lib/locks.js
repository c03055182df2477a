// The client.
'use strict';

const path = require('node:path');
const native = require('./native.js');
const { call } = require('./reactor.js');
const { toError } = require('./errors.js');
const { closeAtExit } = require('./exit.js');
const { Guard } = require('./guard.js');
const { Lock } = require('./lock.js');
const { abortable, lockOptions, millis, text } = require('./options.js');
const { Records } = require('./stream.js');
const { asyncDispose } = require('./symbols.js');

const EXIT_LIMIT = 500;
const CLOSE_LIMIT = 5000;

async function connect(url = process.env.LEASEHOLD_STORE || 'sqlite:', options = {}) {
  const { require: tier, releaseOnExit = EXIT_LIMIT, signal, ...defaults } = options;
  const address = url instanceof URL ? url.href : text(url, 'url');
  const converted = lockOptions(defaults);
  const limit = releaseOnExit === false ? undefined : millis(releaseOnExit, 'releaseOnExit');
  const script = path.basename(process.argv[1] ?? process.argv0);
  if (tier !== undefined) text(tier, 'require');
  const begin = (reactor, id) => native.connect(reactor, id, address, script, converted, tier);
  const locks = await call(begin, abortable({ signal }));
  if (limit !== undefined) closeAtExit(locks, limit);
  return new Locks(locks);
}

class Locks {
  #native;

  constructor(native) {
    this.#native = native;
  }

  lock(name, options) {
    return new Lock(this.#native, text(name, 'name'), options);
  }

  async resume(ticket, options) {
    const written = text(ticket, 'ticket');
    return new Guard(await call((reactor, id) => this.#native.resume(reactor, id, written), abortable(options)));
  }

  async inspect(name) {
    const lock = text(name, 'name');
    return call((reactor, id) => this.#native.inspect(reactor, id, lock), { lock });
  }

  async list(prefix = '') {
    const start = text(prefix, 'prefix');
    return call((reactor, id) => this.#native.list(reactor, id, start));
  }

  async breakLock(name) {
    const lock = text(name, 'name');
    return call((reactor, id) => this.#native.breakLock(reactor, id, lock), { lock });
  }

  async findings() {
    return call((reactor, id) => this.#native.findings(reactor, id));
  }

  observe(name, options) {
    const lock = text(name, 'name');
    const { signal } = abortable(options);
    const stream = this.#native.observe(lock);
    if (stream.failed === true) throw toError(stream, lock);
    return new Records(stream, signal);
  }

  events(options) {
    const { signal } = abortable(options);
    return new Records(this.#native.events(), signal);
  }

  get held() {
    return this.#native.held();
  }

  get guarantees() {
    return this.#native.guarantees();
  }

  async close({ limit = CLOSE_LIMIT } = {}) {
    const most = millis(limit, 'limit');
    await call((reactor, id) => this.#native.close(reactor, id, most));
  }

  [asyncDispose]() {
    return this.close();
  }

  [Symbol.for('nodejs.util.inspect.custom')]() {
    return this.#native.describe();
  }
}

module.exports = { Locks, connect };
