-- Of names and labels the bytes: others may have written what is no text, which would fail the whole answer.
select {name} as name, l.owner, l.token, {label} as label,
    (date_part('epoch', least(l.expires_at - t.now, l.ttl_us * interval '1 us')) * 1e6)::bigint as remaining,
    (date_part('epoch', t.now - l.granted_at) * 1e6)::bigint as held_for,
    (
        select count(*) from {waiters} w
        where w.space = $1 and w.name = l.name and w.since < 'infinity'
            and w.until > t.now and w.until <= (t.now + interval '{waiter_ttl}')
    ) as waiters
from {locks} l, clock_timestamp() as t(now)
