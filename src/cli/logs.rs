//! `i2kit logs`: the output of containers.

use futures::StreamExt as _;

use super::args::LogsArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::pipeline;
use crate::cloud::{LogLine, LogQuery};
use crate::report::{self, Format};

/// Prints the lines of a group or of one of its instances.
pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<Exit, Failure> {
    let cloud = pipeline::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let (group, instance) = pipeline::group_or_instance(&fleet, &args.name)?;
    let query = LogQuery {
        group: group.name.clone(),
        instance,
        container: args.container.clone(),
        tail: args.tail,
        follow: args.follow,
    };
    let mut lines = cloud.logs(&query).await.or_exit(Exit::Cloud)?;
    while let Some(line) = lines.next().await {
        print(&line.or_exit(Exit::Cloud)?, context.format);
    }
    Ok(Exit::Success)
}

/// Prints one line, with where it comes from.
pub(super) fn print(line: &LogLine, format: Format) {
    match format {
        Format::Json => {
            let json = serde_json::to_string(line).expect("a log line is plain text");
            report::result(&(json + "\n"));
        }
        Format::Text => {
            let source = line.container.as_deref().unwrap_or("(vm)");
            report::result(&format!("{} {source} | {}\n", line.instance, line.text));
        }
    }
}
