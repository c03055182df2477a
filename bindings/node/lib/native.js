// Loads the native half: the addon that was built here, or the package of this platform.
'use strict';

const { version } = require('../package.json');

const musl = () => process.platform === 'linux' && !process.report.getReport().header.glibcVersionRuntime;
const libc = { linux: () => (musl() ? '-musl' : '-gnu'), win32: () => '-msvc' };
const triple = `${process.platform}-${process.arch}${libc[process.platform]?.() ?? ''}`;

function load() {
  const failures = [];
  for (const place of [`../leasehold.${triple}.node`, `@leasehold/${triple}`]) {
    try {
      return require(place);
    } catch (error) {
      failures.push(error);
    }
  }
  // A file that exists and cannot be loaded says more than one that does not exist.
  const cause = failures.find((error) => error.code !== 'MODULE_NOT_FOUND') ?? failures.at(-1);
  throw Object.assign(
    new Error(
      `leasehold has no addon for ${triple}: ${cause.message.split('\n')[0]}\n` +
        `If npm left out the optional package @leasehold/${triple}, delete node_modules and package-lock.json and ` +
        'install again (npm/cli#4828), without --omit=optional. If there is none for this platform, build it: Rust, a ' +
        'C compiler, and `npm run build` in bindings/node of the repository.',
      { cause },
    ),
    { code: 'LEASEHOLD_NO_ADDON' },
  );
}

const native = load();
if (native.version() !== version) {
  throw new Error(`leasehold ${version} has loaded an addon of version ${native.version()}; install again`);
}

module.exports = native;
