-- Grants the claims whose locks are free, where nobody waits or observes. What it does not grant is for `acquire.sql`:
-- this one is sent first because so small a plan starts and ends in a third of the time.
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable,
        pg_try_advisory_xact_lock_shared($3) as fenced,
        exists(select from {waiters} where space = $1) as any_waiter
    from clock_timestamp() as t(now)
),
-- FOR UPDATE, not what an update takes: whoever pins the row by FOR KEY SHARE keeps it from another owner.
taken as materialized (
    select c.*, k.now, k.us, l.at, l.last
    from clock k
    cross join unnest($4::text[], $5::text[], $6::uuid[], $7::bigint[], $8::bigint[], $9::text[])
        with ordinality as c(name, kind, owner, ttl_us, not_after, label, i)
    cross join lateral (
        select l.ctid as at, l.token as last from {locks} l
        where l.space = $1 and l.name = c.name and (l.owner is null or l.expires_at <= k.now)
        for update skip locked
    ) l
    where not k.any_waiter and k.us <= c.not_after
),
granted as (
    update {locks} l
    set owner = t.owner, kind = t.kind, client = $2, label = t.label, token = greatest(t.last + 1, t.us),
        ttl_us = t.ttl_us, granted_at = t.now, expires_at = t.now + t.ttl_us * interval '1 us'
    from taken t where l.ctid = t.at
    returning t.i, l.token
)
select k.us as now, g.i, g.token, k.any_waiter, k.durable from clock k left join granted g on true
