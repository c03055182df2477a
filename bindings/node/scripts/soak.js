// Uses everything over and over, and fails if memory or handles grow: node --expose-gc scripts/soak.js [MINUTES] [URL…]
'use strict';

const { mkdtempSync, readdirSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { Worker } = require('node:worker_threads');
const { connect } = require('leasehold');

const folder = mkdtempSync(path.join(tmpdir(), 'leasehold-soak-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const [minutes = '10', ...given] = process.argv.slice(2);
const servers = (process.env.LEASEHOLD_TEST_URLS ?? '').split(' ').filter(Boolean);
const urls = given.length > 0 ? given : [`sqlite:${path.join(folder, 'locks.db')}`, ...servers];

async function round(url, n) {
  const [a, b] = [await connect(url), await connect(url)];
  const name = `soak/${process.pid}/${n}`;
  await Promise.all(Array.from({ length: 100 }, (_, i) => a.lock(`${name}/${i}`).run((guard) => guard.signal.aborted)));
  await Promise.all(Array.from({ length: 20 }, () => a.lock(name).run(() => {})));
  const guard = await a.lock(name).acquire();
  const waits = Array.from({ length: 20 }, () => b.lock(name).acquire({ signal: AbortSignal.timeout(20) }).catch(() => {}));
  for await (const _ of b.observe(name)) break;
  await Promise.all([...waits, b.lock(name, { wait: false }).acquire().catch(() => {})]);
  await b.breakLock(name);
  await guard.release().catch(() => {});
  await a.events({ signal: AbortSignal.timeout(1) }).next().catch(() => {});
  // Not released: collected.
  await a.lock(`${name}/collected`).acquire();
  const workerData = { url, name: `${name}/worker`, how: n % 2 ? 'terminate' : 'end' };
  const worker = new Worker(path.join(__dirname, '..', 'test', 'programs', 'worker.js'), { workerData });
  await new Promise((resolve) => worker.once('message', resolve));
  await worker.terminate();
  await Promise.all([a.close(), b.close()]);
}

async function measure() {
  for (let i = 0; i < 5; i++) {
    globalThis.gc();
    await sleep(50);
  }
  return {
    rss: process.memoryUsage.rss() / 2 ** 20,
    heap: process.memoryUsage().heapUsed / 2 ** 20,
    handles: process.platform === 'linux' ? readdirSync('/proc/self/fd').length : 0,
    threads: process.platform === 'linux' ? readdirSync('/proc/self/task').length : 0,
    resources: process.getActiveResourcesInfo().length,
  };
}

async function main() {
  const begun = performance.now();
  const limit = Number(minutes) * 60_000;
  let first;
  for (let n = 0; performance.now() - begun < limit; n++) {
    for (const url of urls) await round(url, n);
    if (first === undefined && performance.now() - begun > limit / 4) {
      first = await measure();
      console.log(`after ${n + 1} rounds:`, first);
    }
  }
  const last = await measure();
  console.log('at the end:', last);
  const grown = Object.keys(first).filter((name) => last[name] > first[name] * 1.1 + (name === 'rss' ? 16 : 2));
  if (grown.length > 0) throw new Error(`grown: ${grown.join(', ')}`);
}

main();
