//! Every setup starts with TLS and a password, counts, survives a kill of each of its servers, and fails over
//! if it can.

use std::process::ExitCode;

use leasehold_testbed::registry::{self, Entry};
use leasehold_testbed::{Result, Setup, Wanted, until};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trial = |entry: &'static Entry| {
        Trial::test(entry.name, || survives(entry).map_err(|error| Failed::from(error.to_string())))
    };
    libtest_mimic::run(&arguments, registry::all().map(trial).collect()).exit_code()
}

fn survives(entry: &Entry) -> Result<()> {
    let setup = entry.start(&Wanted::default().tls(true).password(Some("s3cret")))?;
    if !setup.servers().is_empty() {
        assert!(setup.url().contains("s3cret@"), "{}", setup.url());
        assert!(setup.ca().is_some_and(|ca| ca.exists()));
    }
    if let Some(scheme) = entry.scheme {
        let url = setup.url();
        let shown = url.split(':').next().unwrap_or_default();
        let plain = shown.replacen("rediss", "redis", 1).replacen("etcds", "etcd", 1);
        assert_eq!(plain, scheme);
    }
    for server in setup.servers() {
        server.stop();
        server.cont();
        server.kill9();
        assert!(!server.is_running());
        server.restart()?;
    }
    setup.await_ready()?;
    // A pooler may return an error of its own until it has noticed that its server is back.
    until("the counts", || setup.connections().and_then(|_| setup.commands()))?;
    fails_over(&*setup, entry.fails_over);
    Ok(())
}

fn fails_over(setup: &dyn Setup, expected: bool) {
    let failed_over = setup.failover();
    assert_eq!(failed_over.is_ok(), expected, "{failed_over:?}");
}
