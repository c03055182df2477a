-- Tells clients that a lease of theirs was ended by somebody else.
select pg_notify('{channel}' || t.client, 'o' || replace(t.owner::text, '-', ''))
from rows from (unnest($1::text[]), unnest($2::uuid[])) as t(client, owner)
