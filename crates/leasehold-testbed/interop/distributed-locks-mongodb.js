// npm distributed-locks-mongodb, the storage of npm distributed-locks for MongoDB, called as that package calls it. The `_id`
// is the name, the value consists of the name, the machine and a UUID, and the time to live is in seconds. The package cannot
// extend a lease, and does not report whether a release found something. Its dependency distributed-locks-common contains only
// types and is no longer in the registry, so package.json replaces it with a package that is there anyway.
'use strict';

const { randomUUID } = require('crypto');
const { MongoStorage } = require('distributed-locks-mongodb');
const serve = require('./driver');

const [url, database, collectionName] = process.argv.slice(2);
const storage = new MongoStorage({ url, database, collectionName });
let held;

serve(storage.init(), {
  acquire(name, ttl) {
    held = { key: name, value: `${name}-1-${randomUUID()}` };
    return storage.set(held.key, held.value, { ttl: Number(ttl) / 1000 });
  },
  // Acquires once more with the same lock object, which the package does if `lock()` is called twice.
  again: (ttl) => storage.set(held.key, held.value, { ttl: Number(ttl) / 1000 }),
  release: () => storage.unSet(held.key, held.value),
});
