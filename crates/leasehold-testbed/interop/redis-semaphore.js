// npm redis-semaphore, its mutex: the key is `mutex:` and the name, the value a UUID. It extends only by itself, which
// is off here, so that a test can see its lease end.
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
  // It does not say whether there was something to release.
  release: () => mutex.release().then(() => true),
});
