-- Holders of names from $2 on that begin with $6, of $2 itself only those with a token above $3, and before $4, if those
-- are given; $5 of them, after $7.
{holder}
where l.space = $1 and l.name >= $2 and ($3::int8 is null or l.name > $2 or l.token > $3) and ($4::text is null or l.name < $4)
    and starts_with(l.name, $6)
    and l.owner is not null and l.expires_at > t.now
order by l.name
limit $5 offset $7
