//! The program: a proxy that is controlled by command lines, and reports events in JSON lines.

mod control;
mod print;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use leasehold_faultproxy::{Proxy, Upstream};
use serde_json::json;
use tokio::sync::mpsc;

use crate::control::Control;

/// Stands between clients and a server, and delays, holds, cuts and resets connections on command.
///
/// Prints `{"listening":"127.0.0.1:4321"}` first, then events and answers, one JSON object per line. Reads
/// commands from standard input, and from connections to the control socket, which get their answers there.
/// Exits with 65 if a line of standard input was not understood.
#[derive(Parser, Debug)]
#[command(name = "faultproxy", version)]
struct Args {
    /// Listens on this loopback address; port 0 means any free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,

    /// Connects clients to this server: HOST:PORT, or unix:PATH.
    // Explicit, because clap would choose `From`, which checks less.
    #[arg(long, value_name = "SERVER", value_parser = str::parse::<Upstream>)]
    to: Upstream,

    /// Seeds the jitter.
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Also reads commands from connections to this Unix socket.
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// Ends when standard input ends.
    #[arg(long)]
    exit_with_stdin: bool,
}

/// The exit codes for a call that cannot work, a wrong input, and a failure of the system.
const DATA_ERROR: u8 = 65;
const OS_ERROR: u8 = 71;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    match runtime.block_on(run(args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(DATA_ERROR),
        Err(error) => fail(&error),
    }
}

fn fail(error: &std::io::Error) -> ExitCode {
    print::line(&json!({ "error": error.to_string() }));
    ExitCode::from(OS_ERROR)
}

/// Returns `true` if every line of standard input was understood.
async fn run(args: Args) -> std::io::Result<bool> {
    let proxy = Proxy::builder().listen(args.listen).seed(args.seed).start(args.to).await?;
    let mut events = proxy.faults().events();
    let (quit, mut quitting) = mpsc::channel(1);
    let control = Control::new(proxy.faults(), quit);
    #[cfg(unix)]
    let _socket = args.control.map(|path| control::socket(path, control.clone())).transpose()?;
    print::line(&json!({ "listening": proxy.addr().to_string() }));
    let printing = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            print::line(&print::event(event));
        }
    });

    let mut lines = stdin();
    let mut understood = true;
    let mut number = 0_u64;
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = quitting.recv() => break,
        };
        let Some(line) = line else {
            if !args.exit_with_stdin {
                quitting.recv().await;
            }
            break;
        };
        number += 1;
        tokio::select! {
            answer = control.answer(number, line) => {
                if let Some(answer) = answer {
                    understood &= answer.get("error").is_none();
                    print::line(&answer);
                }
            }
            // A `quit` from the control socket ends this line's wait.
            _ = quitting.recv() => break,
        }
    }
    // Dropping the proxy ends the events, so the loop prints all of them.
    drop(proxy);
    let _ = printing.await;
    Ok(understood)
}

/// Returns the lines of standard input, read by a thread that ends with the program.
fn stdin() -> mpsc::Receiver<std::io::Result<String>> {
    let (sender, lines) = mpsc::channel(64);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            // A line that is not text gets an error. After any other error there is nothing more to read.
            let last = line.as_ref().is_err_and(|error| error.kind() != std::io::ErrorKind::InvalidData);
            if sender.blocking_send(line).is_err() || last {
                break;
            }
        }
    });
    lines
}
