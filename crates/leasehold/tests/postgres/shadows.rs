//! A `search_path` that begins with functions, operators and types of the names that the statements use.

use futures_util::StreamExt as _;
use leasehold::storage::postgres::{Config, Fence};
use leasehold::storage::{AcquireReply, Hint, ReleaseReply, RenewReply, Storage as _};
use leasehold_testbed::PgBouncer;

use crate::tools::*;

/// Makes a schema whose functions, operators and types raise an error, for all types that occur.
const SHADOWS: &str = r#"
create schema evil;
grant usage on schema evil to public;
do $do$
declare
    types text[] := array['text', 'uuid', 'int8', 'int4', 'bool', 'timestamptz', 'interval', 'float8', 'numeric', 'tid',
        'name', 'oid', 'regclass', '"char"', 'text[]', 'uuid[]', 'int8[]', 'bool[]', 'oidvector'];
    l text; r text; f record; o text; number int := 0;
begin
    -- Those of every built-in function that a statement calls, as it is.
    for f in
        select p.proname, string_agg(t.t::regtype::text, ', ' order by t.i) filter (where t.i is not null) as args,
            p.prorettype::regtype::text as result
        from pg_proc p left join lateral unnest(p.proargtypes) with ordinality as t(t, i) on true
        where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind = 'f' and p.proname in (
            'clock_timestamp', 'now', 'date_part', 'set_config', 'current_setting', 'replace', 'concat_ws', 'pg_notify',
            'pg_try_advisory_xact_lock', 'pg_try_advisory_xact_lock_shared', 'pg_advisory_xact_lock', 'pg_backend_pid',
            'pg_is_in_recovery', 'to_regclass', 'obj_description', 'pg_postmaster_start_time', 'starts_with',
            'pg_listening_channels', 'text', 'int8', 'timestamptz', 'interval', 'uuid')
        group by p.oid having bool_and(coalesce(t.t::regtype::text, '') not in ('"any"', 'internal', 'cstring', 'anyelement'))
    loop
        number := number + 1;
        execute format('create function evil.%I(%s) returns %s language plpgsql as
            $$ begin raise exception ''a shadow was called: %s''; end $$', f.proname, coalesce(f.args, ''),
            case f.result when 'pg_catalog.void' then 'void' else f.result end, f.proname);
    end loop;
    foreach l in array array['text', 'uuid', 'int8', 'bool', 'oid'] loop
        execute format('create function evil.unnest(%s[]) returns setof %s language plpgsql as
            $$ begin raise exception ''a shadow was called: unnest''; end $$', l, l);
    end loop;
    create function evil.count() returns int8 language plpgsql as $$ begin raise exception 'a shadow was called: count'; end $$;
    -- And an operator for each two types.
    foreach l in array types loop
        foreach r in array types loop
            execute format('create function evil.operate(%s, %s) returns bool language plpgsql as
                $$ begin raise exception ''a shadow was called: %s operator %s''; end $$', l, r, l, r);
            foreach o in array array['=', '<>', '<', '<=', '>', '>=', '+', '-', '*', '/', '||'] loop
                execute format('create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.operate)', o, l, r);
            end loop;
        end loop;
    end loop;
    if number < 30 then raise exception 'only % functions', number; end if;
end $do$;
create domain evil.text as pg_catalog.text check (false);
create domain evil.uuid as pg_catalog.uuid check (false);
create domain evil.timestamptz as pg_catalog.timestamptz check (false);
create domain evil.bool as pg_catalog.bool check (false);
create domain evil.int8 as pg_catalog.int8 check (false);
create domain evil.name as pg_catalog.name check (false);
create domain evil.regclass as pg_catalog.regclass check (false);
"#;

#[test]
fn functions_before_pg_catalog_in_the_search_path_are_not_called() {
    run(async {
        let database = table();
        common().database(&database).expect("made");
        common().sql_in(&database, SHADOWS).unwrap_or_else(|error| panic!("{error}"));
        let role = table();
        common().user(&role, "pw").expect("made");
        let grant = format!(
            "create schema {role} authorization {role}; \
             alter role {role} in database {database} set search_path = evil, pg_catalog, pg_temp"
        );
        common().sql_in(&database, &grant).expect("set");
        let pooler = PgBouncer::start(common()).expect("a pooler");
        pooler.user(&role, "pw").expect("let in");
        let of = |url: String| url.replace("/leasehold", &format!("/{database}"));
        let urls = [common().url_as(&role, "pw"), pooler.user(&role, "pw").expect("let in")].map(of);
        // An unqualified statement finds them.
        let plain =
            common().sql_in(&database, "set search_path = evil, pg_catalog; select clock_timestamp()");
        let plain = plain.expect_err("a shadow").to_string();
        assert!(plain.contains("a shadow was called"), "{plain}");
        for url in urls {
            let url = with(&with(&url, &format!("schema={role}")), &format!("table={}", table()));
            let (storage, other) = (bare(&url).await, bare(&url).await);
            // A role of that name is needed by the statements below.
            let mut hints: Hints = Box::pin(storage.hints());
            let mut theirs: Hints = Box::pin(other.hints());
            if storage.guarantees().push {
                assert_eq!(within(LONG, hints.next()).await, Some(Hint::Any));
                assert_eq!(within(LONG, theirs.next()).await, Some(Hint::Any));
            }
            other.watch(&[name("job")], &[]);
            for round in 0..3 {
                let (mine, next) = (claim("job"), claim("job").wait(true));
                let token = take(&storage, &mine).await;
                assert_eq!(take(&storage, &mine).await, token);
                is_held(&other, &next).await;
                is_held(&other, &next).await;
                assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
                let short = {
                    let mut short = mine.clone().shorten(true);
                    short.ttl /= 2;
                    short
                };
                assert!(matches!(renew(&other, &short).await, Ok(RenewReply::Renewed { .. })));
                assert_eq!(
                    storage.inspect(&mine.name).await.expect("answered").pop().expect("held").owner,
                    mine.owner
                );
                assert_eq!(storage.list("jo", None, 10).await.expect("answered").len(), 1);
                // As after the clock was set back.
                let ahead = format!(
                    "update {role}.{} set expires_at = expires_at + interval '1 day'",
                    table_of(&url)
                );
                common().sql_in(&database, &ahead).expect("done");
                is_held(&other, &next).await;
                let fence = Fence::new(&Config::new(&url).expect("valid"));
                let check =
                    fence.sql().replace("$1", "''").replace("$2", "'job'").replace("$3", &token.to_string());
                let check = format!("set search_path = evil, pg_catalog; {check}");
                assert_eq!(common().sql_in(&database, &check).expect("checked"), "1");
                assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
                take_in_the_end(&other, &next).await;
                assert_eq!(
                    release(&storage, &next).await.expect("answered"),
                    ReleaseReply::Released,
                    "{round}"
                );
                let many: Vec<_> = (0..20).map(|i| claim(&format!("many{i}"))).collect();
                for answer in storage.acquire(&many).await {
                    assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
                }
                for answer in storage.release(&many).await {
                    assert_eq!(answer.expect("answered"), ReleaseReply::Released);
                }
            }
            other.watch(&[], &[name("job")]);
        }
    });
}
