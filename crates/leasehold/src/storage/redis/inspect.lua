-- KEYS: lock, record, waiters of each name. ARGV: nonce. Changes nothing.
-- Reply: nonce, µs, then of each name 0 (free) or a list: 4 type · 2 owner, token, left, held for, waiters, label
local now = time()
local reply, ms = {ARGV[1], now}, tonumber(sub(now, 1, 13))
for i = 1, #KEYS / 3 do
  local lock, record, waiters = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  if not value then
    local kind = call('TYPE', lock).ok
    reply[i + 2] = kind == 'none' and 0 or {4, kind}
  else
    local alive = 0
    if row and byte(row) == QUEUED then
      for _, entry in ipairs(call('HVALS', waiters)) do
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
