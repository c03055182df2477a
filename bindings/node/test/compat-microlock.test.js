// The drop-in for microlock, over etcd.
'use strict';

const { describe, test } = require('node:test');
const assert = require('node:assert/strict');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const microlock = require('leasehold/compat/microlock');
const { connect } = require('leasehold');
const { servers, unique } = require('./storages.js');

const url = servers.find((url) => url.startsWith('etcd://'));
const Microlock = microlock.default;

describe('microlock', { skip: !url && 'no etcd' }, () => {
  test('the constructor refuses what the original refuses, and wrong TTLs', () => {
    const { EtcdClientRequiredError, KeyRequiredError, NodeIdRequiredError, InvalidTtlError } = microlock;
    const cases = [
      [[null, 'k', 'n'], EtcdClientRequiredError, 'etcd client parameter is required'],
      [[{}, 'k', 'n'], EtcdClientRequiredError, 'etcd client parameter is required'],
      [[url, 5, 'n'], KeyRequiredError, 'key parameter of type String is required'],
      [[url, 'k'], NodeIdRequiredError, 'node_id parameter of type String is required'],
      ...[NaN, null, '5', []].map((ttl) => [[url, 'k', 'n', ttl], InvalidTtlError, 'ttl parameter must be of type Number']),
    ];
    for (const [args, kind, message] of cases) {
      const made = () => new Microlock(...args);
      assert.throws(made, (error) => error instanceof kind && error.name === kind.name && error.message === message);
    }
  });

  test('lock, renew and unlock answer as etcd did, and refuse as the original', async () => {
    const { AlreadyLockedError, LockNotOwnedError } = microlock;
    const key = unique('microlock');
    const [first, second] = ['one', 'two'].map((id) => new Microlock(url, key, id, 5));
    const locked = await first.lock();
    assert.deepEqual([locked.node.value, locked.node.ttl, locked.action], ['one', 5, 'create']);
    assert.ok(locked.node.modifiedIndex > 0);
    for (const lock of [second, first]) {
      const error = await lock.lock().catch((error) => error);
      assert.ok(error instanceof AlreadyLockedError);
      assert.deepEqual([error.name, error.message], ['AlreadyLockedError', `Lock "${key}" is already locked`]);
    }
    await first.renew();
    for (const call of ['renew', 'unlock']) {
      const error = await second[call]().catch((error) => error);
      assert.ok(error instanceof LockNotOwnedError);
      assert.equal(error.message, `Lock "${key}" is not owned by node "two"`);
    }
    await first.unlock();
    await assert.rejects(first.unlock(), LockNotOwnedError);
    const again = await second.lock();
    assert.ok(again.node.modifiedIndex > locked.node.modifiedIndex);
    await second.unlock();
  });

  test('another process on the same host is another owner', async () => {
    const key = unique('owner');
    const [first, second] = [new Microlock(url, key, 'host', 5), new Microlock(url, key, 'host', 5)];
    await first.lock();
    await assert.rejects(second.unlock(), microlock.LockNotOwnedError);
    await first.unlock();
  });

  test('errors are emitted only if there is a listener', async () => {
    const lock = new Microlock(url, unique('error'), 'n');
    await assert.rejects(lock.unlock(), microlock.LockNotOwnedError);
    const emitted = once(lock, 'error');
    const rejected = await lock.unlock().catch((error) => error);
    const [error] = await emitted.catch((error) => [error]);
    assert.equal(error, rejected);
  });

  test('locked and unlocked are emitted for any node, also at an expiry, and not after destroy', async () => {
    const key = unique('events');
    const observer = new Microlock(url, key, 'observer');
    const seen = [];
    observer.on(microlock.events.locked, () => seen.push('locked'));
    observer.on('unlocked', () => seen.push('unlocked'));
    const other = new Microlock(url, key, 'other', 2);
    await sleep(500);
    await other.lock();
    while (seen.length < 1) await sleep(20);
    await other.renew();
    while (seen.length < 2) await sleep(20);
    assert.deepEqual(seen, ['locked', 'unlocked']);
    observer.destroy();
    await other.lock();
    await other.unlock();
    assert.deepEqual([seen.length, observer.listenerCount('unlocked')], [2, 0]);
  });

  test('the endpoints of a node-etcd client are used', async () => {
    const { host } = new URL(url.replace('etcd:', 'http:'));
    const key = unique('hosts');
    const lock = new Microlock({ hosts: [`http://${host}`], watcher() {} }, key, 'n', 5);
    await lock.lock();
    const locks = await connect(url);
    assert.equal((await locks.inspect(key))[0].label, 'n');
    await lock.unlock();
    await locks.close();
  });
});
