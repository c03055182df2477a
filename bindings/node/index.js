// The CommonJS entry.
'use strict';

const { Locks, connect } = require('./lib/locks.js');
const { Lock } = require('./lib/lock.js');
const { Guard } = require('./lib/guard.js');
const errors = require('./lib/errors.js');

exports.connect = connect;
exports.Locks = Locks;
exports.Lock = Lock;
exports.Guard = Guard;
exports.LockError = errors.LockError;
exports.ContendedError = errors.ContendedError;
exports.LostError = errors.LostError;
exports.UnavailableError = errors.UnavailableError;
exports.InvalidError = errors.InvalidError;
exports.UnsupportedError = errors.UnsupportedError;
exports.ClosedError = errors.ClosedError;
