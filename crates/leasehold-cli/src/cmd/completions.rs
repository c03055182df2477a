//! `leasehold completions SHELL`

use clap::CommandFactory as _;

use crate::args::{Cli, Completions};
use crate::exit::{Exit, Result};
use crate::output::line;

pub(crate) fn run(args: &Completions) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "leasehold", &mut script);
    line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Success)
}
