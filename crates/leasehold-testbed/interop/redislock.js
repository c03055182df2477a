// npm redislock. The key is the name, the value a UUID.
'use strict';

const redis = require('redis');
const redislock = require('redislock');
const serve = require('./driver');

const client = redis.createClient(process.argv[2]);
let lock;

serve(new Promise((resolve, reject) => client.once('ready', resolve).on('error', reject)), {
  acquire(name, ttl) {
    lock = redislock.createLock(client, { timeout: Number(ttl), retries: 0 });
    return unless(redislock.LockAcquisitionError, /^Could not acquire/, lock.acquire(name));
  },
  release: () => unless(redislock.LockReleaseError, /had expired|not been acquired/, lock.release()),
  extend: (ttl) => unless(redislock.LockExtendError, /had expired|not been acquired/, lock.extend(Number(ttl))),
});

// The package wraps errors of Redis in the same classes, so only the text distinguishes a refusal.
function unless(refusal, text, promise) {
  return promise.then(
    () => true,
    (error) => {
      if (error instanceof refusal && text.test(error.message)) return false;
      throw error;
    },
  );
}
