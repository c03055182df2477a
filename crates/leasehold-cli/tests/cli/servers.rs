//! The storages that the tests run over, and what all of them are asked.

use std::process::Output;
use std::thread;

use leasehold_testbed::setup::{self, Setup, Wanted};
use serde_json::Value;

use crate::harness::{World, code, parse, text};

/// A storage that the tests run over.
pub(crate) struct Storage {
    /// The name of its servers' setup in the testbed. `None` is a file, which has no server.
    setup: Option<&'static str>,
    /// The options of its URL.
    options: &'static str,
}

/// Every storage that the tests run over. Another one needs one line here.
const STORAGES: &[Storage] = &[
    Storage { setup: None, options: "" },
    Storage { setup: Some("redis"), options: "?prefix=cli:" },
    Storage { setup: Some("postgres"), options: "?prefix=cli:" },
];

/// The password of every server. No output may contain it.
pub(crate) const CANARY: &str = "S3CRET-CANARY";

/// The servers of a storage that run for one test.
pub(crate) struct Servers(Box<dyn Setup>);

impl Storage {
    fn name(&self) -> &'static str {
        self.setup.unwrap_or("file")
    }

    fn start(&self) -> (Option<Servers>, World) {
        let Some(setup) = self.setup else { return (None, World::new()) };
        let started = setup::start(setup, &Wanted::default().password(Some(CANARY))).expect("servers");
        let world = World::at(format!("{}{}", started.url(), self.options));
        (Some(Servers(started)), world)
    }
}

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

/// Runs a test over every storage. The name of the thread that fails is that of the storage.
pub(crate) fn over_every_storage(test: impl Fn(&World) + Sync) {
    over(STORAGES.iter(), |_, world| test(world));
}

/// Runs a test over every storage that has servers.
pub(crate) fn over_every_server(test: impl Fn(&Servers, &World) + Sync) {
    over(STORAGES.iter().filter(|storage| storage.setup.is_some()), |servers, world| {
        test(servers.expect("it was started"), world);
    });
}

fn over(storages: impl Iterator<Item = &'static Storage>, test: impl Fn(Option<&Servers>, &World) + Sync) {
    thread::scope(|scope| {
        for storage in storages {
            let test = &test;
            let run = move || {
                let (servers, world) = storage.start();
                test(servers.as_ref(), &world);
            };
            thread::Builder::new()
                .name(storage.name().to_owned())
                .spawn_scoped(scope, run)
                .expect("a thread");
        }
    });
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
