-- What a role or a database may have set otherwise, and what has a statement planned once, and for a table that grows.
-- Only if nobody stands between us and the process whose id we were told at login: a pooler gives that process to
-- others, with what is set.
select set_config('statement_timeout', '0', false) where pg_backend_pid() = {backend};

select set_config(v.name, v.value, false)
from (values
    -- Whoever locks a whole table holds up no statement for longer.
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
    -- It would remember rows by their places, of which none comes twice.
    ('enable_memoize', 'off')
) as v(name, value)
where current_setting(v.name, true) is not null and pg_backend_pid() = {backend};
