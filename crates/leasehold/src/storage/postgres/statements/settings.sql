-- Sets what a role or a database may have set otherwise, and settings by which a statement is planned once, and for a
-- table that grows. It does so only if the process that answers is the one of the login: a pooler gives that process to
-- others, with its settings.
select set_config('statement_timeout', '0', false) where pg_backend_pid() = {backend};

select set_config(v.name, v.value, false)
from (values
    -- A table that is locked holds up no statement for longer.
    ('lock_timeout', '{lock_timeout}'),
    ('idle_in_transaction_session_timeout', '0'),
    ('idle_session_timeout', '0'),
    ('transaction_timeout', '0'),
    ('default_transaction_isolation', 'read committed'),
    ('plan_cache_mode', 'force_generic_plan'),
    ('jit', 'off'),
    ('enable_indexscan', 'on'),
    ('enable_tidscan', 'on'),
    ('enable_nestloop', 'on'),
    ('enable_seqscan', 'off'),
    -- Memoize would cache rows by their `ctid`, and none is looked up twice.
    ('enable_memoize', 'off')
) as v(name, value)
where current_setting(v.name, true) is not null and pg_backend_pid() = {backend};
