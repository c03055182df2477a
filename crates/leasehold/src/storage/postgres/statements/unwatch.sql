-- Removes a client as an observer of locks.
-- Parameters: $1 prefix, $2 the observer's id, $3 names. No reply columns are read.
delete from {waiters} w using unnest($3::text[]) as n(name) where w.space = $1 and w.owner = $2 and w.name = n.name
