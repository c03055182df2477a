-- Extends each lease that its owner still holds at this server.
--
-- 1. If the lock is not the owner's, reply that, and whether it is free. Refuse a shortening after its limit.
-- 2. Move the end of the lease to `ttl` from now, unless it is later already and the claim does not shorten.
-- 3. Keep the record for a day longer.
-- 4. If the lease ends sooner than before, notify the client of its holder, which may be another one.
-- 5. Reply with the owner's token, if it is written here.
--
-- Every command works when memory is full.
--
-- KEYS
--   lock and record of each claim
-- ARGV
--   1   nonce
--   2   prefix of the channels
--   then 3 for each claim:
--       owner
--       TTL in ms
--       limit, in µs by this server's clock, if the claim may shorten; else ''
-- Reply: nonce, the server's clock in µs, then for each claim
--   MS TOKEN   renewed for that long; the token is 0 if it is not written here
--   0 0        another owner has the lock
--   0 1        the lock is free
--   -1 0       executed too late
for i = 0, #KEYS / 2 - 1 do
  local lock, record = KEYS[2 * i + 1], KEYS[2 * i + 2]
  local me, ttl, late = ARGV[3 * i + 3], tonumber(ARGV[3 * i + 4]), ARGV[3 * i + 5]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  if value ~= me then
    say(0, (value or call('EXISTS', lock) == 1) and 0 or 1)
  elseif late ~= '' and us >= tonumber(late) then
    say(-1, 0)
  else
    local left = call('PTTL', lock)
    if late ~= '' or left < ttl then call('PEXPIRE', lock, digits(ttl)) end
    if row then call('PEXPIRE', record, digits(ttl + DAY)) end
    local owner, _, _, client = read(row)
    if late ~= '' and ttl < left and owner == me and client ~= '' then call('PUBLISH', ARGV[2] .. client, me) end
    say(digits(ttl), read(row) == me and digits(tonumber(sub(row, 2, 17))) or '0')
  end
end
return reply
