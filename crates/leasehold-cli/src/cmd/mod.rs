//! One module per command.

mod acquire;
mod break_;
pub(crate) mod completions;
mod doctor;
mod inspect;
mod leader;
mod list;
mod release;
mod renew;
pub(crate) mod run;
mod verify;
mod watch;

use crate::args::Command;
use crate::exit::{Exit, Result};
use crate::session::Context;

pub(crate) async fn dispatch(command: Command, cx: &Context) -> Result<Exit> {
    match command {
        Command::Run(args) => run::run(args, cx).await,
        Command::Elect(args) => run::elect(args, cx).await,
        Command::Leader(args) => leader::run(&args, cx).await,
        Command::Acquire(args) => acquire::run(&args, cx).await,
        Command::Renew(args) => renew::run(args, cx).await,
        Command::Release(args) => release::run(args, cx).await,
        Command::Verify(args) => verify::run(&args, cx).await,
        Command::Inspect(args) => inspect::run(&args, cx).await,
        Command::List(args) => list::run(&args, cx).await,
        Command::Watch(args) => watch::run(&args, cx).await,
        Command::Break(args) => break_::run(&args, cx).await,
        Command::Doctor(args) => doctor::run(&args, cx).await,
        Command::Completions(args) => completions::run(&args),
    }
}
