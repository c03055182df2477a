// The clients of Leasehold that the drop-ins share, one for each URL and thread, and the guards that they keep.
'use strict';

const { connect } = require('../index.js');

const clients = new Map();

/** Returns the client of a URL. It connects when it is first needed, and again after a failure. */
function clientOf(url) {
  let client = clients.get(url);
  if (client === undefined) {
    client = connect(url);
    clients.set(url, client);
    client.catch(() => clients.delete(url));
  }
  return client;
}

/** Closes the client of a URL, if there is one. */
async function closeClient(url) {
  const client = clients.get(url);
  clients.delete(url);
  if (client !== undefined) await (await client).close();
}

const kept = new Set();

/**
 * Keeps a guard until it is lost or `forget` is called. The originals leave a lock to its TTL when a program drops the
 * object that has it, and a guard that is collected is released at once.
 */
function keep(guard) {
  kept.add(guard);
  guard.signal.addEventListener('abort', () => kept.delete(guard), { once: true });
  return guard;
}

/** Keeps a guard no longer. */
function forget(guard) {
  kept.delete(guard);
}

module.exports = { clientOf, closeClient, forget, keep };
