//! What depends on the process: that it cannot start a thread, and that it is forked.

#![cfg(target_os = "linux")]
#![expect(clippy::print_stdout, reason = "a worker tells the test that has started it")]

use std::io::{Read as _, Write as _};
use std::process::{Command, Output};
use std::time::Duration;

use futures_util::FutureExt as _;
use leasehold::storage::Memory;
use leasehold::{Builder, ErrorKind, Locks, Lost, Result, blocking};

/// What a worker process is to do.
const ROLE: &str = "LEASEHOLD_TEST_PROCESS";

/// Not a test: what a worker process runs.
#[test]
fn worker() {
    match std::env::var(ROLE).as_deref() {
        Ok("no threads") => without_threads(),
        Ok("fork") => forks(&Locks::builder()),
        Ok("fork a runtime") => runtime().block_on(async { forks(&Locks::builder().on_current_runtime()) }),
        _ => {}
    }
}

fn start(role: &str, env: &[(&str, &std::ffi::OsStr)]) -> Output {
    let mut worker = Command::new(std::env::current_exe().expect("this test"));
    worker.args(["worker", "--exact", "--nocapture", "--test-threads=1"]).env(ROLE, role);
    worker.envs(env.iter().copied()).output().expect("it starts")
}

fn succeeds(output: &Output) {
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("all is well"), "{}: {said}", output.status);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[test]
fn without_a_thread_every_constructor_says_why() {
    // More than there are addresses: no thread gets a stack, as when there may be no more processes.
    succeeds(&start("no threads", &[("RUST_MIN_STACK", "200000000000000".as_ref())]));
}

fn without_threads() {
    let says_why = |what: &str, error: &leasehold::Error| {
        assert_eq!(error.kind(), ErrorKind::Internal, "{what}: {error}");
        assert!(error.to_string().contains("cannot start the engine's thread"), "{what}: {error}");
        assert!(std::error::Error::source(error).is_some(), "{what}: {error:?}");
    };
    let fails = |what: &str, made: Result<()>| says_why(what, &made.expect_err(what));
    runtime().block_on(async {
        fails("connect", Locks::connect("memory:").await.map(drop));
        fails("build", Locks::builder().build(Memory::new()).map(drop));
        let locks = Locks::new(Memory::new());
        fails("try_acquire", locks.lock("x").try_acquire().await.map(drop));
        fails("acquire", locks.lock("x").acquire().await.map(drop));
        fails("inspect", locks.inspect("x").await.map(drop));
        fails("observe", locks.observe("x").map(drop));
    });
    fails("blocking connect", blocking::Locks::connect("memory:").map(drop));
    fails("blocking try_acquire", blocking::Locks::new(Memory::new()).lock("x").try_acquire().map(drop));
    println!("all is well");
}

/// Makes `getppid` fork instead: it returns 0 in the child, and the child's pid in the parent.
const FORKS: &str = "#include <unistd.h>\npid_t getppid(void) { return fork(); }\n";

fn preload(dir: &std::path::Path) -> std::path::PathBuf {
    let (source, library) = (dir.join("forks.c"), dir.join("forks.so"));
    std::fs::write(&source, FORKS).expect("written");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    let made = made.expect("a C compiler");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}

#[test]
fn a_fork_holds_nothing_and_leaves_the_lock_to_its_parent() {
    let dir = tempfile::tempdir().expect("a directory");
    succeeds(&start("fork", &[("LD_PRELOAD", preload(dir.path()).as_os_str())]));
}

#[test]
fn a_fork_that_inherits_the_runtime_leaves_the_lock_to_its_parent() {
    let dir = tempfile::tempdir().expect("a directory");
    succeeds(&start("fork a runtime", &[("LD_PRELOAD", preload(dir.path()).as_os_str())]));
}

/// What a fork says whose checks have passed.
const WELL: &[u8] = b"well";

fn forks(builder: &Builder) {
    let memory = Memory::new();
    let locks = builder.clone().build(memory.clone()).expect("a client");
    // Whether there is a runtime already decides on how to wait.
    let wait = |work: std::pin::Pin<Box<dyn Future<Output = ()> + '_>>| {
        match tokio::runtime::Handle::try_current() {
            Ok(_) => work.now_or_never().expect("it does not wait"),
            Err(_) => runtime().block_on(async {
                tokio::time::timeout(Duration::from_secs(30), work).await.expect("it does not hang");
            }),
        }
    };
    let threaded = tokio::runtime::Handle::try_current().is_err();
    let guard = threaded.then(|| runtime().block_on(locks.lock("x").acquire()).expect("free"));
    let shared = threaded.then(|| runtime().block_on(Locks::connect("memory:shared")).expect("a client"));
    let shared = shared.map(|locks| runtime().block_on(locks.lock("x").acquire()).expect("free"));
    let (mut events, mut changes) = (locks.events(), locks.observe("w").expect("it runs"));
    let lock = locks.lock("x");
    let mut begun = Box::pin(lock.acquire());
    assert!(begun.as_mut().now_or_never().is_none(), "it waits");
    let mut lost = Box::pin(async { guard.as_ref().expect("it is there").lost().await });
    assert!(!threaded || lost.as_mut().now_or_never().is_none(), "it is held");
    let (mut read, mut write) = std::io::pipe().expect("a pipe");
    if std::os::unix::process::parent_id() == 0 {
        let check = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            in_the_fork(&locks, guard.as_ref(), &wait);
            wait(Box::pin(async {
                let error = begun.await.map(drop).expect_err("the engine is the parent's");
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                if threaded {
                    assert_eq!(lost.await, Lost::Forked);
                    while events.next().await.is_some() {}
                    while changes.next().await.is_some() {}
                }
            }));
        }));
        drop((guard, shared, locks)); // does nothing, and does not block
        if check.is_ok() {
            write.write_all(WELL).expect("the parent reads");
        }
        std::process::exit(0);
    }
    drop((write, begun, lost));
    let mut said = Vec::new();
    read.read_to_end(&mut said).expect("the fork has ended");
    assert_eq!(said, WELL, "a check in the fork failed");
    if let Some(guard) = guard {
        assert!(guard.is_held(), "the fork has dropped its copy");
        runtime().block_on(async {
            guard.verify().await.expect("the storage says so, too");
            guard.release().await.expect("held without a break");
        });
    }
    println!("all is well");
}

type Wait<'a> = &'a dyn Fn(std::pin::Pin<Box<dyn Future<Output = ()> + '_>>);

fn in_the_fork(locks: &Locks, guard: Option<&leasehold::Guard>, wait: Wait<'_>) {
    if let Some(guard) = guard {
        assert!(!guard.is_held());
        assert_eq!(guard.remaining(), Duration::ZERO);
        wait(Box::pin(async { assert_eq!(guard.lost().await, Lost::Forked) }));
        wait(Box::pin(async {
            let error = guard.verify().await.expect_err("it is the parent's");
            assert_eq!((error.kind(), error.lost()), (ErrorKind::Lost, Some(Lost::Forked)));
        }));
    }
    assert!(locks.held().is_empty());
    wait(Box::pin(async {
        let error = locks.lock("y").try_acquire().await.map(drop).expect_err("the engine is the parent's");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("connect again"), "{error}");
        assert!(locks.inspect("y").await.is_err());
        assert!(locks.observe("y").is_err());
    }));
    if guard.is_some() {
        wait(Box::pin(async {
            for url in ["memory:", "memory:shared"] {
                let locks = Locks::connect(url).await.expect("a client of its own");
                assert!(locks.lock("x").try_acquire().await.expect("answered").is_some(), "{url}");
            }
        }));
    }
}
