//! The lock file itself: its modes, and what is refused in its place.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use leasehold::ErrorKind;

use crate::tools::{Dir, claim, execute, open, refusal, run, take};

#[test]
fn all_files_are_private_and_removed_on_close() {
    let dir = Dir::new();
    let live = dir.path().join("new/locks.db-live");
    run(async {
        let storage = open(&dir.path().join("new/locks.db")).await;
        take(&storage, &claim("job")).await;
        for path in ["new/locks.db", "new/locks.db-wal", "new/locks.db-shm"] {
            assert_eq!(mode(&dir.path().join(path)), 0o600, "{path}");
        }
        for path in ["new", "new/locks.db-live"] {
            assert_eq!(mode(&dir.path().join(path)), 0o700, "{path}");
        }
        for file in fs::read_dir(&live).expect("listed") {
            assert_eq!(mode(&file.expect("a file").path()), 0o600);
        }
    });
    assert_eq!(fs::read_dir(live).expect("listed").count(), 0);
}

#[test]
fn an_empty_file_is_made_private() {
    let dir = Dir::new();
    fs::write(dir.file(), "").expect("made");
    fs::set_permissions(dir.file(), fs::Permissions::from_mode(0o644)).expect("chmod");
    drop(run(open(&dir.file())));
    for part in ["", "-wal", "-shm"] {
        assert_eq!(mode(&dir.part(part)), 0o600, "{part}");
    }
    // A file with content was shared on purpose.
    fs::set_permissions(dir.file(), fs::Permissions::from_mode(0o640)).expect("chmod");
    drop(run(open(&dir.file())));
    assert_eq!(mode(&dir.file()), 0o640);
}

#[test]
fn a_file_of_another_program_is_refused_and_left_unchanged() {
    let dir = Dir::new();
    let [text, foreign, newer] = ["text", "foreign", "newer"].map(|file| dir.path().join(file));
    fs::write(&text, "more than the hundred bytes that a header of SQLite has ".repeat(20)).expect("written");
    execute(&foreign, "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    drop(run(open(&newer)));
    execute(&newer, "PRAGMA user_version = 2");
    for file in [&text, &foreign, &newer] {
        let before = fs::read(file).expect("read");
        let error = refusal(file);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("choose another path"), "{error}");
        assert!(fs::read(file).expect("read") == before, "{} was changed", file.display());
    }
}

#[test]
fn no_file_is_made_beside_a_refused_one() {
    let dir = Dir::new();
    let [garbage, foreign, logged, pipe, link] =
        ["garbage", "foreign", "logged", "pipe", "link"].map(|file| dir.path().join(file));
    fs::write(&garbage, "garbage\n").expect("written");
    execute(&foreign, "CREATE TABLE t (a)");
    execute(&logged, "PRAGMA journal_mode = WAL; CREATE TABLE t (a)");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("made");
    std::os::unix::fs::symlink("/nowhere", &link).expect("linked");
    let entries = || {
        let entries = fs::read_dir(dir.path()).expect("listed");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<HashSet<_>>()
    };
    let before = entries();
    for file in [&garbage, &foreign, &logged, &pipe, &link] {
        let error = refusal(file);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(entries(), before, "{}", file.display());
    }
}

#[test]
fn a_symbolic_link_is_refused() {
    let dir = Dir::new();
    drop(run(open(&dir.file())));
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(dir.file(), &link).expect("linked");
    let error = refusal(&link);
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("not a link"), "{error}");

    let trap = dir.path().join("trap.db-live");
    std::os::unix::fs::symlink(dir.path(), trap).expect("linked");
    let error = refusal(&dir.path().join("trap.db"));
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn an_error_does_not_repeat_its_source() {
    let dir = Dir::new();
    fs::write(dir.file(), "garbage\n").expect("written");
    let error = refusal(&dir.file());
    let source = std::error::Error::source(&error).expect("SQLite's own error");
    assert_eq!(source.to_string(), "file is not a database");
    assert!(source.source().is_none(), "{source:?}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}
