//! Instance refreshes: Auto Scaling replaces VMs by itself, and rolls back on request or after an hour.

use std::time::Duration;

use aws_sdk_autoscaling::types::{DesiredConfiguration, InstanceRefresh, RefreshPreferences};
use aws_sdk_ec2::types::LaunchTemplate;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;

use super::auto_scaling::{
    current, percentages, seconds, settings_in, status, template_version, version_of, wanted,
};
use super::environment::Aws;
use super::error::{failed, is_not_found};
use super::job::lane_of;
use super::tags::{self, FAILURE};
use super::wait::{eventually, until_known};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::manifest::api::Name;
use crate::plan::fleet::RefreshStatus;

/// How long a cancelled refresh may take to stop: AWS finishes the step that it is at.
const STOPPING: Duration = Duration::from_mins(15);

impl Aws {
    /// Starts the group, or replaces its VMs by those of revision `to`.
    pub(super) async fn refresh(&self, group: &Name, to: u32, replicas: u32) -> Result<(), CloudError> {
        let found = self.lasting_group(group).await?;
        // A start of a Job that was interrupted may have left lanes without the first.
        let was_job = match &found {
            Some(found) => lane_of(found).is_some(),
            None => self.has_job_lanes(group).await?,
        };
        if was_job {
            self.delete_lanes(group).await?;
        }
        let Some(found) = found.filter(|_| !was_job) else {
            return self.create_scaling_group(group, to, replicas).await;
        };
        let refreshes = self.refreshes(group).await?;
        let active = refreshes.iter().find(|refresh| status(refresh).is_active());
        if let Some(active) = active
            && (status(active), wanted(active)) != (RefreshStatus::InProgress, Some(to))
        {
            let message = format!(
                "a refresh of {group} to revision {} is {}",
                wanted(active).unwrap_or_default(),
                status(active)
            );
            return Err(CloudError::Conflict { message });
        }
        let scaling = self.settings_of(group).await?.and_then(|settings| settings.scaling);
        let scaled = found.desired_capacity().and_then(|n| u32::try_from(n).ok());
        // What the load made of the size since it was looked at is kept.
        let kept = |now: u32| scaling.as_ref().map_or(now == replicas, |scaling| scaling.within(now) == now);
        if !scaled.is_some_and(kept) {
            self.resize(group, replicas, scaling.as_ref()).await?;
        }
        let everywhere =
            current(&found) == Some(to) && found.instances().iter().all(|i| version_of(i) == Some(to));
        if active.is_some() || everywhere {
            return Ok(());
        }
        // There must be such a revision.
        self.launch_of(group, to).await?;
        self.start_instance_refresh(group, to, replicas).await
    }

    async fn start_instance_refresh(&self, group: &Name, to: u32, replicas: u32) -> Result<(), CloudError> {
        let own = name::group(&self.settings.environment, group);
        let template = self.template(group).await?.ok_or_else(|| CloudError::not_found("group", group))?;
        let settings =
            settings_in(template.tags())?.ok_or_else(|| CloudError::not_found("settings of group", group))?;
        let (least, most) = percentages(&settings, replicas);
        let preferences = RefreshPreferences::builder()
            .min_healthy_percentage(least)
            .max_healthy_percentage(most)
            .instance_warmup(seconds(settings.min_ready_seconds))
            .skip_matching(true)
            .auto_rollback(true);
        let wanted_configuration = match self.mixed_policy(group, to).await? {
            Some(policy) => DesiredConfiguration::builder().mixed_instances_policy(policy),
            None => DesiredConfiguration::builder().launch_template(template_version(&own, to)),
        };
        let start = self
            .clients
            .autoscaling
            .start_instance_refresh()
            .auto_scaling_group_name(&own)
            .desired_configuration(wanted_configuration.build())
            .preferences(preferences.build());
        let started = until_known(|| start.clone().send()).await;
        match started {
            // The answer to an earlier try was lost, or another run was faster.
            Err(error) if error.code() == Some("InstanceRefreshInProgress") => {
                let refreshes = self.refreshes(group).await?;
                let active = refreshes.iter().find(|refresh| status(refresh).is_active());
                match active.and_then(wanted) {
                    Some(number) if number != to => Err(CloudError::Conflict {
                        message: format!("a refresh of {group} to revision {number} is in progress"),
                    }),
                    _ => Ok(()),
                }
            }
            other => other.map(drop).map_err(failed("StartInstanceRefresh")),
        }
    }

    /// The refreshes of a group, newest first; none when it was never started.
    pub(super) async fn refreshes(&self, group: &Name) -> Result<Vec<InstanceRefresh>, CloudError> {
        let asked = self
            .clients
            .autoscaling
            .describe_instance_refreshes()
            .auto_scaling_group_name(name::group(&self.settings.environment, group))
            .send()
            .await;
        match asked {
            Err(error) if is_not_found(&error) => Ok(vec![]),
            // One page is a hundred refreshes: older ones are no one's concern.
            other => {
                Ok(other.map_err(failed("DescribeInstanceRefreshes"))?.instance_refreshes.unwrap_or_default())
            }
        }
    }

    /// Stops the refresh to revision `to` where it is. Nothing when it has ended, or another one is under way.
    pub(super) async fn cancel(&self, group: &Name, to: u32) -> Result<(), CloudError> {
        let Some(ours) = to_be_cancelled(&self.refreshes(group).await?, to) else { return Ok(()) };
        let own = name::group(&self.settings.environment, group);
        let cancelled =
            self.clients.autoscaling.cancel_instance_refresh().auto_scaling_group_name(own).send().await;
        let cancelled = match cancelled {
            Err(error) if error.code() == Some("ActiveInstanceRefreshNotFound") => return Ok(()),
            other => other.map_err(failed("CancelInstanceRefresh"))?,
        };
        // AWS cancels what is active, and takes no name of it.
        if let Some(id) = cancelled.instance_refresh_id().filter(|id| *id != ours) {
            let message = format!(
                "refresh {id} of {group}, which somebody else started at that moment, was cancelled in place of {ours}"
            );
            return Err(CloudError::Conflict { message });
        }
        eventually(&format!("the refresh of {group}, which is being cancelled"), STOPPING, || async {
            let active = self.refreshes(group).await?.iter().any(|refresh| status(refresh).is_active());
            Ok((!active).then_some(()))
        })
        .await
    }

    /// Has AWS bring the old revision back, and keeps the reason where every later run finds it.
    pub(super) async fn give_up(&self, group: &Name, reason: &str) -> Result<(), CloudError> {
        let own = name::group(&self.settings.environment, group);
        let refreshes = self.refreshes(group).await?;
        let Some(active) = refreshes.iter().find(|refresh| status(refresh) == RefreshStatus::InProgress)
        else {
            return Ok(());
        };
        let back =
            self.clients.autoscaling.rollback_instance_refresh().auto_scaling_group_name(own).send().await;
        match back {
            // It ended, or turns back already.
            Err(error)
                if matches!(
                    error.code(),
                    Some("ActiveInstanceRefreshNotFound" | "IrreversibleInstanceRefresh")
                ) => {}
            other => drop(other.map_err(failed("RollbackInstanceRefresh"))?),
        }
        // The reason comes second: what fails here must not keep machines that fail.
        let text = format!("{} {}", active.instance_refresh_id().unwrap_or_default(), printable(reason));
        if let Err(error) = self.note_failure(group, &text).await {
            self.events.note(format!("why {group} was rolled back is not kept: {error}"));
        }
        Ok(())
    }

    /// Keeps why a refresh was given up, in the tags of the launch template.
    async fn note_failure(&self, group: &Name, text: &str) -> Result<(), CloudError> {
        let template = self.template(group).await?;
        match template.as_ref().and_then(LaunchTemplate::launch_template_id) {
            Some(id) => self.set_tags(id, &tags::long(FAILURE, text)).await,
            None => Ok(()),
        }
    }

    /// Numbers of the versions that VMs are, or are about to be, started from.
    pub(super) async fn wanted_versions(&self, group: &Name) -> Result<Vec<u32>, CloudError> {
        let Some(found) = self.scaling_group(group).await? else { return Ok(vec![]) };
        let refreshes = self.refreshes(group).await?;
        let active = refreshes.iter().filter(|refresh| status(refresh).is_active()).filter_map(wanted);
        let running = found.instances().iter().filter_map(version_of);
        Ok(active.chain(running).chain(current(&found)).collect())
    }
}

/// A text as tags take it: consoles have colours and other control characters.
fn printable(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>())
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines.join(" / ")
}

/// The id of the refresh under way, when it leads to revision `to`.
fn to_be_cancelled(refreshes: &[InstanceRefresh], to: u32) -> Option<String> {
    let active = refreshes.iter().find(|refresh| status(refresh).is_active());
    active.filter(|active| wanted(active) == Some(to))?.instance_refresh_id().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use aws_sdk_autoscaling::types::InstanceRefreshStatus;

    use super::*;

    #[test]
    fn what_a_console_says_is_kept_without_its_control_characters() {
        assert_eq!(printable("one\r\n\u{1b}[31mtwo\u{1b}[0m\n\n\u{7}three"), "one / [31mtwo[0m / three");
    }

    #[test]
    fn a_refresh_of_somebody_else_is_not_cancelled() {
        let refresh = |id: &str, to, status| {
            let wanted = DesiredConfiguration::builder().launch_template(template_version("web", to)).build();
            InstanceRefresh::builder()
                .instance_refresh_id(id)
                .status(status)
                .desired_configuration(wanted)
                .build()
        };
        let ours = refresh("ours", 2, InstanceRefreshStatus::InProgress);
        assert_eq!(to_be_cancelled(std::slice::from_ref(&ours), 2).as_deref(), Some("ours"));
        let ended = refresh("ours", 2, InstanceRefreshStatus::Successful);
        assert_eq!(to_be_cancelled(std::slice::from_ref(&ended), 2), None);
        // Somebody else has rolled back to revision 1 since the plan was made.
        let theirs = refresh("theirs", 1, InstanceRefreshStatus::InProgress);
        assert_eq!(to_be_cancelled(&[theirs, ended], 2), None);
    }
}
