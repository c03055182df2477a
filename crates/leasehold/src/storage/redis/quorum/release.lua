-- KEYS: lock, record, queue, waiters of each claim.
-- ARGV: nonce, this client, what channels begin with, for how long in ms a lock is kept for the next waiter;
--       then of each claim: owner, not after (µs by this server's clock) or '', 'withdraw' or ''.
-- Reply: nonce, µs, then of each claim 1 if it held, 0 if not, -1 if it came too late. Only commands that work when memory
-- is full, but for keeping the lock for the next waiter, which is a courtesy.
local reply = {ARGV[1], digits(us)}
local channel = ARGV[3]

-- Tells those that the end of a lease concerns, and removes the owner's entry.
local function pass(me, held, value, row, queue, waiters)
  local owner, _, _, client = read(row)
  -- Ended by somebody else: its holder shall know.
  if held and owner == me and client ~= '' and client ~= ARGV[2] then call('PUBLISH', channel .. client, me) end
  if row and sub(row, 1, 1) == 'q' then
    call('ZREM', queue, me)
    call('HDEL', waiters, me)
    while held or not value do
      local head, _, listens = first(queue, waiters)
      if not head or listens == '' then break end
      if call('PUBLISH', channel .. listens, head) > 0 then
        pcall('HSET', waiters, 'next', digits(ms + ARGV[4]) .. ' ' .. head)
        break
      end
      call('ZREM', queue, head)
      call('HDEL', waiters, head)
    end
  end
end

for i = 0, #KEYS / 4 - 1 do
  local lock, record, queue, waiters = KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4]
  local me, late, withdraw = ARGV[3 * i + 5], ARGV[3 * i + 6], ARGV[3 * i + 7] ~= ''
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  local held = value and (value == me or shown(value) == me)
  if late ~= '' and us >= tonumber(late) then
    reply[#reply + 1] = -1
  else
    if held then call('DEL', lock) end
    -- One that withdraws leaves the lock to somebody who asks already, and keeps its own place.
    -- Where the keys beside the lock are of another type, no entry is there, and nothing to tell.
    if not withdraw then protected(pass, me, held, value, row, queue, waiters) end
    reply[#reply + 1] = held and 1 or 0
  end
end
return reply
