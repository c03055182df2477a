//! Makes the tables: once, even if many processes do so at the same time.

use tokio_postgres::Client;

use super::config::Config;
use super::errors;
use super::statements::{self, CHANNEL, VERSION};
use crate::error::{Error, ErrorKind, Result};

/// The key of the advisory lock that is held while the tables are made: the last eight letters of `leasehold` in ASCII.
const KEY: i64 = i64::from_be_bytes(*b"easehold");

/// Returns the statements that make the tables and grant the URL's user what it needs, for an administrator to run.
pub(super) fn sql(config: &Config) -> String {
    let [locks, waiters] = statements::tables(config);
    let (schema, tables) = (&config.schema, statements::schema(config));
    // Every database has that schema, and a role that may make tables in it may not be allowed to create schemas.
    let create = match schema.as_str() {
        "public" => String::new(),
        _ => format!("create schema if not exists \"{schema}\";\n\n"),
    };
    let (comment, role) = match &config.login.user {
        Some(user) => ("", format!("\"{}\"", user.replace('"', "\"\""))),
        None => ("-- ", "locks_role".to_owned()),
    };
    format!(
        "-- The tables of Leasehold: {VERSION}.\n\n\
         {create}{tables}\n\
         -- The rights that a role needs for locking. Clients notify each other on channels that begin with {CHANNEL};\n\
         -- that needs no right.\n\
         {comment}grant usage on schema \"{schema}\" to {role};\n\
         {comment}grant select, insert, update, delete on {locks}, {waiters} to {role};\n"
    )
}

/// Makes the tables, in one transaction: the server runs the statements of one message in one.
pub(super) async fn make(client: &Client, config: &Config, server: &str) -> Result<()> {
    let schema = &config.schema;
    // A role that may not create schemas may not run `if not exists` either.
    let has_schema = client
        .query_typed(
            "select 1 from pg_catalog.pg_namespace where nspname operator(pg_catalog.=) $1::pg_catalog.name",
            &[(schema, tokio_postgres::types::Type::TEXT)],
        )
        .await
        .map_err(|e| errors::statement(&e, server))?;
    let create = match has_schema.is_empty() {
        true => format!("create schema if not exists \"{schema}\";"),
        false => String::new(),
    };
    let tables = statements::schema(config);
    let batch = format!("select pg_catalog.pg_advisory_xact_lock({KEY}); {create} {tables}");
    client.batch_execute(&batch).await.map_err(|error| {
        let explained = errors::statement(&error, server);
        match explained.kind() {
            ErrorKind::Unsupported => {
                let text = "the tables are missing, and the user may not make them; have an administrator run what \
                    `leasehold doctor --sql` prints, or name a schema of the user's by the URL option `schema`";
                let [locks, _] = statements::tables(config);
                Error::new(ErrorKind::Unsupported, format!("{text} server=`{server}` table=`{locks}`"))
            }
            _ => explained,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rights_are_for_the_user_of_the_url() {
        let sql = |url| sql(&Config::new(url).expect("valid"));
        let named = sql("postgres://a%22b:S3CRET@h/d?schema=s&table=t");
        assert!(named.contains("\ncreate schema if not exists \"s\";\n"), "{named}");
        assert!(named.contains("\ngrant usage on schema \"s\" to \"a\"\"b\";\n"), "{named}");
        let rights =
            "\ngrant select, insert, update, delete on \"s\".\"t\", \"s\".\"t_waiters\" to \"a\"\"b\";\n";
        assert!(named.contains(rights) && !named.contains("S3CRET"), "{named}");
        let unnamed = sql("postgres://h/d");
        assert!(unnamed.contains("\n-- grant usage on schema \"public\" to locks_role;\n"), "{unnamed}");
        assert!(!unnamed.contains("create schema"), "{unnamed}");
    }
}
