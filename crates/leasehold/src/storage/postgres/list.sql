-- Names from $2 on that begin with $6, without $2 itself if $3, and before $4 if that is given; $5 of them, after $7.
{holder}
where l.space = $1 and l.name >= $2 and not ($3 and l.name = $2) and ($4::text is null or l.name < $4)
    and starts_with(l.name, $6)
    and l.owner is not null and l.expires_at > t.now
order by l.name
limit $5 offset $7
