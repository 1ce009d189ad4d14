//! `i2kit history`: the revisions of a group, and of a Job its runs.

use std::fmt::Write as _;

use super::args::GroupArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, named, output, status};
use crate::plan::fleet::InstanceGroup;
use crate::report::{self, Format};
use crate::text;

/// Prints the revisions that the cloud keeps, oldest first.
pub(super) async fn run(context: &Context, args: &GroupArgs) -> Result<Exit, Failure> {
    let fleet = connection::cloud(context).await?.observe().await.or_exit(Exit::Cloud)?;
    let group = named::group(&fleet, &args.name)?;
    match context.format {
        Format::Json => output::json(&group.revisions),
        Format::Text => report::result(&text(group)),
    }
    Ok(Exit::Success)
}

/// Revisions as a table.
pub(super) fn text(group: &InstanceGroup) -> String {
    let mut out = format!("{:<10}{:<14}{:<22}CAUSE\n", "REVISION", "IMAGE", "CREATED");
    for revision in &group.revisions {
        let current = if group.current == Some(revision.number) { " (current)" } else { "" };
        let number = revision.number.to_string();
        let created = output::utc(revision.created);
        let image = revision.launch.image.0.short();
        let _ = writeln!(out, "{number:<10}{image:<14}{created:<22}{}{current}", text::line(&revision.cause));
    }
    if !group.runs.is_empty() {
        out.push('\n');
        for line in status::runs(std::iter::once(group)).lines() {
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out
}
