//! Measurements of Leasehold; see README.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    leasehold_bench::main()
}
