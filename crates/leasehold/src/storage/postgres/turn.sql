-- Grants the claims whose owners are the first of their queue, if the lock is free: a row for each. It is sent for those who
-- were told; what it does not grant is for `acquire.sql`, which has a plan five times as large.
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable,
        pg_try_advisory_xact_lock_shared($3) as fenced
    from clock_timestamp() as t(now)
),
first as materialized (
    select c.*, k.now, k.us, w.entry
    from clock k
    cross join unnest($4::text[], $5::text[], $6::uuid[], $7::bigint[], $8::bigint[], $9::text[])
        with ordinality as c(name, kind, owner, ttl_us, not_after, label, i)
    -- Those that have died are before it until somebody has buried them.
    cross join lateral (
        select w.ctid as entry, w.owner, w.until from {waiters} w
        where w.space = $1 and w.name = c.name and w.since < 'infinity'
        order by w.since, w.owner limit 1
    ) w
    where w.owner = c.owner and w.until > k.now and w.until <= k.now + interval '{waiter_ttl}' and k.us <= c.not_after
),
-- FOR UPDATE, not what an update takes: whoever pins the row by FOR KEY SHARE keeps it from another owner.
taken as materialized (
    select f.*, l.at, l.last
    from first f
    cross join lateral (
        select l.ctid as at, l.token as last from {locks} l
        where l.space = $1 and l.name = f.name and (l.owner is null or l.expires_at <= f.now)
        for update skip locked
    ) l
),
granted as (
    update {locks} l
    set owner = t.owner, kind = t.kind, client = $2, label = t.label, token = greatest(t.last + 1, t.us),
        ttl_us = t.ttl_us, granted_at = t.now, expires_at = t.now + t.ttl_us * interval '1 us'
    from taken t where l.ctid = t.at
    returning t.i, l.name, l.token
),
unqueued as (
    delete from {waiters} w using taken t where w.ctid = t.entry
)
select k.us as now, g.i, g.token,
    exists(select from {waiters} w where w.space = $1 and w.name = g.name and w.since = 'infinity') as observed
from clock k, granted g
