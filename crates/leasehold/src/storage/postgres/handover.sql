-- Ends each owner's lease and entry, as `release.sql` does, and tells the first who waits in the same transaction. If
-- there is one, the commit does not wait for the disk: a grant that builds on it takes it there, and `flush.sql` does
-- before anybody is told that the lock is released.
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, pg_try_advisory_xact_lock($2) as alone,
        -- A notification that finds no room would undo the release.
        pg_notification_queue_usage() < 0.5 as has_room
    from clock_timestamp() as t(now)
),
claim as materialized (
    select c.* from unnest($3::text[], $4::uuid[]) with ordinality as c(name, owner, i)
),
taken as materialized (
    select c.i, c.name, c.owner, k.now, l.*
    from clock k cross join claim c
    cross join lateral (
        select l.ctid as at, l.client, l.expires_at > k.now as held
        from {locks} l where l.space = $1 and l.name = c.name and l.owner = c.owner
        for no key update skip locked
    ) l
),
freed as (
    update {locks} l set owner = null, client = null, label = null, expires_at = least(l.expires_at, t.now)
    from taken t where l.ctid = t.at
    returning t.i, t.client, t.held
),
unqueued as (
    delete from {waiters} w
    where w.ctid = any (array(
        select d.at from claim c
        cross join lateral (
            select d.ctid as at from {waiters} d
            where d.space = $1 and d.name = c.name and d.owner = c.owner offset 0
        ) d
    ))
),
told as materialized (
    select t.i, w.owner, pg_notify('{channel}' || w.client, 'o' || replace(w.owner::text, '-', ''))
    from clock k cross join taken t
    cross join lateral (
        select w.owner, w.client from {waiters} w
        where w.space = $1 and w.name = t.name and w.since < 'infinity' and w.owner <> t.owner
            and w.until > t.now and w.until <= t.now + interval '{waiter_ttl}'
        order by w.since, w.owner limit 1
    ) w
    where k.has_room and w.client is not null
)
select k.us as now, coalesce(f.held, false) as held, f.i is not null as freed, f.client, k.alone, w.owner as told,
    case when exists(select from told) then set_config('synchronous_commit', 'off', true) else {durable} end as durable,
    -- It was there when the statement began, and somebody else has locked it.
    f.i is null and exists(
        select from {locks} l where l.space = $1 and l.name = c.name and l.owner = c.owner
    ) as locked
from clock k cross join claim c left join freed f on f.i = c.i left join told w on w.i = c.i
order by c.i
