// The packages that are measured. Each makes a function that acquires a key and returns how to release it.
'use strict';

const { Redis } = require('ioredis');

/** Waits as each package does by default, but for as long as it takes. */
exports.leasehold = async (url) => {
  const locks = await require('leasehold').connect(url);
  const acquire = async (key) => {
    const guard = await locks.lock(key).acquire();
    return () => guard.release();
  };
  return { acquire, close: () => locks.close() };
};

exports.redislock = async (url) => {
  const client = require('redis').createClient(url);
  const redislock = require('redislock');
  const acquire = async (key) => {
    const lock = redislock.createLock(client, { retries: -1 });
    await lock.acquire(key);
    return () => lock.release();
  };
  return { acquire, close: () => client.quit() };
};

exports.redlock = async (url) => {
  const client = new Redis(url);
  const { default: Redlock } = require('redlock');
  const redlock = new Redlock([client], { retryCount: -1 });
  const acquire = async (key) => {
    const lock = await redlock.acquire([key], 10_000);
    return () => lock.release();
  };
  return { acquire, close: () => client.quit() };
};

exports['redis-semaphore'] = async (url) => {
  const client = new Redis(url);
  const { Mutex } = require('redis-semaphore');
  const acquire = async (key) => {
    const mutex = new Mutex(client, key, { acquireTimeout: 1e9 });
    await mutex.acquire();
    return () => mutex.release();
  };
  return { acquire, close: () => client.quit() };
};
