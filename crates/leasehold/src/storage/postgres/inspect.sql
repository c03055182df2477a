{holder}
where l.space = $1 and l.name = $2 and l.owner is not null and l.expires_at > t.now
