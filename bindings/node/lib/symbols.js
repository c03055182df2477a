// Symbols that old versions of Node lack.
'use strict';

module.exports = { asyncDispose: Symbol.asyncDispose ?? Symbol.for('nodejs.asyncDispose') };
