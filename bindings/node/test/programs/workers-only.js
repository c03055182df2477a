// The main thread never loads the addon: node workers-only.js URL
'use strict';

const path = require('node:path');
const { Worker } = require('node:worker_threads');

const [url] = process.argv.slice(2);

async function main() {
  for (let i = 0; i < 12; i++) {
    const workerData = { url, name: `only/${process.pid}/${i}`, how: 'terminate' };
    const worker = new Worker(path.join(__dirname, 'worker.js'), { workerData });
    await new Promise((resolve) => worker.once('message', resolve));
    await worker.terminate();
  }
  // The engines go on for a while.
  setTimeout(() => process.stdout.write('alive\n'), 500);
}

main();
