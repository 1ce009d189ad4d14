//! `i2kit events`: events of groups and instances, and whether they need attention.

use super::args::EventsArgs;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::tables::{row, table};
use super::{connection, named, output};
use crate::cloud::Scope;
use crate::plan::cloud_event;
use crate::plan::fleet::CloudEvent;
use crate::report::{self, Format};

/// Prints events, oldest first.
pub(super) async fn run(context: &Context, args: &EventsArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = named::inspect(cloud.as_ref(), args.name.as_deref(), &Scope::Detailed).await?;
    let found = cloud_event::of(&fleet);
    match context.format {
        Format::Json => output::json(&found),
        Format::Text if found.is_empty() => {
            report::result(&format!("Nothing happened in environment {}.\n", fleet.environment));
        }
        Format::Text => report::result(&text(&found)),
    }
    Ok(Exit::Success)
}

/// Events as a table.
pub(super) fn text(found: &[CloudEvent]) -> String {
    let mut table = table(&["TIME", "TYPE", "REASON", "OBJECT", "MESSAGE"]);
    for event in found {
        let first = event.message.lines().next().unwrap_or_default();
        table.add_row(row([
            output::utc(event.time),
            format!("{:?}", event.kind),
            event.reason.clone(),
            event.object.clone(),
            first.to_owned(),
        ]));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}
