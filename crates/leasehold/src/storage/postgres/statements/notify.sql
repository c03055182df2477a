-- Notifies clients of locks that were released or handed over.
--
-- The channel of a client is `leasehold_` and its id. The payload's first letter says what it is:
--   o<owner>                                it may be that owner's turn
--   h<owner> <token> <asked in us> <name>   the lock was handed over to that owner; its lease counts from `asked`
--   n<name>                                 an observed lock has changed
--
--  1. The first live waiter of each lock that is free now.
--  2. The holder of each lock that was handed over. Such a lease counts from before it was granted.
--  3. The observers of each lock.
--
-- It is sent in two forms. The one behind a plain release does nothing unless a client waits or observes.
--
-- Parameters: $1 prefix, $2 names, $3 this client's id, $4 tokens of the handovers that every standby has. No reply
-- columns are read.
select pg_notify('{channel}' || t.client, t.payload)
from unnest($2::text[]) as n(name)
cross join lateral (
    select h.client, 'o' || replace(h.owner::text, '-', '') as payload
    from (
        select w.name, w.client, w.owner
        from {waiters} w
        where w.space = $1 and w.name = n.name and w.since < 'infinity'
            and w.until > clock_timestamp() and w.until <= (clock_timestamp() + interval '{waiter_ttl}')
        order by w.since, w.owner limit 1
    ) h
    where not exists (
        select from {locks} l
        where l.space = $1 and l.name = h.name and l.owner is not null and l.expires_at > clock_timestamp()
    )
    union all
    -- This client knows its own handovers by the reply to the release. A handover that a standby may lack is not
    -- announced: the owner is told to ask, which waits for the standby.
    select l.client,
        case when l.token = any ($4::bigint[]) or current_setting('synchronous_standby_names') = ''
            then concat_ws(' ', 'h' || replace(l.owner::text, '-', ''), l.token, (date_part('epoch', l.asked) * 1e6)::bigint, l.name)
            else 'o' || replace(l.owner::text, '-', '')
        end
    from (
        select l.*, l.expires_at - least(l.ttl_us * interval '1 us', interval '{waiter_ttl}') as asked
        from {locks} l where l.space = $1 and l.name = n.name and l.owner is not null
    ) l
    where l.granted_at > l.asked and l.client <> $3
    union all
    select w.client, 'n' || w.name
    from {waiters} w where w.space = $1 and w.name = n.name and w.since = 'infinity' and w.until > clock_timestamp()
) t
where t.client is not null and {if_any_waiter}
