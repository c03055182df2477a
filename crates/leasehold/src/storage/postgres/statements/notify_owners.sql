-- Notifies clients that another client has ended or shortened a lease of theirs: see `notify.sql` for the payload.
-- Parameters: $1 the clients' ids, $2 the owners. No reply columns are read.
select pg_notify('{channel}' || t.client, 'o' || replace(t.owner::text, '-', ''))
from rows from (unnest($1::text[]), unnest($2::uuid[])) as t(client, owner)
