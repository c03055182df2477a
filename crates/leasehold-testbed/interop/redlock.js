// npm redlock with ioredis and one server. The key is the name, the value random.
'use strict';

const Redis = require('ioredis');
const { default: Redlock, ExecutionError } = require('redlock');
const serve = require('./driver');

const client = new Redis(process.argv[2]);
const redlock = new Redlock([client], { retryCount: 0 });
let lock;

serve(new Promise((resolve, reject) => client.once('ready', resolve).on('error', reject)), {
  acquire: (name, ttl) => unlessOutvoted(async () => (lock = await redlock.acquire([name], Number(ttl)))),
  release: () => unlessOutvoted(() => lock.release()),
  extend: (ttl) => unlessOutvoted(async () => (lock = await lock.extend(Number(ttl)))),
});

async function unlessOutvoted(ask) {
  try {
    await ask();
    return true;
  } catch (error) {
    if (!(error instanceof ExecutionError)) throw error;
    for (const attempt of error.attempts) {
      for (const [, reason] of (await attempt).votesAgainst) {
        if (reason.name !== 'ResourceLockedError') throw reason;
      }
    }
    return false;
  }
}
