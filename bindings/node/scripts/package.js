// Makes the npm packages of this version: node scripts/package.js FOLDER [ADDON…]
//
// 1. Each addon, by default that of this platform, becomes a package @leasehold/<triple> that npm installs only where
//    it fits.
// 2. The package `leasehold` gets all triples of the release as optional dependencies, and no addon.
'use strict';

const { execFileSync } = require('node:child_process');
const { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');

const root = path.join(__dirname, '..');
const main = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8'));

/** What is released. `scripts/package.js` packs those whose addons it is given. */
const triples = [
  'darwin-arm64', 'darwin-x64', 'linux-arm64-gnu', 'linux-arm64-musl', 'linux-x64-gnu', 'linux-x64-musl', 'win32-x64-msvc',
];

/** Writes a package into a folder, and packs it. */
function pack(manifest, files, out) {
  const folder = mkdtempSync(path.join(tmpdir(), 'leasehold-package-'));
  writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  for (const [from, to] of files) cpSync(from, path.join(folder, to), { recursive: true });
  execFileSync('npm', ['pack', '--silent', '--pack-destination', path.resolve(out)], { cwd: folder, stdio: 'inherit' });
  rmSync(folder, { recursive: true });
}

function packAddon(addon, out) {
  const triple = /leasehold\.(.+)\.node$/.exec(addon)?.[1];
  if (!triples.includes(triple)) throw new Error(`no addon of a released platform: ${addon}`);
  const [os, cpu, libc] = triple.split('-');
  const { version, license, repository, engines } = main;
  const manifest = {
    name: `@leasehold/${triple}`, version, description: `The native half of leasehold for ${triple}`, license, repository, engines,
    os: [os], cpu: [cpu], ...(os === 'linux' ? { libc: [libc === 'gnu' ? 'glibc' : 'musl'] } : {}),
    main: path.basename(addon), files: [path.basename(addon)],
  };
  pack(manifest, [[addon, path.basename(addon)], ...licenses], out);
}

const licenses = ['LICENSE-APACHE', 'LICENSE-MIT'].map((name) => [path.join(root, '..', '..', name), name]);

function packMain(out) {
  const { scripts, devDependencies, ...manifest } = main;
  manifest.optionalDependencies = Object.fromEntries(triples.map((triple) => [`@leasehold/${triple}`, main.version]));
  const entries = readdirSync(root).filter((name) => /^index\.(d\.)?(m?js|m?ts)$/.test(name));
  const files = [...entries, 'lib', 'compat', 'README.md'].map((name) => [path.join(root, name), name]);
  pack(manifest, [...files, ...licenses], out);
}

const [out, ...given] = process.argv.slice(2);
if (out === undefined) throw new Error('name a folder for the packages');
mkdirSync(out, { recursive: true });
const built = readdirSync(root).filter((name) => name.endsWith('.node')).map((name) => path.join(root, name));
for (const addon of given.length > 0 ? given : built) packAddon(addon, out);
packMain(out);
