//! Starts setups for a person to try out, or for a command; see `scripts/services --help`.

use std::process::{Command, ExitCode};

use leasehold_testbed::{Error, Result, Setup, Wanted, registry};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut args = std::env::args().skip(1);
    let (mut names, mut wanted) = (Vec::new(), Wanted::default());
    let mut command = None;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "-h" | "--help" => {
                say(&help());
                return Ok(ExitCode::SUCCESS);
            }
            "--tls" => wanted = wanted.tls(true),
            "--password" => {
                let password = args.next().ok_or_else(|| Error::new("--password needs a value"))?;
                wanted = wanted.password(Some(&password));
            }
            "--" => command = Some(args.by_ref().collect::<Vec<_>>()),
            name if name.starts_with('-') => {
                return Err(Error::new(format!("unknown option option=`{name}`")));
            }
            _ => names.push(arg),
        }
    }
    if names.is_empty() {
        return Err(Error::new(format!("name what to start\n\n{}", help())));
    }
    let setups = names.iter().map(|name| registry::start(name, &wanted)).collect::<Result<Vec<_>>>()?;
    match command {
        Some(command) => with(&setups, &command),
        None => Ok(until_killed(&setups)),
    }
}

/// Runs a command with the URLs in `LEASEHOLD_TEST_URLS`, and returns its exit code.
fn with(setups: &[Box<dyn Setup>], command: &[String]) -> Result<ExitCode> {
    let [program, args @ ..] = command else { return Err(Error::new("name a command after --")) };
    let urls: Vec<_> = setups.iter().map(|setup| setup.url()).collect();
    let status = Command::new(program).args(args).env("LEASEHOLD_TEST_URLS", urls.join(" ")).status();
    let status = status.map_err(|error| Error::new(format!("cannot run {program} error=`{error}`")))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Waits for Ctrl-C, which ends this program at once. The reapers of the setups then end the servers.
fn until_killed(setups: &[Box<dyn Setup>]) -> ExitCode {
    for setup in setups {
        say(&setup.url());
        if let Some(ca) = setup.ca() {
            complain(&format!("  trust: {}", ca.display()));
        }
        for server in setup.servers() {
            let pid = server.pid().map_or(0, |pid| pid.as_raw_nonzero().get());
            complain(&format!("  pid {pid}, log: {}", server.log().display()));
        }
    }
    complain("Ctrl-C ends it");
    loop {
        std::thread::park();
    }
}

fn help() -> String {
    let mut help = "scripts/services NAME... [--tls] [--password WORD] [-- COMMAND...]\n\n\
        Starts servers in temporary directories and prints their URLs; Ctrl-C ends them.\n\
        With a command, runs it with the URLs in LEASEHOLD_TEST_URLS, and ends them with it.\n\n"
        .to_owned();
    for entry in registry::all() {
        help += &format!("  {:<24}{}\n", entry.name, entry.about);
    }
    help.trim_end().to_owned()
}

#[expect(clippy::print_stdout, reason = "this is a program, and the URL its answer")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "this is a program")]
fn complain(text: &str) {
    eprintln!("{text}");
}
