-- Ends each owner's lease and entry.
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable, {patient} as patient,
        pg_try_advisory_xact_lock($2) as alone,
        exists(select from {waiters} where space = $1) as any_waiter
    from clock_timestamp() as t(now)
),
claim as materialized (
    select c.* from unnest($3::text[], $4::uuid[]) with ordinality as c(name, owner, i)
),
taken as materialized (
    select c.i, k.now, l.*
    from clock k cross join claim c
    cross join lateral (
        select l.ctid as at, l.client, l.expires_at > k.now as held
        from {locks} l where l.space = $1 and l.name = c.name and l.owner = c.owner
        for no key update {locked}
    ) l
),
freed as (
    update {locks} l set owner = null, client = null, label = null, expires_at = least(l.expires_at, t.now)
    from taken t where l.ctid = t.at
    returning t.i, t.client, t.held
),
unqueued as (
    delete from {waiters} w
    where (select any_waiter from clock) and w.ctid = any (array(
        select d.at from claim c
        cross join lateral (
            select d.ctid as at from {waiters} d
            where d.space = $1 and d.name = c.name and d.owner = c.owner offset 0
        ) d
    ))
)
select k.us as now, coalesce(f.held, false) as held, f.i is not null as freed, f.client, k.alone, k.durable,
    -- It was there when the statement began, and somebody else has locked it.
    f.i is null and exists(
        select from {locks} l where l.space = $1 and l.name = c.name and l.owner = c.owner
    ) as locked
from clock k cross join claim c left join freed f on f.i = c.i
order by c.i
