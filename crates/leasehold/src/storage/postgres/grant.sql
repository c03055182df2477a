-- Grants the claims whose locks are free, where nobody waits or observes: a row for each, and none for what is left to
-- `acquire.sql`. This one is sent first because so small a plan starts and ends in half of the time.
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable,
        pg_try_advisory_xact_lock_shared($3) as fenced
    from clock_timestamp() as t(now)
    where not exists(select from {waiters} where space = $1)
)
-- FOR UPDATE, not what an update takes: whoever pins the row by FOR KEY SHARE keeps it from another owner, and whoever
-- still sees the lease that was before, by an older snapshot, cannot pin that. It is a subquery, so that each row is
-- found by the index and updated by its place, whatever the statistics were when the plan was made.
update {locks} l
set owner = f.owner, kind = f.kind, client = $2, label = f.label, token = greatest(f.last + 1, f.us),
    ttl_us = f.ttl_us, granted_at = f.now, expires_at = f.now + (f.ttl_us * interval '1 us')
from (
    select c.*, k.now, k.us, l.at, l.last
    from clock k
    cross join rows from (unnest($4::text[]), unnest($5::text[]), unnest($6::uuid[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::text[]))
        with ordinality as c(name, kind, owner, ttl_us, not_after, label, i)
    cross join lateral (
        select l.ctid as at, l.token as last from {locks} l
        where l.space = $1 and l.name = c.name and (l.owner is null or l.expires_at <= k.now)
        for update skip locked
    ) l
    where k.fenced and k.us <= c.not_after
) f
where l.ctid = f.at
returning f.i, l.token, f.us as now
