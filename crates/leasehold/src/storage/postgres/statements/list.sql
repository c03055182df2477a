-- Lists holders, ordered by name.
--
-- Parameters: $1 prefix, $2 the first name, $3 the token above which holders of that name are listed, or null,
-- $4 the name before which the list ends, or null, $5 how many, $6 what the names begin with, $7 how many are skipped.
-- Reply: see `holder.sql`.
{holder}
where l.space = $1 and l.name >= $2 and ($3::int8 is null or l.name > $2 or l.token > $3) and ($4::text is null or l.name < $4)
    and starts_with(l.name, $6)
    and l.owner is not null and l.expires_at > t.now
order by l.name
limit $5 offset $7
