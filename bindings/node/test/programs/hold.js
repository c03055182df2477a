// Holds a lock and ends in one of several ways: node hold.js URL NAME HOW [RELEASE_ON_EXIT]
'use strict';

const { connect } = require('leasehold');

const [url, name, how, release] = process.argv.slice(2);

async function main() {
  const locks = await connect(url, { ttl: '1h', releaseOnExit: release === 'false' ? false : undefined });
  const guard = await locks.lock(name).acquire();
  void guard.signal;
  globalThis.kept = guard;
  if (how === 'sigterm') {
    process.once('SIGTERM', () => process.exit(0));
    setInterval(() => {}, 1000);
  }
  process.stdout.write('held\n');
  if (how === 'exit') process.exit(0);
  if (how === 'throw') setImmediate(() => { throw new Error('uncaught'); });
  if (how === 'reject') Promise.reject(new Error('unhandled'));
  if (how === 'wait') process.stdin.once('data', () => process.exit(0));
  // `end`: nothing is left to do, and a lock that is held does not keep Node alive.
}

main();
