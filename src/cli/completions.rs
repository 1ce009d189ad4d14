//! `i2kit completions`: a completion script for a shell.

use clap::CommandFactory as _;

use super::args::Arguments;
use super::exit::{Exit, Failure};
use crate::report;

/// Prints the script for `shell`.
#[expect(clippy::unnecessary_wraps, reason = "every verb has the same signature")]
pub(super) fn run(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "i2kit", &mut script);
    report::result(&String::from_utf8_lossy(&script));
    Ok(Exit::Success)
}
