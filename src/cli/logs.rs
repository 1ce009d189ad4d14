//! `i2kit logs`: the output of containers.

use std::collections::BTreeSet;

use futures::StreamExt as _;

use super::args::LogsArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::pipeline;
use crate::cloud::{LogLine, LogQuery};
use crate::plan::fleet::InstanceGroup;
use crate::report::{self, Format};

/// Prints the lines of a group or of one of its instances.
pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<Exit, Failure> {
    let cloud = pipeline::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let (group, instance) = pipeline::group_or_instance(&fleet, &args.name)?;
    if let Some(container) = &args.container {
        has_container(group, container)?;
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

/// A container that no instance knows is a slip. An instance that has told of none yet may have any.
fn has_container(group: &InstanceGroup, container: &str) -> Result<(), Failure> {
    let names: BTreeSet<&str> = group
        .instances
        .iter()
        .flat_map(|instance| &instance.containers)
        .map(|container| container.name.as_str())
        .collect();
    let unknown = group.instances.iter().any(|instance| instance.containers.is_empty());
    if names.is_empty() || unknown || names.contains(container) {
        return Ok(());
    }
    let names: Vec<&str> = names.into_iter().collect();
    let error = anyhow::anyhow!("{} has no container `{container}`; it has {}", group.name, names.join(", "));
    Err(Failure::new(Exit::NotFound, error))
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
