-- One row per lock that was ever held. It stays when the lock is released, so that its tokens grow.
create table if not exists {locks} (
    space pg_catalog.text collate pg_catalog."C" not null, -- the option `prefix`
    name pg_catalog.text collate pg_catalog."C" not null, -- the lock
    kind pg_catalog.text not null,               -- what kind of lock it is
    owner pg_catalog.uuid,                       -- who holds, while somebody does
    client pg_catalog.text,                      -- the client through which it holds
    token bigint not null,                       -- the fencing token of the last grant
    ttl_us bigint not null,                      -- how long the lease lasts from its last grant or renewal
    granted_at pg_catalog.timestamptz not null,
    expires_at pg_catalog.timestamptz not null,  -- when the lease ends or ended
    label pg_catalog.text,                       -- what the holder calls itself
    primary key (space, name)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.1);

-- One row per waiter, and one per client and lock that it observes, whose `since` is infinity.
create unlogged table if not exists {waiters} (
    space pg_catalog.text collate pg_catalog."C" not null,
    name pg_catalog.text collate pg_catalog."C" not null,
    owner pg_catalog.uuid not null,
    client pg_catalog.text,                      -- whose channel to notify; null if it does not listen
    kind pg_catalog.text,                        -- this and the next two: what it asks for, as above; null of observers
    ttl_us bigint,
    label pg_catalog.text,
    since pg_catalog.timestamptz not null,       -- its place in the queue
    until pg_catalog.timestamptz not null,       -- it counts as long as this lies ahead
    primary key (space, name, owner)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.1);

create index if not exists {queue} on {waiters} (space, name, since, owner);

create index if not exists {observers} on {waiters} (space, name) where since operator(pg_catalog.=) 'infinity';

comment on table {locks} is '{version}';
