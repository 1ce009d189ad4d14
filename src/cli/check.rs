//! `i2kit check`: everything that is wrong with manifests.

use super::args::{CheckArgs, Findings};
use super::environment::Environment;
use super::exit::{Exit, Failure};
use super::{input_files, output, reading};
use crate::manifest::{self, Options, render};
use crate::report::{self, Format};

/// Checks the set. Findings are the result of this verb, so they go to standard output.
pub(super) fn run(args: &CheckArgs, environment: &Environment, format: Format) -> Result<Exit, Failure> {
    let files = input_files::files(&args.set.manifests, &args.set.options)?;
    let options = Options { language_only: args.language_only, ..reading::options(&args.set, environment) };
    let reading = manifest::read(&files, &options);
    let format = args.format.unwrap_or(match format {
        Format::Text => Findings::Text,
        Format::Json => Findings::Json,
    });
    match format {
        Findings::Json => output::json(&render::json(&files, &reading)),
        Findings::Sarif => output::json(&render::sarif(&files, &reading, env!("CARGO_PKG_VERSION"))),
        Findings::Github => report::result(&render::github(&files, &reading)),
        Findings::Text => {
            report::said(&render::text(&files, &reading, report::colour()));
            if let Some(left_out) = input_files::left_out(&args.set.manifests, &args.set.options) {
                report::message(&left_out);
            }
            report::message(&reading::summary(&reading));
        }
    }
    Ok(if reading.has_errors() { Exit::Manifest } else { Exit::Success })
}
