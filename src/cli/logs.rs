//! `i2kit logs`: the output of containers.

use futures::StreamExt as _;

use super::args::LogsArgs;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::{connection, named};
use crate::cloud::{LogLine, LogQuery};
use crate::report::{self, Format};
use crate::text;

/// Prints the lines of a group or of one of its instances.
pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let (group, instance) = named::group_or_instance(&fleet, &args.name)?;
    if let Some(container) = &args.container {
        named::has_container(&group.name.to_string(), &group.instances, container)?;
    }
    let instance = instance.map(|instance| instance.id.to_string());
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
        print(&line.or_exit(Exit::Cloud)?, context.format, args.timestamps, args.raw);
    }
    Ok(Exit::Success)
}

/// Prints one line, with where it comes from, and with its time if that is wanted. Containers are strangers: unless `raw`
/// is asked for, nothing in the line acts on a terminal.
pub(super) fn print(line: &LogLine, format: Format, timestamps: bool, raw: bool) {
    match format {
        Format::Json => {
            let json = serde_json::to_string(line).expect("a log line is plain text");
            report::document(&(json + "\n"));
        }
        Format::Text => {
            if raw {
                report::bytes(format!("{}{}\n", prefix(line, timestamps), line.text).as_bytes(), false);
            } else {
                report::result(&text(line, timestamps));
            }
        }
    }
}

/// Where a line comes from, and its time if that is wanted.
fn prefix(line: &LogLine, timestamps: bool) -> String {
    let source = line.container.as_deref().unwrap_or("(vm)");
    let time = line.time.as_deref().filter(|_| timestamps).map(|time| format!("{time} "));
    format!("{} {source} | {}", line.instance, time.unwrap_or_default())
}

/// The line as it may be shown.
fn text(line: &LogLine, timestamps: bool) -> String {
    format!("{}{}\n", text::line(&prefix(line, timestamps)), shown(&line.text))
}

/// What a container printed, on one line and without what acts on a terminal.
pub(super) fn shown(printed: &str) -> String {
    // A line may end with a carriage return and a line feed.
    let bare = printed.strip_suffix('\r').unwrap_or(printed);
    text::visible(bare).replace('\n', "\u{240a}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_container_stays_a_line_and_acts_on_nothing() {
        let line = LogLine {
            instance: "web-1-abcde".into(),
            container: Some("app\u{1b}[2J".into()),
            time: Some("2026-01-31T12:00:00Z".into()),
            text: "a\tb\u{1b}[31m\n::error::c\rd\r".into(),
        };
        assert_eq!(text(&line, false), "web-1-abcde app␛[2J | a\tb␛[31m␊::error::c␍d\n");
        let plain = LogLine { container: None, text: "x".into(), ..line };
        assert_eq!(text(&plain, true), "web-1-abcde (vm) | 2026-01-31T12:00:00Z x\n");
    }
}
