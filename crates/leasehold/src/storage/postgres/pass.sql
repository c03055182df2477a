-- Tells the first waiter of each lock that is free now that it is its turn, unless it was told ($3), and whoever observes
-- the lock that it has changed.
select pg_notify('{channel}' || t.client, t.payload)
from unnest($2::text[]) as n(name)
cross join lateral (
    select h.client, 'o' || replace(h.owner::text, '-', '') as payload
    from (
        select w.name, w.client, w.owner
        from {waiters} w
        where w.space = $1 and w.name = n.name and w.since < 'infinity'
            and w.until > clock_timestamp() and w.until <= clock_timestamp() + interval '{waiter_ttl}'
        order by w.since, w.owner limit 1
    ) h
    where h.owner <> all ($3::uuid[]) and not exists (
        select from {locks} l
        where l.space = $1 and l.name = h.name and l.owner is not null and l.expires_at > clock_timestamp()
    )
    union all
    select w.client, 'n' || w.name
    from {waiters} w where w.space = $1 and w.name = n.name and w.since = 'infinity' and w.until > clock_timestamp()
) t
where t.client is not null and (select exists(select from {waiters} where space = $1))
