//! The suite over the example storage, `crates/leasehold/examples/your_own_storage.rs`.

use leasehold_conformance::{Space, Verdict, outcomes};

#[path = "../../leasehold/examples/your_own_storage.rs"]
#[expect(dead_code, unreachable_pub, reason = "a program, of which only the storage is of interest here")]
mod example;

#[test]
fn the_storage_in_the_examples_keeps_what_it_promises() {
    // The storage reads tokio's clock only, so no case takes real time.
    let space = Space::simulated("shelf", || {
        let shared = example::Shelf::default();
        move || {
            let client = shared.clone();
            async { Ok(client) }
        }
    });
    let mut passed = 0;
    for (case, verdict) in outcomes(&space) {
        match verdict {
            Verdict::Passed => passed += 1,
            Verdict::Ignored(reason) => {
                let expected = ["fair not promised", "push not promised"];
                assert!(expected.contains(&reason.as_str()), "{case:?}: {reason}");
            }
            failed => panic!("{case:?}: {failed:?}"),
        }
    }
    assert!(passed > 60, "only {passed} cases were run");
}
