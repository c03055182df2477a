// Turns calls of the native half into promises: one reactor for each thread of JavaScript.
'use strict';

const native = require('./native.js');
const { toError } = require('./errors.js');

/** The calls that are pending, by their number. */
const pending = new Map();
const reactor = new native.Reactor(turn);
// The only thing here that can keep Node alive. It does so while a call is pending that a program waits for.
const keepAlive = setInterval(() => {}, 0x7fffffff);
keepAlive.unref();
let last = 0;
let awaited = 0;

function turn() {
  for (const { id, value } of reactor.turn()) {
    const call = finish(id);
    if (call !== undefined) settle(call, value);
  }
}

function finish(id) {
  const call = pending.get(id);
  if (call === undefined) return undefined;
  pending.delete(id);
  call.signal?.removeEventListener('abort', call.abort);
  if (!call.background) {
    awaited -= 1;
    if (awaited === 0) keepAlive.unref();
  }
  return call;
}

function settle({ resolve, reject, lock }, value) {
  if (value.failed === true) reject(toError(value, lock));
  else resolve(value);
}

/**
 * Starts a call and returns its promise. `begin` gets the reactor and a number, and calls the native half.
 *
 * - `signal` gives the call up. The promise is then rejected with the reason of the signal.
 * - `lock` is the name that errors have.
 * - `background` calls do not keep Node alive.
 */
function call(begin, { signal, lock, background = false } = {}) {
  if (signal?.aborted) return Promise.reject(signal.reason);
  return new Promise((resolve, reject) => {
    const id = ++last;
    const value = begin(reactor, id);
    const entry = { resolve, reject, lock, background, signal, abort: undefined };
    if (value !== null) return settle(entry, value);
    pending.set(id, entry);
    if (!background) {
      if (awaited === 0) keepAlive.ref();
      awaited += 1;
    }
    if (signal) {
      entry.abort = () => {
        reactor.cancel(id);
        finish(id)?.reject(signal.reason);
      };
      signal.addEventListener('abort', entry.abort, { once: true });
    }
  });
}

module.exports = { call };
