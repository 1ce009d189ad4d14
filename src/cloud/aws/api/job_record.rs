//! The record of a Job's runs, a stream of a log group beside that of lines: written to by the tool when it starts something and by
//! the machines about themselves, read by both. Its meaning is in `i2kit_spec::job`.

use std::time::Duration;

use aws_sdk_cloudwatchlogs::types::InputLogEvent;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use i2kit_spec::job::{JobEvent, Record, What};

use super::environment::Aws;
use super::error::failed;
use super::wait::{clock, eventually};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::manifest::api::Name;

/// How long the service may not show what was written: it takes seconds.
const SHOWN: Duration = Duration::from_mins(2);

impl Aws {
    /// A record as far as it is shown; an empty one where there is none.
    pub(super) async fn record(&self, stream: &str) -> Result<Record, CloudError> {
        Ok(Record::of(self.record_events(stream).await?))
    }

    async fn record_events(&self, stream: &str) -> Result<Vec<JobEvent>, CloudError> {
        let found = self
            .clients
            .logs
            .filter_log_events()
            .log_group_name(name::records(&self.settings.environment))
            .log_stream_names(stream)
            .into_paginator()
            .send()
            .try_collect()
            .await;
        let pages = match found {
            Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(vec![]),
            other => other.map_err(failed("FilterLogEvents"))?,
        };
        let lines = pages.into_iter().flat_map(|page| page.events.unwrap_or_default());
        let taken = |time: i64| u64::try_from(time).ok();
        Ok(lines
            .filter_map(|line| JobEvent::read(line.message()?, line.ingestion_time().and_then(taken)))
            .collect())
    }

    /// Writes to a record at the time `at`, in milliseconds since the Unix epoch, and returns once it shows that: machines that
    /// are started then must find it.
    pub(super) async fn write_record(
        &self,
        stream: &str,
        (at, what): (u64, Vec<What>),
    ) -> Result<(), CloudError> {
        self.made().over.remove(stream);
        let group = name::records(&self.settings.environment);
        let made = self.clients.logs.create_log_stream().log_group_name(&group).log_stream_name(stream);
        match made.send().await {
            Err(error) if error.code() == Some("ResourceAlreadyExistsException") => {}
            other => drop(other.map_err(failed("CreateLogStream"))?),
        }
        let written: Vec<JobEvent> = what.into_iter().map(|what| JobEvent { at, what }).collect();
        // The service takes no time that lies ahead; the record has its own order.
        let now = i64::try_from(clock().as_millis()).unwrap_or(i64::MAX);
        let line = |event: &JobEvent| {
            let text = serde_json::to_string(event).unwrap_or_default();
            InputLogEvent::builder()
                .timestamp(now)
                .message(text)
                .build()
                .map_err(|error| CloudError::Refused { message: error.to_string() })
        };
        let lines: Vec<InputLogEvent> = written.iter().map(line).collect::<Result<_, _>>()?;
        let put = self.clients.logs.put_log_events().log_group_name(&group).log_stream_name(stream);
        put.set_log_events(Some(lines)).send().await.map_err(failed("PutLogEvents"))?;
        eventually(&format!("CloudWatch Logs to show the record {stream}"), SHOWN, || async {
            let found = self.record_events(stream).await?;
            Ok(written.iter().all(|event| found.contains(event)).then_some(()))
        })
        .await
    }

    /// Deletes the records of a Job.
    pub(super) async fn delete_records(&self, group: &Name) -> Result<(), CloudError> {
        let (log_group, prefix) = (name::records(&self.settings.environment), name::records_of(group));
        let found = self
            .clients
            .logs
            .describe_log_streams()
            .log_group_name(&log_group)
            .log_stream_name_prefix(&prefix)
            .into_paginator()
            .send()
            .try_collect()
            .await;
        let pages = match found {
            Err(error) if error.code() == Some("ResourceNotFoundException") => return Ok(()),
            other => other.map_err(failed("DescribeLogStreams"))?,
        };
        for stream in pages.into_iter().flat_map(|page| page.log_streams.unwrap_or_default()) {
            let Some(name) = stream.log_stream_name().filter(|name| name.starts_with(&prefix)) else {
                continue;
            };
            let gone = self.clients.logs.delete_log_stream();
            match gone.log_group_name(&log_group).log_stream_name(name).send().await {
                Err(error) if error.code() == Some("ResourceNotFoundException") => {}
                other => drop(other.map_err(failed("DeleteLogStream"))?),
            }
        }
        Ok(())
    }
}
