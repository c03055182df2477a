//! Every etcd setup starts, answers, survives the faults of tests, and elects another leader.

use leasehold_testbed::{Etcd, Result, shared};

#[test]
fn keeps_its_data_through_kill_9_and_counts() -> Result<()> {
    let etcd = Etcd::start()?;
    let before = etcd.members()[0].command_counts()?;
    assert_eq!(etcd.command(&["put", "key", "value"])?, "OK");
    let after = etcd.members()[0].command_counts()?;
    assert_eq!(after["Put"] - before.get("Put").unwrap_or(&0), 1);
    assert!(etcd.commands()? > 0);

    let before = etcd.connections()?;
    let connection = std::net::TcpStream::connect(("127.0.0.1", etcd.members()[0].port()))?;
    assert_eq!(etcd.connections()?, before + 1);
    drop(connection);

    etcd.kill9();
    assert!(!etcd.is_running());
    etcd.restart()?;
    assert_eq!(etcd.command(&["get", "key", "--print-value-only"])?, "value");
    etcd.stop();
    etcd.command(&["get", "key"]).expect_err("no server answers");
    etcd.cont();
    assert_eq!(etcd.command(&["get", "key", "--print-value-only"])?, "value");
    etcd.terminate()?;
    etcd.restart()?;
    assert_eq!(etcd.command(&["get", "key", "--print-value-only"])?, "value");
    Ok(())
}

#[test]
fn three_members_elect_another_leader() -> Result<()> {
    let etcd = Etcd::options().start_three()?;
    assert_eq!(etcd.command(&["put", "key", "value"])?, "OK");
    let first = etcd.leader()?;
    first.kill9();
    let second = etcd.await_leader_other_than(first)?;
    assert_eq!(second.command(&["get", "key", "--print-value-only"])?, "value");
    first.restart()?;
    let third = etcd.failover()?;
    assert_ne!(third.port(), second.port());
    assert_eq!(first.command(&["get", "key", "--print-value-only"])?, "value");
    Ok(())
}

#[test]
fn password_and_tls() -> Result<()> {
    let etcd = Etcd::options().password("s3cret").tls().start()?;
    assert!(etcd.url().starts_with("etcds://root:s3cret@127.0.0.1:"), "{}", etcd.url());
    assert_eq!(etcd.command(&["put", "key", "value"])?, "OK");
    let endpoint = format!("https://127.0.0.1:{}", etcd.members()[0].port());
    let with = |ca: &str| {
        std::process::Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args([&format!("--endpoints={endpoint}"), "--command-timeout=3s", "get", "key"])
            .args((!ca.is_empty()).then(|| format!("--cacert={ca}")))
            .output()
    };
    let ca = etcd.tls().expect("it has certificates").ca();
    let said = |output: std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said(with(&ca.to_string_lossy())?).contains("user name is empty"), "it asks for a password");
    assert!(!with("")?.status.success(), "its certificate has no trusted signer");
    etcd.restart()?;
    assert_eq!(etcd.command(&["get", "key", "--print-value-only"])?, "value");
    Ok(())
}

#[test]
fn the_shared_one_is_one() -> Result<()> {
    assert_eq!(shared::etcd()?.url(), shared::etcd()?.url());
    Ok(())
}
