// Measures one contestant in a process of its own, and writes one line of JSON: node scenario.js CONTESTANT SCENARIO N SECONDS URL
'use strict';

const { monitorEventLoopDelay } = require('node:perf_hooks');
const { Redis } = require('ioredis');
const contestants = require('./contestants.js');

const [contestant, scenario, n, seconds, url] = process.argv.slice(2);

/** Acquires and releases keys of their own, N at once. */
async function cycles({ acquire }, until) {
  let count = 0;
  await Promise.all(Array.from({ length: Number(n) }, async (_, i) => {
    while (performance.now() < until) {
      const release = await acquire(`bench/${contestant}/${i}`);
      await release();
      count += 1;
    }
  }));
  return count;
}

/** Contends for one key with another process. Counts how often the lock came from that one. */
async function handover({ acquire }, until) {
  const client = new Redis(url);
  let count = 0;
  while (performance.now() < until) {
    const release = await acquire(`bench/${contestant}/handover`);
    const last = await client.getset(`bench/${contestant}/last`, process.pid);
    if (last !== String(process.pid)) count += 1;
    await release();
  }
  await client.quit();
  return count;
}

async function main() {
  const entered = await contestants[contestant](url);
  const run = { cycles, handover }[scenario];
  await run(entered, performance.now() + 300);
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  const [cpu, begun] = [process.cpuUsage(), performance.now()];
  const count = await run(entered, begun + Number(seconds) * 1000);
  const passed = (performance.now() - begun) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  delay.disable();
  // A lock that is polled for may be given up only after a while.
  const rate = count / passed;
  const micros = count === 0 ? null : (user + system) / count;
  process.stdout.write(`${JSON.stringify({ contestant, scenario, n: Number(n), rate, micros, delay: delay.percentile(99) / 1e6 })}\n`);
  await entered.close();
}

main();
