//! A password in a URL is shown nowhere.

use std::os::unix::fs::PermissionsExt;

use leasehold::storage::schemes;

use crate::harness::{World, code, output, text};
use crate::servers::CANARY;

#[test]
fn no_message_repeats_the_url() {
    let world = World::new();
    let urls = [
        format!("redis://:{CANARY}@localhost:1/"),
        format!("nonsense://user:{CANARY}@host/"),
        CANARY.to_owned(),
        format!("{CANARY}:x"),
        format!("memory:?password={CANARY}"),
        format!("sqlite:locks.db?password={CANARY}"),
        format!("redis://{CANARY}:x@127.0.0.1:1/0"),
        format!("redis://127.0.0.1:1/0?password={CANARY}"),
        format!("rediss://user:{CANARY}@127.0.0.1:1/0?insecure=true"),
        format!("redis+unix:///nowhere/redis.sock?user={CANARY}&password={CANARY}"),
        format!(
            "redis+sentinel://u:{CANARY}@127.0.0.1:1/main?sentinel_user={CANARY}&sentinel_password={CANARY}"
        ),
        format!("redis+cluster://{CANARY}:{CANARY}@127.0.0.1:1"),
        format!("redis+quorum://u:{CANARY}@127.0.0.1:1,127.0.0.1:2,127.0.0.1:3/0"),
        format!("redis://:{CANARY}/x@127.0.0.1:1/0"),
        format!("postgres://{CANARY}:{CANARY}@127.0.0.1:1/db?sslmode=verify-full"),
        format!("postgresql:///db?host=/nowhere&user={CANARY}&password={CANARY}&options={CANARY}"),
        format!("postgres://h/db?sslpassword={CANARY}"),
        format!("postgres://user:12?{CANARY}@127.0.0.1:1/db"),
        format!("postgres://u:{CANARY}@127.0.0.1:1/d?nonsense={CANARY}"),
        format!("mongodb://{CANARY}:{CANARY}@127.0.0.1:1/d?serverSelectionTimeoutMS=100"),
        format!("mongodb://u:{CANARY}@127.0.0.1:1/d?tlsCertificateKeyFilePassword={CANARY}"),
        format!("mongodb://u@127.0.0.1:1/d?authMechanismProperties=AWS_SESSION_TOKEN:{CANARY}"),
        format!("mongodb://u:{CANARY}@127.0.0.1:1/d?authMechanism={CANARY}"),
        format!("mongodb+srv://u:{CANARY}@db.nowhere.invalid/d"),
    ];
    for url in &urls {
        let option = format!("--store={url}");
        for args in [
            &["--store", url, "inspect", "lock"][..],
            &["--store", url, "-vv", "run", "lock", "--", "true"],
            &["--store", url, "--store-file", "x", "inspect", "lock"],
            &[&option, "inspect"],
            &["--store", url, "doctor"],
            &["--store", url, "doctor", "--json"],
        ] {
            let output = world.output(args);
            assert_ne!(code(&output), 0, "{args:?}");
            let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
            assert!(!shown.contains(CANARY), "{args:?} {shown}");
        }
        let inherited = output(world.leasehold(["inspect", "lock", "--help"]).env("LEASEHOLD_STORE", url));
        assert!(!text(&inherited.stdout).contains(CANARY));
        let misplaced = world.output(&["inspect", "lock", &format!("redis://:{CANARY}@h/")]);
        assert_eq!(code(&misplaced), 64);
        assert!(!text(&misplaced.stderr).contains(CANARY), "{misplaced:?}");
    }
}

/// Returns URLs of every scheme with a login in each place, and with typing errors.
fn misplaced() -> Vec<String> {
    let unknown = ["", "REDIS", "Postgres", "postgers", "mysql", "http", "mongo", "redis ", CANARY];
    let login = format!("u:{CANARY}@h");
    let encoded = format!("u%3A{CANARY}%40h");
    let twice = format!("u%253A{CANARY}%2540h");
    let mut rests = Vec::new();
    for login in [&login, &encoded, &twice] {
        rests.extend([
            format!("//{login}:0/x"),
            format!("//{login}:x/x"),
            format!("///{login}/x"),
            format!("//h/{login}"),
            format!("//h/x/{login}"),
            format!("//h?host={login}"),
            format!("//h?hostaddr={login}"),
            format!("//h?port={login}"),
            format!("//h?dbname={login}"),
            format!("//h?{login}"),
            format!("//h?{login}=x"),
            format!("//h?db={login}"),
            format!("//h?synchronous={login}"),
            format!("//h?sslmode={login}"),
            format!("//h?failover_grace={login}"),
            format!("//h?table={login}"),
            format!("//h?x=y#{login}"),
            format!("//[{login}]/0"),
            format!("//a,{login}:0,c/0"),
            format!("//u:p@{login}:0/0"),
            format!("//{login}"),
        ]);
    }
    rests.extend([
        format!("//h:{CANARY}/0"),
        format!("//:{CANARY}"),
        format!("//u:{CANARY}?x@h/0"),
        format!("//u:{CANARY}/x@h/0"),
        format!("//u:{CANARY}%ff@h/0"),
        format!("//[{CANARY}]/0"),
        format!("//127.0.0.1:1/0?{CANARY}"),
        format!("//127.0.0.1:1/0?{CANARY}=1"),
        format!("//127.0.0.1:1/0?x={CANARY}"),
        format!("//127.0.0.1:1/0?prefix=a&prefix={CANARY}"),
    ]);
    let slash = [format!("/u:{CANARY}@h"), format!("u:{CANARY}@h/0"), format!("//u:{CANARY}@h/0")];
    let mut urls = Vec::new();
    for scheme in schemes() {
        // A path of a file may contain anything. `///` is about a host or a database that the URL means to name.
        let is_path =
            |rest: &str| matches!(scheme, "sqlite" | "memory" | "redis+unix") && !rest.starts_with("//");
        let rests = rests.iter().chain(&slash).filter(|rest| !is_path(rest) && !rest.starts_with("///"));
        urls.extend(rests.map(|rest| format!("{scheme}:{rest}")));
    }
    for scheme in unknown {
        urls.extend(slash.iter().map(|rest| format!("{scheme}:{rest}")));
        urls.push(format!("{scheme}//u:{CANARY}@h"));
    }
    urls.push(format!("sqlite:redis://u:{CANARY}@h/0"));
    urls
}

#[test]
fn login_in_a_wrong_place_of_a_url_is_shown_nowhere() {
    let world = World::new();
    let urls = misplaced();
    let next = std::sync::atomic::AtomicUsize::new(0);
    // Most of the time goes to looking up hosts that do not exist.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(url) = urls.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    for args in [
                        &["-vv", "inspect", "lock"][..],
                        &["doctor", "--json"],
                        &["run", "lock", "--", "true"],
                    ] {
                        let output = output(world.leasehold(args).env("LEASEHOLD_STORE", url));
                        let shown = format!("{}{}", text(&output.stdout), text(&output.stderr));
                        assert!(!shown.contains(CANARY), "{args:?} {url}: {shown}");
                    }
                    let mut misplaced = world.leasehold(["inspect", "lock", "--ttl"]);
                    let output = output(misplaced.arg(url));
                    assert!(!text(&output.stderr).contains(CANARY), "{url}: {output:?}");
                    let output = output_of_file(&world, url);
                    assert!(!text(&output.stderr).contains(CANARY), "{url}: {output:?}");
                }
            });
        }
    });
}

/// Runs a command with the URL in the place of a file that contains one.
fn output_of_file(world: &World, url: &str) -> std::process::Output {
    output(&mut world.leasehold(["--store-file", url, "inspect", "lock"]))
}

fn permit(file: &std::path::Path, mode: u32) {
    std::fs::set_permissions(file, PermissionsExt::from_mode(mode)).expect("changed");
}

#[test]
fn store_file_may_be_read_by_its_owner_and_group_only() {
    let world = World::new();
    let file = world.path("store");
    let args = ["--store-file", "store", "acquire", "lock"];
    assert_eq!(code(&world.output(&args)), 64, "it is missing");
    std::fs::write(&file, format!("{}\n", world.store())).expect("written");
    for mode in [0o644, 0o444, 0o604, 0o660, 0o620, 0o602, 0o666] {
        permit(&file, mode);
        let refused = world.output(&args);
        assert_eq!(code(&refused), 64);
        let stderr = text(&refused.stderr);
        assert!(stderr.contains("chmod g-wx,o-rwx") && stderr.contains("--store-file-any-mode"), "{stderr}");
        assert_eq!(
            code(&world.output(&["--store-file-any-mode", "--store-file", "store", "list"])),
            0,
            "{mode:o}"
        );
    }
    // Containers mount secrets with these modes.
    for mode in [0o600, 0o400, 0o440, 0o640] {
        permit(&file, mode);
        assert_eq!(code(&world.output(&["--store-file", "store", "list"])), 0, "{mode:o}");
    }
    let mut command = world.leasehold(args);
    assert_eq!(code(&output(command.env("LEASEHOLD_STORE", "nonsense:"))), 0);
    assert_eq!(world.json(&["inspect", "lock"])["held"], true);
    assert_eq!(code(&world.output(&["--store-file-any-mode", "list"])), 64, "it goes with --store-file");
}

#[test]
fn store_file_contains_one_url_whatever_the_kind_of_file() {
    let world = World::new();
    let file = world.path("store");
    let write = |contents: &[u8]| {
        std::fs::write(&file, contents).expect("written");
        permit(&file, 0o600);
    };
    let url = world.store();
    let listed = |store: &str| world.output(&["--store-file", store, "list"]);
    for good in [
        url.clone(),
        format!("{url}\n"),
        format!("{url}\r\n"),
        format!("\u{feff}{url}\r\n"),
        format!("\n  {url}\t\n\n"),
    ] {
        write(good.as_bytes());
        assert_eq!(code(&listed("store")), 0, "{good:?}");
    }
    // Kubernetes mounts a secret like this.
    std::fs::create_dir(world.path("..2026")).expect("made");
    std::fs::rename(&file, world.path("..2026/store")).expect("moved");
    std::os::unix::fs::symlink("..2026", world.path("..data")).expect("made");
    std::os::unix::fs::symlink("..data/store", world.path("link")).expect("made");
    assert_eq!(code(&listed("link")), 0);
    let huge = "x".repeat(1 << 20);
    let two = format!("{url}\n{url}\n");
    let bad: [&[u8]; 6] =
        [b"", b"\n\n", two.as_bytes(), b"S3CRET-CANARY\rx", huge.as_bytes(), b"S3CRET-CANARY\xff"];
    for contents in bad {
        write(contents);
        let refused = listed("store");
        assert_eq!(code(&refused), 64, "{refused:?}");
        assert!(!text(&refused.stderr).contains(CANARY) && text(&refused.stderr).lines().count() == 1);
    }
    for (store, about) in
        [(".", "a directory contains no URL"), ("/dev/zero", "one URL on one line"), ("/dev/null", "one URL")]
    {
        let refused = listed(store);
        assert_eq!(code(&refused), 64, "{refused:?}");
        assert!(text(&refused.stderr).contains(about), "{refused:?}");
    }
    // A pipe, by its own name, by that of stdin, and with a name in the file system.
    let script = "umask 077; echo $U > url; $L --store-file <(echo $U) list && echo $U | $L --store-file /dev/stdin list \
        && $L --store-file /dev/stdin list < url && mkfifo -m 600 fifo && { echo $U > fifo & $L --store-file fifo list; }; echo code:$?";
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", script])
        .env("L", env!("CARGO_BIN_EXE_leasehold"))
        .env("U", &url)
        .current_dir(world.path(""));
    let piped = output(bash.env("LEASEHOLD_STORE", "nonsense:"));
    assert_eq!(text(&piped.stdout), "code:0", "{piped:?}");
}
