-- The beginning of every script. What is here runs in each call, so there is little: to make a function, or to give a
-- number digits, costs as much as a command.
--
-- The record of a lock is a string of fields of fixed width, since to cut is cheaper than to search:
--   1      'q' if somebody may wait, else '-'
--   2-17   the last fencing token
--   18-49  the owner to whom it was given
--   50-65  the client of that owner
--   66-73  the longest TTL that it was given, in ms
--   74-86  when it was granted, in ms
--   87-    the label
-- The queue is a sorted set of owners by ticket; the waiters are a hash: owner to `deadline in ms` and `client`.
-- `protected` calls a function of ours: what it raises is about one claim, and must not end the others'.
local protected = pcall
local call, pcall, sub, byte = redis.call, redis.pcall, string.sub, string.byte
local QUEUED = 113
-- The client of a waiter that listens to nothing.
local SILENT = '----------------'
-- How long a record lives after its lock was last granted or renewed: longer than any lease by a day.
local LIFE = '172800000'

-- The server's clock in 16 digits of µs. Never tostring() of a number: it gives 16 digits an exponent.
local function time()
  local clock = call('TIME')
  return clock[1] .. sub('00000', #clock[2]) .. clock[2]
end

-- Whether the record is of this lease, and not of the one before somebody else's, or of none yet.
local function is_of(row, value) return row and value ~= '' and value == sub(row, 18, 49) end

-- Who a lock's value stands for: the owner that the record names, or a digest of what somebody else wrote.
local function shown(value, row)
  if is_of(row, value) then return value end
  return sub(redis.sha1hex(value), 1, 32)
end

-- Makes what only those need who look at a queue, at the moment `now`.
local function queues(now)
  local us, ms = tonumber(now), tonumber(sub(now, 1, 13))
  local queue = {us = us, ms = ms}

  -- A number's digits.
  function queue.digits(number) return string.format('%.0f', number) end

  -- The keys of the queue and the waiters of claim i of n, whose lock and record are KEYS[2i - 1] and KEYS[2i].
  --
  -- On a Cluster they are declared: KEYS[2(n + i) - 1] and KEYS[2(n + i)]. On one server nobody needs to know them before,
  -- and most claims never look at a queue: half the keys would be sent for nothing.
  function queue.keys(i, n)
    if KEYS[4 * n] then return KEYS[2 * (n + i) - 1], KEYS[2 * (n + i)] end
    local stem = sub(KEYS[2 * i], 1, -2)
    return stem .. 'q', stem .. 'w'
  end

  function queue.remove(owner, tickets, waiters)
    call('ZREM', tickets, owner)
    call('HDEL', waiters, owner)
  end

  -- The first waiter that is alive, its deadline and its client; those before it are dropped. No entry lives for longer
  -- than `life` from now: only a clock that was set back can make it seem so.
  function queue.first(tickets, waiters, life)
    while true do
      local head = call('ZRANGE', tickets, 0, 0)[1]
      if not head then return nil end
      local deadline, client = string.match(call('HGET', waiters, head) or '', '^(%d+) (%S+)$')
      deadline = tonumber(deadline)
      if deadline and life and deadline > ms + life then
        deadline = ms + life
        pcall('HSET', waiters, head, queue.digits(deadline) .. ' ' .. client)
      end
      if deadline and deadline > ms then return head, deadline, client end
      queue.remove(head, tickets, waiters)
    end
  end

  return queue
end
