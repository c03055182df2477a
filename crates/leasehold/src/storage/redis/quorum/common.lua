-- The beginning of every script.
--
-- The record of a lock, a string: one character that says whether somebody may wait (`q`) or not (`-`), the last
-- fencing token in 16 digits, then words: owner, ttl in ms, when it was granted in ms, client, and the label, if any.
-- The queue is a sorted set of owners by ticket; the waiters are a hash: owner to `deadline in ms` and `client`.
-- `protected` calls a function of ours: what it raises is about one claim, and must not end the others'.
local protected = pcall
local call, pcall, sub = redis.call, redis.pcall, string.sub
local clock = call('TIME')
local us = clock[1] * 1000000 + clock[2]
local ms = math.floor(us / 1000)
local DAY = 86400000

-- Never tostring(): it gives 16 digits an exponent.
local function digits(number) return string.format('%.0f', number) end

-- The text of the error that a pcall returned, if it did.
local function err(answer) return type(answer) == 'table' and answer.err or nil end

-- Owner, ttl, start, client, label; the owner is nil if there is no record.
local function read(record)
  if not record then return nil end
  local owner, ttl, start, client, label = string.match(record, '^.%d+ (%S+) (%d+) (%d+) (%x*) ?(.*)$')
  return owner, tonumber(ttl), tonumber(start), client, label
end

-- The first waiter that is alive; those before it are dropped.
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

-- Who a lock's value stands for: an owner of ours, also before its token is known, or a digest of what somebody else wrote.
local function shown(value)
  if #value == 32 and string.match(value, '^[0-9a-f]+$') then return value end
  return sub(redis.sha1hex(value), 1, 32)
end

-- For whom a lock that was released is kept for a moment, if it is not for `me`; and until when.
local function kept(waiters, me)
  local deadline, owner = string.match(call('HGET', waiters, 'next') or '', '^(%d+) (%x+)$')
  if deadline and owner ~= me and tonumber(deadline) > ms then return tonumber(deadline) end
end

-- What this server may vote, by its marker: 0 its vote counts, 1 not yet, 2 the marker is not of this life, or missing;
-- and the words of the marker. A life is one run of the server, in one database: a marker that was loaded from an old
-- file, or swapped in, is of another. The marker, a string of words:
--   1 '-' it counts · 'r' not before its time is over, since after a restart none vouched for what it has · 'b' the same,
--     since it has forgotten what it had
--   2 what it is called; another name for each time that it has forgotten
--   3 the server's run id · 4 the database
--   5 how often it has taken locks, as far as its vote counted
--   6 since when its time runs, in ms · 7 for how long, in ms · 8 the longest TTL that any client promises, in ms
local function standing(marker, run, db)
  local words = {string.match(marker or '', '^(%S) (%x+) (%x+) (%d+) (%d+) (%d+) (%d+) (%d+)$')}
  if words[3] ~= run or words[4] ~= db then return 2, words end
  if words[1] == '-' then return 0, words end
  -- A clock that was set back makes the time run anew, and not stand still.
  if tonumber(words[6]) > ms then words[6] = digits(ms) end
  if ms < words[6] + words[7] then return 1, words end
  -- What it has forgotten is over. It is as good as new.
  words[1], words[2], words[5] = '-', run, '0'
  return 0, words
end

-- Remembers how often other servers have taken locks, as words `name=count`. Returns an error's text.
local function remember(key, text)
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
