//! Tickets: the lease of one ends by its own `release` or by its TTL, and by no command that fails.

use serde_json::Value;

use crate::harness::{World, code, text};

/// Acquires `lock`, and returns its ticket and its holder.
fn taken(world: &World) -> (String, Value) {
    let ticket = text(&world.output(&["acquire", "lock", "--ttl", "1h"]).stdout);
    (ticket, world.json(&["inspect", "lock"]))
}

/// Checks that this holder still holds `lock`, and returns what `inspect` prints now.
fn is_held_by(world: &World, holder: &Value) -> Value {
    let now = world.json(&["inspect", "lock"]);
    assert_eq!((&now["held"], &now["owner"]), (&holder["held"], &holder["owner"]), "{now}");
    assert_eq!(now["token"], holder["token"], "{now}");
    now
}

#[test]
fn renewal_by_a_ttl_out_of_bounds_is_refused_before_anything_is_sent() {
    let world = World::new();
    let (ticket, holder) = taken(&world);
    for ttl in ["1ms", "25h", "0s"] {
        let refused = world.output(&["renew", "--ttl", ttl, &ticket]);
        assert_eq!(code(&refused), 64, "{refused:?}");
        assert!(text(&refused.stderr).contains("at least 100ms and at most 86400s"), "{refused:?}");
        let now = is_held_by(&world, &holder);
        assert!(now["remaining_ms"].as_u64() < holder["remaining_ms"].as_u64(), "renewed: {holder} {now}");
    }
}

#[test]
fn renewal_that_fails_leaves_the_lease_to_the_ticket() {
    let world = World::new();
    let (ticket, holder) = taken(&world);
    // The trigger refuses the second of two writes, which makes the lease much longer.
    let file = rusqlite::Connection::open(world.path("locks.db")).expect("opens");
    file.execute_batch(
        "CREATE TRIGGER refusal BEFORE UPDATE OF expires_us ON lock
         WHEN NEW.expires_us > OLD.expires_us + 1800000000
         BEGIN SELECT raise(ABORT, 'refused by the test'); END",
    )
    .expect("made");
    let failed = world.output(&["renew", "--ttl", "2h", &ticket]);
    assert!(text(&failed.stderr).contains("refused by the test"), "{failed:?}");
    assert_ne!(code(&failed), 0, "{failed:?}");
    is_held_by(&world, &holder);
    file.execute_batch("DROP TRIGGER refusal").expect("was there");
    assert_eq!(world.json(&["renew", "--ttl", "2h", &ticket])["ttl_ms"], 7_200_000);
    is_held_by(&world, &holder);
}

#[test]
fn renewed_ticket_that_cannot_be_printed_stays_valid() {
    let world = World::new();
    let (ticket, holder) = taken(&world);
    let full = std::fs::File::options().write(true).open("/dev/full").expect("there");
    let unprinted = world.leasehold(["renew", &ticket]).stdout(full).output().expect("ran");
    assert_eq!(code(&unprinted), 70, "{unprinted:?}");
    assert!(text(&unprinted.stderr).contains("the lease is renewed"), "{unprinted:?}");
    is_held_by(&world, &holder);
    assert_eq!(code(&world.output(&["release", &ticket])), 0);
}

#[test]
fn every_field_of_a_ticket_is_looked_at_by_every_command() {
    for command in ["verify", "renew", "release"] {
        let world = World::new();
        let (ticket, holder) = taken(&world);
        let fields: Vec<_> = ticket.splitn(5, '.').collect();
        let [version, owner, token, ttl, name] = fields[..] else { panic!("{ticket}") };
        let another = token.parse::<u64>().expect("a number") + 1;
        let last = if owner.ends_with('0') { "1" } else { "0" };
        let stranger = format!("{}{last}", &owner[..owner.len() - 1]);
        let changed = [
            (format!("lh2.{owner}.{token}.{ttl}.{name}"), 64, "not a ticket"),
            (format!("{version}.{stranger}.{token}.{ttl}.{name}"), 76, "has ended"),
            (format!("{version}.{owner}.{another}.{ttl}.{name}"), 64, "the ticket was changed"),
            (format!("{version}.{owner}.1.{ttl}.{name}"), 64, "the ticket was changed"),
            (format!("{version}.{owner}.{token}.99.{name}"), 64, "at least 100ms"),
            (format!("{version}.{owner}.{token}.86400001.{name}"), 64, "at most 86400s"),
            (format!("{version}.{owner}.{token}.{ttl}.other"), 76, "has ended"),
        ];
        for (ticket, expected, about) in changed {
            let refused = world.output(&[command, &ticket]);
            let stderr = text(&refused.stderr);
            assert_eq!(code(&refused), expected, "{command} {ticket}: {stderr}");
            assert!(stderr.contains(about), "{command} {ticket}: {stderr}");
            assert!(text(&refused.stdout).is_empty(), "{refused:?}");
            is_held_by(&world, &holder);
        }
        // These fields say how to renew the lease, and not which lease it is.
        for same in [
            format!("{version}.{owner}.{token}.7200000.{name}"),
            format!("{version}.{owner}.{token}.{ttl}~.{name}"),
        ] {
            let accepted = world.output(&[command, &same]);
            assert_eq!(code(&accepted), 0, "{command} {same}: {accepted:?}");
            if command == "release" {
                assert_eq!(world.json(&["inspect", "lock"])["held"], false);
                break;
            }
            is_held_by(&world, &holder);
        }
    }
}
