-- The columns of a holder: a part of `inspect.sql` and `list.sql`. $1 is the prefix.
--
-- Reply:
--   name, label          in bytes: another program may have written what is no text, which would fail the whole reply
--   owner, token         the acquisition that holds, and its fencing token
--   remaining, held_for  how long the lease lasts at most, and how long ago it was granted, in us
--   waiters              how many entries are in its queue
select {name} as name, l.owner, l.token, {label} as label,
    (date_part('epoch', least(l.expires_at - t.now, l.ttl_us * interval '1 us')) * 1e6)::bigint as remaining,
    (date_part('epoch', t.now - l.granted_at) * 1e6)::bigint as held_for,
    (
        select count(*) from {waiters} w
        where w.space = $1 and w.name = l.name and w.since < 'infinity'
            and w.until > t.now and w.until <= (t.now + interval '{waiter_ttl}')
    ) as waiters
from {locks} l, clock_timestamp() as t(now)
