// Options are checked before anything is sent, and durations are numbers or text.
'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { connect, InvalidError, UnsupportedError } = require('leasehold');
const { unique } = require('./storages.js');

test('options that make no sense are refused by name', async () => {
  const locks = await connect('memory:');
  const wrong = [
    [{ timeout: 5 }, /unknown option.*timeout.*valid/],
    [{ ttl: '10' }, /number with a unit/],
    [{ ttl: -1 }, /ttl=`-1`/],
    [{ ttl: NaN }, /ttl=`NaN`/],
    [{ ttl: null }, /ttl=/],
    [{ retries: 1.5 }, /whole number/],
    [{ retries: -1 }, /whole number/],
    [{ wait: 5, retries: 1 }, /either a wait or retries/],
    [{ label: 5 }, /a label is text/],
    [{ renew: 0 }, /more than 0/],
    ['10s', /options are an object/],
  ];
  for (const [options, message] of wrong) {
    assert.throws(() => locks.lock('a', options), (error) => error instanceof InvalidError && message.test(error.message), `${message}`);
  }
  assert.throws(() => locks.lock(undefined), InvalidError);
  await assert.rejects(locks.lock('').acquire(), InvalidError);
  await assert.rejects(locks.lock('a', { ttl: 1 }).acquire(), /the ttl is at least 100ms/);
  await assert.rejects(locks.lock('a').acquire({ signal: {} }), /AbortSignal/);
  await locks.close();
});

test('a URL or a default that is wrong is an error of connect', async () => {
  await assert.rejects(connect('nonsense://'), InvalidError);
  await assert.rejects(connect(5), InvalidError);
  await assert.rejects(connect('memory:', { ttl: 1 }), InvalidError);
  await assert.rejects(connect('memory:', { require: 'perfect' }), /no such tier/);
  await assert.rejects(connect('memory:', { require: 'failover-safe' }), UnsupportedError);
  await assert.rejects(connect('redis://127.0.0.1:1'), { code: 'LEASEHOLD_UNAVAILABLE' });
});

test('defaults of the client are overridden by the lock, and its by `with`', async () => {
  const locks = await connect(new URL('memory:'), { ttl: '1m', label: 'default', retries: 0 });
  const lock = locks.lock(unique('with'));
  const guard = await lock.acquire();
  assert.ok(guard.remaining > 30_000);
  assert.equal(locks.held[0].label, 'default');
  await assert.rejects(lock.acquire(), { code: 'LEASEHOLD_CONTENDED' });
  const begun = performance.now();
  await assert.rejects(lock.with({ wait: 200 }).acquire(), { code: 'LEASEHOLD_CONTENDED' });
  assert.ok(performance.now() - begun >= 199);
  await assert.rejects(lock.with({ retries: 3, interval: '20ms' }).acquire(), { code: 'LEASEHOLD_CONTENDED' });
  await guard.release();
  const other = await lock.with({ ttl: '2s' }).with({ label: 'other' }).acquire();
  assert.ok(other.remaining <= 2000);
  assert.equal(locks.held[0].label, 'other');
  await other.release();
  await locks.close();
});

test('the default label names the script', async () => {
  const locks = await connect('memory:');
  const guard = await locks.lock('a').acquire();
  assert.match(locks.held[0].label, new RegExp(`^[^/]+\\.js@.+:${process.pid}$`));
  await guard.release();
  await locks.close();
});

test('ESM and CommonJS export the same objects', async () => {
  const esm = await import('leasehold');
  const cjs = require('leasehold');
  assert.deepEqual(Object.keys(esm).sort(), Object.keys(cjs).sort());
  for (const name of Object.keys(cjs)) assert.equal(esm[name], cjs[name]);
});
