// Starts programs of the tests.
'use strict';

const { spawn } = require('node:child_process');
const path = require('node:path');

/** Starts a program. `said(text)` waits until it has written that, and `ended` is its exit code, signal and output. */
function start(program, args, { env, flags = [] } = {}) {
  const file = path.join(__dirname, 'programs', program);
  const child = spawn(process.execPath, [...flags, file, ...args], { env: { ...process.env, ...env } });
  let output = '';
  const waiting = [];
  const look = () => {
    for (const { text, resolve } of waiting) if (output.includes(text)) resolve();
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      output += text;
      look();
    });
  }
  const ended = new Promise((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, output }));
  });
  const said = (text) => Promise.race([
    new Promise((resolve) => {
      waiting.push({ text, resolve });
      look();
    }),
    ended.then(({ output }) => {
      if (!output.includes(text)) throw new Error(`ended without saying ${text}: ${output}`);
    }),
  ]);
  return { child, ended, said };
}

module.exports = { start };
