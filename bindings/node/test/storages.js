// The storages that the tests run over: memory, a file, and the servers in LEASEHOLD_TEST_URLS.
'use strict';

const { mkdtempSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { randomBytes } = require('node:crypto');

const folder = mkdtempSync(path.join(tmpdir(), 'leasehold-node-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

const servers = (process.env.LEASEHOLD_TEST_URLS ?? '').split(' ').filter(Boolean);

/** The storages that several processes share. */
const shared = [`sqlite:${path.join(folder, 'locks.db')}`, ...servers];
const all = [`memory:${randomBytes(6).toString('hex')}`, ...shared];

/** Returns the scheme of a URL, which names its tests. */
const scheme = (url) => url.slice(0, url.indexOf(':'));

/** The factor by which a slow machine stretches durations. */
const stretch = Number(process.env.LEASEHOLD_TEST_TIME ?? 1);

/** Returns a lock's name that no other test uses. */
const unique = (word) => `node/${word}/${randomBytes(6).toString('hex')}`;

module.exports = { all, folder, scheme, servers, shared, stretch, unique };
