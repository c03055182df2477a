-- Ends the leases that their owners hold through this client, while no client waits or observes.
--
--  1. `clock` reads the clock and makes the commit durable. It has no row if anything waits or observes: then the
--     statement does nothing.
--  2. The subquery `freed` locks the rows of the leases; rows that are locked already are skipped.
--  3. The update ends them.
--
-- Parameters: $1 prefix, $2 client id; arrays of the claims: $3 names, $4 owners.
--
-- Reply, one row for each lease that has ended; the other claims are left to `release.sql`:
--   i    the claim's number, from 1
--   now  the server's clock, in us
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable
    from clock_timestamp() as t(now)
    where not exists(select from {waiters} where space = $1)
)
update {locks} l
set owner = null, client = null, label = null, expires_at = freed.now
from (
    select c.i, k.now, k.us, l.at
    from clock k
    cross join rows from (unnest($3::text[]), unnest($4::uuid[])) with ordinality as c(name, owner, i)
    cross join lateral (
        select l.ctid as at from {locks} l
        where l.space = $1 and l.name = c.name and l.owner = c.owner and l.client = $2 and l.expires_at > k.now
        for no key update skip locked
    ) l
) as freed
where l.ctid = freed.at
returning freed.i, freed.us as now
