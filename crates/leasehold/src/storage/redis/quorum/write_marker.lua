-- Writes the marker, unless it has changed since it was read.
--
-- KEYS
--   the marker
-- ARGV
--   1          nonce
--   2          limit, in µs by this server's clock
--   3          the marker as it was read, or ''
--   4          how much of the waiting period is over already, in ms
--   5 to 11    the words of the marker, without the begin of the waiting period
-- Reply: nonce, the server's clock in µs, and 1 if it is written, else 0
local written = 0
if us < tonumber(ARGV[2]) and (call('GET', KEYS[1]) or '') == ARGV[3] then
  local words = {ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], digits(ms - ARGV[4]), ARGV[10], ARGV[11]}
  call('SET', KEYS[1], table.concat(words, ' '))
  written = 1
end
say(written)
return reply
