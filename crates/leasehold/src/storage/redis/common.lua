-- The beginning of every script. It runs with each call, so it is short: to create a function, or to format a number,
-- costs as much as a command.
--
-- A comment stands on lines of its own: such lines are removed before a script is sent.
--
-- The record of a lock is a string of fields of fixed width, because cutting is cheaper than searching:
--   1      'q' if there may be waiters, else '-'
--   2-17   the last fencing token
--   18-49  the owner that was granted it
--   50-65  the client of that owner
--   66-73  the longest TTL that the lease was given, in ms
--   74-86  the time of the grant, in ms
--   87-    the label
-- The queue is a sorted set of owners, by ticket. The waiters are a hash from each owner to `DEADLINE_MS CLIENT`.
--
-- `protected` is Lua's own pcall. What a function raises concerns one claim, and must not end the others.
local protected = pcall
local call, pcall, sub, byte = redis.call, redis.pcall, string.sub, string.byte
local QUEUED = 113
-- The client of a waiter that is subscribed to no channel.
local SILENT = '----------------'
-- How long a record outlives the last grant or renewal: a day longer than the longest TTL.
local LIFE = '172800000'

-- Returns the server's clock in µs, as 16 digits. tostring() would write a number of that size with an exponent.
local function time()
  local clock = call('TIME')
  return clock[1] .. sub('00000', #clock[2]) .. clock[2]
end

-- Returns whether the record belongs to this lease. It may be older than a lock of another library.
local function is_of(row, value) return row and value ~= '' and value == sub(row, 18, 49) end

-- Returns the owner to report for a lock's value: the owner of the record, or a digest of a value of another library.
local function shown(value, row)
  if is_of(row, value) then return value end
  return sub(redis.sha1hex(value), 1, 32)
end

-- Returns the queue helpers for the moment `now`. They are built lazily, because most calls never touch a queue.
local function queues(now)
  local us, ms = tonumber(now), tonumber(sub(now, 1, 13))
  local queue = {us = us, ms = ms}

  -- Formats a number without an exponent.
  function queue.digits(number) return string.format('%.0f', number) end

  -- Returns the keys of the queue and the waiters of claim i of n. Its lock and record are KEYS[2i - 1] and KEYS[2i].
  --
  -- A Cluster requires every key to be declared: these are KEYS[2(n + i) - 1] and KEYS[2(n + i)]. One server does not,
  -- so they are derived from the record's key: most claims never touch a queue, and would send two keys in vain.
  function queue.keys(i, n)
    if KEYS[4 * n] then return KEYS[2 * (n + i) - 1], KEYS[2 * (n + i)] end
    local stem = sub(KEYS[2 * i], 1, -2)
    return stem .. 'q', stem .. 'w'
  end

  function queue.remove(owner, tickets, waiters)
    call('ZREM', tickets, owner)
    call('HDEL', waiters, owner)
  end

  -- Returns the queue head, its deadline and its client. Removes the expired entries before it. With `life`, shortens
  -- an entry that would live for longer than that: only a clock that was set back causes one.
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
