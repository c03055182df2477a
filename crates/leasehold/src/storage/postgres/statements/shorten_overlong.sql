-- Shortens leases that last longer than their TTL because the clock was set back: from now on they last a TTL.
--
--  1. `seen`  finds the leases that end later than a TTL from now.
--  2. `taken` locks their rows, if they have not changed; rows that are locked already are skipped.
--  3. The update sets their ends.
--
-- Parameters: $1 prefix, $2 names. No reply columns are read.
with seen as materialized (
    select l.ctid as at, l.token, t.now + (l.ttl_us * interval '1 us') as ends
    from clock_timestamp() as t(now)
    cross join unnest($2::text[]) as n(name)
    join {locks} l on l.space = $1 and l.name = n.name
    where l.owner is not null and l.expires_at > (t.now + (l.ttl_us * interval '1 us'))
),
taken as materialized (
    select s.* from seen s
    cross join lateral (
        select from {locks} l where l.ctid = s.at and l.token = s.token for no key update skip locked
    ) l
)
update {locks} l set expires_at = t.ends from taken t where l.ctid = t.at returning {durable}
