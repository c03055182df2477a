-- Returns the holder of one lock, if there is one.
-- Parameters: $1 prefix, $2 name. Reply: see `holder.sql`.
{holder}
where l.space = $1 and l.name = $2 and l.owner is not null and l.expires_at > t.now
