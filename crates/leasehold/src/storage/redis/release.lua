-- KEYS: lock and record of each claim; on a Cluster then queue and waiters of each.
-- ARGV: nonce, number of claims, this client, what channels begin with, 'cluster', 'narrow' (the same without the keys of
-- queues) or ''; then the owner of each claim.
-- Reply: nonce, 0, then of each claim 1 if it held, else 0; or -1 if what is left to do needs its queue. Only commands that
-- work when memory is full.
local n = tonumber(ARGV[2])
local reply, ended, passed = {ARGV[1], 0}, {}, false
local seen = call('MGET', unpack(KEYS, 1, 2 * n))
for i = 1, n do
  local value, row, owner = seen[2 * i - 1], seen[2 * i], ARGV[i + 5]
  local held = value and (value == owner or shown(value, row) == owner)
  if held then ended[#ended + 1] = KEYS[2 * i - 1] end
  -- Somebody may have to be told: the next one, or a holder whose lease was ended by somebody else.
  passed = passed or (row and (byte(row) == QUEUED or (held and sub(row, 50, 65) ~= ARGV[3])))
  reply[i + 2] = held and 1 or 0
end
if ended[1] then call('DEL', unpack(ended)) end
if not passed then return reply end

local queue, channel, cluster = queues(time()), ARGV[4], ARGV[5] ~= ''

-- Tells those that claim i concerns, and removes the owner's entry.
local function pass(i)
  local row, owner, held = seen[2 * i], ARGV[i + 5], reply[i + 2] == 1
  if held and row and sub(row, 18, 49) == owner then
    local client = sub(row, 50, 65)
    if client ~= ARGV[3] then call('PUBLISH', channel .. client, owner) end
  end
  if row and byte(row) == QUEUED and ARGV[5] == 'narrow' then
    -- Whoever waits asks again soon. An entry of this owner must go.
    if not held then reply[i + 2] = -1 end
  elseif row and byte(row) == QUEUED then
    local tickets, waiters = queue.keys(i, n)
    queue.remove(owner, tickets, waiters)
    while held or not seen[2 * i - 1] do
      local head, _, client = queue.first(tickets, waiters)
      if not head or client == SILENT then break end
      -- On a Cluster only those at this node are counted, so nothing follows from 0.
      if call('PUBLISH', channel .. client, head) > 0 or cluster then break end
      queue.remove(head, tickets, waiters)
    end
  end
end

-- The leases are over already. Where the keys beside a lock are of another type, no entry is there, and nothing to tell.
for i = 1, n do protected(pass, i) end
return reply
