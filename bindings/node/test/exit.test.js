// What the end of a process leaves at the storage.
'use strict';

const { describe, test, before, after } = require('node:test');
const assert = require('node:assert/strict');
const net = require('node:net');
const { connect } = require('leasehold');
const { start } = require('./process.js');
const { scheme, servers, shared, stretch, unique } = require('./storages.js');

for (const url of shared) {
  describe(`${scheme(url)}:`, () => {
    let locks;
    before(async () => {
      locks = await connect(url);
    });
    after(() => locks.close());

    for (const [how, code] of [['exit', 0], ['end', 0], ['throw', 1], ['reject', 1], ['sigterm', 0]]) {
      test(`nothing is left after ${how}`, async () => {
        const name = unique(how);
        const { child, said, ended } = start('hold.js', [url, name, how]);
        await said('held');
        if (how === 'sigterm') child.kill('SIGTERM');
        const end = await ended;
        assert.equal(end.code, code, end.output);
        assert.deepEqual(await locks.inspect(name), []);
      });
    }

    test('a pending wait keeps Node alive', async () => {
      const name = unique('pending');
      const guard = await locks.lock(name).acquire();
      const { said, ended } = start('wait.js', [url, name]);
      await said('waiting');
      await guard.release();
      const end = await ended;
      assert.match(end.output, /granted/);
      assert.deepEqual([end.code, await locks.inspect(name)], [0, []]);
    });
  });
}

for (const url of servers) {
  test(`${scheme(url)}: without releaseOnExit the lease is left to its TTL`, async () => {
    const locks = await connect(url);
    const name = unique('left');
    const { ended } = start('hold.js', [url, name, 'exit', 'false']);
    assert.equal((await ended).code, 0);
    assert.equal((await locks.inspect(name)).length, 1);
    await locks.breakLock(name);
    await locks.close();
  });
}

const redis = servers.find((url) => url.startsWith('redis://'));
test('a storage that does not answer delays the exit by half a second', { skip: !redis && 'no Redis' }, async (t) => {
  const target = new URL(redis);
  const { hostname, port } = target;
  const sockets = [];
  const proxy = net.createServer((near) => {
    const far = net.connect(port, hostname);
    sockets.push(near, far);
    near.pipe(far).pipe(near);
    for (const socket of [near, far]) socket.on('error', () => {});
  });
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    proxy.close();
  });
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  target.host = `127.0.0.1:${proxy.address().port}`;
  const { child, said, ended } = start('hold.js', [target.href, unique('silent'), 'wait']);
  await said('held');
  for (const socket of sockets) socket.unpipe().pause();
  const begun = performance.now();
  child.stdin.write('go\n');
  const end = await ended;
  const passed = performance.now() - begun;
  assert.equal(end.code, 0, end.output);
  assert.ok(passed > 400 && passed < 1500 * stretch, `${passed} ms`);
});
