-- Writes the marker, unless it has changed meanwhile.
-- KEYS: the marker. ARGV: nonce, not after (µs by this server's clock), the marker as it was or '',
-- for how long in ms its time has run already; then the words of the marker, but for since when it runs.
-- Reply: nonce, µs, 1 if it is written, else 0.
local reply = {ARGV[1], digits(us), 0}
if us < tonumber(ARGV[2]) and (call('GET', KEYS[1]) or '') == ARGV[3] then
  local words = {ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], digits(ms - ARGV[4]), ARGV[10], ARGV[11]}
  call('SET', KEYS[1], table.concat(words, ' '))
  reply[3] = 1
end
return reply
