//! Makes the tables, once, however many processes want to at the same time.

use tokio_postgres::Client;

use super::answers::explain;
use super::config::Config;
use super::statements::{self, CHANNEL, VERSION};
use crate::error::{Error, ErrorKind, Result};

/// Whoever makes tables of ours holds this advisory lock meanwhile: `leasehold` in ASCII, the last eight letters.
const KEY: i64 = i64::from_be_bytes(*b"easehold");

/// Returns what makes the tables, and what the URL's user needs that may not: for those who keep the schema themselves.
pub(super) fn sql(config: &Config) -> String {
    let [locks, waiters] = statements::tables(config);
    let (schema, tables) = (&config.schema, statements::schema(config));
    // Everybody has that one, and who makes tables in it may not be allowed to say `if not exists` of it.
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
         -- All that a role needs that locks. Clients notify each other on channels that begin with {CHANNEL};\n\
         -- that needs no right.\n\
         {comment}grant usage on schema \"{schema}\" to {role};\n\
         {comment}grant select, insert, update, delete on {locks}, {waiters} to {role};\n"
    )
}

/// Makes the tables. One transaction, since the server runs the statements of one message in one.
pub(super) async fn make(client: &Client, config: &Config, place: &str) -> Result<()> {
    let schema = &config.schema;
    // Who may not create schemas may not say `if not exists` either.
    let has_schema = client
        .query_typed(
            "select 1 from pg_catalog.pg_namespace where nspname operator(pg_catalog.=) $1::pg_catalog.name",
            &[(schema, tokio_postgres::types::Type::TEXT)],
        )
        .await
        .map_err(|e| explain(&e, place))?;
    let create = match has_schema.is_empty() {
        true => format!("create schema if not exists \"{schema}\";"),
        false => String::new(),
    };
    let tables = statements::schema(config);
    let batch = format!("select pg_catalog.pg_advisory_xact_lock({KEY}); {create} {tables}");
    client.batch_execute(&batch).await.map_err(|error| {
        let explained = explain(&error, place);
        match explained.kind() {
            ErrorKind::Unsupported => {
                let text = "the tables are missing, and the user may not make them; let somebody run what \
                    `leasehold doctor --sql` prints, or name a schema of the user's by the URL option `schema`";
                let [locks, _] = statements::tables(config);
                Error::new(ErrorKind::Unsupported, format!("{text} server=`{place}` table=`{locks}`"))
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
