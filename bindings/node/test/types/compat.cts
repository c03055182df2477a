// The drop-ins, used as programs use the originals.
import redislock = require('leasehold/compat/redislock')
import microlock = require('leasehold/compat/microlock')
import LockFactory = require('leasehold/compat/distributed-locks')

async function run(client: { options: object }): Promise<void> {
  const lock = redislock.createLock(client, { timeout: 20000, retries: 3, delay: 100 })
  lock.acquire('app:feature:lock', (error) => console.log(error?.message))
  await lock.extend(5000).catch(redislock.LockExtendError, (error) => error.message)
  const foo = new microlock.default('etcd://localhost', 'foo', 'node', 5)
  foo.on(microlock.events.unlocked, () => foo.destroy())
  const index: number = (await foo.lock()).node.modifiedIndex
  const storage = new LockFactory.RedisStorage({ url: 'redis://localhost', keyPrefix: 'x' })
  const obtained: boolean = await new LockFactory(storage, { machineId: '1' }).createLock('a').lock({ ttl: 5 })
  console.log(index, obtained, await new LockFactory.LockFactory(storage).createLock('b').unlock())
}

export = run
