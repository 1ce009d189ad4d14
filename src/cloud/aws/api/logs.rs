//! Logs: lines of containers from `CloudWatch` Logs, the VM's own from its console.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use aws_sdk_cloudwatchlogs::types::FilteredLogEvent;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{self, StreamExt as _};

use super::environment::Aws;
use super::error::failed;
use super::wait::now;
use crate::cloud::aws::plan::name;
use crate::cloud::{CloudError, LogLine, LogQuery, LogStream};

/// How often new lines are asked for.
const FOLLOW: Duration = Duration::from_secs(2);

/// Lines at the end of a console that hold the reason why a VM failed.
const CONSOLE_LINES: usize = 12;

impl Aws {
    /// Lines of a group's containers, and of its VMs' consoles.
    pub(super) async fn lines(&self, query: &LogQuery) -> Result<LogStream, CloudError> {
        if query.previous {
            return Err(CloudError::Unsupported {
                what: "telling the runs of a container apart".into(),
                advice: "without --previous the lines of all of its runs are shown".into(),
            });
        }
        let oldest =
            query.since_seconds.map_or(0, |seconds| now().saturating_sub(seconds).saturating_mul(1000));
        let (first, seen) = self.events(query, i64::try_from(oldest).unwrap_or(i64::MAX)).await?;
        let mut lines = Vec::new();
        if query.container.is_none() {
            for id in self.machines(Some(&query.group)).await?.into_keys() {
                if query.instance.as_ref().is_none_or(|wanted| *wanted == id) {
                    let text = self.console(&id).await?;
                    lines.extend(text.lines().map(|line| LogLine {
                        instance: id.clone(),
                        container: None,
                        time: None,
                        text: line.to_owned(),
                    }));
                }
            }
        }
        lines.extend(first);
        let lines = last(lines, query.tail);
        let now = stream::iter(lines.into_iter().map(Ok));
        if !query.follow {
            return Ok(now.boxed());
        }
        let (aws, query) = (self.clone(), query.clone());
        let later = stream::unfold(seen, move |since| {
            let (aws, query) = (aws.clone(), query.clone());
            async move {
                tokio::time::sleep(FOLLOW).await;
                let (lines, since) = match aws.events(&query, since).await {
                    Ok((lines, since)) => (lines.into_iter().map(Ok).collect(), since),
                    Err(error) => (vec![Err(error)], since),
                };
                Some((stream::iter(lines), since))
            }
        });
        Ok(now.chain(later.flatten()).boxed())
    }

    /// Lines of containers from the millisecond `since` on, and the millisecond behind the last one.
    async fn events(&self, query: &LogQuery, since: i64) -> Result<(Vec<LogLine>, i64), CloudError> {
        let mut prefix = format!("{}/{}/", query.group.namespace, query.group.name);
        if let Some(instance) = &query.instance {
            let _ = write!(prefix, "{instance}/");
        }
        let found = self
            .clients
            .logs
            .filter_log_events()
            .log_group_name(name::log_group(&self.settings.environment))
            .log_stream_name_prefix(prefix)
            .start_time(since)
            .into_paginator()
            .send()
            .try_collect()
            .await;
        let found: Vec<FilteredLogEvent> = match found {
            Err(error) if error.code() == Some("ResourceNotFoundException") => vec![],
            Err(error) => return Err(failed("FilterLogEvents")(error)),
            Ok(pages) => pages.into_iter().flat_map(|page| page.events.unwrap_or_default()).collect(),
        };
        let next = found.iter().filter_map(FilteredLogEvent::timestamp).max().map_or(since, |last| last + 1);
        let wanted = |line: &LogLine| query.container.is_none() || line.container == query.container;
        Ok((found.iter().filter_map(line).filter(wanted).collect(), next))
    }

    /// What a VM wrote to its console, as far as AWS keeps it.
    pub(super) async fn console(&self, id: &str) -> Result<String, CloudError> {
        // Without this it is what there was at the last start or stop: nothing of a pod that fails while it runs.
        let output = self.clients.ec2.get_console_output().instance_id(id).latest(true).send().await;
        let output = match output {
            // Only machines of the Nitro system show it while they run, and none that has ended does.
            Err(error) if error.code().is_some_and(is_not_shown) => {
                self.clients.ec2.get_console_output().instance_id(id).send().await
            }
            other => other,
        };
        let output = match output {
            Err(error) if error.code().is_some_and(|code| code.starts_with("InvalidInstanceID")) => {
                return Ok(String::new());
            }
            other => other.map_err(failed("GetConsoleOutput"))?,
        };
        let bytes = STANDARD.decode(output.output().unwrap_or_default()).unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The end of the longest of these VMs' consoles: one that was started just now has said nothing of its pod yet.
    pub(super) async fn last_words(&self, ids: &[&str]) -> String {
        let mut output = String::new();
        for id in ids {
            let other = self.console(id).await.unwrap_or_default();
            if other.len() > output.len() {
                output = other;
            }
        }
        let lines: Vec<&str> = output.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }
}

/// Whether EC2 does not show the newest of a machine's console.
fn is_not_shown(code: &str) -> bool {
    matches!(code, "UnsupportedOperation" | "IncorrectInstanceState" | "IncorrectState")
}

/// An event of the stream `NAMESPACE/GROUP/INSTANCE/CONTAINER`.
fn line(event: &FilteredLogEvent) -> Option<LogLine> {
    let mut parts = event.log_stream_name()?.split('/').skip(2);
    Some(LogLine {
        instance: parts.next()?.to_owned(),
        container: parts.next().map(str::to_owned),
        time: event
            .timestamp()
            .and_then(chrono::DateTime::from_timestamp_millis)
            .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Nanos, true)),
        text: event.message()?.trim_end().to_owned(),
    })
}

/// The last lines of each VM, in their order.
fn last(lines: Vec<LogLine>, tail: Option<usize>) -> Vec<LogLine> {
    let Some(tail) = tail else { return lines };
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    for line in &lines {
        *left.entry(line.instance.clone()).or_default() += 1;
    }
    let mut kept = |line: &LogLine| {
        let count = left.get_mut(&line.instance).expect("every line was counted");
        *count -= 1;
        *count < tail
    };
    lines.into_iter().filter(|line| kept(line)).collect()
}
