// The packages that are published: what they contain, and what happens without the addon.
'use strict';

const { test } = require('node:test');
const assert = require('node:assert/strict');
const { execFileSync, spawnSync } = require('node:child_process');
const { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const path = require('node:path');
const { folder } = require('./storages.js');

const root = path.join(__dirname, '..');

test('the packed packages install, run the example, and say what to do if npm left one out', () => {
  const [out, app] = ['packed', 'app'].map((name) => path.join(folder, name));
  execFileSync(process.execPath, [path.join(root, 'scripts', 'package.js'), out]);
  const packed = readdirSync(out).map((name) => path.join(out, name));
  assert.equal(packed.length, 2);
  mkdirSync(app);
  writeFileSync(path.join(app, 'package.json'), '{ "name": "app", "private": true }');
  execFileSync('npm', ['install', '--offline', '--no-audit', '--no-fund', ...packed], { cwd: app, stdio: 'pipe' });
  copyFileSync(path.join(root, 'examples', 'basic.mjs'), path.join(app, 'basic.mjs'));
  const output = execFileSync(process.execPath, ['basic.mjs'], { cwd: app, encoding: 'utf8' });
  assert.match(output, /then held with token \d+/);
  const installed = path.join(app, 'node_modules', 'leasehold');
  const { dependencies, optionalDependencies, scripts } = JSON.parse(readFileSync(path.join(installed, 'package.json'), 'utf8'));
  assert.deepEqual([dependencies, scripts], [undefined, undefined]);
  assert.ok(Object.keys(optionalDependencies).length >= 5);
  for (const name of ['redislock', 'microlock', 'distributed-locks']) {
    execFileSync(process.execPath, ['-e', `require('leasehold/compat/${name}')`], { cwd: app });
  }
  rmSync(path.join(app, 'node_modules', '@leasehold'), { recursive: true });
  const { status, stderr } = spawnSync(process.execPath, ['-e', "require('leasehold')"], { cwd: app, encoding: 'utf8' });
  assert.equal(status, 1);
  assert.match(stderr, /has no addon for .*npm\/cli#4828.*npm run build.*LEASEHOLD_NO_ADDON/s);
});
