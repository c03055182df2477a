-- KEYS: lock, record of each claim. ARGV: nonce, what channels begin with; then of each claim: owner, ttl in ms, not after (µs) or '' to shorten nothing.
-- Reply: nonce, µs, then of each claim two numbers:
--   the TTL that was given in ms, and the owner's token, 0 if it is not written here
--   0 if it does not hold, and 1 if nobody does · -1 if it came too late, and 0
-- Only commands that work when memory is full.
local reply = {ARGV[1], digits(us)}
local function say(...) for _, value in ipairs({...}) do reply[#reply + 1] = value end end
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
    -- Its end comes sooner: its holder, which may be another client, must know.
    if late ~= '' and ttl < left and owner == me and client ~= '' then call('PUBLISH', ARGV[2] .. client, me) end
    say(digits(ttl), read(row) == me and digits(tonumber(sub(row, 2, 17))) or '0')
  end
end
return reply
