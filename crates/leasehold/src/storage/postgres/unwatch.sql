delete from {waiters} w using unnest($3::text[]) as n(name) where w.space = $1 and w.owner = $2 and w.name = n.name
