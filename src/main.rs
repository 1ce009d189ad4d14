//! The command: arguments in, exit code out. The only place that ends the process.

use std::process::ExitCode;

fn main() -> ExitCode {
    i2kit::cli::run(std::env::args_os())
}
