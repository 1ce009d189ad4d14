//! Jobs: a group of at most one machine a lane, which the machines themselves bring to an end. The tool starts them, and
//! goes away.
//!
//! What a Job was started with is in a tag of its first lane, which is put last: a start that was interrupted is none, and the next
//! one ends what it left.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_autoscaling::types::{AutoScalingGroup, Tag as GroupTag};
use aws_smithy_types::DateTime;
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use i2kit_spec::job::{
    BEGIN_SECONDS, DEADLINE, LEAST_AHEAD, Record, Rules, Verdict, What, Work, action_time,
};

use super::auto_scaling::{group_name, size, template_version};
use super::environment::Aws;
use super::error::{failed, is_not_found};
use super::tags::{self, ENVIRONMENT, GROUP, LANE, RECORD, STARTED};
use super::wait::{clock, eventually, now, until_known};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::job::{self, Lanes, MOST_LANES, SCHEDULE, Started};
use crate::cloud::aws::plan::name;
use crate::manifest::api::{CronRules, Name};
use crate::plan::fleet::GroupSettings;

/// How long machines may take to end.
const ENDING: Duration = Duration::from_mins(15);

/// What AWS has of a Job: its lanes by their numbers, what it was started with, and its record.
#[derive(Debug, Default)]
pub(super) struct JobFacts {
    pub(super) groups: BTreeMap<u32, AutoScalingGroup>,
    pub(super) started: Option<Started>,
    pub(super) record: Record,
}

/// The value of a tag of an Auto Scaling group.
fn tag_of<'g>(group: &'g AutoScalingGroup, key: &str) -> Option<&'g str> {
    group.tags().iter().find(|tag| tag.key() == Some(key))?.value()
}

/// The lane that an Auto Scaling group is; none of a group that is of no Job.
pub(super) fn lane_of(group: &AutoScalingGroup) -> Option<u32> {
    tag_of(group, LANE)?.parse().ok()
}

/// What a Job was started with, as its first lane says.
pub(super) fn started(group: &AutoScalingGroup) -> Option<Started> {
    tag_of(group, STARTED)?.parse().ok()
}

/// Milliseconds since the Unix epoch.
fn milliseconds() -> u64 {
    u64::try_from(clock().as_millis()).unwrap_or(u64::MAX)
}

/// The log stream with the record that a lane's machines write to.
fn record_of(lane: &AutoScalingGroup) -> Option<&str> {
    tag_of(lane, RECORD)
}

/// Whether a lane has no machine, and wants none.
fn is_idle(lane: &AutoScalingGroup) -> bool {
    lane.instances().is_empty() && lane.desired_capacity().unwrap_or_default() == 0
}

impl JobFacts {
    /// What the groups show of how far the Job is.
    pub(super) fn lanes(&self) -> Lanes {
        Lanes {
            is_late: self.groups.values().any(|group| group.max_size() == Some(0)),
            is_idle: self.groups.values().all(is_idle),
        }
    }

    /// Whether a run goes on.
    fn is_active(&self, settings: &GroupSettings) -> bool {
        let shown = job::shown(&self.record, settings, self.lanes(), now());
        shown.runs.last().is_some_and(|run| run.status.is_active())
    }
}

impl Aws {
    /// The settings of a group that is a Job.
    pub(super) async fn job_settings(&self, group: &Name) -> Result<Option<GroupSettings>, CloudError> {
        Ok(self.settings_of(group).await?.filter(|settings| settings.job.is_some()))
    }

    /// Auto Scaling groups with the names of a group's lanes, by the lanes' numbers. That of a group that is no Job is called
    /// like lane 0.
    async fn lanes_of(&self, group: &Name) -> Result<BTreeMap<u32, AutoScalingGroup>, CloudError> {
        let environment = &self.settings.environment;
        let names: Vec<String> = (0..MOST_LANES).map(|lane| name::lane(environment, group, lane)).collect();
        let asked = self.clients.autoscaling.describe_auto_scaling_groups();
        let asked = asked.set_auto_scaling_group_names(Some(names.clone())).into_paginator().items().send();
        let found: Vec<AutoScalingGroup> =
            asked.try_collect().await.map_err(failed("DescribeAutoScalingGroups"))?;
        let ours = found.into_iter().filter(|found| group_name(found).as_ref() == Some(group));
        let numbered = ours.filter_map(|found| {
            let at = names.iter().position(|name| found.auto_scaling_group_name() == Some(name.as_str()))?;
            Some((u32::try_from(at).ok()?, found))
        });
        Ok(numbered.collect())
    }

    /// What AWS has of a Job.
    pub(super) async fn job_facts(&self, group: &Name) -> Result<JobFacts, CloudError> {
        let mut groups = self.lanes_of(group).await?;
        // One that is being deleted is no start of a Job any more, nor is one that has not come to its end.
        let first = groups.get(&0).filter(|first| first.status().is_none());
        let Some((started, stream)) = first.and_then(|first| started(first).zip(record_of(first))) else {
            return Ok(JobFacts { groups, ..JobFacts::default() });
        };
        let stream = stream.to_owned();
        // Lanes of another record are what another start left.
        groups.retain(|_, lane| record_of(lane) == Some(stream.as_str()));
        let record = self.record_unless_over(&stream).await?;
        Ok(JobFacts { groups, started: Some(started), record })
    }

    /// A record as far as it is shown; what this run saw the end of is not read again.
    async fn record_unless_over(&self, stream: &str) -> Result<Record, CloudError> {
        if let Some(over) = self.made().over.get(stream) {
            return Ok(over.clone());
        }
        let record = self.record(stream).await?;
        let begins_more = record.rules.as_ref().is_none_or(|rules| rules.scheduled);
        if !begins_more && record.runs.last().is_some_and(|run| record.verdict(run, 0) != Verdict::Active) {
            self.made().over.insert(stream.to_owned(), record.clone());
        }
        Ok(record)
    }

    /// Puts the settings of a Job that has a launch template; `was` are those before.
    pub(super) async fn change_job(
        &self,
        group: &Name,
        settings: &GroupSettings,
        was: Option<&GroupSettings>,
    ) -> Result<(), CloudError> {
        let Some(wanted) = &settings.job else { return Ok(()) };
        let facts = self.job_facts(group).await?;
        let (Some(found), Some(first)) = (facts.started, facts.groups.get(&0)) else { return Ok(()) };
        let before = was.and_then(|was| was.job.as_ref());
        if was.is_some_and(|was| was.schedule.is_some() != settings.schedule.is_some()) {
            // A CronJob is one without having succeeded; a Job is started by what follows.
            self.delete_lanes(group).await?;
            return match settings.schedule {
                Some(_) => Box::pin(self.start_job(group, found.revision, settings)).await,
                None => Ok(()),
            };
        }
        let rules = job::rules(wanted, settings.schedule.as_ref());
        let schedule = was.and_then(|was| was.schedule.as_ref());
        if before.is_none_or(|before| job::rules(before, schedule) != rules) {
            let stream = record_of(first).unwrap_or_default().to_owned();
            self.change_rules(group, (&facts, settings), (&stream, found, rules)).await?;
        }
        match &settings.schedule {
            Some(schedule) => self.put_schedule(group, schedule).await,
            None => Ok(()),
        }
    }

    /// Has a Job's machines go by other rules. Where there are to be more or fewer at a time, all of them are ended first:
    /// which slots are whose follows from their number.
    async fn change_rules(
        &self,
        group: &Name,
        (facts, settings): (&JobFacts, &GroupSettings),
        (stream, found, rules): (&str, Started, Rules),
    ) -> Result<(), CloudError> {
        let is_moved = facts.record.rules.as_ref().is_none_or(|before| before.lanes != rules.lanes);
        let goes_on = facts.is_active(settings);
        if goes_on && is_moved && !rules.scheduled {
            self.empty_lanes(group, facts).await?;
        }
        let at = facts.record.next_time(milliseconds());
        self.write_record(stream, (at, vec![What::Rules { rules: rules.clone() }])).await?;
        if !goes_on {
            return Ok(());
        }
        if rules.scheduled {
            // Its run has the deadline of the new rules, as its record says; where no machine is there, nothing has one.
            return match facts.groups.get(&0).filter(|first| !is_idle(first)) {
                Some(_) => self.put_deadline(group, 0, &rules, at).await,
                None => self.delete_action(group, 0, DEADLINE).await,
            };
        }
        let mut record = facts.record.clone();
        record.add(at, What::Rules { rules: rules.clone() });
        let lanes = self.lanes_of(group).await?;
        for lane in 0..rules.lanes {
            let wanted = record.work(lane, at) != Work::Nothing;
            match lanes.get(&lane) {
                None => {
                    self.create_lane(group, (lane, stream), (found.revision, u32::from(wanted))).await?;
                    self.put_guard(group, lane, &rules, at).await?;
                }
                // Also where an earlier try was interrupted before this one.
                Some(found) if is_idle(found) && (wanted || found.max_size() == Some(0)) => {
                    self.put_guard(group, lane, &rules, at).await?;
                    self.set_capacity(group, lane, u32::from(wanted)).await?;
                }
                Some(found) if is_idle(found) => {}
                Some(_) => self.put_deadline(group, lane, &rules, at).await?,
            }
        }
        Ok(())
    }

    /// Ends the machines of all lanes, and then what would end them by their deadline: until they are gone, one that begins just now
    /// may put it back.
    async fn empty_lanes(&self, group: &Name, facts: &JobFacts) -> Result<(), CloudError> {
        for lane in facts.groups.keys() {
            self.set_capacity(group, *lane, 0).await?;
        }
        eventually(&format!("the machines of {group}, which are being ended"), ENDING, || async {
            let is_empty = self.lanes_of(group).await?.values().all(|lane| lane.instances().is_empty());
            Ok(is_empty.then_some(()))
        })
        .await?;
        for lane in facts.groups.keys() {
            self.delete_action(group, *lane, DEADLINE).await?;
        }
        Ok(())
    }

    /// Starts a run of a Job at revision `to`, in place of one that goes on; a CronJob's runs are of that revision from now on.
    pub(super) async fn start_job(
        &self,
        group: &Name,
        to: u32,
        settings: &GroupSettings,
    ) -> Result<(), CloudError> {
        let Some(wanted) = &settings.job else { return Err(CloudError::not_found("Job", group)) };
        // There must be such a revision.
        self.launch_of(group, to).await?;
        let groups = self.lanes_of(group).await?;
        let before = groups.get(&0).and_then(started);
        let rules = job::rules(wanted, settings.schedule.as_ref());
        let lasting = groups.get(&0).filter(|first| first.status().is_none());
        if let (Some(schedule), Some(before), Some(_)) = (&settings.schedule, before, lasting) {
            self.set_revision(group, to).await?;
            self.put_schedule(group, schedule).await?;
            return self.tag_started(group, Started { revision: to, ..before }).await;
        }
        self.delete_lanes(group).await?;
        let at = milliseconds();
        let started = Started { number: before.map_or(0, |before| before.number) + 1, revision: to, at };
        let stream = name::record(group, at);
        let mut what = vec![What::Rules { rules: rules.clone() }];
        if settings.schedule.is_none() {
            what.push(What::Run { number: started.number, revision: to, scheduled: false });
        }
        self.write_record(&stream, (at, what)).await?;
        let made = self.create_lanes(group, (&rules, &stream, at), to).await;
        if matches!(made, Err(CloudError::Conflict { .. })) {
            self.delete_lanes_of(group, Some(&stream)).await?;
        }
        made?;
        if let Some(schedule) = &settings.schedule {
            self.put_schedule(group, schedule).await?;
        }
        self.tag_started(group, started).await
    }

    /// Makes the lanes of a record with these rules: of a Job with a machine each, of a CronJob without.
    async fn create_lanes(
        &self,
        group: &Name,
        (rules, stream, at): (&Rules, &str, u64),
        to: u32,
    ) -> Result<(), CloudError> {
        for lane in (0..rules.lanes.max(1)).rev() {
            let starts = lane < rules.lanes && !rules.scheduled;
            self.create_lane(group, (lane, stream), (to, u32::from(starts))).await?;
            if starts {
                self.put_guard(group, lane, rules, at).await?;
            }
        }
        Ok(())
    }

    /// Starts a run by hand.
    pub(super) async fn run_job(&self, group: &Name, revision: u32) -> Result<(), CloudError> {
        let settings = self.job_settings(group).await?;
        let settings = settings.ok_or_else(|| CloudError::not_found("Job", group))?;
        if settings.schedule.is_none() {
            return self.start_job(group, revision, &settings).await;
        }
        // A machine whose run is over goes within minutes, and what is wanted of its lane before that comes to nothing.
        let facts = eventually(&format!("the machine of the last run of {group} to be gone"), ENDING, || async {
            let facts = self.job_facts(group).await?;
            let is_idle = facts.lanes().is_idle;
            if facts.is_active(&settings) && !is_idle {
                let message = format!(
                    "a run of {group} goes on, and on AWS runs of a CronJob do not go on side by side: `i2kit wait {group}` waits for its end"
                );
                return Err(CloudError::Refused { message });
            }
            Ok(is_idle.then_some(facts))
        })
        .await?;
        let (Some(stream), Some(rules)) = (facts.groups.get(&0).and_then(record_of), &facts.record.rules)
        else {
            return Err(CloudError::not_found("started CronJob", group));
        };
        let number = facts.record.runs.last().map_or(0, |run| run.number).saturating_add(1);
        let run = What::Run { number, revision, scheduled: false };
        let at = facts.record.next_time(milliseconds());
        self.write_record(stream, (at, vec![run])).await?;
        self.put_guard(group, 0, rules, at).await?;
        self.set_capacity(group, 0, 1).await
    }

    /// Makes the Auto Scaling group of a lane, whose machine starts at once where `replicas` is 1.
    async fn create_lane(
        &self,
        group: &Name,
        (lane, stream): (u32, &str),
        (to, replicas): (u32, u32),
    ) -> Result<(), CloudError> {
        let settings = self.settings_of(group).await?;
        let subnets = self.subnets_of(group, settings.as_ref()).await?;
        let template = name::group(&self.settings.environment, group);
        let own = name::lane(&self.settings.environment, group, lane);
        let policy = self.mixed_policy(group, to).await?;
        let tag = |key: &str, value: String| {
            let tag = GroupTag::builder().resource_id(&own).resource_type("auto-scaling-group");
            tag.key(key).value(value).propagate_at_launch(true).build()
        };
        let create = self
            .clients
            .autoscaling
            .create_auto_scaling_group()
            .auto_scaling_group_name(&own)
            .set_launch_template(policy.is_none().then(|| template_version(&template, to)))
            .set_mixed_instances_policy(policy)
            .min_size(0)
            .max_size(1)
            .desired_capacity(size(replicas))
            .vpc_zone_identifier(subnets)
            .health_check_type("EC2")
            .tags(tag(ENVIRONMENT, self.settings.environment.clone()))
            .tags(tag(GROUP, tags::group(group)))
            .tags(tag("Name", own.clone()))
            .tags(tag(LANE, lane.to_string()))
            .tags(tag(RECORD, stream.to_owned()));
        let made = until_known(|| create.clone().send()).await;
        if lane == 0 {
            self.made().groups.insert(group.clone());
        }
        match made {
            // The answer to an earlier try was lost: nobody else makes lanes of this record.
            Err(error) if error.code() == Some("AlreadyExists") => {
                let found = self.lanes_of(group).await?;
                if found.get(&lane).and_then(record_of) == Some(stream) {
                    Ok(())
                } else {
                    let message = format!("somebody else started {group} at that moment");
                    Err(CloudError::Conflict { message })
                }
            }
            other => other.map(drop).map_err(failed("CreateAutoScalingGroup")),
        }
    }

    /// Says in a tag what a Job was started with.
    async fn tag_started(&self, group: &Name, started: Started) -> Result<(), CloudError> {
        let own = name::lane(&self.settings.environment, group, 0);
        let tag = GroupTag::builder().resource_id(own).resource_type("auto-scaling-group");
        let tag = tag.key(STARTED).value(started.to_string()).propagate_at_launch(false).build();
        let set = self.clients.autoscaling.create_or_update_tags().tags(tag).send().await;
        set.map(drop).map_err(failed("CreateOrUpdateTags"))
    }

    /// Has further machines of a CronJob be of that revision.
    async fn set_revision(&self, group: &Name, to: u32) -> Result<(), CloudError> {
        let own = name::group(&self.settings.environment, group);
        let policy = self.mixed_policy(group, to).await?;
        let updated = self
            .clients
            .autoscaling
            .update_auto_scaling_group()
            .auto_scaling_group_name(&own)
            .set_launch_template(policy.is_none().then(|| template_version(&own, to)))
            .set_mixed_instances_policy(policy)
            .send()
            .await;
        updated.map(drop).map_err(failed("UpdateAutoScalingGroup"))
    }

    /// Gives a lane a machine, or none.
    async fn set_capacity(&self, group: &Name, lane: u32, replicas: u32) -> Result<(), CloudError> {
        let sized = self
            .clients
            .autoscaling
            .update_auto_scaling_group()
            .auto_scaling_group_name(name::lane(&self.settings.environment, group, lane))
            .min_size(0)
            .max_size(1)
            .desired_capacity(size(replicas))
            .send()
            .await;
        sized.map(drop).map_err(failed("UpdateAutoScalingGroup"))
    }

    /// Has Auto Scaling end a lane's machine once the run takes too long since `since`, in milliseconds since the Unix epoch,
    /// also a machine that can do nothing any more: from then on the lane may have none, which tells that it was so.
    async fn put_deadline(
        &self,
        group: &Name,
        lane: u32,
        rules: &Rules,
        since: u64,
    ) -> Result<(), CloudError> {
        match rules.deadline {
            Some(limit) => self.end_at(group, lane, (since / 1000).saturating_add(limit)).await,
            None => self.delete_action(group, lane, DEADLINE).await,
        }
    }

    /// The same where no machine of the lane comes to begin: it would be replaced for ever. Whichever begins puts the deadline in
    /// place of this.
    async fn put_guard(&self, group: &Name, lane: u32, rules: &Rules, since: u64) -> Result<(), CloudError> {
        let limit = rules.deadline.map_or(BEGIN_SECONDS, |limit| limit.min(BEGIN_SECONDS));
        self.end_at(group, lane, (since / 1000).saturating_add(limit)).await
    }

    /// Has Auto Scaling end a lane at that second since the Unix epoch.
    async fn end_at(&self, group: &Name, lane: u32, second: u64) -> Result<(), CloudError> {
        let end = action_time(second, now() + LEAST_AHEAD);
        let put = self
            .clients
            .autoscaling
            .put_scheduled_update_group_action()
            .auto_scaling_group_name(name::lane(&self.settings.environment, group, lane))
            .scheduled_action_name(DEADLINE)
            .start_time(DateTime::from_secs(i64::try_from(end).unwrap_or(i64::MAX)))
            .min_size(0)
            .max_size(0)
            .desired_capacity(0);
        put.send().await.map(drop).map_err(failed("PutScheduledUpdateGroupAction"))
    }

    /// Has Auto Scaling start the machine of a CronJob by its schedule. Where one is there already, nothing happens.
    async fn put_schedule(&self, group: &Name, rules: &CronRules) -> Result<(), CloudError> {
        let lanes = self.lanes_of(group).await?;
        let is_idle = lanes.get(&0).is_some_and(is_idle);
        if rules.suspend {
            if is_idle {
                self.delete_action(group, 0, DEADLINE).await?;
            }
            return self.delete_action(group, 0, SCHEDULE).await;
        }
        // The first machine has to begin, and has the next ones do so.
        if let Some(next) = rules.schedule.next(milliseconds()).filter(|_| is_idle) {
            self.end_at(group, 0, (next / 1000).saturating_add(BEGIN_SECONDS)).await?;
        }
        let fields = rules.schedule.plain_fields().ok_or_else(|| CloudError::Refused {
            message: format!("Auto Scaling has no schedule such as `{}` of {group}", rules.schedule),
        })?;
        let put = self
            .clients
            .autoscaling
            .put_scheduled_update_group_action()
            .auto_scaling_group_name(name::lane(&self.settings.environment, group, 0))
            .scheduled_action_name(SCHEDULE)
            .recurrence(fields)
            .time_zone(rules.schedule.time_zone())
            .min_size(0)
            .max_size(1)
            .desired_capacity(1);
        put.send().await.map(drop).map_err(failed("PutScheduledUpdateGroupAction"))
    }

    /// Takes a scheduled action away, where there is one.
    async fn delete_action(&self, group: &Name, lane: u32, action: &str) -> Result<(), CloudError> {
        let own = name::lane(&self.settings.environment, group, lane);
        let gone = self.clients.autoscaling.delete_scheduled_action().auto_scaling_group_name(own);
        match gone.scheduled_action_name(action).send().await {
            Err(error) if is_not_found(&error) => Ok(()),
            other => other.map(drop).map_err(failed("DeleteScheduledAction")),
        }
    }

    /// Deletes the groups of all lanes with their machines and records; returns once nothing is left of them.
    pub(super) async fn delete_lanes(&self, group: &Name) -> Result<(), CloudError> {
        self.delete_lanes_of(group, None).await?;
        self.delete_records(group).await
    }

    /// Deletes the groups of lanes with their machines, all of them or those of a record.
    async fn delete_lanes_of(&self, group: &Name, stream: Option<&str>) -> Result<(), CloudError> {
        let mut lanes = self.lanes_of(group).await?;
        lanes.retain(|_, lane| stream.is_none() || record_of(lane) == stream);
        for lane in lanes.keys() {
            let own = name::lane(&self.settings.environment, group, *lane);
            self.delete_scaling_group(group, &own).await?;
        }
        if lanes.is_empty() || stream.is_some() {
            return Ok(());
        }
        eventually(&format!("the machines of {group}, which are being ended"), ENDING, || async {
            let left =
                !self.lanes_of(group).await?.is_empty() || !self.machines(Some(group)).await?.is_empty();
            Ok((!left).then_some(()))
        })
        .await
    }

    /// Whether there are lanes of a Job.
    pub(super) async fn has_job_lanes(&self, group: &Name) -> Result<bool, CloudError> {
        Ok(self.lanes_of(group).await?.values().any(|lane| lane_of(lane).is_some()))
    }

    /// Whether there is an Auto Scaling group of any of the group's lanes.
    pub(super) async fn has_lanes(&self, group: &Name) -> Result<bool, CloudError> {
        Ok(!self.lanes_of(group).await?.is_empty())
    }
}
