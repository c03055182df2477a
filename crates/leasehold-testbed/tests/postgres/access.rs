//! Which clients may connect, in which ways, and with which credentials.

use std::process::Command;

use leasehold_testbed::{Postgres, Result, Tls, until};

use crate::psql;

#[test]
fn a_socket_and_users_with_limits_of_their_own() -> Result<()> {
    let postgres = Postgres::options().password("s3cret").unix_socket().start()?;
    let socket = postgres.socket_url().expect("it has one");
    assert_eq!(psql(&socket, "select inet_server_addr() is null")?, "t");
    psql(&socket.replace("s3cret", "wrong"), "select 1").expect_err("another password");

    let url = postgres.user("app", "first")?;
    assert_eq!(psql(&url, "select current_user")?, "app");
    psql(&url, "create table t (n int)").expect_err("without rights");
    postgres.set_password("app", "second")?;
    psql(&url, "select 1").expect_err("the old password");
    let url = postgres.url_as("app", "second");
    postgres.set_for("app", "statement_timeout", "1234ms")?;
    assert_eq!(psql(&url, "show statement_timeout")?, "1234ms");
    assert_eq!(postgres.sql_as("app", "second", "select current_user")?, "app");
    postgres.limit_connections_of("app", 0)?;
    let error = psql(&url, "select 1").expect_err("none is allowed").to_string();
    assert!(error.contains("too many connections"), "{error}");

    postgres.set("work_mem", "1234kB")?;
    until("the setting", || match postgres.sql("show work_mem")?.as_str() {
        "1234kB" => Ok(()),
        other => Err(leasehold_testbed::Error::new(other)),
    })
}

#[test]
fn clients_that_have_no_certificate_are_refused() -> Result<()> {
    let options = Postgres::options().client_certificates().setting("ssl_max_protocol_version", "TLSv1.2");
    let postgres = options.start()?;
    let version = "select version from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(postgres.sql(version)?, "TLSv1.2");
    let tls = postgres.tls().expect("it has certificates");
    let key = std::env::temp_dir().join(format!("leasehold-key-{}", std::process::id()));
    std::fs::copy(tls.client_key(), &key)?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let with = |cert: Option<std::path::PathBuf>| -> Result<String> {
        let mut command = Command::new("psql");
        command.args([&postgres.url(), "-Atc", "select 1"]).env("PGSSLROOTCERT", tls.ca());
        if let Some(cert) = cert {
            command.env("PGSSLCERT", cert).env("PGSSLKEY", &key);
        }
        let output = command.env("HOME", "/nonexistent").output()?;
        let said = if output.status.success() { output.stdout } else { output.stderr };
        Ok(String::from_utf8_lossy(&said).trim().to_owned())
    };
    assert_eq!(with(Some(tls.client_cert()))?, "1");
    let (none, stranger) = (with(None)?, with(Some(tls.stranger_cert()))?);
    assert!(none.contains("requires a valid client certificate"), "{none}");
    assert!(stranger.contains("unknown ca") || stranger.contains("certificate"), "{stranger}");
    std::fs::remove_file(key)?;
    // A standby accepts connections, too.
    let standby = postgres.start_standby()?;
    assert!(!standby.is_primary()?);
    Ok(())
}

#[test]
fn certificates_that_nobody_should_trust() -> Result<()> {
    let postgres = Postgres::options().tls().start()?;
    let tls = postgres.tls().expect("it has certificates");
    for (change, ca, complaint) in [
        (Tls::use_expired as fn(&Tls) -> Result<()>, tls.ca(), "certificate verify failed"),
        (Tls::use_wrong_host, tls.ca(), "does not match host"),
        (Tls::use_self_signed, tls.ca(), "certificate verify failed"),
        (Tls::use_unknown_authority, tls.ca(), "certificate verify failed"),
        (Tls::use_unknown_authority, tls.other_ca(), "1"),
        (Tls::use_trusted, tls.ca(), "1"),
    ] {
        change(tls)?;
        postgres.launch()?;
        until("the client to say so", || {
            let mut command = Command::new("psql");
            command.args([&postgres.url(), "-Atc", "select 1"]).env("PGSSLROOTCERT", &ca);
            let output = command.output()?;
            let said = [output.stdout, output.stderr].concat();
            match String::from_utf8_lossy(&said) {
                said if said.contains(complaint) && !said.contains("refused") => Ok(()),
                said => Err(leasehold_testbed::Error::new(said)),
            }
        })?;
    }
    Ok(())
}
