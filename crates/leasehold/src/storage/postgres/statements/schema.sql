-- One row per lock that was ever held. It stays when the lock is released, so that its tokens grow.
create table if not exists {locks} (
    space pg_catalog.text collate pg_catalog."C" not null, -- the option `prefix`
    name pg_catalog.text collate pg_catalog."C" not null, -- the lock
    kind pg_catalog.text not null,               -- the kind of the lock
    owner pg_catalog.uuid,                       -- the acquisition that holds; null while the lock is free
    client pg_catalog.text,                      -- the client of that acquisition
    token bigint not null,                       -- the fencing token of the last grant
    ttl_us bigint not null,                      -- how long the lease lasts from its last grant or renewal
    granted_at pg_catalog.timestamptz not null,
    expires_at pg_catalog.timestamptz not null,  -- when the lease ends or ended
    label pg_catalog.text,                       -- a text that the holder gave
    primary key (space, name)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.1);

-- One row per waiter, and one per client and lock that it observes, whose `since` is infinity.
create unlogged table if not exists {waiters} (
    space pg_catalog.text collate pg_catalog."C" not null,
    name pg_catalog.text collate pg_catalog."C" not null,
    owner pg_catalog.uuid not null,
    client pg_catalog.text,                      -- the client whose channel is notified; null if it does not listen
    kind pg_catalog.text,                        -- this and the next two describe the claim, as above; null for observers
    ttl_us bigint,
    label pg_catalog.text,
    since pg_catalog.timestamptz not null,       -- when it entered the queue, which is ordered by this
    until pg_catalog.timestamptz not null,       -- when the entry expires
    primary key (space, name, owner)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.1);

create index if not exists {queue} on {waiters} (space, name, since, owner);

create index if not exists {observers} on {waiters} (space, name) where since operator(pg_catalog.=) 'infinity';

comment on table {locks} is '{version}';
