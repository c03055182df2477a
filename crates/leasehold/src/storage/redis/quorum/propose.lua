-- The first of two steps of an acquire: takes the lock of this node, if it is free, and says how far its tokens are.
-- KEYS: lock, record, queue, waiters of each claim; then the marker.
-- ARGV: nonce, life of a waiter's entry in ms, run id, database;
--       then of each claim: owner, ttl in ms, not after (µs by this server's clock), 'wait' or '', client.
-- Reply: nonce, µs, what this server may vote (see `standing`), what it is called, how often it has taken locks; then of
-- each claim:
--   1 last token, and whose the lock was before: 0 nobody's, 1 this owner's without a token, 2 this owner's
--   2 owner, token, left, held for, waiters, label, retry after · 3 (late) · 4 type · 5 error
local reply = {ARGV[1], digits(us), '', '', ''}
local function say(...) for _, value in ipairs({...}) do reply[#reply + 1] = value end end

local marker = KEYS[#KEYS]
local vote, life = standing(call('GET', marker), ARGV[3], ARGV[4])
local taken = 0

-- Answers claim i.
local function claim(i)
  local lock, record, queue, waiters = KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4]
  local a = 5 * i + 4
  local me, ttl, wait, client = ARGV[a + 1], tonumber(ARGV[a + 2]), ARGV[a + 4] ~= '', ARGV[a + 5]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  local queued = row and sub(row, 1, 1) == 'q'
  local last = row and tonumber(sub(row, 2, 17)) or 0

  -- A waiter's entry says whom a release tells. It stays until the token is there.
  local function enter()
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
    local failed = wait and enter()
    local later = not value and queued and kept(waiters, me)
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
    elseif later then
      say(2, '', '', -1, -1, call('ZCARD', queue), '', later - ms)
    else
      local set = pcall('SET', lock, me, 'NX', 'PX', digits(ttl))
      failed = err(set)
      if failed then
        say(5, failed)
      elseif not set then
        -- There is no string, and yet there is something.
        say(4, call('TYPE', lock).ok)
      else
        taken = taken + 1
        say(1, digits(last), 0)
      end
    end
  end
end

for i = 0, (#KEYS - 1) / 4 - 1 do
  local from = #reply
  local done, why = protected(claim, i)
  if not done then
    -- Keys beside the lock may be of another type.
    for j = #reply, from + 1, -1 do reply[j] = nil end
    say(5, type(why) == 'table' and why.err or why)
  end
end

-- Counted only while it votes: afterwards the others must be able to tell what is missing.
if vote == 0 and taken > 0 then
  life[5] = digits(life[5] + 1)
  if err(pcall('SET', marker, table.concat(life, ' '))) then vote = 1 end
end
reply[3], reply[4], reply[5] = vote, life[2] or '', life[5] or '0'
return reply
