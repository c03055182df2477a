// Loses locks in every way without a listener.
'use strict';

const { connect } = require('leasehold');

async function main() {
  const locks = await connect('memory:');
  const lock = locks.lock('a', { maxHold: 100 });
  const guard = await lock.acquire();
  const { signal } = guard;
  await new Promise((resolve) => setTimeout(resolve, 300));
  process.stdout.write(`lost ${signal.reason.why}\n`);
  // The work ends after the loss, with an error of its own.
  await lock.run(async () => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    throw new Error('too late');
  }).catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 300));
  // The work ends first, and the loss comes later.
  await lock.run(() => {});
  await new Promise((resolve) => setTimeout(resolve, 300));
}

main();
