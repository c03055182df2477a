-- What a role or a database may have set otherwise, and what has a statement planned once, and for a table that grows.
-- Only if nobody stands between us and the process whose id we were told at login: a pooler gives that process to
-- others, with what is set.
select set_config('statement_timeout', '0', false) where pg_backend_pid() = {backend};

select set_config(s.name, v.value, false)
from (values
    ('lock_timeout', '0'),
    ('idle_in_transaction_session_timeout', '0'),
    ('idle_session_timeout', '0'),
    ('transaction_timeout', '0'),
    ('default_transaction_isolation', 'read committed'),
    ('plan_cache_mode', 'force_generic_plan'),
    ('jit', 'off'),
    ('enable_seqscan', 'off'),
    -- It would remember rows by their places, of which none comes twice.
    ('enable_memoize', 'off')
) as v(name, value)
join pg_settings s on s.name = v.name
where pg_backend_pid() = {backend};
