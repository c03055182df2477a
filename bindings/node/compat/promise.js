// What programs of the originals may use of bluebird, whose promises the originals return.
'use strict';

class TypedPromise extends Promise {
  /** `catch(handler)`, or bluebird's `catch(Class, …, handler)`. */
  catch(...args) {
    const handler = args.pop();
    if (args.length === 0) return super.catch(handler);
    return super.catch((error) => {
      if (args.some((kind) => error instanceof kind)) return handler(error);
      throw error;
    });
  }

  /** Calls a callback of Node, if there is one, and returns the promise. */
  nodeify(callback) {
    if (typeof callback !== 'function') return this;
    // An error that the callback throws is uncaught, and does not become a rejection.
    const call = (...args) => setImmediate(callback, ...args);
    this.then((value) => (value === undefined ? call(null) : call(null, value)), call);
    return this;
  }
}

/** Returns the promise of an asynchronous function. */
function typed(work) {
  return new TypedPromise((resolve) => resolve(work()));
}

module.exports = { typed };
