-- Ends each owner's lease and its entry in the queue. A lock with a waiter is handed over in the same statement: the
-- first waiter holds it from then on, and `notify.sql` tells it so.
--
--  1. `clock`     reads the server's clock, makes the commit durable, and tries to take the client's advisory lock
--                 exclusively. `alone` is false while an earlier acquire of this client is still being executed.
--  2. `claim`     unpacks the arrays. `taken` locks the rows of the leases.
--  3. `successor` locks, for each of them, the entry of the waiter that the lock is handed over to, if there is one.
--  4. `freed`     updates the rows: the successor is the owner from now on, with the next token, or the lock is free.
--  5. `unqueued`  deletes the entries of the claims' owners and of the successors, and the expired ones before those.
--
-- It is sent in two forms. One skips rows that another transaction has locked and reports them as `locked`; the other
-- waits for them and hands nothing over.
--
-- Parameters:
--   $1      prefix
--   $2      key of the client's advisory lock, or null
--   $3, $4  arrays of the claims: names, owners
--   $5      whether the client waits for the reply before it notifies
--   $6      client id
--
-- Reply, one row for each claim, in their order:
--   now      the server's clock, in us
--   held     the lease was alive until now
--   client   the client through which it was held
--   alone    no earlier acquire of this client is being executed
--   successor, token, asked   the waiter of this client that holds the lock now, its token, and since when, in us, its
--                             lease counts
--   locked   another transaction has locked the lease or the entry
--   durable  not read: selected so that the setting that it makes is not left out
with clock as materialized (
    select t.now, (date_part('epoch', t.now) * 1e6)::bigint as us, {durable} as durable, {patient} as patient,
        pg_try_advisory_xact_lock($2) as alone,
        -- No handover that a standby may lack is notified before the commit has been answered.
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
-- The first live waiter, unless its entry is locked or has changed because it leaves or asks at this moment. Its lease
-- counts from its last claim (`asked`), since it does not know when this is executed. It ends with the entry, or a
-- TTL after that claim if this is sooner. If half of that time is over, or the TTL is below 2 s, nothing is handed over.
successor as materialized (
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
    from taken t left join successor h on h.i = t.i
    where l.ctid = t.at
    returning t.i, t.name, t.now, t.client, t.held, h.entry, h.since, h.owner as successor, h.client as successor_client,
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
        -- The expired entries before the successor.
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
    case when f.successor_client = $6 then f.successor end as successor, f.token, f.asked,
    -- The lease, or the entry, was there when the statement began, and another transaction has locked it. A release may
    -- be handing the lock over to the entry's owner.
    f.i is null and exists(
        select from {locks} l where l.space = $1 and l.name = c.name and l.owner = c.owner
    ) or exists(
        select from {waiters} w where w.space = $1 and w.name = c.name and w.owner = c.owner
    ) and not exists(
        select from unqueued u where u.name = c.name and u.owner = c.owner
    ) as locked
from clock k cross join claim c left join freed f on f.i = c.i
order by c.i
