-- KEYS: lock, record, queue of each name. ARGV: nonce. Changes nothing.
-- Reply: nonce, µs, then of each name: 0 (free) · 4 type · 2 owner, token, left, held for, waiters, label
local reply = {ARGV[1], digits(us)}
local function say(...) for _, value in ipairs({...}) do reply[#reply + 1] = value end end
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
