// Speaks for a lock client on standard input and output, one line each: `acquire NAME TTL_MS`, `release`, `extend MS`;
// the answer is `ok`, `no`, or `error TEXT`. The first line out is `ready`.
'use strict';

const readline = require('readline');

module.exports = async function serve(connected, verbs) {
  try {
    await connected;
    console.log('ready');
  } catch (error) {
    console.log(line(error));
    process.exit(1);
  }
  for await (const request of readline.createInterface({ input: process.stdin })) {
    const [verb, ...args] = request.split(' ');
    try {
      if (!verbs[verb]) throw new Error(`the client has no ${verb}`);
      console.log((await verbs[verb](...args)) ? 'ok' : 'no');
    } catch (error) {
      console.log(line(error));
    }
  }
  process.exit(0);
};

function line(error) {
  return `error ${String((error && error.message) || error).replace(/\s+/g, ' ')}`;
}
