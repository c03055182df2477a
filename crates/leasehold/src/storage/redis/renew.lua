-- Extends each lease that its owner still holds.
--
-- 1. Read the lock and the record of every claim with one MGET.
-- 2. Reply 0 if the lock is not the owner's, and -1 if a shortening comes after its limit.
-- 3. If the TTL is longer than any before, write it into the record: otherwise the lease would look as if the clock had
--    been set back. If memory is full, give the longest TTL that the record knows.
-- 4. Move the end of the lease to `ttl` from now, unless it is later already and the claim does not shorten.
-- 5. Refresh the record, so that a write reaches the replicas that have to confirm.
-- 6. If the lease ends sooner than before, notify the client of its holder, which may be another one.
--
-- Every other command than the one of step 3 works when memory is full.
--
-- KEYS
--   2i - 1, 2i   lock and record of claim i
-- ARGV
--   1            nonce
--   2            number of claims
--   3            prefix of the channels
--   then 3 for each claim:
--                owner
--                TTL in ms
--                limit, 16 digits of µs by this server's clock, if the claim may shorten; else ''
-- Reply: nonce, the server's clock in µs, then for each claim
--   MS           renewed for that long
--   0            not held by this owner
--   -1           executed too late
local now, n = time(), tonumber(ARGV[2])
local reply = {ARGV[1], now}
local seen = call('MGET', unpack(KEYS, 1, 2 * n))
for i = 1, n do
  local lock, record, value, row = KEYS[2 * i - 1], KEYS[2 * i], seen[2 * i - 1], seen[2 * i]
  local me, digits, late = ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3]
  local given = 0
  if value == me then
    if late ~= '' and now >= late then
      given = -1
    else
      given = tonumber(digits)
      if row and me == sub(row, 18, 49) and given > tonumber(sub(row, 66, 73)) then
        local longer = sub(row, 1, 65) .. string.format('%08.0f', given) .. sub(row, 74)
        if pcall('SET', record, longer, 'PX', LIFE).err then
          given = tonumber(sub(row, 66, 73))
          digits = string.format('%.0f', given)
        end
      end
      local left = call('PTTL', lock)
      local moved = late ~= '' or left < given
      if moved then call('PEXPIRE', lock, digits) end
      if call('PEXPIRE', record, LIFE) == 0 and not moved then call('PEXPIRE', lock, left) end
      if late ~= '' and given < left and row and me == sub(row, 18, 49) then
        call('PUBLISH', ARGV[3] .. sub(row, 50, 65), me)
      end
    end
  end
  reply[i + 2] = given
end
return reply
