//! Lists the public API of a library, one item per line, and compares it with the listing in the repository.
//!
//! `scripts/public-api` runs it: a change of the API shows as a change of a file, in review.

#![allow(clippy::print_stderr, reason = "a program that reports to a person")]

use std::collections::BTreeSet;
use std::error::Error;
use std::process::ExitCode;
use std::{env, fs};

const USAGE: &str = "usage: public-api compare|update JSON LISTING";

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let [action, json, listing] = args.as_slice() else { return Err(USAGE.into()) };
    let found = list(json)?;
    match action.as_str() {
        "update" => fs::write(listing, found)?,
        "compare" => return Ok(compare(listing, &fs::read_to_string(listing)?, &found)),
        _ => return Err(USAGE.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the items of an API, each on a line. Leaves out what the compiler derives from them.
fn list(json: &str) -> Result<String, Box<dyn Error>> {
    let api = public_api::Builder::from_rustdoc_json(json)
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()?;
    Ok(api.items().map(|item| format!("{item}\n")).collect())
}

/// Prints the difference. Fails if there is one.
fn compare(listing: &str, kept: &str, found: &str) -> ExitCode {
    if kept == found {
        return ExitCode::SUCCESS;
    }
    let (old, new): (BTreeSet<_>, BTreeSet<_>) = (kept.lines().collect(), found.lines().collect());
    for line in old.difference(&new) {
        eprintln!("-{line}");
    }
    for line in new.difference(&old) {
        eprintln!("+{line}");
    }
    eprintln!("{listing}: the public API has changed; if that is meant, run: scripts/public-api --update");
    ExitCode::FAILURE
}
