//! Leases and the boot of the machine that they were granted in.

use std::fs;

use leasehold::storage::{AcquireReply, RenewReply, Storage};

use crate::tools::{
    Dir, acquire, check_free, check_held, claim, execute, is_held, name, open, renew, run, take,
};
use crate::worker::Worker;

#[test]
fn a_lease_of_another_boot_is_over() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        // Detached, because a lease of a live process is never of another boot.
        let mine = claim("job").detached(true);
        let token = take(&storage, &mine).await;
        is_held(&storage, &claim("job").wait(true)).await;
        execute(&dir.file(), "UPDATE lock SET boot = 'another'; UPDATE waiter SET boot = 'another'");
        assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
        assert_eq!(storage.inspect(&name("job")).await.expect("looked"), []);
        assert!(take(&storage, &claim("job")).await > token);
    });
}

#[test]
fn a_lease_of_a_live_process_is_of_this_boot() {
    let dir = Dir::new();
    let (mut holder, granted) = Worker::holding(&dir.file(), "job");
    // A process that was given another boot id would write it so.
    execute(&dir.file(), "UPDATE lock SET boot = 'another'");
    check_held(&dir.file(), "job");
    assert_eq!(holder.renew("job", granted.owner), "renewed");
    holder.kill();
    check_free(&dir.file(), "job");
}

#[test]
fn an_unknown_boot_is_told_by_the_clock() {
    let dir = Dir::new();
    let far = 1_000_000_000_000_000_i64;
    let day = 24 * 60 * 60 * 1_000_000_i64;
    for (change, over) in [
        ("".to_owned(), false),
        (format!(", granted_us = granted_us + {far}, expires_us = expires_us + {far}"), true),
        // No lease is that long, so the clock began anew.
        (format!(", expires_us = expires_us + {day}"), true),
        (", expires_us = granted_us".to_owned(), true),
    ] {
        run(async {
            let storage = open(&dir.file()).await;
            let mine = claim("job").detached(true);
            take(&storage, &mine).await;
            execute(&dir.file(), &format!("UPDATE lock SET boot = ''{change}"));
            let renewed = matches!(renew(&storage, &mine).await, RenewReply::Renewed { .. });
            assert_eq!(renewed, !over, "{change}");
            let granted = matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. });
            assert_eq!(granted, over, "{change}");
        });
        fs::remove_file(dir.file()).expect("removed");
    }
}
