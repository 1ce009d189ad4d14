//! `i2kit logs`: the output of containers.

use futures::StreamExt as _;

use super::args::LogsArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{named, pipeline};
use crate::cloud::{LogLine, LogQuery};
use crate::report::{self, Format};

/// Prints the lines of a group or of one of its instances.
pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<Exit, Failure> {
    let cloud = pipeline::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let (group, instance) = named::group_or_instance(&fleet, &args.name)?;
    if let Some(container) = &args.container {
        named::has_container(&group.name.to_string(), &group.instances, container)?;
    }
    let instance = instance.map(|instance| instance.id.clone());
    let query = LogQuery {
        group: group.name.clone(),
        instance,
        container: args.container.clone(),
        tail: args.tail,
        follow: args.follow,
        previous: args.previous,
        since_seconds: args.since.map(|since| since.as_secs()),
    };
    let mut lines = cloud.logs(&query).await.or_exit(Exit::Cloud)?;
    while let Some(line) = lines.next().await {
        print(&line.or_exit(Exit::Cloud)?, context.format, args.timestamps);
    }
    Ok(Exit::Success)
}

/// Prints one line, with where it comes from, and with its time if that is wanted.
pub(super) fn print(line: &LogLine, format: Format, timestamps: bool) {
    match format {
        Format::Json => {
            let json = serde_json::to_string(line).expect("a log line is plain text");
            report::result(&(json + "\n"));
        }
        Format::Text => {
            let source = line.container.as_deref().unwrap_or("(vm)");
            let time = line.time.as_deref().filter(|_| timestamps).map(|time| format!("{time} "));
            let time = time.unwrap_or_default();
            report::result(&format!("{} {source} | {time}{}\n", line.instance, line.text));
        }
    }
}
