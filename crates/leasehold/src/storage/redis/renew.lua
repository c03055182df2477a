-- KEYS: lock and record of each claim.
-- ARGV: nonce, number of claims, what channels begin with; then of each: owner, ttl in ms, not after (16 digits of µs) or '' to shorten nothing.
-- Reply: nonce, µs, then of each claim the TTL that was given in ms, 0 if it does not hold, or -1 if it came too late.
-- Only commands that work when memory is full; but for a TTL longer than any before, which is then given only as far.
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
        -- The record must know the longest TTL, or a lease would look as if the clock had been set back.
        local longer = sub(row, 1, 65) .. string.format('%08.0f', given) .. sub(row, 74)
        if pcall('SET', record, longer, 'PX', LIFE).err then
          given = tonumber(sub(row, 66, 73))
          digits = string.format('%.0f', given)
        end
      end
      local left = call('PTTL', lock)
      local moved = late ~= '' or left < given
      if moved then call('PEXPIRE', lock, digits) end
      -- Something must be written, for replicas to confirm.
      if call('PEXPIRE', record, LIFE) == 0 and not moved then call('PEXPIRE', lock, left) end
      -- Its end comes sooner: its holder, which may be another client, must know.
      if late ~= '' and given < left and row and me == sub(row, 18, 49) then
        call('PUBLISH', ARGV[3] .. sub(row, 50, 65), me)
      end
    end
  end
  reply[i + 2] = given
end
return reply
