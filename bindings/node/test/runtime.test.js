// The event loop, the garbage collector, workers, and two copies of the package.
'use strict';

const { describe, test } = require('node:test');
const assert = require('node:assert/strict');
const { cpSync, mkdirSync } = require('node:fs');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { Worker } = require('node:worker_threads');
const { connect } = require('leasehold');
const { start } = require('./process.js');
const { all, folder, scheme, shared, unique } = require('./storages.js');

const block = (ms) => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);

for (const url of all) {
  test(`${scheme(url)}: a blocked event loop loses no lock`, async () => {
    const ttl = url.startsWith('etcd') ? 2000 : 1000;
    const [a, b] = [await connect(url), await connect(url)];
    const name = unique('blocked');
    const guard = await a.lock(name, { ttl }).acquire();
    const { signal } = guard;
    block(3 * ttl);
    assert.ok(guard.held && !signal.aborted);
    assert.equal(await b.lock(name).tryAcquire(), null);
    await guard.verify();
    await guard.release();
    await Promise.all([a.close(), b.close()]);
  });

  test(`${scheme(url)}: a guard that is collected is released`, async () => {
    const [a, b] = [await connect(url), await connect(url)];
    const names = [unique('collected'), unique('collected')];
    // In functions of their own, so that no variable here keeps a guard.
    await (async () => void (await a.lock(names[0], { ttl: '1h' }).acquire()))();
    await (async () => void (await a.lock(names[1], { ttl: '1h' }).acquire()).signal)();
    for (const name of names) {
      while ((await b.inspect(name)).length > 0) {
        globalThis.gc();
        await sleep(10);
      }
    }
    assert.deepEqual(a.held, []);
    await Promise.all([a.close(), b.close()]);
  });
}

describe('workers', () => {
  const file = path.join(__dirname, 'programs', 'worker.js');
  const started = (workerData) => {
    const worker = new Worker(file, { workerData });
    worker.on('error', () => {});
    const ended = new Promise((resolve) => worker.once('exit', resolve));
    return { worker, ended, said: new Promise((resolve) => worker.once('message', resolve)) };
  };

  for (const url of shared) {
    for (const how of ['end', 'exit', 'throw', 'terminate']) {
      test(`${scheme(url)}: what a worker holds is free after ${how}`, async () => {
        const name = unique('worker');
        const { worker, ended, said } = started({ url, name, how });
        await said;
        if (how === 'terminate') await worker.terminate();
        await ended;
        const locks = await connect(url);
        const guard = await locks.lock(name, { wait: '20s' }).acquire();
        await guard.release();
        await locks.close();
      });
    }

    test(`${scheme(url)}: dozens of workers hold and wait, and are terminated`, async () => {
      const locks = await connect(url);
      const name = unique('crowd');
      const guard = await locks.lock(name).acquire();
      for (let round = 0; round < 3; round++) {
        const crowd = Array.from({ length: 8 }, (_, i) => {
          return started({ url, name: `${name}/${round}/${i}`, how: 'terminate', waits: name });
        });
        await Promise.all(crowd.map(({ said }) => said));
        await Promise.all(crowd.map(({ worker }) => worker.terminate()));
      }
      await guard.release();
      // No waiter of a worker that has ended stands in front of this one for ever.
      await (await locks.lock(name, { wait: '20s' }).acquire()).release();
      await locks.close();
    });
  }

  test('two workers of one process exclude each other on one file', async () => {
    const [url, name] = [shared[0], unique('two')];
    const first = started({ url, name, how: 'terminate' });
    await first.said;
    const second = started({ url, name, how: 'try' });
    assert.equal(await second.said, 'refused');
    await first.worker.terminate();
    await second.ended;
  });

  test('an addon that only workers have loaded outlives them', async () => {
    const { ended } = start('workers-only.js', [shared[0]]);
    const end = await ended;
    assert.deepEqual([end.code, end.signal, end.output], [0, null, 'alive\n']);
  });
});

test('two copies of the package in one process exclude each other', async () => {
  const root = path.join(__dirname, '..');
  const [a, b] = ['a', 'b'].map((copy) => {
    const to = path.join(folder, 'copies', copy);
    mkdirSync(to, { recursive: true });
    const kept = (from) => !/node_modules|\/(test|src)$/.test(from.slice(root.length));
    cpSync(root, to, { recursive: true, filter: kept });
    return require(to);
  });
  assert.notEqual(a.connect, b.connect);
  for (const url of shared) {
    const [first, second] = [await a.connect(url), await b.connect(url)];
    const name = unique('copies');
    const guard = await first.lock(name).acquire();
    assert.equal(await second.lock(name).tryAcquire(), null, scheme(url));
    assert.ok(guard.held);
    await guard.verify();
    await guard.release();
    await (await second.lock(name, { wait: '10s' }).acquire()).release();
    await Promise.all([first.close(), second.close()]);
  }
});

test('a loss is never an unhandled rejection', async () => {
  const { ended } = start('lost.js', []);
  const end = await ended;
  assert.deepEqual([end.code, end.output], [0, 'lost max-hold\n']);
});
