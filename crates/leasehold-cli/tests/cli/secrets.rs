//! A password in a URL is shown nowhere.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{Running, World, code, output, text};

const CANARY: &str = "S3CRET-CANARY";

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

#[test]
fn store_file_is_for_its_owner_only() {
    let world = World::new();
    let file = world.path("store");
    let args = ["--store-file", "store", "acquire", "lock"];
    assert_eq!(code(&world.output(&args)), 64, "it is missing");
    std::fs::write(&file, format!("{}\n", world.store())).expect("written");
    for mode in [0o644, 0o640, 0o604, 0o660] {
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("changed");
        let refused = world.output(&args);
        assert_eq!(code(&refused), 64);
        assert!(text(&refused.stderr).contains("chmod 600"), "{refused:?}");
    }
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("changed");
    let mut command = world.leasehold(args);
    assert_eq!(code(&output(command.env("LEASEHOLD_STORE", "nonsense:"))), 0);
    assert_eq!(world.json(&["inspect", "lock"])["held"], true);
    std::fs::write(&file, "").expect("written");
    assert_eq!(code(&world.output(&args)), 64, "it is empty");
}

#[test]
fn url_from_a_file_is_on_no_command_line() {
    let world = World::new();
    let file = world.path("store");
    let url = format!("sqlite:{}", world.path(CANARY).display());
    std::fs::write(&file, &url).expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("changed");
    let args = ["--store-file", "store", "run", "lock", "--", "sh", "-c", "echo $LEASEHOLD_STORE; read _"];
    let mut run = Running::start(&mut world.leasehold(args));
    assert_eq!(run.line(), url);
    let mine = format!("/proc/{}/task/{0}/children", run.pid().as_raw_nonzero());
    let children = std::fs::read_to_string(mine).expect("alive");
    assert!(children.split_whitespace().count() >= 2, "the command and its guardian: {children}");
    for pid in children.split_whitespace() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("alive");
        assert!(!String::from_utf8_lossy(&line).contains(CANARY));
    }
    run.write("\n");
    assert_eq!(code(&run.finish()), 0);
}
