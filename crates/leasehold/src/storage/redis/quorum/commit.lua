-- The second of two steps of an acquire: writes the token where the lock is this owner's, and only if it is larger than
-- every token that this node knows. With a limit it also takes the lock, if it is free: so a node that had missed the
-- acquire, or has forgotten it, is filled again.
-- KEYS: lock, record, queue, waiters of each claim; then the marker, and what is known of others.
-- ARGV: nonce, run id, database, how often others have taken locks; then of each claim: owner, token, ttl in ms, not after (µs by this server's clock) or '', client, label.
-- Reply: nonce, µs, then of each claim 1 if it is written, else 0, or 5 error
local reply = {ARGV[1], digits(us)}
local function say(...) for _, value in ipairs({...}) do reply[#reply + 1] = value end end

local marker, known = KEYS[#KEYS - 1], KEYS[#KEYS]
-- Before any token is here: who has the token at a majority has told a majority what must not be forgotten.
local unknown, taken = remember(known, ARGV[4]), 0

-- Answers claim i.
local function claim(i)
  local lock, record, queue, waiters = KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4]
  local a = 6 * i + 4
  local me, token, ttl = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local late, client, label = ARGV[a + 4], ARGV[a + 5], ARGV[a + 6]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  local last = row and tonumber(sub(row, 2, 17)) or 0
  local owner, _, start = read(row)
  local own = owner == me and last == token
  local free = not value and late ~= '' and us < tonumber(late) and call('EXISTS', lock) == 0
  if unknown then
    say(5, unknown)
  elseif (value == me or free) and (own or token > last) then
    local flag = '-'
    if row and sub(row, 1, 1) == 'q' then
      call('ZREM', queue, me)
      call('HDEL', waiters, me)
      if not kept(waiters, me) then call('HDEL', waiters, 'next') end
      if call('ZCARD', queue) > 0 then flag = 'q' end
    end
    local text = flag .. string.format('%016.0f', token) .. ' ' .. me .. ' ' .. digits(ttl) .. ' '
    text = text .. digits(own and start or ms) .. ' ' .. client
    if label ~= '' then text = text .. ' ' .. label end
    -- The record before the lock: a record without a lock is only a token that nobody got.
    local failed = err(pcall('SET', record, text, 'PX', digits(ttl + DAY)))
    if free and not failed then failed = err(pcall('SET', lock, me, 'NX', 'PX', digits(ttl))) end
    if failed then
      say(5, failed)
    else
      if free then taken = taken + 1 end
      say(1)
    end
  else
    say(0)
  end
end

for i = 0, (#KEYS - 2) / 4 - 1 do
  local from = #reply
  local done, why = protected(claim, i)
  if not done then
    -- Keys beside the lock may be of another type.
    for j = #reply, from + 1, -1 do reply[j] = nil end
    say(5, type(why) == 'table' and why.err or why)
  end
end

if taken > 0 then
  local vote, life = standing(call('GET', marker), ARGV[2], ARGV[3])
  if vote == 0 then
    life[5] = digits(life[5] + 1)
    pcall('SET', marker, table.concat(life, ' '))
  end
end
return reply
