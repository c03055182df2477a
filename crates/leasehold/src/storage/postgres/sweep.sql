-- Forgets the entries of clients that have died.
delete from {waiters}
where ctid = any (array(
    select w.ctid from {waiters} w
    where w.until < (clock_timestamp() - interval '{waiter_ttl}') limit 1000 for update skip locked
))
