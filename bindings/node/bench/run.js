// Measures all contestants on the Redis in LEASEHOLD_TEST_URLS, and prints a table: node run.js [SECONDS]
'use strict';

const { execFile } = require('node:child_process');
const path = require('node:path');
const { promisify } = require('node:util');
const contestants = require('./contestants.js');

const [seconds = '3'] = process.argv.slice(2);
const url = (process.env.LEASEHOLD_TEST_URLS ?? '').split(' ').find((url) => url.startsWith('redis://'));

async function measure(contestant, scenario, n) {
  const args = [path.join(__dirname, 'scenario.js'), contestant, scenario, String(n), seconds, url];
  const { stdout } = await promisify(execFile)(process.execPath, args);
  return JSON.parse(stdout);
}

async function row(contestant) {
  const cells = [contestant];
  const delays = [];
  for (const n of [1, 16, 64]) {
    const { rate, micros, delay } = await measure(contestant, 'cycles', n);
    cells.push(`${Math.round(rate)}/s, ${Math.round(micros)} µs`);
    delays.push(delay);
  }
  const both = await Promise.all([measure(contestant, 'handover', 1), measure(contestant, 'handover', 1)]);
  cells.push(`${both.reduce((sum, { rate }) => sum + rate, 0).toFixed(1)}/s`, `${Math.max(...delays).toFixed(1)} ms`);
  return `| ${cells.join(' | ')} |`;
}

async function main() {
  if (url === undefined) throw new Error('no Redis; run scripts/bench node');
  console.log('| | 1 promise | 16 | 64 | handover of 2 processes | event-loop delay p99 |\n|---|---|---|---|---|---|');
  for (const contestant of Object.keys(contestants)) console.log(await row(contestant));
  console.log('\nCycles of acquire and release, each promise on a key of its own, and the CPU time of the process for one cycle.');
}

main();
