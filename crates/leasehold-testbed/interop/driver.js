// Runs a lock client by commands on standard input, one per line: `acquire NAME TTL_MS`, `release`, `extend MS`. The
// answer to each is a line on standard output: `ok`, `no`, or `error TEXT`. The first line is `ready`.
'use strict';

const readline = require('readline');

module.exports = async function serve(connected, commands) {
  try {
    await connected;
    console.log('ready');
  } catch (error) {
    console.log(line(error));
    process.exit(1);
  }
  for await (const request of readline.createInterface({ input: process.stdin })) {
    const [command, ...args] = request.split(' ');
    try {
      if (!commands[command]) throw new Error(`the client has no ${command}`);
      console.log((await commands[command](...args)) ? 'ok' : 'no');
    } catch (error) {
      console.log(line(error));
    }
  }
  process.exit(0);
};

function line(error) {
  return `error ${String((error && error.message) || error).replace(/\s+/g, ' ')}`;
}
