-- Lists holders, ordered by name.
--
-- Parameters: $1 prefix, $2 the first name, $3 whether that name itself is left out, $4 the name before which the list
-- ends, or null, $5 how many, $6 what the names begin with, $7 how many are skipped.
-- Reply: see `holder.sql`.
{holder}
where l.space = $1 and l.name >= $2 and not ($3 and l.name = $2) and ($4::text is null or l.name < $4)
    and starts_with(l.name, $6)
    and l.owner is not null and l.expires_at > t.now
order by l.name
limit $5 offset $7
