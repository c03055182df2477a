select
    pg_backend_pid() as backend,
    pg_is_in_recovery() as standby,
    current_setting('transaction_read_only') = 'on' as read_only,
    (date_part('epoch', clock_timestamp()) * 1e6)::bigint as now,
    current_setting('server_version') as version,
    current_setting('server_version_num')::int as version_number,
    current_setting('fsync') = 'on' as fsync,
    current_setting('full_page_writes') = 'on' as full_page_writes,
    current_setting('synchronous_standby_names') <> '' as synchronous,
    current_setting('transaction_isolation') as isolation,
    (
        select count(*) from pg_stat_replication r
        where not exists (
            select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical'
        )
    ) as standbys,
    (extract(epoch from pg_postmaster_start_time()) * 1e6)::bigint as started,
    (select system_identifier from pg_control_system()) as system,
    (select timeline_id from pg_control_checkpoint()) as timeline,
    t.locks is not null and t.waiters is not null as made,
    (select relpersistence::text from pg_class where oid = t.locks) as persistence,
    obj_description(t.locks, 'pg_class') as comment
from (select to_regclass($1) as locks, to_regclass($2) as waiters) t
