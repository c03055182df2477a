//! The command of `run` finds the same storage from any directory, and after any change of its environment.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::harness::{World, code, output, text};

/// Tries, within `run outer`, to take `outer` once more. In the same storage this must fail.
const AGAIN: &str = "$L acquire outer --try >/dev/null 2>&1; echo code:$?";

/// Runs `sh -c SCRIPT` under `outer`, in a directory and with a store.
fn run(
    world: &World,
    dir: &PathBuf,
    store: Option<&str>,
    options: &[&str],
    script: &str,
) -> std::process::Output {
    let args = [&["run", "outer"], options, &["--", "sh", "-c", script]].concat();
    let mut command = world.leasehold(args);
    command.env("L", env!("CARGO_BIN_EXE_leasehold")).env("HOME", world.path("home")).current_dir(dir);
    command.env_remove("XDG_STATE_HOME").env_remove("XDG_DATA_HOME");
    match store {
        Some(store) => command.env("LEASEHOLD_STORE", store),
        None => command.env_remove("LEASEHOLD_STORE"),
    };
    output(&mut command)
}

#[test]
fn command_locks_in_the_same_file_wherever_it_goes() {
    let world = World::new();
    let names: [&[u8]; 8] =
        [b"plain", b"not\xe9utf8", b"100%41", b"a?b=c", b"a&b#c", b"a b\nc", "ä".as_bytes(), b"a:b@c"];
    for name in names {
        let dir = world.path("").join(OsStr::from_bytes(name));
        std::fs::create_dir_all(dir.join("sub")).expect("made");
        for store in ["sqlite:locks.db", "sqlite:sub/locks.db", "sqlite:./sub/../l%3Fo.db?synchronous=full"] {
            for go in ["cd /", "cd sub", "cd ..", "export HOME=/nowhere"] {
                let again = run(&world, &dir, Some(store), &[], &format!("{go}; {AGAIN}"));
                assert_eq!(text(&again.stdout), "code:75", "{dir:?} {store} {go}: {again:?}");
            }
        }
    }
}

#[test]
fn command_locks_in_the_default_file_that_run_found() {
    let world = World::new();
    let home = world.path("home");
    std::fs::create_dir_all(&home).expect("made");
    for store in [None, Some("sqlite:"), Some("sqlite:?synchronous=full")] {
        for change in ["HOME=/nowhere", "XDG_STATE_HOME=/nowhere", "XDG_STATE_HOME=$HOME/other"] {
            let again = run(&world, &home, store, &[], &format!("export {change}; {AGAIN}"));
            assert_eq!(text(&again.stdout), "code:75", "{store:?} {change}: {again:?}");
        }
    }
    // The name of this home directory is not UTF-8.
    let odd = world.path("").join(OsStr::from_bytes(b"h\xe9"));
    std::fs::create_dir_all(&odd).expect("made");
    let mut command = world.leasehold(["run", "outer", "--", "sh", "-c", &format!("HOME=/nowhere; {AGAIN}")]);
    command.env("L", env!("CARGO_BIN_EXE_leasehold")).env("HOME", &odd);
    let again = output(command.env_remove("XDG_STATE_HOME").env_remove("LEASEHOLD_STORE"));
    assert_eq!(text(&again.stdout), "code:75", "{again:?}");
}

#[test]
fn symbolic_link_on_the_way_may_change_under_the_command() {
    let world = World::new();
    for dir in ["one", "two"] {
        std::fs::create_dir(world.path(dir)).expect("made");
    }
    std::os::unix::fs::symlink(world.path("one"), world.path("link")).expect("made");
    let absolute = format!("sqlite:{}", world.path("link/locks.db").display());
    let new = format!("sqlite:{}", world.path("link/new/er/locks.db").display());
    for store in ["sqlite:locks.db", "sqlite:new/locks.db", &absolute, &new, "sqlite:../link/locks.db"] {
        let script = format!("ln -sfn two ../link; {AGAIN}; ln -sfn one ../link");
        let again = run(&world, &world.path("link"), Some(store), &[], &script);
        assert_eq!(text(&again.stdout), "code:75", "{store}: {again:?}");
    }
}

#[test]
fn url_that_cannot_be_passed_on_is_refused_before_the_command_runs() {
    let world = World::new();
    let odd = world.path("").join(OsStr::from_bytes(b"not\xe9utf8"));
    std::fs::create_dir(&odd).expect("made");
    let store = "rediss://127.0.0.1:1/0?ca=ca.pem";
    let refused = run(&world, &odd, Some(store), &[], "echo ran");
    assert_eq!((code(&refused), text(&refused.stdout)), (64, String::new()));
    assert!(text(&refused.stderr).contains("absolute path option=`ca`"), "{refused:?}");
    // The working directory was deleted.
    let script = "mkdir gone && cd gone && rmdir ../gone && exec $L run outer -- echo ran";
    for store in ["sqlite:locks.db", store] {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", script]).env("L", env!("CARGO_BIN_EXE_leasehold")).env("LEASEHOLD_STORE", store);
        let refused = output(shell.current_dir(world.path("")));
        assert_eq!((code(&refused), text(&refused.stdout)), (64, String::new()), "{refused:?}");
        assert!(text(&refused.stderr).contains("is not there any more"), "{refused:?}");
    }
    // An absolute path needs no working directory.
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", script])
        .env("L", env!("CARGO_BIN_EXE_leasehold"))
        .env("LEASEHOLD_STORE", world.store());
    let ran = output(shell.current_dir(world.path("")));
    assert_eq!((code(&ran), text(&ran.stdout)), (0, "ran".to_owned()), "{ran:?}");
}

#[test]
fn hidden_store_is_in_no_variable_and_nothing_is_locked_elsewhere() {
    let world = World::new();
    let home = world.path("home");
    std::fs::create_dir_all(&home).expect("made");
    let store = format!("sqlite:{}", world.path("S3CRET-CANARY").display());
    let env = run(&world, &home, Some(&store), &["--hide-store"], "env; cat /proc/self/environ");
    assert_eq!(code(&env), 0, "{env:?}");
    let shown = text(&env.stdout);
    assert!(!shown.contains("S3CRET-CANARY"), "{shown}");
    assert!(shown.contains("LEASEHOLD_TICKET=lh1.") && shown.contains("LEASEHOLD_NAME=outer"), "{shown}");

    let inner = run(&world, &home, Some(&store), &["--hide-store"], "$L acquire inner; echo code:$?");
    assert_eq!(text(&inner.stdout), "code:64", "{inner:?}");
    assert!(text(&inner.stderr).contains("--hide-store"), "{inner:?}");
    assert!(!home.join(".local").exists(), "a default file was made");
    let completions = run(&world, &home, Some(&store), &["--hide-store"], "$L completions bash | wc -l");
    assert!(text(&completions.stdout).parse::<u32>().is_ok_and(|lines| lines > 100), "{completions:?}");
    // A `leasehold` that gets the URL in another way works.
    let inner = format!("$L --store {store} acquire outer --try; echo code:$?");
    let inner = run(&world, &home, Some(&store), &["--hide-store"], &inner);
    assert_eq!(text(&inner.stdout), "code:75", "{inner:?}");
}
