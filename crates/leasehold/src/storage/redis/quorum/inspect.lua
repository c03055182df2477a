-- Describes the holder of each lock at this server. Changes nothing.
--
-- KEYS
--   lock, record and queue of each name
-- ARGV
--   1        nonce
-- Reply: nonce, the server's clock in µs, then for each name
--   0        free
--   2 owner, token, left, held for, waiters, label
--            held; the times are in ms, `left` and `held for` negative if unknown
--   4 TYPE   the key of the lock is of another type
for i = 0, #KEYS / 3 - 1 do
  local lock, record, queue = KEYS[3 * i + 1], KEYS[3 * i + 2], KEYS[3 * i + 3]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  if not value then
    local kind = call('TYPE', lock).ok
    if kind == 'none' then say(0) else say(4, kind) end
  else
    local count = row and sub(row, 1, 1) == 'q' and pcall('ZCARD', queue) or 0
    if type(count) ~= 'number' then count = 0 end
    local owner, _, start, _, label = read(row)
    if value == owner then
      say(2, owner, sub(row, 2, 17), call('PTTL', lock), math.max(ms - start, 0), count, label)
    else
      say(2, shown(value), '0', call('PTTL', lock), -1, count, '')
    end
  end
end
return reply
