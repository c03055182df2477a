// Builds the addon for this platform, and puts it beside index.js: node scripts/build.js [--release]
'use strict';

const { execFileSync } = require('node:child_process');
const { copyFileSync, renameSync } = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const release = process.argv.includes('--release');
const cargo = (args, options) => {
  return execFileSync('cargo', args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...options });
};

cargo(['build', '--lib', ...(release ? ['--release'] : [])], { stdio: 'inherit' });
const { target_directory: target } = JSON.parse(cargo(['metadata', '--format-version', '1', '--no-deps']));
const library = {
  darwin: 'libleasehold_node.dylib',
  win32: 'leasehold_node.dll',
}[process.platform] ?? 'libleasehold_node.so';
const built = path.join(target, release ? 'release' : 'debug', library);

const musl = process.platform === 'linux' && !process.report.getReport().header.glibcVersionRuntime;
const suffix = { linux: musl ? '-musl' : '-gnu', win32: '-msvc' }[process.platform] ?? '';
const addon = path.join(root, `leasehold.${process.platform}-${process.arch}${suffix}.node`);
// Replaced in one step: a process that has loaded the old file keeps it.
copyFileSync(built, `${addon}.new`);
renameSync(`${addon}.new`, addon);
console.log(`built ${path.relative(process.cwd(), addon)}`);
