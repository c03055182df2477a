-- Returns what this server knows about itself and the others, and records the longest TTL that a client promises.
--
-- KEYS
--   the marker; the vote counts of the other servers
-- ARGV
--   1   nonce
--   2   run id
--   3   database
--   4   the longest TTL that this client promises, in ms
-- Reply: nonce, the server's clock in µs, vote status (see `common.lua`), the marker or '', the vote counts of the other
--   servers, how much of the waiting period is left in ms, and 1 if it was a replica in this run, else 0
local marker, others = call('GET', KEYS[1]), call('GET', KEYS[2]) or ''
local vote, words = vote_status(marker, ARGV[2], ARGV[3])
if words[8] and tonumber(words[8]) < tonumber(ARGV[4]) then
  words[8] = ARGV[4]
  local longer = table.concat(words, ' ')
  if not err(pcall('SET', KEYS[1], longer)) then marker = longer end
end
local left = vote == 1 and words[6] + words[7] - ms or 0
-- A promotion gives the former replication id an end.
local promoted = not string.find(call('INFO', 'replication'), 'second_repl_offset:-1', 1, true)
say(vote, marker or '', others, digits(left), promoted and 1 or 0)
return reply
