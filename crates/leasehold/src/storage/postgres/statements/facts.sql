-- Asks what has to be known of a server before it is used. Optional facts may follow as further columns.
-- Parameters: $1 the table of the locks, $2 that of the waiters, $3 prefix, which the database must be able to hold.
-- Reply: one row; the columns are fields of `Facts`.
select
    pg_backend_pid() as backend,
    pg_is_in_recovery() as standby,
    current_setting('transaction_read_only') = 'on' as read_only,
    (date_part('epoch', clock_timestamp()) * 1e6)::bigint as now,
    current_setting('server_version') as version,
    current_setting('server_version_num')::int as version_number,
    current_setting('server_encoding') as encoding,
    current_setting('transaction_isolation') as isolation,
    $3::text is not null and t.locks is not null and t.waiters is not null as made,
    (select c.relpersistence::text from pg_catalog.pg_class c where c.oid = t.locks) as persistence,
    (
        select d.description from pg_catalog.pg_description d
        where d.objoid = t.locks and d.classoid = 'pg_catalog.pg_class'::regclass and d.objsubid = 0
    ) as comment{more}
from (select to_regclass($1) as locks, to_regclass($2) as waiters) t
