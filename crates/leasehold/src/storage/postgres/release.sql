-- Ends each owner's lease and entry. A lock that somebody waits for is handed over in the same statement: the first in
-- line holds it from then on, and is told by `pass.sql`.
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable, {patient} as patient,
        pg_try_advisory_xact_lock($2) as alone,
        -- Nobody is told of what a standby may lack, if that is told before the commit has been answered.
        {hands} and ($5 or current_setting('synchronous_standby_names') = '') as hands
    from clock_timestamp() as t(now)
),
claim as materialized (
    select c.* from rows from (unnest($3::text[]), unnest($4::uuid[])) with ordinality as c(name, owner, i)
),
taken as materialized (
    select c.*, k.now, k.us, k.hands, l.*
    from clock k cross join claim c
    cross join lateral (
        select l.ctid as at, l.client, l.token as last, l.expires_at > k.now as held
        from {locks} l where l.space = $1 and l.name = c.name and l.owner = c.owner
        for {strength} {locked}
    ) l
),
-- The first in line, unless its entry is locked or has changed, because it leaves or asks at this moment. Its lease counts
-- from when it last asked, since it does not know when this is executed. It ends with its entry, or a TTL after the
-- asking if that is sooner; if half of that has gone by, or it is a matter of moments, the first is told to ask instead.
heir as materialized (
    select t.i, w.*
    from taken t
    cross join lateral (
        select w.ctid as at, w.owner from {waiters} w
        where w.space = $1 and w.name = t.name and w.since < 'infinity' and w.owner <> t.owner
            and w.until > t.now and w.until <= (t.now + interval '{waiter_ttl}')
        order by w.since, w.owner limit 1
    ) first
    cross join lateral (
        select w.ctid as entry, w.since, w.owner, w.client, w.kind, w.label, w.ttl_us,
            w.until - interval '{waiter_ttl}' as asked,
            (w.until - interval '{waiter_ttl}') + least(w.ttl_us * interval '1 us', interval '{waiter_ttl}') as ends
        from {waiters} w
        where w.ctid = first.at and w.space = $1 and w.name = t.name and w.owner = first.owner
            and w.client is not null and w.ttl_us >= 2000000 and w.until < (t.now + interval '{waiter_ttl}')
            and t.now <= ((w.until - interval '{waiter_ttl}') + (least(w.ttl_us * interval '1 us', interval '{waiter_ttl}') / 2))
        for update skip locked
    ) w
    where t.hands
),
freed as (
    update {locks} l
    set owner = h.owner, client = h.client, label = h.label,
        kind = coalesce(h.kind, l.kind), ttl_us = coalesce(h.ttl_us, l.ttl_us),
        token = case when h.i is null then l.token else greatest(t.last + 1, t.us) end,
        granted_at = case when h.i is null then l.granted_at else t.now end,
        expires_at = coalesce(h.ends, least(l.expires_at, t.now))
    from taken t left join heir h on h.i = t.i
    where l.ctid = t.at
    returning t.i, t.name, t.now, t.client, t.held, h.entry, h.since, h.owner as heir, h.client as heirs_client,
        case when h.i is not null then l.token end as token,
        (date_part('epoch', h.asked) * 1e6)::bigint as asked
),
unqueued as (
    delete from {waiters} w
    where w.ctid = any (array(
        select d.at from claim c
        cross join lateral (
            select d.ctid as at from {waiters} d
            where d.space = $1 and d.name = c.name and d.owner = c.owner
            for update {locked}
        ) d
        union all
        select f.entry from freed f where f.entry is not null
        union all
        -- Those before the heir have died.
        select d.at from freed f
        cross join lateral (
            select d.ctid as at from {waiters} d
            where d.space = $1 and d.name = f.name and d.since < f.since
                and not (d.until > f.now and d.until <= (f.now + interval '{waiter_ttl}'))
            for update skip locked
        ) d
    ))
    returning w.name, w.owner
)
select k.us as now, coalesce(f.held, false) as held, f.client, k.alone, k.durable,
    case when f.heirs_client = $6 then f.heir end as heir, f.token, f.asked,
    -- It was there when the statement began, and somebody else has locked it: the lease, or the entry of an owner whom the
    -- lock may be handed over to at this moment.
    f.i is null and exists(
        select from {locks} l where l.space = $1 and l.name = c.name and l.owner = c.owner
    ) or exists(
        select from {waiters} w where w.space = $1 and w.name = c.name and w.owner = c.owner
    ) and not exists(
        select from unqueued u where u.name = c.name and u.owner = c.owner
    ) as locked
from clock k cross join claim c left join freed f on f.i = c.i
order by c.i
