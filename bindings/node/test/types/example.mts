// Each member of the declarations, used as a program uses it. `npm run types` checks it.
import {
  connect, ClosedError, ContendedError, InvalidError, LockError, LostError, UnavailableError, UnsupportedError,
  type Change, type Guard, type Holder, type Lock, type LockEvent, type Locks, type Lost, type Tier,
} from 'leasehold'

async function members(signal: AbortSignal): Promise<void> {
  await using locks: Locks = await connect(new URL('memory:'), {
    ttl: '10s', wait: false, renew: false, maxHold: 5000, label: 'x', require: 'advisory', releaseOnExit: false, signal,
  })
  const lock: Lock = locks.lock('invoice/42', { retries: 3, interval: '50ms' }).with({ wait: '5s' })
  {
    await using guard: Guard = await lock.acquire({ signal })
    const token: bigint = guard.token
    const held: boolean = guard.held && guard.remaining > 0 && token > 0n
    await fetch(`https://example.org/${guard.name}/${guard.owner}?held=${held}`, { signal: guard.signal })
    await guard.ensure('1s')
    await guard.extend(5000)
    await guard.verify()
    await guard.outliveProcess()
    await guard.release()
  }
  const maybe: Guard | null = await lock.tryAcquire({ signal })
  const ticket: string = maybe?.ticket() ?? ''
  const detached: string | undefined = maybe?.detach()
  const resumed: Guard = await locks.resume(detached ?? ticket, { signal })
  const sum: number = await lock.run(async (guard) => Number(guard.token) + Number(resumed.token), { signal })
  const holders: Holder[] = [...await locks.inspect('a'), ...await locks.list('a'), ...await locks.breakLock('a'), ...locks.held]
  const label: string | undefined = holders[0]?.label
  const tier: Tier = locks.guarantees.tier
  const details = (await locks.findings()).map(({ about, detail, severity }) => `${about} ${detail} ${severity}`)
  console.log(sum, label, tier, details)
  for await (const change of locks.observe('a', { signal })) seen(change)
  for await (const event of locks.events()) heard(event)
  await locks.close({ limit: '1s' })
}

function seen(change: Change): bigint | undefined {
  return change.type === 'locked' ? change.holder.token : undefined
}

function heard(event: LockEvent): string {
  switch (event.type) {
    case 'missed': return `${event.count}`
    case 'lost': return event.why satisfies Lost
    case 'acquired': return `${event.name} after ${event.waited} ms`
    default: return event.name
  }
}

function kind(error: unknown): string {
  if (error instanceof ContendedError) return `${error.code} ${error.holder?.label} ${error.waited}`
  if (error instanceof LostError) return error.why
  if (error instanceof UnavailableError) return `${error.waited ?? 0}`
  if (error instanceof InvalidError || error instanceof UnsupportedError || error instanceof ClosedError) return error.code
  if (error instanceof LockError) return error.code satisfies `LEASEHOLD_${string}`
  throw error
}

// @ts-expect-error: a typing error in an option
void ((locks: Locks) => locks.lock('a', { timeout: 5 }))
// @ts-expect-error: guards are made by locks
void (() => new Guard())

export { kind, members }
