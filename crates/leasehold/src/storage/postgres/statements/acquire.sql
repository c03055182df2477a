-- Decides every claim of a batch. Waits for no row that another transaction has locked, of a lock or of a waiter.
--
--  1. `clock`    reads the server's clock once, makes the commit durable, and takes the client's advisory lock in shared
--                mode. A release that found nothing holds that lock exclusively; then no claim is executed (`fenced`).
--  2. `claim`    unpacks the arrays. A claim is `timely` until its `not_after`.
--  3. `found`    reads each lock and the head of its queue as they were when the statement began. It is the claim's
--                `turn` if the lock is free, and no live waiter of another owner is first.
--  4. `placed`   locks the claim's own entry in the queue. `seen` adds `able`: the claim has no entry, or it was locked.
--  5. `taken`    locks the rows of the free locks. `granted` updates them, `made` inserts those that are missing, and
--                `won` is both together.
--  6. `queued`   enters each waiting claim that won nothing in the queue, or renews its entry there.
--  7. `unqueued` deletes the entries of the winners, and the expired entries before them.
--
-- A claim without `wait` that is not granted writes nothing. A claim whose owner holds already is left to `renew.sql`.
--
-- Parameters:
--   $1        prefix
--   $2        client id
--   $3        key of the client's advisory lock
--   $4 to $7  arrays of the claims: names, kinds, owners, TTLs in us
--   $8        array of `not_after`: the last moment of the server's clock at which each may be executed, in us
--   $9, $10   arrays of the claims: wait, labels
--   $11       the client whose channel is notified, or null
--   $12       how long an insert waits for another transaction that inserts the same row
--   $13       array: whether a missing row is inserted
--
-- Reply, one row for each claim, in their order:
--   now         the server's clock, in us
--   token       the fencing token, if the claim is granted
--   timely      false: the claim came too late and did nothing
--   raced       another transaction has locked a row of it, or changed it since the statement began
--   missing     `raced`, and the lock has no row
--   mine        the owner holds the lock already
--   overlong    the lease lasts longer than its TTL, because the clock was set back
--   any_waiter  any lock of this prefix has a waiter or an observer
--   holder, held_token, held_label, remaining, held_for     the holder, if there is one; durations in us
--   waited      how long the claim has been in the queue, in us; 0 if it has just entered
--   is_head     the claim is the first in the queue
--   before      how many are before it, up to 1000, if no channel is notified
--   observed    the claim is granted, and the lock has observers
--   durable     not read: selected so that the setting that it makes is not left out
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
-- `at` is the version of the row that was read.
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
            -- No lease counts for longer than its TTL from now, since the clock may have been set back.
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
    -- The first live waiter, if the first has expired.
    left join lateral (
        select w.owner from {waiters} w
        where not q.alive and w.space = $1 and w.name = c.name and w.since < 'infinity'
            and w.until > c.now and w.until <= (c.now + interval '{waiter_ttl}')
        order by w.since, w.owner limit 1
    ) n on true
),
-- If the entry is locked, a release may be handing the lock over to its owner.
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
-- FOR UPDATE, not the weaker lock of an update: a transaction that pins the row by FOR KEY SHARE keeps it from another
-- owner. The row is checked again once it is locked, since a newer version may have come. Before PostgreSQL 15.15 (and
-- 13.23, 14.20, 16.11, 17.7, 18.1) a condition on `ctid` alone is not checked against that version.
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
    -- Roughly; it decides when a client that is not notified asks again.
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
