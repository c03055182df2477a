-- KEYS: lock and record of each claim; on a Cluster queue and waiters of each; then the epoch if there is a run id.
-- ARGV: nonce, number of claims, run id or '', failover grace in ms, life of a waiter's entry in ms; the owner of each
--   claim; then what claims that follow each other have in common: number of the last of them, ttl in ms,
--   not after (16 digits of µs by this server's clock), client and ttl as in the record, and the label after '-', or 'w' to
--   wait, or 's' to wait without listening.
-- Reply: nonce, µs, then of each claim 1 (granted, the token is those µs), a token (granted), or a list:
--   2 owner, token, left, held for, waiters, label, retry after · 3 (late) · 4 type · 5 error · 6 error, and no lease
--   or alone: 7 error of the epoch · 8 the grace that others use
local now, n = time(), tonumber(ARGV[2])
local reply = {ARGV[1], now}

-- What the claim at hand has in common with its neighbours: `late` whether its time is over, `tail` the end of a record.
local ttl, late, profile, wait, label, tail

-- Writes the record before the lock: a record without a lock is only a token that nobody got.
local function grant(i, flag, row)
  local token, last = now, row and sub(row, 2, 17)
  -- What is no record has no token.
  if last and not tonumber(last) then last = nil end
  if last and last >= now then token = string.format('%016.0f', tonumber(last) + 1) end
  local written = pcall('SET', KEYS[2 * i], flag .. token .. ARGV[i + 5] .. tail, 'PX', LIFE)
  if written.err then return {6, written.err} end
  local set = pcall('SET', KEYS[2 * i - 1], ARGV[i + 5], 'NX', 'PX', ttl)
  -- There is no string, and yet there is something.
  if not set then return {4, call('TYPE', KEYS[2 * i - 1]).ok} end
  if set.err then return {6, set.err} end
  return token == now and 1 or token
end

-- Makes what answers a claim that is not the first grant of a free lock for which nobody waits.
-- `frozen`: for how many ms nobody may be granted anything.
local function otherwise(frozen)
  local queue = queues(now)
  local us, ms, digits = queue.us, queue.ms, queue.digits

  local function err(answer) return type(answer) == 'table' and answer.err or nil end

  -- The owner asks again: an answer was lost, or it refreshes. It keeps its token.
  local function again(i, row)
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

  -- Leaves a waiter's entry, or refreshes it. Returns an error's text.
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

  -- Says who holds, and when asking again may be worth it.
  local function refuse(lock, value, row, tickets, free_at)
    local waiting = call('ZCARD', tickets)
    if not value then return {2, '', '', -1, -1, waiting, '', math.max((free_at or ms) - ms, 0)} end
    local left = call('PTTL', lock)
    if not is_of(row, value) then
      return {2, shown(value, row), '0', left, -1, waiting, '', left}
    end
    local longest = tonumber(sub(row, 66, 73))
    if left > longest then
      -- Only a clock that was set back can make a lease longer than its TTL.
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
      answer = again(i, row)
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
  -- A clock that was set back must not freeze everybody for longer than the grace.
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
    rest = rest or otherwise(frozen)
    -- Keys beside the lock may be of another type.
    local done, answer = protected(rest, i, value, row)
    reply[i + 2] = done and answer or {5, type(answer) == 'table' and answer.err or answer}
  else
    reply[i + 2] = grant(i, '-', row)
  end
end
return reply
