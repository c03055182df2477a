// A worker that holds a lock, may wait for another, and ends.
'use strict';

const { parentPort, workerData } = require('node:worker_threads');
const { connect } = require('leasehold');

const { url, name, how, waits } = workerData;

async function main() {
  const locks = await connect(url);
  if (how === 'try') {
    const guard = await locks.lock(name).tryAcquire();
    parentPort.postMessage(guard === null ? 'refused' : 'granted');
    return;
  }
  const guard = await locks.lock(name, { ttl: '1h' }).acquire();
  void guard.signal;
  globalThis.kept = guard;
  if (waits) locks.lock(waits).acquire().catch(() => {});
  parentPort.postMessage('held');
  if (how === 'exit') process.exit(0);
  if (how === 'throw') throw new Error('uncaught');
  if (how === 'terminate') setInterval(() => {}, 1000);
}

main();
