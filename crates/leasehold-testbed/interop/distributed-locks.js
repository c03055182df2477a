// Sends what npm distributed-locks 1.0.5 sends with distributed-locks-redis, because the registry answers 404 for the
// package. The key is a prefix, a colon and the name. The value consists of the name, the machine and a UUID. The time to live is
// in whole seconds. The package cannot extend a lease, and does not report whether a release found something.
'use strict';

const { randomUUID } = require('crypto');
const redis = require('redis');
const serve = require('./driver');

const PREFIX = 'distributed-locks';
const ACQUIRE = `
  if redis.call('GET', KEYS[1]) then return false end
  return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])`;
const RELEASE = `
  if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
  return 'OK'`;

const client = redis.createClient(process.argv[2]);
let held;

serve(new Promise((resolve, reject) => client.once('ready', resolve).on('error', reject)), {
  async acquire(name, ttl) {
    held = { key: `${PREFIX}:${name}`, value: `${name}-1-${randomUUID()}` };
    return (await script(ACQUIRE, held.key, held.value, Math.ceil(Number(ttl) / 1000))) === 'OK';
  },
  release: () => script(RELEASE, held.key, held.value).then(() => true),
});

function script(text, key, ...args) {
  return new Promise((resolve, reject) => {
    client.eval(text, 1, key, ...args, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}
