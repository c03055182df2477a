// The drop-in for distributed-locks: over its three storages, and a storage of a user.
'use strict';

const { describe, test } = require('node:test');
const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const redis3 = require('redis');
const LockFactory = require('leasehold/compat/distributed-locks');
const { servers, unique } = require('./storages.js');

const { RedisStorage, PostgresqlStorage, MongoStorage, FailedToObtainKey } = LockFactory;
const of = (scheme) => servers.find((url) => url.startsWith(scheme));

/** A storage as a user of the original writes one. */
class MapStorage {
  map = new Map();
  async init() {}
  async set(key, value, { ttl }) {
    const held = this.map.get(key);
    if (held !== undefined && held.until > Date.now()) return false;
    this.map.set(key, { value, until: Date.now() + ttl * 1000 });
    return true;
  }
  async unSet(key, value) {
    return this.map.get(key)?.value === value && this.map.delete(key);
  }
  async close() {}
}

const storages = [
  ['redis', of('redis://'), () => new RedisStorage({ url: of('redis://') })],
  ['postgres', of('postgres'), () => new PostgresqlStorage({ url: of('postgres') })],
  ['mongodb', of('mongodb'), () => new MongoStorage({ url: of('mongodb'), database: 'leasehold' })],
  ['a user', true, () => new MapStorage()],
];

for (const [name, url, make] of storages) {
  describe(`distributed-locks over the storage of ${name}`, { skip: !url && 'no server' }, () => {
    test('a lock has one holder, and a refusal says whose', async () => {
      const factory = new LockFactory(make(), { machineId: 'm1' });
      const key = unique('dl');
      const [first, second] = [factory.createLock(key), factory.createLock(key)];
      assert.equal(await first.lock(), true);
      const begun = performance.now();
      const error = await second.lock({ retries: 3, interval: 0.1 }).catch((error) => error);
      const passed = performance.now() - begun;
      assert.ok(error instanceof FailedToObtainKey && error instanceof Error, `${error}`);
      assert.deepEqual([error.name, error.key, error.attempts], ['FailedToObtainKey', key, 3]);
      assert.ok(passed >= 190 && passed < 5000, `three tries are two pauses: ${passed} ms`);
      assert.equal(await second.unlock(), false, 'a refused caller has nothing to release');
      assert.equal(await first.unlock(), true);
      assert.equal(await second.lock({ ttl: 0.5 }), true);
      await sleep(700);
      assert.equal(await first.lock({ retries: 20, interval: 0.1 }), true, 'a fraction of a second is a TTL');
      assert.equal(await second.unlock(), false, 'a late release frees no other lock');
      await assert.rejects(second.lock({ retries: 1 }), FailedToObtainKey);
      assert.equal(await first.unlock(), true);
      await factory.close();
    });

    test('options that hung are refused', async () => {
      const factory = new LockFactory(make());
      await factory.init();
      for (const wrong of [{ retries: 0 }, { retries: -1 }, { retries: 1.5 }, { retries: '3' }, { ttl: 0 }, { interval: -1 }]) {
        await assert.rejects(factory.createLock('a').lock(wrong), { code: 'LEASEHOLD_INVALID' });
      }
      await factory.close();
    });

    test('one lock object enters once', async () => {
      const factory = new LockFactory(make());
      const lock = factory.createLock(unique('once'));
      const both = await Promise.allSettled([lock.lock({ retries: 1 }), lock.lock({ retries: 1 })]);
      assert.deepEqual(both.map(({ status }) => status), ['fulfilled', 'rejected']);
      await lock.unlock();
      await factory.close();
    });
  });
}

test('an outage is no contention', async () => {
  const factory = new LockFactory(new RedisStorage({ url: 'redis://127.0.0.1:1' }));
  await assert.rejects(factory.createLock('a').lock(), { code: 'LEASEHOLD_UNAVAILABLE' });
  const broken = new LockFactory({ ...new MapStorage(), set: async () => { throw new Error('down'); } });
  await assert.rejects(broken.createLock('a').lock(), /down/);
});

test('the key in Redis is that of the original, so that both exclude each other', { skip: !of('redis://') && 'no Redis' }, async () => {
  const client = redis3.createClient(of('redis://'));
  const call = (name, ...args) => new Promise((resolve, reject) => client[name](...args, (error, value) => (error ? reject(error) : resolve(value))));
  const factory = new LockFactory(new RedisStorage({ url: of('redis://'), keyPrefix: 'app' }));
  const key = unique('wire');
  const lock = factory.createLock(key);
  // What the original sends.
  assert.equal(await call('set', `app:${key}`, 'old', 'EX', 10, 'NX'), 'OK');
  await assert.rejects(lock.lock({ retries: 1 }), FailedToObtainKey);
  await call('del', `app:${key}`);
  await lock.lock();
  assert.equal(await call('set', `app:${key}`, 'old', 'EX', 10, 'NX'), null);
  await lock.unlock();
  await factory.close();
  client.quit();
});
