-- The second of the two steps of an acquire: writes the token where the lock is the owner's, and only over smaller
-- tokens. With a limit it also takes a free lock: a server that missed the acquire, or has lost it, is restored.
--
-- 1. Merge the vote counts of the other servers, before any token is written: an owner with a token at a majority has
--    then told a majority what each server must not have lost.
-- 2. For each claim, if the lock is the owner's, or free and within the limit, and the token is larger than the last
--    one, or written already: remove the owner's waiter entry, write the record, then take the lock if it is free.
-- 3. If a lock was taken and the vote of this server counts, increment its vote count in the marker.
--
-- KEYS
--   lock, record, queue and waiters of each claim; then the marker, and the vote counts of the other servers
-- ARGV
--   1   nonce
--   2   run id
--   3   database
--   4   vote counts of the other servers
--   then 6 for each claim:
--       owner
--       token
--       TTL in ms
--       limit in µs by this server's clock to take a free lock, or ''
--       client, or '' if it is not subscribed
--       label
-- Reply: nonce, the server's clock in µs, then for each claim
--   1        written
--   0        not written
--   5 TEXT   an error of a command
local marker, counts = KEYS[#KEYS - 1], KEYS[#KEYS]
local unmerged, taken = merge_counts(counts, ARGV[4]), false

-- Answers claim i.
local function claim(i)
  local lock, record, queue, waiters = KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3], KEYS[4 * i + 4]
  local a = 6 * i + 4
  local me, token, ttl = ARGV[a + 1], tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local late, client, label = ARGV[a + 4], ARGV[a + 5], ARGV[a + 6]
  local both = call('MGET', lock, record)
  local value, row = both[1], both[2]
  local last = row and tonumber(sub(row, 2, 17)) or 0
  local owner, _, start = read(row)
  local own = owner == me and last == token
  local free = not value and late ~= '' and us < tonumber(late) and call('EXISTS', lock) == 0
  if unmerged then
    say(5, unmerged)
  elseif (value == me or free) and (own or token > last) then
    local flag = '-'
    if row and sub(row, 1, 1) == 'q' then
      call('ZREM', queue, me)
      call('HDEL', waiters, me)
      if not reserved_until(waiters, me) then call('HDEL', waiters, 'next') end
      if call('ZCARD', queue) > 0 then flag = 'q' end
    end
    local text = flag .. string.format('%016.0f', token) .. ' ' .. me .. ' ' .. digits(ttl) .. ' '
    text = text .. digits(own and start or ms) .. ' ' .. client
    if label ~= '' then text = text .. ' ' .. label end
    -- The record before the lock: a record without a lock is only a token that was skipped.
    local failed = err(pcall('SET', record, text, 'PX', digits(ttl + DAY)))
    if free and not failed then failed = err(pcall('SET', lock, me, 'NX', 'PX', digits(ttl))) end
    if failed then
      say(5, failed)
    else
      if free then taken = true end
      say(1)
    end
  else
    say(0)
  end
end

each_claim((#KEYS - 2) / 4, claim)

if taken then
  local vote, words = vote_status(call('GET', marker), ARGV[2], ARGV[3])
  if vote == 0 then
    words[5] = digits(words[5] + 1)
    pcall('SET', marker, table.concat(words, ' '))
  end
end
return reply
