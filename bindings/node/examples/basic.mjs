// Two clients, one lock: node examples/basic.mjs [URL]
import { connect, ContendedError } from 'leasehold'

const url = process.argv[2] ?? 'memory:example'
const [a, b] = [await connect(url), await connect(url)]

// Run something under the lock. It stops at the moment at which the lock is lost.
const token = await a.lock('invoice/42').run(async (guard) => {
  console.log(`held with token ${guard.token}, ${Math.round(guard.remaining)} ms left`)

  // Another client is told who has it.
  const error = await b.lock('invoice/42', { wait: '100ms' }).acquire().catch((error) => error)
  if (!(error instanceof ContendedError)) throw error
  console.log(`another client waited ${Math.round(error.waited)} ms for ${error.holder.label}`)
  return guard.token
})

// The next holder has a larger token.
const guard = await b.lock('invoice/42').acquire()
console.log(`then held with token ${guard.token}`)
if (guard.token <= token) throw new Error('tokens grow')
await guard.release()

await Promise.all([a.close(), b.close()])
