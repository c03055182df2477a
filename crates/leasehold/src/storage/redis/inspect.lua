-- Describes the holder of each lock. Changes nothing.
--
-- KEYS
--   lock, record and waiters of each name; without the waiters if ARGV[2] is 'narrow'
-- ARGV
--   1           nonce
--   2           'narrow', or absent
-- Reply: nonce, the server's clock in µs, then for each name
--   0           free
--   {2, owner, token, left, held for, waiters, label}
--               held; the times are in ms, `left` and `held for` negative if unknown, `waiters` -1 if unknown
--   {4, TYPE}   the key of the lock is of another type
local wide = not ARGV[2]
local width = wide and 3 or 2
local now = time()
local reply, ms = {ARGV[1], now}, tonumber(sub(now, 1, 13))
for i = 1, #KEYS / width do
  local a = width * (i - 1)
  local lock, record, waiters = KEYS[a + 1], KEYS[a + 2], wide and KEYS[a + 3]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  if not value then
    local kind = call('TYPE', lock).ok
    reply[i + 2] = kind == 'none' and 0 or {4, kind}
  else
    local alive = 0
    if not wide then
      alive = -1
    elseif row and byte(row) == QUEUED then
      for _, entry in ipairs(pcall('HVALS', waiters)) do
        if tonumber(string.match(entry, '^%d+')) > ms then alive = alive + 1 end
      end
    end
    local left = call('PTTL', lock)
    if is_of(row, value) then
      reply[i + 2] = {2, value, sub(row, 2, 17), left, math.max(ms - sub(row, 74, 86), 0), alive, sub(row, 87)}
    else
      reply[i + 2] = {2, shown(value, row), '0', left, -1, alive, ''}
    end
  end
end
return reply
