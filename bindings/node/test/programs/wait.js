// Waits for a lock, with nothing else that keeps Node alive: node wait.js URL NAME
'use strict';

const { connect } = require('leasehold');

const [url, name] = process.argv.slice(2);

async function main() {
  const locks = await connect(url);
  const events = locks.events();
  const granted = locks.lock(name).acquire();
  for await (const event of events) if (event.type === 'waiting') break;
  process.stdout.write('waiting\n');
  const guard = await granted;
  process.stdout.write(`granted ${guard.token}\n`);
}

main();
