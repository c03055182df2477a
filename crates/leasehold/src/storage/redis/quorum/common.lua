-- The beginning of every script.
--
-- A comment stands on lines of its own: such lines are removed before a script is sent.
--
-- The record of a lock is a string: one character that says whether there may be waiters (`q`) or not (`-`), the last
-- fencing token in 16 digits, then words: owner, TTL in ms, time of the grant in ms, client, and the label, if any.
-- The queue is a sorted set of owners, by ticket. The waiters are a hash from each owner to `DEADLINE_MS CLIENT`, and
-- from `next` to `UNTIL_MS OWNER`: the waiter for which a released lock is reserved.
--
-- The marker of a server is a string of words:
--   1  '-' its vote counts · 'r' restarted: not before its waiting period is over, since no other server could confirm
--      that it lost nothing · 'b' blank: the same, since it has lost what it knew
--   2  the server's name; it takes another one each time that it has lost what it knew
--   3  the run id of the server, and 4 the database: the life that the marker was written for
--   5  its vote count: how many calls of `propose.lua` and `commit.lua` took locks while its vote counted
--   6  the begin of the waiting period in ms, and 7 its length in ms
--   8  the longest TTL that any client promises, in ms
-- Another key has the vote counts of the other servers, as words `NAME=COUNT`.
--
-- `protected` is Lua's own pcall. What a function raises concerns one claim, and must not end the others.
local protected = pcall
local call, pcall, sub = redis.call, redis.pcall, string.sub
local clock = call('TIME')
local us = clock[1] * 1000000 + clock[2]
local ms = math.floor(us / 1000)
local DAY = 86400000

-- Formats a number. tostring() would write one of 16 digits with an exponent.
local function digits(number) return string.format('%.0f', number) end

-- Returns the text of an error that pcall returned.
local function err(answer) return type(answer) == 'table' and answer.err or nil end

-- Returns owner, TTL, start, client and label of a record. The owner is nil if there is no record.
local function read(record)
  if not record then return nil end
  local owner, ttl, start, client, label = string.match(record, '^.%d+ (%S+) (%d+) (%d+) (%x*) ?(.*)$')
  return owner, tonumber(ttl), tonumber(start), client, label
end

-- Returns the queue head, its deadline and its client. Removes the expired entries before it.
local function first(queue, waiters)
  while true do
    local head = call('ZRANGE', queue, 0, 0)[1]
    if not head then return nil end
    local deadline, client = string.match(call('HGET', waiters, head) or '', '^(%d+) (%x*)$')
    if deadline and tonumber(deadline) > ms then return head, tonumber(deadline), client end
    call('ZREM', queue, head)
    call('HDEL', waiters, head)
  end
end

-- Returns the owner to report for a lock's value: an owner of Leasehold, even before it has a token, or a digest of a
-- value of another library.
local function shown(value)
  if #value == 32 and string.match(value, '^[0-9a-f]+$') then return value end
  return sub(redis.sha1hex(value), 1, 32)
end

-- Returns until when a released lock is reserved for another waiter than `me`, if it is.
local function reserved_until(waiters, me)
  local deadline, owner = string.match(call('HGET', waiters, 'next') or '', '^(%d+) (%x+)$')
  if deadline and owner ~= me and tonumber(deadline) > ms then return tonumber(deadline) end
end

-- Returns the vote status of this server, and the words of its marker. Status: 0 its vote counts · 1 not before its
-- waiting period is over · 2 the marker is missing, or of another life: it was loaded from an old file, or swapped in.
local function vote_status(marker, run, db)
  local words = {string.match(marker or '', '^(%S) (%x+) (%x+) (%d+) (%d+) (%d+) (%d+) (%d+)$')}
  if words[3] ~= run or words[4] ~= db then return 2, words end
  if words[1] == '-' then return 0, words end
  -- If the clock was set back, the period begins again. Otherwise it would stand still.
  if tonumber(words[6]) > ms then words[6] = digits(ms) end
  if ms < words[6] + words[7] then return 1, words end
  -- Every lease that it may have lost is over: it is like a new server.
  words[1], words[2], words[5] = '-', run, '0'
  return 0, words
end

-- Merges vote counts of other servers into those at `key`; a count never falls. Returns the text of an error.
local function merge_counts(key, text)
  if text == '' then return nil end
  local counts, names, changed = {}, {}, false
  local function take(words)
    for name, count in string.gmatch(words, '(%x+)=(%d+)') do
      if not counts[name] then names[#names + 1] = name end
      if not counts[name] or counts[name] < tonumber(count) then counts[name], changed = tonumber(count), true end
    end
  end
  take(call('GET', key) or '')
  changed = false
  take(text)
  if not changed then return nil end
  local words = {}
  for _, name in ipairs(names) do words[#words + 1] = name .. '=' .. digits(counts[name]) end
  return err(pcall('SET', key, table.concat(words, ' ')))
end

-- The reply of the script, to which each part is appended.
local reply = {ARGV[1], digits(us)}
local function say(...) for _, value in ipairs({...}) do reply[#reply + 1] = value end end

-- Calls `answer(i)` for each of `count` claims. If it raises, which it does if a key beside the lock is of another type,
-- the claim's reply is the error: 5 TEXT.
local function each_claim(count, answer)
  for i = 0, count - 1 do
    local length = #reply
    local done, why = protected(answer, i)
    if not done then
      for j = #reply, length + 1, -1 do reply[j] = nil end
      say(5, type(why) == 'table' and why.err or why)
    end
  end
end
