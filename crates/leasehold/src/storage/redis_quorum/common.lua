-- The beginning of every script.
--
-- The record of a lock, a string: one character that says whether somebody may wait (`q`) or not (`-`), the last
-- fencing token in 16 digits, then words: owner, ttl in ms, when it was granted in ms, client, and the label, if any.
-- The queue is a sorted set of owners by ticket; the waiters are a hash: owner to `deadline in ms` and `client`.
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
