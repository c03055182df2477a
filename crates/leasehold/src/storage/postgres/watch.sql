-- Registers a client as an observer of locks, or again so.
insert into {waiters} as w (space, name, owner, client, since, until)
select $1, n.name, $2, $3, 'infinity', clock_timestamp() + interval '{observer_ttl}'
from unnest($4::text[]) as n(name) order by n.name
on conflict (space, name, owner) do update set until = excluded.until
