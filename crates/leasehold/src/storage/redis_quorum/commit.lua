-- The second of two steps of an acquire: writes the token where the lock is this owner's, and only if it is larger than
-- every token that this node knows. With a limit it also takes the lock, if it is free: so a node that had missed the
-- acquire, or has forgotten it, is filled again.
-- KEYS: lock, record, queue, waiters of each claim.
-- ARGV: nonce; then of each claim: owner, token, ttl in ms, not after (µs by this server's clock) or '', client, label.
-- Reply: nonce, µs, then of each claim 1 if it is written, else 0, or 5 error
local reply = {ARGV[1], digits(us)}
local function say(...) for _, value in ipairs({...}) do reply[#reply + 1] = value end end

for i = 0, #KEYS / 4 - 1 do
  local lock, record, queue, waiters = KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4]
  local a = 6 * i + 1
  local me, token, ttl = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local late, client, label = ARGV[a + 4], ARGV[a + 5], ARGV[a + 6]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  local last = row and tonumber(sub(row, 2, 17)) or 0
  local owner, _, start = read(row)
  local known = owner == me and last == token
  local free = not value and late ~= '' and us < tonumber(late) and call('EXISTS', lock) == 0
  if (value == me or free) and (known or token > last) then
    local flag = '-'
    if row and sub(row, 1, 1) == 'q' then
      call('ZREM', queue, me)
      call('HDEL', waiters, me)
      if not kept(waiters, me) then call('HDEL', waiters, 'next') end
      if call('ZCARD', queue) > 0 then flag = 'q' end
    end
    local text = flag .. string.format('%016.0f', token) .. ' ' .. me .. ' ' .. digits(ttl) .. ' '
    text = text .. digits(known and start or ms) .. ' ' .. client
    if label ~= '' then text = text .. ' ' .. label end
    -- The record before the lock: a record without a lock is only a token that nobody got.
    local failed = err(pcall('SET', record, text, 'PX', digits(ttl + DAY)))
    if free and not failed then failed = err(pcall('SET', lock, me, 'NX', 'PX', digits(ttl))) end
    if failed then say(5, failed) else say(1) end
  else
    say(0)
  end
end
return reply
