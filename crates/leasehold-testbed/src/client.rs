//! Requests to a server through its own command-line client.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::Context as _;
use crate::wait::scaled;
use crate::{Error, Result, install};

/// Longer than any query takes, unless the server is stopped.
const QUESTION: Duration = Duration::from_secs(10);

/// Writing a whole database takes long on a loaded machine.
const WORK: Duration = Duration::from_secs(120);

/// Runs `command` with an empty standard input, and returns its output.
pub(crate) fn ask(command: &Command) -> Result<String> {
    run(command, QUESTION)
}

/// Runs `command` as [`ask`] does, with a limit for longer work.
pub(crate) fn work(command: &Command) -> Result<String> {
    run(command, WORK)
}

fn run(command: &Command, limit: Duration) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut limited = Command::new(install::program("timeout")?);
    limited
        .args(["--kill-after=1", &scaled(limit).as_secs().to_string()])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(key, value),
            None => limited.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        limited.current_dir(directory);
    }
    let output = limited.stdin(Stdio::null()).output().context("cannot ask the server")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = if said.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { said };
        return Err(Error::new(format!("{program} failed: {} {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
