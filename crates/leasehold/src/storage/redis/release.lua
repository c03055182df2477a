-- Ends each lease that its owner holds, removes its waiter's entry, and passes the turn on.
--
-- 1. Read the lock and the record of every claim with one MGET.
-- 2. Delete all locks that their owners hold with one DEL. A digest of a foreign value counts as its owner.
-- 3. End here if no claim has waiters, nor a holder of another client: the common case.
-- 4. Notify a holder whose lease was ended by another client.
-- 5. Remove the owner's entry from the queue.
-- 6. If the lock is free: notify the queue head on the channel of its client. On one server, remove a head whose client
--    receives nothing, and go on with the next.
--
-- Every command works when memory is full.
--
-- KEYS
--   2i - 1, 2i                  lock and record of claim i of n
--   2(n + i) - 1 and 2(n + i)   queue and waiters of claim i, on a Cluster only, and not if ARGV[5] is 'narrow'
-- ARGV
--   1       nonce
--   2       n, the number of claims
--   3       this client
--   4       prefix of the channels
--   5       '' on one server, 'cluster', or 'narrow': a Cluster, without the keys of the queues
--   5 + i   owner of claim i
-- Reply: nonce, 0, then for each claim
--   1       it was held, and is released
--   0       it was not held
--   -1      not held, and the entry of the owner cannot be removed without the keys of the queue
local n = tonumber(ARGV[2])
local reply, ended, passed = {ARGV[1], 0}, {}, false
local seen = call('MGET', unpack(KEYS, 1, 2 * n))
for i = 1, n do
  local value, row, owner = seen[2 * i - 1], seen[2 * i], ARGV[i + 5]
  local held = value and (value == owner or shown(value, row) == owner)
  if held then ended[#ended + 1] = KEYS[2 * i - 1] end
  -- Steps 4 to 6 are needed if there may be waiters, or a lease of another client was ended.
  passed = passed or (row and (byte(row) == QUEUED or (held and sub(row, 50, 65) ~= ARGV[3])))
  reply[i + 2] = held and 1 or 0
end
if ended[1] then call('DEL', unpack(ended)) end
if not passed then return reply end

local queue, channel, cluster = queues(time()), ARGV[4], ARGV[5] ~= ''

-- Executes steps 4 to 6 for claim i.
local function pass(i)
  local row, owner, held = seen[2 * i], ARGV[i + 5], reply[i + 2] == 1
  if held and row and sub(row, 18, 49) == owner then
    local client = sub(row, 50, 65)
    if client ~= ARGV[3] then call('PUBLISH', channel .. client, owner) end
  end
  if row and byte(row) == QUEUED and ARGV[5] == 'narrow' then
    -- The waiters retry by themselves soon. An entry of this owner must be removed.
    if not held then reply[i + 2] = -1 end
  elseif row and byte(row) == QUEUED then
    local tickets, waiters = queue.keys(i, n)
    queue.remove(owner, tickets, waiters)
    while held or not seen[2 * i - 1] do
      local head, _, client = queue.first(tickets, waiters)
      if not head or client == SILENT then break end
      -- On a Cluster PUBLISH counts the subscribers of this node only, so 0 says nothing.
      if call('PUBLISH', channel .. client, head) > 0 or cluster then break end
      queue.remove(head, tickets, waiters)
    end
  end
end

-- The leases are over already. It raises if a key beside a lock is of another type: then there is no entry.
for i = 1, n do protected(pass, i) end
return reply
