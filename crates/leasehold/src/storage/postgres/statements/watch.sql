-- Registers a client as an observer of locks, or refreshes that.
-- Parameters: $1 prefix, $2 the observer's id, $3 client id, $4 names. No reply columns are read.
insert into {waiters} as w (space, name, owner, client, since, until)
select $1, n.name, $2, $3, 'infinity', clock_timestamp() + interval '{observer_ttl}'
from unnest($4::text[]) as n(name) order by n.name
on conflict (space, name, owner) do update set until = excluded.until
