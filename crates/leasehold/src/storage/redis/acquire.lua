-- Grants each claim whose lock is free and whose turn it is, and puts the others into the queue if they wait.
--
-- 1. If there is a failover grace: read the epoch, the run id of the primary and when it was first seen. Write it anew
--    if this is another primary. Until the grace is over, grant no free lock (`frozen`).
-- 2. Read the lock and the record of every claim with one MGET.
-- 3. Refuse a claim that is executed after its limit.
-- 4. Grant a free lock without waiters, the common case: write the record with the next token, then the lock (`grant`).
-- 5. If the owner holds already: return its token, and extend the lease to a full TTL (`grant_again`).
-- 6. If the lock is held or frozen, or another owner is at the queue head: enqueue the owner if it waits, and describe
--    the holder (`enqueue`, `refuse`).
-- 7. If the owner is at the queue head, or no waiter is alive: grant as in step 4, and remove its entry.
--
-- KEYS
--   2i - 1, 2i          lock and record of claim i of n
--   2(n + i) - 1 and 2(n + i)
--                       queue and waiters of claim i, on a Cluster only
--   last                the epoch, if there is a run id
-- ARGV
--   1                   nonce
--   2                   n, the number of claims
--   3                   run id of the primary, or ''
--   4                   failover grace in ms
--   5                   TTL of a waiter's entry in ms
--   5 + i               owner of claim i
--   then 5 for each group of adjacent claims that have them in common:
--                       number of the last claim of the group
--                       TTL in ms
--                       limit: the first moment at which it is too late, 16 digits of µs by this server's clock
--                       client and TTL, as in the record
--                       a letter and the label: '-' does not wait, 'w' waits, 's' waits without a subscription
-- Reply: nonce, the server's clock in µs, then for each claim
--   1                   granted; the token is the clock of this reply
--   TOKEN               granted with this token
--   {2, owner, token, left, held for, waiters, label, retry after}
--                       held; the times are in ms. The owner is '' if there is no holder
--   {3}                 executed too late
--   {4, TYPE}           the key of the lock is of another type
--   {5, TEXT}           an error of a command
-- or instead of all claims
--   {7, TEXT}           the epoch cannot be written
--   {8, MS}             other clients of the prefix use this grace
local now, n = time(), tonumber(ARGV[2])
local reply = {ARGV[1], now}

-- What the current group of claims has in common. `late`: its limit has passed. `tail`: the end of its records.
local ttl, late, profile, wait, label, tail

-- Grants claim i. Writes the record before the lock: a record without a lock is only a token that was skipped.
local function grant(i, flag, row)
  local token, last = now, row and sub(row, 2, 17)
  -- The key may contain something else than a record, which has no token.
  if last and not tonumber(last) then last = nil end
  if last and last >= now then token = string.format('%016.0f', tonumber(last) + 1) end
  local written = pcall('SET', KEYS[2 * i], flag .. token .. ARGV[i + 5] .. tail, 'PX', LIFE)
  if written.err then return {5, written.err} end
  local set = pcall('SET', KEYS[2 * i - 1], ARGV[i + 5], 'NX', 'PX', ttl)
  -- MGET found no string, and yet the key exists.
  if not set then return {4, call('TYPE', KEYS[2 * i - 1]).ok} end
  if set.err then return {5, set.err} end
  return token == now and 1 or token
end

-- Returns the function that executes steps 5 to 7. No free lock is granted for `frozen` ms.
local function uncommon(frozen)
  local queue = queues(now)
  local us, ms, digits = queue.us, queue.ms, queue.digits

  -- Returns the text of an error that pcall returned.
  local function err(answer) return type(answer) == 'table' and answer.err or nil end

  -- Grants again to the owner that holds: a reply was lost, or the owner refreshes. It keeps its token.
  local function grant_again(i, row)
    local me, record, lock = ARGV[i + 5], KEYS[2 * i], KEYS[2 * i - 1]
    local token, failed = row and sub(row, 2, 17) or now, nil
    if not row or sub(row, 18, 49) ~= me then
      token = row and token >= now and string.format('%016.0f', tonumber(token) + 1) or now
      failed = err(pcall('SET', record, (row and sub(row, 1, 1) or '-') .. token .. me .. tail, 'PX', LIFE))
    elseif tonumber(sub(row, 66, 73)) < tonumber(ttl) then
      local longer = sub(row, 1, 49) .. profile .. sub(row, 74, 86) .. label
      failed = err(pcall('SET', record, longer, 'PX', LIFE))
    else
      call('PEXPIRE', record, LIFE)
    end
    if failed then return {5, failed} end
    if call('PTTL', lock) < tonumber(ttl) then call('PEXPIRE', lock, ttl) end
    return token
  end

  -- Adds or refreshes the entry of a waiter. Returns the text of an error.
  local function enqueue(i, row, tickets, waiters)
    local me, failed = ARGV[i + 5], nil
    if not row then
      failed = err(pcall('SET', KEYS[2 * i], 'q0000000000000000', 'PX', LIFE))
    elseif byte(row) ~= QUEUED then
      failed = err(pcall('SETRANGE', KEYS[2 * i], 0, 'q'))
    end
    if not failed and not call('ZSCORE', tickets, me) then
      local newest = call('ZRANGE', tickets, -1, -1, 'WITHSCORES')[2]
      local ticket = newest and math.max(us, tonumber(newest) + 1) or us
      failed = err(pcall('ZADD', tickets, digits(ticket), me))
    end
    if not failed then
      local client = wait == 'w' and sub(profile, 1, 16) or SILENT
      failed = err(pcall('HSET', waiters, me, digits(ms + ARGV[5]) .. ' ' .. client))
    end
    call('PEXPIRE', tickets, ARGV[5])
    call('PEXPIRE', waiters, ARGV[5])
    return failed
  end

  -- Describes the holder, and when a retry may succeed.
  local function refuse(lock, value, row, tickets, free_at)
    local waiting = call('ZCARD', tickets)
    if not value then return {2, '', '', -1, -1, waiting, '', math.max((free_at or ms) - ms, 0)} end
    local left = call('PTTL', lock)
    if not is_of(row, value) then
      return {2, shown(value, row), '0', left, -1, waiting, '', left}
    end
    local longest = tonumber(sub(row, 66, 73))
    if left > longest then
      -- A lease is longer than its TTL only if the clock was set back.
      call('PEXPIRE', lock, digits(longest))
      left = longest
    end
    return {2, value, sub(row, 2, 17), left, math.max(ms - sub(row, 74, 86), 0), waiting, sub(row, 87), left}
  end

  return function(i, value, row)
    if row and not tonumber(sub(row, 2, 17)) then row = nil end
    local me, queued = ARGV[i + 5], row and byte(row) == QUEUED
    local tickets, waiters = queue.keys(i, n)
    local answer
    if value == me then
      answer = grant_again(i, row)
    else
      local head, deadline
      if not value and queued then head, deadline = queue.first(tickets, waiters, tonumber(ARGV[5])) end
      if value or frozen > 0 or (head and head ~= me) then
        local failed
        if wait ~= '-' then failed = enqueue(i, row, tickets, waiters) end
        if failed then return {5, failed} end
        return refuse(KEYS[2 * i - 1], value, row, tickets, frozen > 0 and ms + frozen or deadline)
      end
      local others = queued and call('ZCARD', tickets) > (head and 1 or 0)
      answer = grant(i, others and 'q' or '-', row)
    end
    if queued and type(answer) ~= 'table' then queue.remove(me, tickets, waiters) end
    return answer
  end
end

local frozen, rest = 0, nil
if ARGV[3] ~= '' then
  local ms, epoch, grace = tonumber(sub(now, 1, 13)), KEYS[#KEYS], tonumber(ARGV[4])
  local run, seen, span = string.match(call('GET', epoch) or '', '^(%S+) (%d+) (%d+)$')
  if run ~= ARGV[3] then
    local set = pcall('SET', epoch, ARGV[3] .. ' ' .. sub(now, 1, 13) .. ' ' .. ARGV[4])
    if set.err then return {ARGV[1], now, {7, set.err}} end
    seen, span = ms, grace
  end
  if tonumber(span) ~= grace then return {ARGV[1], now, {8, tonumber(span)}} end
  -- A clock that was set back must not freeze the locks for longer than the grace.
  frozen = math.min(tonumber(seen) + grace - ms, grace)
end

local seen = call('MGET', unpack(KEYS, 1, 2 * n))
local last, a = 0, n + 5
for i = 1, n do
  if i > last then
    last, ttl, late, profile = tonumber(ARGV[a + 1]), ARGV[a + 2], now >= ARGV[a + 3], ARGV[a + 4]
    wait, label = sub(ARGV[a + 5], 1, 1), sub(ARGV[a + 5], 2)
    tail = profile .. sub(now, 1, 13) .. label
    a = a + 5
  end
  local value, row = seen[2 * i - 1], seen[2 * i]
  if late then
    reply[i + 2] = {3}
  elseif value or frozen > 0 or (row and byte(row) == QUEUED) then
    rest = rest or uncommon(frozen)
    -- It raises if a key beside the lock is of another type.
    local done, answer = protected(rest, i, value, row)
    reply[i + 2] = done and answer or {5, type(answer) == 'table' and answer.err or answer}
  else
    reply[i + 2] = grant(i, '-', row)
  end
end
return reply
