// What clients, locks and guards do, over each storage.
'use strict';

const { describe, test, before, after } = require('node:test');
const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const leasehold = require('leasehold');
const { all, scheme, unique } = require('./storages.js');

const { connect, ContendedError, LostError, InvalidError, ClosedError } = leasehold;

/** Waits until a signal is aborted, and returns its reason. The signal itself does not keep Node alive. */
function aborted(signal) {
  const alive = setInterval(() => {}, 1000);
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve(), { once: true });
  }).then(() => {
    clearInterval(alive);
    return signal.reason;
  });
}

for (const url of all) {
  describe(`${scheme(url)}:`, () => {
    let a, b;
    before(async () => {
      [a, b] = await Promise.all([connect(url), connect(url)]);
    });
    after(() => Promise.all([a.close(), b.close()]));

    test('a lock has one holder, which others see, and tokens grow', async () => {
      const name = unique('holder');
      const guard = await a.lock(name, { label: 'me' }).acquire();
      assert.equal(typeof guard.token, 'bigint');
      assert.equal(guard.name, name);
      assert.ok(guard.held && guard.remaining > 1000 && guard.remaining <= 10_000, `${guard.remaining}`);
      assert.equal(await b.lock(name).tryAcquire(), null);
      const [holder, ...more] = await b.inspect(name);
      assert.deepEqual(more, []);
      assert.deepEqual([holder.name, holder.owner, holder.token, holder.label], [name, guard.owner, guard.token, 'me']);
      assert.deepEqual(a.held.map((held) => held.name), [name]);
      assert.deepEqual((await b.list(name)).map((held) => held.token), [guard.token]);
      await guard.release();
      assert.ok(!guard.held && guard.remaining === 0);
      assert.deepEqual(await b.inspect(name), []);
      const next = await b.lock(name).acquire();
      assert.ok(next.token > guard.token, `${next.token} > ${guard.token}`);
      await next.release();
    });

    test('a second release does nothing, and a call of a released guard is refused', async () => {
      const name = unique('release');
      const guard = await a.lock(name).acquire();
      await Promise.all([guard.release(), guard.release()]);
      const next = await b.lock(name).acquire();
      await guard.release();
      await next.verify();
      await assert.rejects(guard.extend('10s'), InvalidError);
      await assert.rejects(guard.verify(), InvalidError);
      await next.release();
    });

    test('a refusal names the holder and the wait', async () => {
      const name = unique('contended');
      const guard = await a.lock(name, { label: 'the holder' }).acquire();
      const error = await b.lock(name, { wait: '200ms' }).acquire().catch((error) => error);
      assert.ok(error instanceof ContendedError && error instanceof leasehold.LockError && error instanceof Error);
      assert.deepEqual([error.name, error.code, error.lock], ['ContendedError', 'LEASEHOLD_CONTENDED', name]);
      assert.equal(error.holder.label, 'the holder');
      assert.ok(error.waited >= 199, `${error.waited}`);
      const once = await b.lock(name, { wait: false }).acquire().catch((error) => error);
      assert.ok(once instanceof ContendedError && once.waited < 5000, `${once}`);
      await guard.release();
    });

    test('a wait that is aborted gives up its place at once', async () => {
      const name = unique('abort');
      const guard = await a.lock(name).acquire();
      const controller = new AbortController();
      const given_up = b.lock(name).acquire({ signal: controller.signal });
      const next = b.lock(name).acquire();
      controller.abort(new Error('changed my mind'));
      await assert.rejects(given_up, /changed my mind/);
      await guard.release();
      const after = await next;
      assert.ok(after.held);
      await after.release();
      assert.deepEqual(await a.inspect(name), []);
      await assert.rejects(a.lock(name).acquire({ signal: AbortSignal.abort(new Error('before')) }), /before/);
      assert.deepEqual(a.held, []);
    });

    test('the signal is aborted when the lock is broken, and the release says so once', async () => {
      const name = unique('broken');
      const guard = await a.lock(name, { ttl: '2s' }).acquire();
      const lost = aborted(guard.signal);
      const [broken] = await b.breakLock(name);
      assert.equal(broken.token, guard.token);
      const reason = await lost;
      assert.ok(reason instanceof LostError && reason.lock === name, `${reason}`);
      assert.ok(['taken', 'expired'].includes(reason.why), reason.why);
      assert.equal(guard.held, false);
      await assert.rejects(guard.release(), LostError);
      await guard.release();
    });

    test('a release aborts no signal', async () => {
      const guard = await a.lock(unique('signal')).acquire();
      const { signal } = guard;
      await guard.release();
      await sleep(50);
      assert.equal(signal.aborted, false);
    });

    test('run returns the result, passes errors on, and releases', async () => {
      const name = unique('run');
      const lock = a.lock(name);
      assert.equal(await lock.run((guard) => guard.name), name);
      await assert.rejects(lock.run(() => { throw new TypeError('of the work'); }), { message: 'of the work' });
      await assert.rejects(lock.run(async () => { throw new TypeError('of the work'); }), TypeError);
      assert.deepEqual(await b.inspect(name), []);
    });

    test('run rejects at the loss, while the work goes on', async () => {
      const name = unique('lost');
      const begun = performance.now();
      let work;
      const run = a.lock(name, { maxHold: 300 }).run((guard) => {
        work = sleep(60_000, 'slept', { signal: guard.signal });
        return work;
      });
      const error = await run.catch((error) => error);
      assert.ok(error instanceof LostError && error.why === 'max-hold', `${error}`);
      assert.ok(performance.now() - begun < 20_000);
      await assert.rejects(work, { name: 'AbortError', cause: error });
    });

    test('a ticket hands the lease over, and extend replaces the TTL', async () => {
      const name = unique('ticket');
      const guard = await a.lock(name).acquire();
      await guard.extend('30s');
      assert.ok(guard.remaining > 20_000, `${guard.remaining}`);
      await guard.ensure('1s');
      await assert.rejects(guard.ensure('10h'), InvalidError);
      const ticket = guard.detach();
      assert.equal(guard.held, false);
      await assert.rejects(guard.verify(), InvalidError);
      const resumed = await b.resume(ticket);
      assert.equal(resumed.token, guard.token);
      await resumed.release();
      await assert.rejects(b.resume(ticket), LostError);
      await assert.rejects(b.resume('nonsense'), InvalidError);
    });

    test('an observer sees the lock change hands', async () => {
      const name = unique('observe');
      const changes = b.observe(name);
      assert.equal((await changes.next()).value.type, 'unlocked');
      const guard = await a.lock(name).acquire();
      const locked = (await changes.next()).value;
      assert.deepEqual([locked.type, locked.holder.token], ['locked', guard.token]);
      await guard.release();
      for await (const change of changes) if (change.type === 'unlocked') break;
      assert.deepEqual(await changes.next(), { done: true, value: undefined });
    });

    test('calls of one iterator are answered in their order, and its end ends them', async () => {
      const name = unique('order');
      const changes = b.observe(name);
      const [first, second, third] = [changes.next(), changes.next(), changes.next()];
      assert.equal((await first).value.type, 'unlocked');
      const guard = await a.lock(name).acquire();
      assert.equal((await second).value.type, 'locked');
      await changes.return();
      assert.equal((await third).done, true);
      await guard.release();
    });

    test('events tell what a client does, and end by a signal', async () => {
      const controller = new AbortController();
      const events = a.events({ signal: controller.signal });
      const name = unique('events');
      await a.lock(name).run(() => {});
      const seen = [];
      for await (const event of events) {
        if (event.name === name) seen.push(event.type);
        if (event.type === 'released') break;
      }
      assert.deepEqual(seen, ['acquired', 'released']);
      const more = a.events({ signal: controller.signal });
      const next = more.next();
      controller.abort(new Error('enough'));
      await assert.rejects(next, /enough/);
      assert.equal((await more.next()).done, true);
    });

    test('five hundred promises enter one by one', async () => {
      const lock = a.lock(unique('crowd'));
      let inside = 0;
      let most = 0;
      await Promise.all(Array.from({ length: 500 }, () => lock.run(async () => {
        most = Math.max(most, ++inside);
        await null;
        inside -= 1;
      })));
      assert.equal(most, 1);
    });

    test('a closed client refuses calls, and its streams end', async () => {
      const locks = await connect(url);
      const guard = await locks.lock(unique('close')).acquire();
      const lost = aborted(guard.signal);
      const [events, changes] = [locks.events(), locks.observe(guard.name)];
      await locks.close();
      assert.equal((await lost).why, 'closed');
      await assert.rejects(locks.lock('a').acquire(), ClosedError);
      for await (const _ of events);
      for await (const _ of changes);
      assert.deepEqual(await a.inspect(guard.name), []);
      await locks.close();
    });

    test('a client says what its storage promises', async () => {
      const { tier, fencing } = a.guarantees;
      assert.ok(['advisory', 'crash-safe', 'restart-safe', 'failover-safe'].includes(tier), tier);
      assert.equal(fencing, true);
      assert.ok((await a.findings()).every((finding) => finding.detail.length > 0));
    });
  });
}
