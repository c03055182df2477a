-- Grants the claims whose locks are free, while no client waits or observes. It is sent before `acquire.sql` because so
-- small a plan takes half of the time.
--
--  1. `clock` reads the clock, makes the commit durable, and takes the client's advisory lock in shared mode. It has no
--     row if anything waits or observes: then the statement does nothing.
--  2. The subquery `f` finds and locks the rows of the free locks; rows that are locked already are skipped.
--  3. The update grants them.
--
-- Parameters: $1 prefix, $2 client id, $3 key of the client's advisory lock; arrays of the claims: $4 names, $5 kinds,
-- $6 owners, $7 TTLs in us, $8 `not_after` in us, $9 labels.
--
-- Reply, one row for each claim that is granted; the others are left to `acquire.sql`:
--   i      the claim's number, from 1
--   token  its fencing token
--   now    the server's clock, in us
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable,
        pg_try_advisory_xact_lock_shared($3) as fenced
    from clock_timestamp() as t(now)
    where not exists(select from {waiters} where space = $1)
)
-- FOR UPDATE, not the weaker lock of an update: a transaction that pins the row by FOR KEY SHARE keeps it from another
-- owner, and one that still sees the earlier lease, by an older snapshot, cannot pin that. The subquery has each row found
-- by the index and updated by its place, whatever the statistics were when the plan was made.
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
