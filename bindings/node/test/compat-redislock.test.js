// The drop-in for redislock: its own integration suite, the same behavior beside it, and what is repaired.
'use strict';

const { describe, test, before, after } = require('node:test');
const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { Redis } = require('ioredis');
const redis3 = require('redis');
const redis6 = require('redis-latest');
const original = require('redislock');
const { redisUrl } = require('../compat/redis-url.js');
const redislock = require('leasehold/compat/redislock');
const { servers, unique } = require('./storages.js');

const url = servers.find((url) => url.startsWith('redis://'));
const { LockAcquisitionError, LockReleaseError, LockExtendError } = redislock;

describe('redislock', { skip: !url && 'no Redis' }, () => {
  let client;
  before(() => {
    client = redis3.createClient(url);
  });
  after(() => client.quit());

  test('its own integration suite passes', async () => {
    const folder = path.join(__dirname, '..', 'node_modules');
    const suite = path.join(folder, 'redislock', 'spec', 'integration', 'lockIntegrationSpec.js');
    const args = [path.join(folder, 'mocha', 'bin', 'mocha.js'), '--exit', '--require', path.join(__dirname, 'programs', 'alias.js'), suite];
    const child = spawn(process.execPath, args, { env: { ...process.env, REDIS_URL: url, ALIAS: 'redislock' } });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
    const code = await new Promise((resolve) => child.on('close', resolve));
    assert.equal(code, 0, output);
    assert.match(output, /7 passing/);
  });

  for (const [holder, waiter, what] of [[original, redislock, 'old, then new'], [redislock, original, 'new, then old']]) {
    test(`both exclude each other: ${what}`, async () => {
      const key = unique('rolling');
      const first = holder.createLock(client);
      const second = waiter.createLock(client);
      await first.acquire(key);
      const error = await second.acquire(key).catch((error) => error);
      assert.ok(error instanceof waiter.LockAcquisitionError);
      assert.equal(error.message, `Could not acquire lock on "${key}"`);
      const patient = waiter.createLock(client, { retries: -1, delay: 20 });
      const granted = patient.acquire(key);
      await sleep(50);
      await first.release();
      await granted;
      await patient.release();
    });
  }

  test('errors have the names, texts and classes of the original', async () => {
    for (const module of [original, redislock]) {
      const key = unique('errors');
      const lock = module.createLock(client, { timeout: 200 });
      const errors = [await lock.release().catch((e) => e), await lock.extend(500).catch((e) => e), await lock.extend('5').catch((e) => e)];
      await lock.acquire(key);
      errors.push(await lock.acquire(key).catch((e) => e));
      await sleep(250);
      errors.push(await lock.release().catch((e) => e));
      assert.deepEqual(errors.map(({ name, message }) => [name, message]), [
        ['LockReleaseError', 'Lock has not been acquired'],
        ['LockExtendError', 'Lock has not been acquired'],
        ['LockExtendError', 'Int time is required to extend lock'],
        ['LockAcquisitionError', 'Lock already held'],
        ['LockReleaseError', `Lock on "${key}" had expired`],
      ]);
    }
  });

  test('callbacks and typed catches work', async () => {
    const [a, b] = [redislock.createLock(client), redislock.createLock(client)];
    const key = unique('callbacks');
    const called = (begin) => new Promise((resolve) => begin((...args) => resolve(args)));
    assert.deepEqual(await called((fn) => a.acquire(key, fn)), [null]);
    const [error] = await called((fn) => b.acquire(key, fn));
    assert.ok(error instanceof LockAcquisitionError && error instanceof Error);
    assert.equal(await b.acquire(key).catch(LockReleaseError, () => 'wrong').catch(LockAcquisitionError, () => 'caught'), 'caught');
    assert.deepEqual(await called((fn) => a.extend(5000, fn)), [null]);
    assert.deepEqual(await called((fn) => a.release(fn)), [null]);
    const [late] = await called((fn) => a.extend(5000, fn));
    assert.ok(late instanceof LockExtendError);
  });

  test('what is repaired', async () => {
    const key = unique('repaired');
    const lock = redislock.createLock(client, { timeout: '300', retries: null, delay: undefined });
    assert.deepEqual([lock.timeout, lock.retries, lock.delay], [300, 0, 50]);
    // Two acquires of one object at once.
    const both = await Promise.allSettled([lock.acquire(key), lock.acquire(`${key}/2`)]);
    assert.deepEqual(both.map(({ status }) => status), ['fulfilled', 'rejected']);
    assert.deepEqual(redislock.getAcquiredLocks(), [lock]);
    await assert.rejects(lock.extend(-1), LockExtendError);
    // An expired lock is not held.
    await sleep(350);
    assert.deepEqual([lock._locked, lock._key, redislock.getAcquiredLocks()], [false, null, []]);
    await lock.acquire(key);
    await lock.release();
    for (const wrong of [{ timeout: '10s' }, { timeout: 0 }, { delay: NaN }, { retries: 'many' }]) {
      assert.throws(() => redislock.createLock(client, wrong), { code: 'LEASEHOLD_INVALID' });
    }
    // An error of Redis can be told from contention.
    const dead = redislock.createLock('redis://127.0.0.1:1');
    const error = await dead.acquire(key).catch((error) => error);
    assert.ok(error instanceof LockAcquisitionError);
    assert.equal(error.cause.code, 'LEASEHOLD_UNAVAILABLE');
  });

  test('setDefaults changes later locks', async () => {
    redislock.setDefaults({ timeout: 20000, retries: 3, delay: null, other: 5 });
    const lock = redislock.createLock(client, { delay: 10 });
    assert.deepEqual([lock.timeout, lock.retries, lock.delay], [20000, 3, 10]);
    redislock.setDefaults({ timeout: 10000, retries: 0 });
  });

  test('the clients of other drivers and versions are understood', async () => {
    const clients = [client, redis6.createClient({ url }), new Redis(url, { lazyConnect: true }), url, new URL(url)];
    const key = unique('drivers');
    const first = redislock.createLock(clients[0]);
    await first.acquire(key);
    for (const other of clients) {
      await assert.rejects(redislock.createLock(other).acquire(key), /Could not acquire/, `${redisUrl(other, '')}`);
    }
    await first.release();
    assert.throws(() => redislock.createLock({}), { code: 'LEASEHOLD_INVALID' });
  });
});

test('the settings of clients become URLs', () => {
  const io = (options) => new Redis({ ...options, lazyConnect: true });
  const cases = [
    [io({ host: 'h', port: 7000, db: 2, password: 'p@ss' }), 'redis://:p%40ss@h:7000/2?prefix=x'],
    [io({ host: '::1', username: 'me', password: 'p', tls: {} }), 'rediss://me:p@[::1]:6379/0?prefix=x'],
    [io({ path: '/run/redis.sock', db: 1, keyPrefix: 'app:' }), 'redis+unix:///run/redis.sock?db=1&prefix=app%3Ax'],
    [redis6.createClient({ url: 'redis://u:p@h:77/3' }), 'redis://u:p@h:77/3?prefix=x'],
    [redis6.createClient({ socket: { host: 'h', tls: true }, database: 4 }), 'rediss://h:6379/4?prefix=x'],
    ['redis://h/1?prefix=mine', 'redis://h/1?prefix=mine'],
  ];
  for (const [client, expected] of cases) assert.equal(redisUrl(client, 'x'), expected);
  assert.throws(() => redisUrl(new Redis({ sentinels: [{ host: 'h' }], name: 'm', lazyConnect: true }), ''), /redis\+sentinel/);
});
