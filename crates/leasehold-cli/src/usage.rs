//! Reads the command line. What is wrong with it fits on one line, and never repeats a URL.

use std::ffi::{OsStr, OsString};

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::args::Cli;
use crate::exit::{Exit, Failure, Result};
use crate::output;

pub(crate) enum Parsed {
    Command(Box<Cli>),
    /// `--help` or `--version` was asked for.
    Help(String),
}

pub(crate) fn parse(args: Vec<OsString>) -> Result<Parsed> {
    let secrets: Vec<_> = args.iter().skip(1).flat_map(|arg| secrets(&arg.to_string_lossy())).collect();
    let error = match Cli::try_parse_from(with_negative_values(args)) {
        Ok(cli) => return Ok(Parsed::Command(Box::new(cli))),
        Err(error) => error,
    };
    let text = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Ok(Parsed::Help(error.render().to_string()));
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "no command was given; `leasehold --help` lists them".to_owned()
        }
        _ => one_line(&tip_of_run(&error)),
    };
    let text = secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), "…"));
    Err(Failure::usage(text))
}

/// Prints help on stdout.
pub(crate) fn print(text: &str) -> Result<Exit> {
    output::line(text.trim_end())?;
    Ok(Exit::Success)
}

/// Makes `--wait=-1s` of `--wait -1s`, for the message to be about the value and not about an option `-1`.
fn with_negative_values(args: Vec<OsString>) -> Vec<OsString> {
    let mut joined: Vec<OsString> = Vec::with_capacity(args.len());
    let mut after_dashes = false;
    for arg in args {
        let negative =
            matches!(arg.as_encoded_bytes(), [b'-', digit, ..] if !after_dashes && digit.is_ascii_digit());
        after_dashes |= arg == "--";
        match joined.last_mut() {
            Some(option) if negative && takes_a_value(option) => {
                option.push("=");
                option.push(arg);
            }
            _ => joined.push(arg),
        }
    }
    joined
}

fn takes_a_value(arg: &OsStr) -> bool {
    let arg = arg.as_encoded_bytes();
    arg.starts_with(b"--") && arg.len() > 2 && !arg.contains(&b'=')
}

/// The error's message; of `run`, with the way to write a lock's name that looks like an option.
fn tip_of_run(error: &clap::Error) -> String {
    let message = error.render().to_string();
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) if message.contains("Usage: leasehold run ") => message.replace(
            &format!("to pass '{arg}' as a value, use '-- {arg}'"),
            &format!("for a lock of that name, write `leasehold run -- {arg} -- CMD`"),
        ),
        _ => message,
    }
}

/// The first paragraphs of clap's message, without the usage that `--help` shows.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let told = message.split("\n\nUsage:").next().unwrap_or(message);
    let told = told.split("\n\nFor more information").next().unwrap_or(told);
    let words: Vec<_> = told.split_whitespace().collect();
    format!("{}; see `leasehold --help`", words.join(" "))
}

/// The parts of an argument that may be a URL or a ticket, as messages may quote them.
fn secrets(arg: &str) -> Vec<String> {
    let mut found = Vec::new();
    if arg.contains([':', '@']) || arg.contains("//") || arg.starts_with("lh1.") {
        found.push(arg.to_owned());
        if let Some((_, value)) = arg.split_once('=') {
            found.push(value.to_owned());
        }
        // `one_line` joins words with single spaces.
        found.push(arg.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    found.retain(|text| !text.is_empty());
    found
}
