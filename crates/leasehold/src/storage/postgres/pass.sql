-- Tells the first waiter of each lock that is free now that it is its turn, whoever a lock was handed over to that it is
-- theirs, and since when, and whoever observes a lock that it has changed.
select pg_notify('{channel}' || t.client, t.payload)
from unnest($2::text[]) as n(name)
cross join lateral (
    select h.client, 'o' || replace(h.owner::text, '-', '') as payload
    from (
        select w.name, w.client, w.owner
        from {waiters} w
        where w.space = $1 and w.name = n.name and w.since < 'infinity'
            and w.until > clock_timestamp() and w.until <= (clock_timestamp() + interval '{waiter_ttl}')
        order by w.since, w.owner limit 1
    ) h
    where not exists (
        select from {locks} l
        where l.space = $1 and l.name = h.name and l.owner is not null and l.expires_at > clock_timestamp()
    )
    union all
    -- Such a lease counts from before it was granted. Of its own this client ($3) knows by the answer to the release. What
    -- no standby may have is not said: whoever holds it asks, which waits for the standby.
    select l.client,
        case when l.token = any ($4::bigint[]) or current_setting('synchronous_standby_names') = ''
            then concat_ws(' ', 'h' || replace(l.owner::text, '-', ''), l.token, (date_part('epoch', l.asked) * 1e6)::bigint, l.name)
            else 'o' || replace(l.owner::text, '-', '')
        end
    from (
        select l.*, l.expires_at - least(l.ttl_us * interval '1 us', interval '{waiter_ttl}') as asked
        from {locks} l where l.space = $1 and l.name = n.name and l.owner is not null
    ) l
    where l.granted_at > l.asked and l.client <> $3
    union all
    select w.client, 'n' || w.name
    from {waiters} w where w.space = $1 and w.name = n.name and w.since = 'infinity' and w.until > clock_timestamp()
) t
where t.client is not null and {anybody}
