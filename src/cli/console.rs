//! `i2kit console`: the output of an instance's serial console, from its start on.

use futures::StreamExt as _;

use super::args::ConsoleArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, named};
use crate::report;
use crate::text::Stream;

/// Prints until the instance ends.
pub(super) async fn run(context: &Context, args: &ConsoleArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let instance = named::running(&fleet, &args.name)?;
    context.events.note(format!(
        "the serial console of {}; nothing there reads what is typed, `i2kit exec -it {} -- sh` does; Ctrl-C ends",
        instance.id, instance.id
    ));
    let mut bytes = cloud.console(&instance.id).await.or_exit(Exit::Cloud)?;
    let mut visible = Stream::default();
    while let Some(bytes) = bytes.next().await {
        let bytes = bytes.or_exit(Exit::Cloud)?;
        let bytes = if args.raw { bytes } else { visible.next(&bytes).into_bytes() };
        if !report::bytes(&bytes, false) {
            break;
        }
    }
    Ok(Exit::Success)
}
