//! The commands other than `run`, for people and for programs.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Running, World, code, exit_code, limit, ms, output, parse, text};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn ticket_goes_through_its_whole_life() {
    let world = World::new();
    let acquired = world.output(&["acquire", "lock", "--ttl", "1m", "--label", "me"]);
    assert_eq!((code(&acquired), text(&acquired.stderr)), (0, String::new()));
    let ticket = text(&acquired.stdout);
    assert!(ticket.starts_with("lh1.") && ticket.ends_with(".60000.lock"), "{ticket}");

    // The process that took the lock has ended, and the lease lasts.
    assert_eq!(code(&world.output(&["acquire", "lock", "--try"])), 75);
    assert_eq!(code(&world.output(&["verify", &ticket])), 0);
    let renewed = world.json(&["renew", &ticket]);
    assert_eq!(renewed["ticket"], ticket);
    assert_eq!(renewed["ttl_ms"], 60_000);
    assert!(renewed["token"].is_string());
    let verified = world.json(&["verify", &ticket]);
    assert_eq!((&verified["name"], &verified["held"]), (&json!("lock"), &json!(true)));
    let longer = world.json(&["renew", &ticket, "--ttl", "5m"]);
    assert_eq!(longer["ttl_ms"], 300_000);
    let released = world.json(&["release", &ticket]);
    assert_eq!((&released["name"], &released["released"]), (&json!("lock"), &json!(true)));

    let next = world.json(&["acquire", "lock", "--label", "next"]);
    for command in ["verify", "renew", "release"] {
        let over = world.output(&[command, &ticket]);
        let stderr = text(&over.stderr);
        assert!(
            stderr.contains("the lease of this ticket has ended") && stderr.contains("held by next"),
            "{stderr}"
        );
        assert!(!stderr.contains("unfinished"), "{stderr}");
        assert_eq!(code(&over), 76, "{over:?}");
        assert_eq!((text(&over.stdout), text(&over.stderr).lines().count()), (String::new(), 1), "{over:?}");
    }
    let over = world.output(&["--json", "verify", &ticket]);
    assert_eq!((code(&over), &parse(&text(&over.stdout))["held"]), (76, &json!(false)));
    let next = next["ticket"].as_str().expect("text");
    for command in ["verify", "release"] {
        let quiet = world.output(&["-q", command, next]);
        assert_eq!(
            (code(&quiet), text(&quiet.stdout), text(&quiet.stderr)),
            (0, String::new(), String::new())
        );
    }
    assert_eq!(world.json(&["inspect", "lock"]), json!({"name": "lock", "held": false}));
    for command in ["verify", "renew", "release"] {
        assert!(text(&world.output(&[command, &ticket]).stderr).contains("now=`free`"));
    }
}

#[test]
fn verify_renews_nothing_and_accepts_the_ticket_of_the_holder_only() {
    let world = World::new();
    let first = text(&world.output(&["acquire", "lock"]).stdout);
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    let second = text(&world.output(&["acquire", "lock", "--ttl", "1m"]).stdout);
    assert_eq!(code(&world.output(&["verify", &first])), 76);
    assert_eq!(code(&world.output(&["release", &first])), 76);
    let left = world.json(&["verify", &second])["remaining_ms"].as_u64().expect("held");
    let later = world.json(&["verify", &second])["remaining_ms"].as_u64().expect("held");
    assert!(later <= left, "{left} {later}");
}

#[test]
fn json_has_the_documented_fields() {
    let world = World::new();
    let acquired = world.json(&["acquire", "a/1", "--label", "l\n1"]);
    assert_eq!(keys(&acquired), ["name", "ticket", "token", "ttl_ms"]);
    world.json(&["acquire", "a/2"]);
    world.json(&["acquire", "b"]);

    let seen = world.json(&["inspect", "a/1"]);
    assert_eq!(keys(&seen), ["held", "label", "name", "owner", "remaining_ms", "token", "waiters"]);
    assert_eq!(
        (&seen["held"], &seen["label"], &seen["token"]),
        (&json!(true), &json!("l\n1"), &acquired["token"])
    );

    let listed = text(&world.output(&["list", "a/", "--json"]).stdout);
    let listed: Vec<_> = listed.lines().map(parse).collect();
    assert_eq!(listed.iter().map(|holder| &holder["name"]).collect::<Vec<_>>(), ["a/1", "a/2"]);
    assert!(listed.iter().all(|holder| keys(holder) == keys(&seen)));
    assert_eq!(text(&world.output(&["list", "--json"]).stdout).lines().count(), 3);
    assert_eq!(text(&world.output(&["list", "none", "--json"]).stdout), "");

    let broken = world.json(&["break", "b"]);
    assert_eq!((&broken["broken"], &broken["name"]), (&json!(true), &json!("b")));
    assert_eq!(world.json(&["break", "b"]), json!({"name": "b", "broken": false}));
}

#[test]
fn holder_without_a_label_says_so() {
    let world = World::new();
    world.json(&["acquire", "lock", "--label", ""]);
    assert!(text(&world.output(&["inspect", "lock"]).stdout).contains("held by (no label)"));
}

#[test]
fn text_escapes_what_could_control_a_terminal() {
    let world = World::new();
    let name = "evil\u{1b}[2J\nname";
    world.json(&["acquire", name, "--label", "\u{1b}]0;label\u{7}"]);
    for args in [&["inspect", name][..], &["list"], &["break", name], &["inspect", name]] {
        let output = world.output(args);
        assert_eq!(code(&output), 0);
        let stdout = text(&output.stdout);
        assert!(stdout.chars().all(|c| c == '\n' || !c.is_control()), "{stdout:?}");
        assert!(stdout.contains(r"evil\u{1b}[2J\nname"), "{stdout:?}");
    }
}

#[test]
fn list_has_columns() {
    let world = World::new();
    world.json(&["acquire", "short", "--label", "one"]);
    world.json(&["acquire", "a-much-longer-name", "--label", "two"]);
    let listed = text(&world.output(&["list"]).stdout);
    let lines: Vec<_> = listed.lines().collect();
    assert!(lines[0].starts_with("NAME ") && lines.len() == 3, "{listed}");
    let column = lines[0].find("HOLDER").expect("a head");
    assert_eq!((&lines[1][column..column + 4], &lines[2][column..column + 4]), ("two ", "one "));
}

#[test]
fn name_that_begins_with_a_dash_follows_a_double_dash() {
    let world = World::new();
    let name = "--name";
    assert_eq!(world.json(&["acquire", "--", name])["name"], name);
    assert_eq!(world.json(&["inspect", "--", name])["held"], true);
    assert_eq!(text(&world.output(&["list", "--json", "--", "--n"]).stdout).lines().count(), 1);
    assert_eq!(world.json(&["break", "--", name])["broken"], true);
    let run = world.output(&["run", "--ttl", "5s", "--", name, "--", "sh", "-c", "echo $LEASEHOLD_NAME"]);
    assert_eq!((code(&run), text(&run.stdout)), (0, name.to_owned()));
    let watch = Running::start(&mut world.leasehold(["watch", "--", name]));
    assert_eq!(watch.line(), format!("unlocked  {name}"));
}

#[test]
fn leader_prints_the_value_and_the_term() {
    let world = World::new();
    assert_eq!(text(&world.output(&["leader", "lock"]).stdout), "lock has no leader");
    let watch = Running::start(&mut world.leasehold(["leader", "lock", "--watch", "--json"]));
    let none =
        json!({"name": "lock", "has_leader": false, "value": null, "term": null, "leads_for_ms": null});
    assert_eq!(parse(&watch.line()), none);
    let script = "echo $LEASEHOLD_TOKEN; read _; exit 7";
    let elect = ["elect", "lock", "--value", "10.0.0.7:8080", "--", "sh", "-c", script];
    let mut elected = Running::start(&mut world.leasehold(elect));
    let term = elected.line();
    let leads = parse(&watch.line());
    assert_eq!((&leads["value"], &leads["term"]), (&json!("10.0.0.7:8080"), &json!(term)));
    let shown = text(&world.output(&["leader", "lock"]).stdout);
    assert!(
        shown.starts_with("lock is led by 10.0.0.7:8080 for ") && shown.ends_with(&format!("s, term {term}")),
        "{shown}"
    );
    elected.write("\n");
    assert_eq!(code(&elected.finish()), 7);
    assert_eq!(parse(&watch.line()), none);
}

#[test]
fn elect_runs_the_command_again_after_a_loss_and_so_often() {
    let world = World::new();
    let elect =
        ["elect", "lock", "--restarts", "2", "--", "sh", "-c", "echo $LEASEHOLD_TOKEN; exec sleep 1000"];
    let elected = Running::start(&mut world.leasehold(elect));
    let mut terms = Vec::new();
    for _ in 0..3 {
        terms.push(elected.line().parse::<u64>().expect("a token"));
        assert_eq!(world.json(&["break", "lock"])["broken"], true);
    }
    assert!(terms.is_sorted(), "{terms:?}");
    let output = elected.finish();
    assert_eq!(code(&output), 76, "{output:?}");
    let said = text(&output.stderr);
    assert_eq!(said.matches("standing for election again").count(), 2, "{said}");
    let missing = world.output(&["elect", "lock"]);
    assert_eq!(code(&missing), 64);
    assert!(text(&missing.stderr).contains("`leasehold elect NAME -- CMD…`"), "{missing:?}");
}

#[test]
fn signal_ends_an_elect_that_waits_an_outage_out() {
    // No server listens there.
    let world = World::at("redis://127.0.0.1:1");
    for (signal, exit) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut elect = world.leasehold(["elect", "lock", "--json", "--", "echo", "never"]);
        let (mut waiting, warnings) = Running::start_with_lines_of_stderr(&mut elect);
        let warning = warnings.recv_timeout(limit()).expect("a warning");
        assert!(warning.contains("trying again"), "{warning}");
        waiting.signal(signal);
        assert_eq!(exit_code(waiting.wait()), exit);
    }
}

#[test]
fn elect_counts_no_loss_when_a_term_is_over() {
    let world = World::new();
    // It ends by itself in the fourth term.
    let script = "echo $LEASEHOLD_TOKEN; echo >> terms; [ $(wc -l < terms) = 4 ] && exit 5; exec sleep 1000";
    let elect = ["elect", "lock", "--restarts", "1", "--max-term", &ms(200), "--", "sh", "-c", script];
    let elected = world.output(&elect);
    assert_eq!(code(&elected), 5, "{elected:?}");
    let terms: Vec<u64> = text(&elected.stdout).lines().map(|term| term.parse().expect("a token")).collect();
    assert!(terms.len() == 4 && terms.is_sorted(), "{terms:?}");
    let stderr = text(&elected.stderr);
    assert_eq!(stderr.matches("the term is over; the next candidate leads").count(), 3, "{stderr}");
    assert!(!stderr.contains("lost") && stderr.lines().count() == 3, "{stderr}");
    std::fs::remove_file(world.path("terms")).expect("there");
    let quiet = world.output(&[&["--quiet"], &elect[..]].concat());
    assert_eq!((code(&quiet), text(&quiet.stderr)), (5, String::new()));
}

#[test]
fn hold_that_is_too_short_is_refused_by_the_name_of_its_option() {
    for (verb, option) in [("elect", "--max-term"), ("run", "--max-hold")] {
        let world = World::new();
        let refused = world.output(&[verb, "lock", option, "99ms", "--", "true"]);
        assert_eq!(code(&refused), 64);
        assert!(text(&refused.stderr).contains(&format!("{option} is at least 100ms")), "{refused:?}");
        assert!(!world.path("locks.db").exists());
        assert_ne!(code(&world.output(&[verb, "lock", option, "100ms", "--", "true"])), 64);
        assert!(world.path("locks.db").exists());
    }
}

#[test]
fn watch_prints_every_change() {
    let world = World::new();
    let watch = Running::start(&mut world.leasehold(["watch", "lock", "--json"]));
    assert_eq!(parse(&watch.line()), json!({"event": "unlocked", "name": "lock"}));
    let mut run = Running::start(&mut world.run(&["--label", "me"], "echo in; read _"));
    run.line();
    let locked = parse(&watch.line());
    assert_eq!(keys(&locked), ["event", "label", "name", "owner", "remaining_ms", "token", "waiters"]);
    assert_eq!((&locked["event"], &locked["label"]), (&json!("locked"), &json!("me")));
    run.write("\n");
    assert_eq!(parse(&watch.line())["event"], "unlocked");
    watch.signal(Signal::INT);
    assert_eq!(code(&watch.finish()), 130);
}

#[test]
fn doctor_finds_a_good_storage_good_and_a_bad_one_bad() {
    let world = World::new();
    let report = world.json(&["doctor"]);
    assert_eq!(keys(&report), ["checks", "storage", "tier"]);
    let checks = report["checks"].as_array().expect("a list");
    assert!(checks.len() > 5 && checks.iter().all(|check| check["status"] == "ok"), "{report}");
    assert_eq!(text(&world.output(&["list"]).stdout), "", "the scratch lock is gone");
    assert_eq!(text(&world.output(&["doctor"]).stdout).lines().count(), checks.len());

    std::fs::write(world.path("file"), "").expect("written");
    let bad = output(&mut world.leasehold(["doctor", "--json", "--store", "sqlite:file/locks.db"]));
    assert_eq!(code(&bad), 1, "{bad:?}");
    let report = parse(&text(&bad.stdout));
    assert_eq!(report["storage"], "sqlite:file/locks.db");
    assert_eq!(
        (&report["checks"][0]["name"], &report["checks"][0]["status"]),
        (&json!("connect"), &json!("fail"))
    );
    let detail = report["checks"][0]["detail"].as_str().expect("text");
    assert!(detail.contains("storage=`sqlite:file/locks.db`"), "{detail}");
}

#[test]
fn doctor_finds_a_file_that_cannot_be_written_to() {
    // Root may write to each file.
    if rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new();
    world.json(&["acquire", "lock"]);
    let permit = |mode| {
        std::fs::set_permissions(world.path("locks.db"), std::os::unix::fs::PermissionsExt::from_mode(mode))
    };
    permit(0o444).expect("changed");
    let bad = world.output(&["doctor", "--json"]);
    permit(0o600).expect("changed");
    assert_eq!(code(&bad), 1, "{bad:?}");
    let report = parse(&text(&bad.stdout));
    let failed = |check: &&Value| check["status"] == "fail";
    let failed: Vec<_> = report["checks"].as_array().expect("a list").iter().filter(failed).collect();
    assert!(failed.iter().any(|check| check["name"] == "file" || check["name"] == "connect"), "{report}");
    assert!(failed.iter().all(|check| check["name"] != "close"), "{report}");
}

#[test]
fn help_and_completions_go_to_stdout() {
    let world = World::new();
    for args in [
        &["--help"][..],
        &["run", "--help"],
        &["--version"],
        &["completions", "bash"],
        &["completions", "zsh"],
    ] {
        let output = world.output(args);
        assert_eq!((code(&output), text(&output.stderr)), (0, String::new()));
        let stdout = text(&output.stdout);
        assert!(stdout.contains("leasehold") || stdout.contains("LEASEHOLD"), "{stdout}");
        assert!(!stdout.contains("__exec") && !stdout.contains("__guard"), "{stdout}");
    }
}

#[test]
fn verbose_logs_to_stderr_only() {
    let world = World::new();
    let quiet = world.output(&["-q", "acquire", "lock"]);
    assert_eq!(text(&quiet.stderr), "");
    for verbose in ["-v", "-vv"] {
        let verbose = world.output(&[verbose, "run", "other", "--", "echo", "out"]);
        let stderr = text(&verbose.stderr);
        assert!(stderr.contains("Acquired") && stderr.contains("Released"), "{stderr}");
        assert_eq!(text(&verbose.stdout), "out");
    }
    let waiter = Running::start(&mut world.leasehold(["-v", "acquire", "lock"]));
    world.waiters(1);
    assert_eq!(code(&world.output(&["release", &text(&quiet.stdout)])), 0);
    let waited = text(&waiter.finish().stderr);
    assert!(waited.contains("Waiting") && waited.contains("Acquired"), "{waited}");
}
