-- Says what this server knows of itself and of the others, and notes the longest TTL that a client promises.
-- KEYS: the marker, and what is known of others. ARGV: nonce, run id, database, longest TTL in ms.
-- Reply: nonce, µs, what it may vote (see `standing`), its marker or '', what is known of others as words `name=count`,
-- and for how long in ms it does not vote yet.
local marker, others = call('GET', KEYS[1]), call('GET', KEYS[2]) or ''
local vote, words = standing(marker, ARGV[2], ARGV[3])
if words[8] and tonumber(words[8]) < tonumber(ARGV[4]) then
  words[8] = ARGV[4]
  local longer = table.concat(words, ' ')
  if not err(pcall('SET', KEYS[1], longer)) then marker = longer end
end
local left = vote == 1 and words[6] + words[7] - ms or 0
return {ARGV[1], digits(us), vote, marker or '', others, digits(left)}
