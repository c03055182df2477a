// The mutex of npm redis-semaphore. The key is `mutex:` and the name, the value a UUID. The package extends leases only by
// itself, which is switched off, so that a test can see a lease end.
'use strict';

const Redis = require('ioredis');
const { Mutex } = require('redis-semaphore');
const serve = require('./driver');

const client = new Redis(process.argv[2]);
let mutex;

serve(new Promise((resolve, reject) => client.once('ready', resolve).on('error', reject)), {
  acquire(name, ttl) {
    mutex = new Mutex(client, name, { lockTimeout: Number(ttl), refreshInterval: 0 });
    return mutex.tryAcquire();
  },
  // The package does not report whether a release found something.
  release: () => mutex.release().then(() => true),
});
