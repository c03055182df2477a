-- Deletes entries that expired one waiter's TTL ago or earlier: their clients have died. At most 1000 at a time.
delete from {waiters}
where ctid = any (array(
    select w.ctid from {waiters} w
    where w.until < (clock_timestamp() - interval '{waiter_ttl}') limit 1000 for update skip locked
))
