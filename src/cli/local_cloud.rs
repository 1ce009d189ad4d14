//! `i2kit local-cloud` and `i2kit local-door`: the local cloud's own processes, of which the client starts the first on
//! demand, and that the others; and whether the first is started with the computer.

use std::path::Path;

use super::args::LocalCloudVerb;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, output};
use crate::cloud::local::{self, Unit};
use crate::report::{self, Format};

/// Runs the local cloud until nothing is left in it.
pub(super) async fn serve(context: &Context) -> Result<Exit, Failure> {
    local::serve(local::home(&connection::client(context)?)).await.or_exit(Exit::Cloud)?;
    Ok(Exit::Success)
}

/// Has the process started with the computer, or not, or says which.
pub(super) async fn run(context: &Context, verb: &LocalCloudVerb) -> Result<Exit, Failure> {
    let home = local::home(&connection::client(context)?);
    let unit = Unit::new(&context.dirs.configuration);
    match verb {
        LocalCloudVerb::Enable { print: true } => {
            report::document(&local::unit_text(&home, &unit));
            return Ok(Exit::Success);
        }
        LocalCloudVerb::Enable { print: false } => {
            local::enable(&home, &unit).or_exit(Exit::Cloud)?;
        }
        LocalCloudVerb::Disable => {
            if !local::disable(&unit).or_exit(Exit::Cloud)? {
                context.events.note("it was not enabled");
            }
        }
        LocalCloudVerb::Status => {}
    }
    let status = local::status(&home, &unit).await;
    match context.format {
        Format::Json => output::json(&status),
        Format::Text => {
            let runs = match (&status.pid, &status.version) {
                (Some(pid), Some(version)) => format!("runs: version {version}, process {pid}"),
                _ => "does not run; the first command that needs it starts it".to_owned(),
            };
            let enabled = if status.enabled { "enabled" } else { "disabled" };
            report::result(&format!(
                "{runs}\nstart with this computer: {enabled} ({})\n",
                status.unit.display()
            ));
            for note in &status.notes {
                context.events.warn(note.as_str());
            }
        }
    }
    Ok(Exit::Success)
}

/// Runs the processes that carry traffic until they are told to end.
pub(super) fn door(state: &Path, resume: Option<i32>) -> Result<Exit, Failure> {
    local::door(state, resume).or_exit(Exit::Cloud)?;
    Ok(Exit::Success)
}
