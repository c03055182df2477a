-- Gives each owner that still holds a full TTL from now.
--
--  1. `clock`   reads the server's clock and makes the commit durable.
--  2. `seen`    reads each lease as it was when the statement began. A claim with `shorten` is `late` after `not_after`.
--  3. `taken`   locks the rows of the live leases. `moves` says whether the end of the lease changes: without `shorten`
--               only to a later one.
--  4. `renewed` updates them.
--
-- It is sent in two forms: one skips rows that another transaction has locked, the other waits for them.
--
-- Parameters: $1 prefix; arrays of the claims: $2 names, $3 owners, $4 TTLs in us, $5 `not_after` in us, $6 shorten.
--
-- Reply, one row for each claim, in their order:
--   now      the server's clock, in us
--   late     a claim with `shorten` came too late and did nothing
--   held     the owner held the lock when the statement began
--   renewed  the lease is renewed; if `held` and not `renewed`, another transaction has locked the row
--   client   the client that holds the lease, if its end was brought forward: it is notified
--   durable  not read: selected so that the setting that it makes is not left out
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable, {patient} as patient
    from clock_timestamp() as t(now)
),
seen as materialized (
    select c.*, k.now, k.us, l.*, c.shorten and k.us > c.not_after as late
    from clock k
    cross join rows from (unnest($2::text[]), unnest($3::uuid[]), unnest($4::bigint[]), unnest($5::bigint[]), unnest($6::bool[]))
        with ordinality as c(name, owner, ttl_us, not_after, shorten, i)
    left join lateral (
        select l.ctid as at, l.ttl_us as held_ttl_us,
            least(l.expires_at, k.now + (l.ttl_us * interval '1 us')) as ends
        from {locks} l
        where l.space = $1 and l.name = c.name and l.owner = c.owner and l.expires_at > k.now offset 0
    ) l on true
),
taken as materialized (
    select s.at, s.i, s.now, s.ttl_us, s.held_ttl_us, s.ends,
        s.shorten and (s.now + (s.ttl_us * interval '1 us')) < s.ends as shortens,
        s.shorten or (s.now + (s.ttl_us * interval '1 us')) >= s.ends as moves
    from seen s
    cross join lateral (
        select from {locks} l where l.ctid = s.at and l.owner = s.owner and l.expires_at > s.now
        for no key update {locked}
    ) l
    where s.at is not null and not s.late
),
renewed as (
    update {locks} l
    set ttl_us = case when t.moves then t.ttl_us else t.held_ttl_us end,
        expires_at = case when t.moves then t.now + (t.ttl_us * interval '1 us') else t.ends end
    from taken t where l.ctid = t.at
    returning t.i, case when t.shortens then l.client end as client
)
select s.us as now, s.late, s.at is not null as held, r.i is not null as renewed, r.client, (select durable from clock) as durable
from seen s left join renewed r on r.i = s.i
order by s.i
