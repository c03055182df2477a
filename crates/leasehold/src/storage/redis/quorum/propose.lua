-- The first of the two steps of an acquire: takes the lock of this server, if it is free, and reports the last token
-- that the server knows.
--
-- For each claim:
-- 1. Refuse it after its limit.
-- 2. If the owner has the lock already: extend the lease, and report whether its token is written here.
-- 3. If the owner waits: add or refresh its entry in the queue. The entry stays until the token is written.
-- 4. If another owner has the lock: describe it.
-- 5. If the lock was released and is reserved for another waiter: reply that it is held.
-- 6. Otherwise take the lock.
-- Then, if a lock was taken and the vote of this server counts, increment its vote count in the marker.
--
-- KEYS
--   lock, record, queue and waiters of each claim; last the marker
-- ARGV
--   1   nonce
--   2   TTL of a waiter's entry in ms
--   3   run id
--   4   database
--   then 5 for each claim:
--       owner
--       TTL in ms
--       limit, in µs by this server's clock
--       'wait' or ''
--       client, or '' if it is not subscribed
-- Reply: nonce, the server's clock in µs, vote status, name, vote count (see `common.lua`), then for each claim
--   1 LAST PRIOR   taken; the last token, and what the lock was before:
--                  0 not this owner's · 1 this owner's, without a token · 2 this owner's, with the last token
--   2 owner, token, left, held for, waiters, label, retry after
--                  held; the times are in ms. The owner is '' if the lock is reserved
--   3              executed too late
--   4 TYPE         the key of the lock is of another type
--   5 TEXT         an error of a command
say('', '', '')
local marker = KEYS[#KEYS]
local vote, words = vote_status(call('GET', marker), ARGV[3], ARGV[4])
local taken = false

-- Answers claim i.
local function claim(i)
  local lock, record, queue, waiters = KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4]
  local a = 5 * i + 4
  local me, ttl, wait, client = ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 4] ~= '', ARGV[a + 5]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  local queued = row and sub(row, 1, 1) == 'q'
  local last = row and tonumber(sub(row, 2, 17)) or 0

  -- Adds or refreshes the entry of a waiter. Returns the text of an error.
  local function enqueue()
    local failed
    if not row then
      failed = err(pcall('SET', record, 'q0000000000000000', 'PX', DAY))
    elseif not queued then
      failed = err(pcall('SETRANGE', record, 0, 'q'))
    end
    if not failed and not call('ZSCORE', queue, me) then failed = err(pcall('ZADD', queue, digits(us), me)) end
    if not failed then
      failed = err(pcall('HSET', waiters, me, digits(ms + ARGV[2]) .. ' ' .. client))
      call('PEXPIRE', queue, ARGV[2])
      call('PEXPIRE', waiters, ARGV[2])
    end
    queued = true
    return failed
  end

  if us >= tonumber(ARGV[a + 3]) then
    say(3)
  elseif value == me then
    if call('PTTL', lock) < ttl then call('PEXPIRE', lock, digits(ttl)) end
    if row then call('PEXPIRE', record, digits(ttl + DAY)) end
    say(1, digits(last), read(row) == me and 2 or 1)
  else
    local failed = wait and enqueue()
    local reserved = not value and queued and reserved_until(waiters, me)
    if failed then
      say(5, failed)
    elseif value then
      local owner, _, start, _, label = read(row)
      local left, count = call('PTTL', lock), queued and call('ZCARD', queue) or 0
      if value == owner then
        say(2, owner, sub(row, 2, 17), left, math.max(ms - start, 0), count, label, left)
      else
        say(2, shown(value), '0', left, -1, count, '', left)
      end
    elseif reserved then
      say(2, '', '', -1, -1, call('ZCARD', queue), '', reserved - ms)
    else
      local set = pcall('SET', lock, me, 'NX', 'PX', digits(ttl))
      failed = err(set)
      if failed then
        say(5, failed)
      elseif not set then
        -- MGET found no string, and yet the key exists.
        say(4, call('TYPE', lock).ok)
      else
        taken = true
        say(1, digits(last), 0)
      end
    end
  end
end

each_claim((#KEYS - 1) / 4, claim)

-- It counts only while its vote does. The other servers can then tell, from a higher count, that it has lost votes.
if vote == 0 and taken then
  words[5] = digits(words[5] + 1)
  if err(pcall('SET', marker, table.concat(words, ' '))) then vote = 1 end
end
reply[3], reply[4], reply[5] = vote, words[2] or '', words[5] or '0'
return reply
