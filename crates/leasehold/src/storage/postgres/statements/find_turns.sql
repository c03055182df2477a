-- Finds the claims whose lock is free and whose turn it is, by a snapshot that is newer than their entries.
--
-- Parameters: $1 prefix; arrays of the claims: $2 names, $3 owners.
-- Reply, one row for each claim that it finds: `i`, its number, from 1.
select c.i
from rows from (unnest($2::text[]), unnest($3::uuid[])) with ordinality as c(name, owner, i)
cross join lateral (
    select w.owner from {waiters} w
    where w.space = $1 and w.name = c.name and w.since < 'infinity'
        and w.until > clock_timestamp() and w.until <= (clock_timestamp() + interval '{waiter_ttl}')
    order by w.since, w.owner limit 1
) head
where head.owner = c.owner and not exists (
    select from {locks} l
    where l.space = $1 and l.name = c.name and l.owner is not null and l.expires_at > clock_timestamp()
)
