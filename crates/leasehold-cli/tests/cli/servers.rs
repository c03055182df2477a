//! The storages that the tests run over, and what all of them are asked.

use std::process::Output;
use std::thread::{self, Scope};

use leasehold_testbed::{Setup, Wanted, registry};
use serde_json::Value;

use crate::harness::{World, code, parse, text};

/// The password of every server. No output may contain it.
pub(crate) const CANARY: &str = "S3CRET-CANARY";

/// The servers of a storage that run for one test.
pub(crate) struct Servers(Box<dyn Setup>);

impl Servers {
    pub(crate) fn kill(&self) {
        self.0.servers().into_iter().for_each(|server| server.kill9());
    }

    /// Stops them: the connections stay, and no server answers.
    pub(crate) fn stop(&self) {
        self.0.servers().into_iter().for_each(|server| server.stop());
    }

    pub(crate) fn go_on(&self) {
        self.0.servers().into_iter().for_each(|server| server.cont());
    }
}

/// Runs a test over a file and over every storage that has servers. The name of the thread that fails is that of the
/// storage.
pub(crate) fn over_every_storage(test: impl Fn(&World) + Sync) {
    thread::scope(|scope| {
        let test = &test;
        spawn(scope, "file", move || test(&World::new()));
        over_servers(scope, move |_, world| test(world));
    });
}

/// Runs a test over every storage that has servers.
pub(crate) fn over_every_server(test: impl Fn(&Servers, &World) + Sync) {
    thread::scope(|scope| over_servers(scope, &test));
}

/// Starts the plainest servers of each storage, and runs a test over each in a thread of its own.
fn over_servers<'scope>(
    scope: &'scope Scope<'scope, '_>,
    test: impl Fn(&Servers, &World) + Copy + Send + 'scope,
) {
    let entries: Vec<_> = registry::plain().collect();
    assert!(!entries.is_empty(), "the registry lists no storage with a server");
    for entry in entries {
        spawn(scope, entry.name, move || {
            let setup = entry.start(&Wanted::default().password(Some(CANARY))).expect("servers");
            let url = setup.url();
            let separator = if url.contains('?') { '&' } else { '?' };
            let world = World::at(format!("{url}{separator}prefix=cli:"));
            test(&Servers(setup), &world);
        });
    }
}

fn spawn<'scope>(scope: &'scope Scope<'scope, '_>, name: &str, run: impl FnOnce() + Send + 'scope) {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, run).expect("a thread");
}

/// Returns what a command has printed, in which there must be no secret.
pub(crate) fn said(output: &Output) -> String {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!said.contains(CANARY), "{said}");
    said
}

/// Returns what `doctor` reports about a storage: the exit code, the tier, and each check with its status and details.
pub(crate) fn doctor(world: &World) -> (i32, Value, Vec<(String, String, String)>) {
    let examined = world.output(&["doctor", "--json"]);
    let report = parse(said(&examined).lines().next().expect("a line"));
    let field = |check: &Value, name: &str| check[name].as_str().expect("text").to_owned();
    let checks = report["checks"].as_array().expect("a list").iter();
    let checks =
        checks.map(|check| (field(check, "name"), field(check, "status"), field(check, "detail"))).collect();
    (code(&examined), report["tier"].clone(), checks)
}

/// Returns the status and the details of the check with this name.
pub(crate) fn check<'a>(checks: &'a [(String, String, String)], about: &str) -> (&'a str, &'a str) {
    let found = checks.iter().find(|(name, ..)| name == about);
    let (_, status, detail) = found.unwrap_or_else(|| panic!("nothing about {about}: {checks:#?}"));
    (status, detail)
}
