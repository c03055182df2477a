// Makes a suite of the original use the drop-in, and the Redis of the tests: node --require alias.js
'use strict';

const Module = require('node:module');
const path = require('node:path');

const { ALIAS, REDIS_URL } = process.env;
const resolve = Module._resolveFilename;
Module._resolveFilename = function (request, ...rest) {
  if (request === `../../lib/${ALIAS}`) return path.join(__dirname, '..', '..', 'compat', `${ALIAS}.js`);
  return resolve.call(this, request, ...rest);
};

const redis = require('redis');
const { createClient } = redis;
redis.createClient = () => createClient(REDIS_URL);
