//! A short torture of the storages that every machine has; all checks pass. `scripts/torture` runs longer
//! ones.

use std::process::Command;

/// How long each run lasts, in seconds. The runs are parallel.
const SECONDS: &str = "40";

#[test]
fn memory_with_every_fault_of_its_calls() {
    torture("memory:", "1", &[]);
}

#[test]
fn memory_without_a_moment_of_calm() {
    torture("memory:", "2", &["--restless", "--ttl-ms", "500", "--style", "clingy"]);
}

#[test]
fn sqlite_with_processes_that_are_killed_and_stopped() {
    let directory = tempfile::tempdir().expect("a directory for the file");
    torture(&format!("sqlite:{}", directory.path().join("locks.db").display()), "3", &[]);
}

#[test]
fn sqlite_without_a_moment_of_calm() {
    let directory = tempfile::tempdir().expect("a directory for the file");
    torture(&format!("sqlite:{}", directory.path().join("locks.db").display()), "4", &["--restless"]);
}

#[test]
fn one_redis() {
    servers("testbed:redis", "5", &[]);
}

#[test]
fn a_quorum_of_three_redis() {
    servers("testbed:redis-quorum", "6", &[]);
}

#[test]
fn a_redis_under_sentinels_that_fails_over() {
    servers("testbed:redis-sentinel", "7", &["--faults", "primary kill,failover,kill"]);
}

#[test]
fn a_redis_under_sentinels_whose_clients_wait_after_a_failover() {
    // No lease is longer than twice the TTL.
    let url = "testbed:redis-sentinel?failover_grace=2s";
    servers(url, "8", &["--faults", "primary kill,failover", "--ttl-ms", "800"]);
}

#[test]
fn a_redis_cluster_whose_slots_move() {
    servers("testbed:redis-cluster", "9", &[]);
}

#[test]
fn one_postgres() {
    servers("testbed:postgres", "10", &[]);
}

#[test]
fn a_postgres_behind_pgbouncer() {
    servers("testbed:pgbouncer", "11", &[]);
}

#[test]
fn a_postgres_whose_standby_takes_over() {
    servers("testbed:postgres-standby", "12", &["--faults", "failover,primary kill,kill"]);
}

#[test]
fn a_postgres_whose_synchronous_standby_takes_over() {
    servers(
        "testbed:postgres-sync",
        "13",
        &["--faults", "failover,failover behind,primary kill,standby stop"],
    );
}

/// Runs a shorter torture over servers of its own, because they are slow to start and to fail over.
fn servers(url: &str, seed: &str, more: &[&str]) {
    run(url, "20", seed, &[&["--restless"], more].concat());
}

fn torture(url: &str, seed: &str, more: &[&str]) {
    run(url, SECONDS, seed, more);
}

fn run(url: &str, seconds: &str, seed: &str, more: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_torture"));
    command.args(["run", url, "--seconds", seconds, "--seed", seed, "--schedule"]).args(more);
    let output = command.output().expect("the program runs");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{url} with seed {seed}:\n{said}{complained}");
}
