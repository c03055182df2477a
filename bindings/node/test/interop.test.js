// Other packages for locks in Redis, on the same key.
'use strict';

const { describe, test } = require('node:test');
const assert = require('node:assert/strict');
const { Redis } = require('ioredis');
const { Mutex } = require('redis-semaphore');
const { default: Redlock } = require('redlock');
const { connect } = require('leasehold');
const { servers, unique } = require('./storages.js');

const url = servers.find((url) => url.startsWith('redis://'));
const prefixed = (prefix) => `${url}${url.includes('?') ? '&' : '?'}prefix=${encodeURIComponent(prefix)}`;

const packages = [
  ['redlock', '', (client) => {
    const redlock = new Redlock([client], { retryCount: 0 });
    return async (key) => {
      const lock = await redlock.acquire([key], 10_000).catch(() => null);
      return lock && (() => lock.release());
    };
  }],
  ['redis-semaphore', 'mutex:', (client) => async (key) => {
    const mutex = new Mutex(client, key, { acquireAttemptsLimit: 1 });
    return (await mutex.tryAcquire()) ? () => mutex.release() : null;
  }],
];

describe('other packages', { skip: !url && 'no Redis' }, () => {
  for (const [name, prefix, make] of packages) {
    test(`${name} and a lock of ours exclude each other`, async () => {
      const client = new Redis(url);
      const acquire = make(client);
      const locks = await connect(prefixed(prefix));
      const key = unique(name);
      const release = await acquire(key);
      assert.ok(release, 'free');
      assert.equal(await locks.lock(key).tryAcquire(), null);
      assert.equal((await locks.inspect(key))[0].token, 0n);
      const granted = locks.lock(key, { wait: '20s' }).acquire();
      await release();
      const guard = await granted;
      assert.equal(await acquire(key), null);
      await guard.release();
      const again = await acquire(key);
      assert.ok(again, 'free again');
      await again();
      await locks.close();
      await client.quit();
    });
  }
});
