// The ESM entry: the same objects as the CommonJS one, so that a program may use both.
import leasehold from './index.js';

export const {
  connect, Locks, Lock, Guard,
  LockError, ContendedError, LostError, UnavailableError, InvalidError, UnsupportedError, ClosedError,
} = leasehold;
