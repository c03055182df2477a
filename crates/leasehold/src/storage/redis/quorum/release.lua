-- Ends each lease that its owner holds at this server, and passes the turn on.
--
-- For each claim:
-- 1. Refuse it after its limit.
-- 2. Delete the lock, if the owner has it. A digest of a foreign value counts as its owner.
-- 3. End here for a withdrawal: it leaves the lock to an owner that retries already, and keeps its own place in the queue.
-- 4. Notify a holder whose lease was ended by another client.
-- 5. Remove the owner's entry from the queue.
-- 6. If the lock is free: notify the queue head on the channel of its client, and reserve the lock for it for a moment.
--    Remove a head whose client receives nothing, and go on with the next.
--
-- Every command works when memory is full, except the reservation, which may be left out.
--
-- KEYS
--   lock, record, queue and waiters of each claim
-- ARGV
--   1   nonce
--   2   this client
--   3   prefix of the channels
--   4   how long the lock is reserved for the next waiter, in ms
--   then 3 for each claim:
--       owner
--       limit in µs by this server's clock, or ''
--       'withdraw' or ''
-- Reply: nonce, the server's clock in µs, then for each claim
--   1    it was held, and is released
--   0    it was not held
--   -1   executed too late
local channel = ARGV[3]

-- Executes steps 4 to 6.
local function pass(me, held, value, row, queue, waiters)
  local owner, _, _, client = read(row)
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
    say(-1)
  else
    if held then call('DEL', lock) end
    -- It raises if a key beside the lock is of another type: then there is no entry.
    if not withdraw then protected(pass, me, held, value, row, queue, waiters) end
    say(held and 1 or 0)
  end
end
return reply
