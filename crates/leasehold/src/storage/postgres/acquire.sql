-- Answers each claim: a row each, in their order. Nothing waits for a row that another transaction has locked, of a lock
-- or of a waiter: such a claim is `raced`. A refused claim without `wait` writes nothing. One whose owner holds is left to
-- `renew.sql`.
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable,
        set_config('lock_timeout', $12, true) as patient,
        pg_try_advisory_xact_lock_shared($3) as fenced,
        exists(select from {waiters} where space = $1) as any_waiter
    from clock_timestamp() as t(now)
),
claim as materialized (
    select c.*, k.now, k.us, k.fenced and k.us <= c.not_after as timely
    from clock k, rows from (unnest($4::text[]), unnest($5::text[]), unnest($6::uuid[]), unnest($7::bigint[]), unnest($8::bigint[]), unnest($9::bool[]), unnest($10::text[]),
            unnest($13::bool[]))
        with ordinality as c(name, kind, owner, ttl_us, not_after, wait, label, makes, i)
),
-- What was there when the statement began. `at` is the version of the row that was seen.
found as materialized (
    select c.*, l.at, l.holder, l.held, l.mine, l.last, l.held_label, l.granted_at, l.ends,
        l.overlong, q.first is not null as queued,
        c.wait and c.timely and (select any_waiter from clock) and exists(
            select from {waiters} w where w.space = $1 and w.name = c.name and w.owner = c.owner
        ) as has_place,
        not q.alive as dead,
        coalesce(case when q.alive then q.first end, n.owner) as head,
        c.timely and not coalesce(l.held, false)
            and coalesce(coalesce(case when q.alive then q.first end, n.owner) = c.owner, true) as turn
    from claim c
    left join lateral (
        select l.ctid as at, l.owner as holder, l.token as last, l.label as held_label, l.granted_at,
            l.owner is not null and l.expires_at > c.now as held,
            l.owner is not null and l.expires_at > c.now and l.owner = c.owner as mine,
            -- More than a TTL ahead: the clock was set back.
            least(l.expires_at, c.now + (l.ttl_us * interval '1 us')) as ends,
            l.expires_at > (c.now + ((l.ttl_us * interval '1 us') + interval '100 ms')) as overlong
        from {locks} l where l.space = $1 and l.name = c.name offset 0
    ) l on true
    left join lateral (
        select w.owner as first, w.until > c.now and w.until <= (c.now + interval '{waiter_ttl}') as alive
        from {waiters} w
        where (select any_waiter from clock) and w.space = $1 and w.name = c.name and w.since < 'infinity'
        order by w.since, w.owner limit 1
    ) q on true
    -- Only if those before it have died.
    left join lateral (
        select w.owner from {waiters} w
        where not q.alive and w.space = $1 and w.name = c.name and w.since < 'infinity'
            and w.until > c.now and w.until <= (c.now + interval '{waiter_ttl}')
        order by w.since, w.owner limit 1
    ) n on true
),
-- Those whose own entry could be locked. Whose could not may be handed the lock at this moment.
placed as materialized (
    select f.i from found f
    cross join lateral (
        select from {waiters} w where w.space = $1 and w.name = f.name and w.owner = f.owner for update skip locked
    ) w
    where f.has_place
),
seen as materialized (
    select f.*, a.able, f.turn and a.able as open
    from found f left join placed p on p.i = f.i
    cross join lateral (select not f.has_place or p.i is not null as able) a
),
-- FOR UPDATE, not what an update takes: whoever pins the row by FOR KEY SHARE keeps it from another owner. The row is
-- looked at again when it is locked: a newer version may have come, and before PostgreSQL 15.15 (and 13.23, 14.20, 16.11,
-- 17.7, 18.1) a condition on `ctid` alone is not checked of that.
taken as materialized (
    select s.* from seen s
    cross join lateral (
        select from {locks} l
        where l.ctid = s.at and l.token = s.last and (l.owner is null or l.expires_at <= s.now)
        for update skip locked
    ) l
    where s.open and s.at is not null
),
granted as (
    update {locks} l
    set owner = t.owner, kind = t.kind, client = $2, label = t.label, token = greatest(t.last + 1, t.us),
        ttl_us = t.ttl_us, granted_at = t.now, expires_at = t.now + (t.ttl_us * interval '1 us')
    from taken t where l.ctid = t.at
    returning t.i, l.token
),
made as (
    insert into {locks} as l (space, name, kind, owner, client, token, ttl_us, granted_at, expires_at, label)
    select $1, s.name, s.kind, s.owner, $2, s.us, s.ttl_us, s.now, s.now + (s.ttl_us * interval '1 us'), s.label
    from seen s where s.open and s.at is null and s.makes order by s.name
    on conflict do nothing
    returning l.name, l.token
),
won as materialized (
    select i, token from granted
    union all select s.i, m.token from made m join seen s on s.name = m.name
),
queued as (
    insert into {waiters} as w (space, name, owner, client, kind, ttl_us, label, since, until)
    select $1, s.name, s.owner, $11, s.kind, s.ttl_us, s.label, s.now, s.now + interval '{waiter_ttl}'
    from seen s
    where s.wait and s.able and s.timely and s.mine is not true and not exists (select from won where won.i = s.i)
    order by s.name
    on conflict (space, name, owner) do update
    set client = excluded.client, kind = excluded.kind, ttl_us = excluded.ttl_us, label = excluded.label,
        until = excluded.until,
        since = case when w.until >= excluded.since and w.until <= excluded.until then w.since else excluded.since end
    returning w.name, w.since
),
-- Its own entry, and those of the dead before it.
unqueued as (
    delete from {waiters} w
    where (select any_waiter from clock) and w.ctid = any (array(
        select d.at from seen s join won on won.i = s.i
        cross join lateral (
            select d.ctid as at from {waiters} d
            where d.space = $1 and d.name = s.name and d.owner = s.owner for update skip locked
        ) d
        where s.queued
        union all
        select d.at from seen s join won on won.i = s.i
        cross join lateral (
            select d.ctid as at from {waiters} d
            where d.space = $1 and d.name = s.name and d.owner <> s.owner
                and not (d.until > s.now and d.until <= (s.now + interval '{waiter_ttl}'))
            for update skip locked
        ) d
        where s.dead
    ))
)
select s.us as now, won.token, s.timely,
    won.token is null and (s.open or not s.able) as raced,
    won.token is null and s.open and s.at is null as missing,
    coalesce(s.mine, false) as mine,
    coalesce(s.held and s.overlong, false) as overlong, (select any_waiter from clock) as any_waiter,
    case when won.token is null and s.held then s.holder end as holder,
    case when won.token is null and s.held then s.last end as held_token,
    case when won.token is null and s.held then {held_label} end as held_label,
    case when won.token is null and s.held then (date_part('epoch', s.ends - s.now) * 1e6)::bigint end as remaining,
    case when won.token is null and s.held then (date_part('epoch', s.now - s.granted_at) * 1e6)::bigint end as held_for,
    (date_part('epoch', s.now - w.since) * 1e6)::bigint as waited,
    s.head = s.owner as is_head,
    -- How many stand before it, roughly, if it has to ask for itself when its turn comes.
    case when w.since is not null and $11::text is null then (
        select count(*) from (
            select from {waiters} b where b.space = $1 and b.name = s.name and b.since < w.since limit 1000
        ) b
    ) end as before,
    won.token is not null and (select exists(select from {waiters} where space = $1 and since = 'infinity'))
        and exists(select from {waiters} w where w.space = $1 and w.name = s.name and w.since = 'infinity') as observed,
    (select durable from clock) as durable
from seen s left join won on won.i = s.i left join queued w on w.name = s.name
order by s.i
