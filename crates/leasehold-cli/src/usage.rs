//! Reads the command line. An error fits on one line, and never repeats a URL.

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
    let mut error = match Cli::try_parse_from(with_negative_values(args)) {
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
        _ => {
            hide_secrets(&mut error);
            one_line(&tip_of_run(&error))
        }
    };
    Err(Failure::usage(text))
}

/// Prints help on stdout.
pub(crate) fn print(text: &str) -> Result<Exit> {
    output::line(text.trim_end())?;
    Ok(Exit::Success)
}

/// Turns `--wait -1s` into `--wait=-1s`, so that the error is about the value and not about an option `-1`.
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

/// Returns the error's message. For `run`, it says how to write a lock's name that looks like an option.
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

/// Returns the first paragraphs of clap's message, without the usage that `--help` shows.
fn one_line(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let told = message.split("\n\nUsage:").next().unwrap_or(message);
    let told = told.split("\n\nFor more information").next().unwrap_or(told);
    let words: Vec<_> = told.split_whitespace().collect();
    format!("{}; see `leasehold --help`", words.join(" "))
}

/// Removes from the error what may be a URL or a ticket, or a part of one. This happens before the error becomes a
/// message, because a message has blanks joined and escape sequences removed, so that a secret is not recognized in it.
fn hide_secrets(error: &mut clap::Error) {
    type Suspicion = fn(&str) -> bool;
    const QUOTED: [(ContextKind, Suspicion); 4] = [
        (ContextKind::InvalidValue, is_plain),
        (ContextKind::InvalidSubcommand, is_plain),
        (ContextKind::InvalidArg, is_no_url),
        (ContextKind::TrailingArg, is_no_url),
    ];
    for (kind, can_be_shown) in QUOTED {
        if let Some(ContextValue::String(text)) = error.get(kind)
            && !can_be_shown(text)
        {
            error.insert(kind, ContextValue::String("…".to_owned()));
            // The suggestion quotes it once more.
            error.remove(ContextKind::Suggested);
        }
    }
}

/// Returns `true` for plain words and numbers. Most wrong values are of these.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || " +-._".contains(c)) && is_no_url(text)
}

/// Returns `true` if the text contains neither a URL nor a ticket. clap writes the name of an option as `--store <URL>`.
fn is_no_url(text: &str) -> bool {
    !text.contains([':', '@', '%'])
        && !text.contains("//")
        && !text.contains("lh1")
        && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_secret_is_repeated_in_no_shape() {
        const SECRET: &str = "S3CRET";
        let owner = "9f5ee6de2d5f53bd5f2362dd63d252ab";
        let values = [
            format!("redis://u:{SECRET}@h"),
            format!(" redis://u:{SECRET}  x@h"),
            format!("redis://u:\t{SECRET}@h"),
            format!("redis://u:\u{1b}[1m{SECRET}\u{1b}[0m@h"),
            format!("u%3A{SECRET}%40h"),
            format!("STORE=redis://u:{SECRET}@h"),
            format!("\"redis://u:{SECRET}@h\""),
            format!("lh1.{owner}.7.1000.{SECRET}"),
            format!("TICKET=lh1.{owner}.7.1000.{SECRET}"),
            format!(" lh1.{owner}.7.1000.{SECRET}"),
            format!("lh1 {SECRET}"),
        ];
        for value in &values {
            let calls: [&[&str]; 9] = [
                &["acquire", "lock", "--ttl", value],
                &["acquire", "lock", &format!("--wait={value}")],
                &["acquire", "lock", "--retries", value],
                &["run", "lock", "--on-lost", value, "--", "true"],
                &["release", value],
                &["inspect", "lock", value],
                &["inspect", "lock", &format!("--{value}")],
                &["inspect", "lock", &format!("--unknown={value}")],
                &[value],
            ];
            for call in calls {
                let args = std::iter::once("leasehold").chain(call.iter().copied()).map(OsString::from);
                let Err(failure) = parse(args.collect()) else { continue };
                let text = failure.text.expect("said");
                assert!(!text.contains(SECRET) && !text.contains(owner), "{call:?}: {text}");
            }
        }
    }

    #[test]
    fn what_is_no_secret_is_repeated() {
        for (call, quoted) in [
            (&["acquire", "lock", "--ttl", "5 parsecs"][..], "'5 parsecs'"),
            (&["acquire", "lock", "--unknown"], "'--unknown'"),
            (&["acquire", "lock", "--ttl"], "'--ttl <D>'"),
            (&["aquire"], "'aquire'"),
        ] {
            let args = std::iter::once("leasehold").chain(call.iter().copied()).map(OsString::from);
            let Err(failure) = parse(args.collect()) else { panic!("{call:?}") };
            let text = failure.text.expect("said");
            assert!(text.contains(quoted), "{text}");
        }
    }
}
