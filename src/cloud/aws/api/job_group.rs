//! A group that is a Job, as the fleet has it: its machines from its lanes, its runs from their record.

use aws_sdk_ec2::types::LaunchTemplate;
use futures::future::try_join;

use super::environment::Aws;
use super::fleet::{Surroundings, instances};
use super::launch;
use super::wait::now;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::job::{Shown, shown, wanted_lanes};
use crate::manifest::api::Name;
use crate::plan::fleet::{GroupSettings, Instance, InstanceGroup, RefreshStatus, Revision, RunMember};

impl Aws {
    /// A group that is a Job.
    pub(super) async fn job_group(
        &self,
        name: Name,
        template: &LaunchTemplate,
        settings: GroupSettings,
        around: &Surroundings,
    ) -> Result<InstanceGroup, CloudError> {
        let (versions, facts) = try_join(self.versions(&name), self.job_facts(&name)).await?;
        let mut revisions: Vec<Revision> = versions.iter().filter_map(launch::revision).collect();
        revisions.sort_by_key(|revision| revision.number);
        let found = shown(&facts.record, &settings, facts.lanes(), now());
        let done = found.runs.iter().rev().find(|run| run.status == RefreshStatus::Successful);
        let started = facts.started.map(|started| started.revision);
        let current = if settings.schedule.is_some() { started } else { done.map(|run| run.revision) };
        for revision in revisions.iter_mut().filter(|revision| Some(revision.number) == current) {
            revision.deployed =
                done.and_then(|run| run.ended).or(facts.started.map(|started| started.at / 1000));
        }
        let mut instances: Vec<Instance> =
            facts.groups.values().flat_map(|lane| instances(lane, &revisions, around)).collect();
        for instance in &mut instances {
            let working = facts.record.of_instance(&instance.id.0);
            instance.run = working.map(|(run, lane)| RunMember {
                number: run.number,
                index: settings
                    .job
                    .as_ref()
                    .filter(|job| job.indexed)
                    .and_then(|_| run.lanes.get(&lane)?.slot),
            });
        }
        instances.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        let latest = template.latest_version_number().and_then(|number| u32::try_from(number).ok());
        // As a deployment counts them.
        let replicas = settings.job.as_ref().map_or(0, wanted_lanes);
        let next_revision = latest.unwrap_or(0) + 1;
        let empty = InstanceGroup::new(name, settings);
        let Shown { runs, refresh, schedule } = found;
        Ok(InstanceGroup {
            replicas,
            current,
            next_revision,
            revisions,
            instances,
            refresh,
            runs,
            schedule,
            ..empty
        })
    }
}
