// Releases what is held when the process, or a worker, ends by itself, by `process.exit` or by an uncaught error.
'use strict';

const native = require('./native.js');

let list;

/** Closes a client at the end. Blocks the end for at most `limit` milliseconds. */
function closeAtExit(locks, limit) {
  if (list === undefined) {
    list = new native.ExitList();
    process.on('exit', () => list.closeAll());
  }
  list.add(locks, limit);
}

module.exports = { closeAtExit };
