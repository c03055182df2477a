// The same declarations by `require`.
import leasehold = require('leasehold')

async function run(): Promise<bigint> {
  const locks = await leasehold.connect()
  return locks.lock('a').run((guard) => guard.token)
}

export = run
