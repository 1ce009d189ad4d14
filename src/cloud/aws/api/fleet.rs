//! The fleet: everything that the environment holds, read from AWS alone.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_autoscaling::types::{AutoScalingGroup, Instance as Member, InstanceRefresh, LifecycleState};
use aws_sdk_ec2::types::{Instance as Machine, InstanceStateName, LaunchTemplate};
use aws_sdk_elasticloadbalancingv2::types::{TargetHealthDescription, TargetHealthStateEnum};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use futures::future::{try_join, try_join_all, try_join3};

use super::admission::definitions;
use super::auto_scaling::{
    HEALTH_GRACE_SECONDS, current, group_name, settings_in, status, version_of, wanted,
};
use super::balancer::Service;
use super::environment::Aws;
use super::error::failed;
use super::job::lane_of;
use super::launch;
use super::stack::Stack;
use super::tags::{self, FAILURE};
use super::wait::now;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::packing::Scheme;
use crate::cloud::aws::plan::{ingress, job, name, stack_templates};
use crate::manifest::api::Name;
use crate::plan::fleet::{
    BalancerTarget, Endpoint, Fleet, Health, Instance, InstanceGroup, InstanceId, InstanceState,
    LoadBalancer, Refresh, RefreshStatus, Revision, TargetGroup,
};

/// Health of targets: by target group, by instance.
type Healths = BTreeMap<String, BTreeMap<String, Health>>;

/// What is known beside a group's own things.
pub(super) struct Surroundings {
    services: Vec<Service>,
    healths: Healths,
    machines: BTreeMap<String, Machine>,
}

impl Aws {
    /// The whole environment, or one group of it. Jobs that were to be removed some time after their end are left out.
    pub(super) async fn look(&self, only: Option<&Name>) -> Result<Fleet, CloudError> {
        let mut fleet = self.look_whole(only).await?;
        fleet.groups.retain(|group| !is_expired(group));
        Ok(fleet)
    }

    /// The whole environment, and the Jobs that were to be removed.
    pub(super) async fn look_at_all(&self) -> Result<(Fleet, Vec<InstanceGroup>), CloudError> {
        let mut fleet = self.look_whole(None).await?;
        let (expired, lasting) = fleet.groups.into_iter().partition(is_expired);
        fleet.groups = lasting;
        Ok((fleet, expired))
    }

    /// The same with these Jobs.
    pub(super) async fn look_whole(&self, only: Option<&Name>) -> Result<Fleet, CloudError> {
        let (templates, groups, stacks) =
            try_join3(self.templates(only), self.scaling_groups(only), self.stacks()).await?;
        let refreshes = self.refreshes_of(&groups).await?;
        // One whose record is damaged is told and left out: what it leads to is not known, and can be deleted all the same.
        self.tell_damaged(&stacks);
        let services: Vec<Service> = stacks.iter().filter_map(Service::of).collect();
        let arns: BTreeSet<String> =
            groups.iter().flat_map(AutoScalingGroup::target_group_arns).cloned().collect();
        let (healths, machines) =
            try_join(try_join_all(arns.into_iter().map(|arn| self.health(arn))), self.machines(only)).await?;
        let around = Surroundings { services, healths: healths.into_iter().collect(), machines };
        let read = templates.iter().filter_map(|template| {
            let name = tags::named(template.tags())?;
            let group = groups.iter().find(|group| group_name(group).as_ref() == Some(&name));
            let refreshes = refreshes.get(&name).map(Vec::as_slice).unwrap_or_default();
            Some(self.group(name, template, (group, refreshes), &around))
        });
        let mut fleet = Fleet {
            environment: self.settings.environment.clone(),
            groups: try_join_all(read).await?.into_iter().flatten().collect(),
            ..Fleet::default()
        };
        if only.is_none() {
            self.add_pending(&mut fleet.groups);
        }
        fleet.groups.sort_by(|a, b| a.name.cmp(&b.name));
        if only.is_none() {
            let (images, deleted) = try_join(self.images(), self.deleted_snapshots()).await?;
            fleet.generation =
                self.observed(definitions((&templates, &groups, &refreshes), &stacks, &images));
            fleet.half_deleted = deleted.into_iter().filter(|image| !images.contains(image)).collect();
            fleet.images = images;
            let services = around.services.iter().filter(|service| service.stack.is_complete());
            let there: BTreeSet<&String> = stacks.iter().flat_map(Stack::target_groups).collect();
            // A stack in progress shows no outputs: nobody knows which target groups there are.
            let is_known = !stacks.iter().any(|stack| stack.part == "service" && stack.is_moving());
            let seen = (groups.as_slice(), &around.healths, is_known.then_some(&there));
            fleet.balancers = services
                .map(|service| balancer(&self.settings.environment, service, &stacks, seen))
                .collect();
            fleet.balancers.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        }
        Ok(fleet)
    }

    /// Warns of damaged records, of each once a run: a look is taken again and again.
    fn tell_damaged(&self, stacks: &[Stack]) {
        for stack in stacks {
            if let Err(error) = stack.record()
                && self.is_new_warning(&stack.name)
            {
                self.events.warn(error.to_string());
            }
        }
    }

    /// Groups that this run has put, and that AWS has no place for until their first revision: a plan that is made again
    /// finds them as it would in any other cloud.
    fn add_pending(&self, groups: &mut Vec<InstanceGroup>) {
        let mut pending = self.pending();
        pending.retain(|name, _| groups.iter().all(|group| group.name != *name));
        let pending =
            pending.iter().map(|(name, settings)| InstanceGroup::new(name.clone(), settings.clone()));
        groups.extend(pending);
    }

    async fn group(
        &self,
        name: Name,
        template: &LaunchTemplate,
        (group, refreshes): (Option<&AutoScalingGroup>, &[InstanceRefresh]),
        around: &Surroundings,
    ) -> Result<Option<InstanceGroup>, CloudError> {
        let Some(mut settings) = settings_in(template.tags())? else { return Ok(None) };
        if settings.job.is_some() {
            return self.job_group(name, template, settings, around).await.map(Some);
        }
        // What is left of the Job that it was is none of its machines.
        let group = group.filter(|group| lane_of(group).is_none());
        if let (Some(scaling), Some(found)) = (&settings.scaling, group)
            && !self.has_scaling(&name, scaling, found).await?
        {
            settings.scaling = None;
        }
        let versions = self.versions(&name).await?;
        let mut revisions: Vec<Revision> = versions.iter().filter_map(launch::revision).collect();
        revisions.sort_by_key(|revision| revision.number);
        let born = group.and_then(|group| seconds(group.created_time()));
        for revision in &mut revisions {
            let ended = refreshes.iter().filter(|refresh| {
                wanted(refresh) == Some(revision.number) && status(refresh) == RefreshStatus::Successful
            });
            let first =
                born.filter(|_| refreshes.is_empty() && group.and_then(current) == Some(revision.number));
            revision.deployed = ended.filter_map(|refresh| seconds(refresh.end_time())).max().or(first);
        }
        // What a group was started with is what no refresh brought.
        if let Some(oldest) = refreshes.last()
            && let Some(first) = revisions.iter_mut().rev().find(|r| Some(r.number) < wanted(oldest))
            && first.deployed.is_none()
        {
            first.deployed = born;
        }
        // The two were asked one after the other: a refresh that succeeded in between moved the group.
        let moved =
            refreshes.first().filter(|newest| status(newest) == RefreshStatus::Successful).and_then(wanted);
        let current = moved.or(group.and_then(current));
        let latest = template.latest_version_number().and_then(|number| u32::try_from(number).ok());
        let instances = group.map(|group| instances(group, &revisions, around)).unwrap_or_default();
        let replicas = group.and_then(AutoScalingGroup::desired_capacity).and_then(|n| u32::try_from(n).ok());
        let failure = tags::read_long(template.tags(), FAILURE);
        let refresh = refreshes
            .first()
            .map(|newest| refresh(newest, current, (&instances, replicas.unwrap_or(0)), failure.as_deref()));
        Ok(Some(InstanceGroup {
            name,
            replicas: replicas.unwrap_or(0),
            settings,
            current,
            held: None,
            next_revision: latest.unwrap_or(0) + 1,
            revisions,
            instances,
            refresh,
            runs: vec![],
            schedule: None,
            scaling: None,
            events: vec![],
            causes: vec![],
        }))
    }

    /// Instances of the environment, or of one group, that are not gone.
    pub(super) async fn machines(
        &self,
        group: Option<&Name>,
    ) -> Result<BTreeMap<String, Machine>, CloudError> {
        let filters = tags::of_group(&self.settings.environment, group);
        let found =
            self.clients.ec2.describe_instances().set_filters(Some(filters)).into_paginator().items().send();
        let found: Vec<_> = found.try_collect().await.map_err(failed("DescribeInstances"))?;
        let machines = found.into_iter().flat_map(|reservation| reservation.instances.unwrap_or_default());
        let alive = machines.filter(|machine| {
            machine.state().and_then(|state| state.name()) != Some(&InstanceStateName::Terminated)
        });
        Ok(alive.filter_map(|machine| Some((machine.instance_id()?.to_owned(), machine))).collect())
    }

    /// Health behind a target group, by instance.
    pub(super) async fn health(&self, arn: String) -> Result<(String, BTreeMap<String, Health>), CloudError> {
        let asked = self.clients.balancing.describe_target_health().target_group_arn(&arn).send().await;
        let found = match asked {
            // A Service's stack was changed, and the group is not yet taken out of what is gone.
            Err(error) if error.code() == Some("TargetGroupNotFound") => return Ok((arn, BTreeMap::new())),
            other => other.map_err(failed("DescribeTargetHealth"))?,
        };
        let one =
            |target: &TargetHealthDescription| Some((target.target()?.id()?.to_owned(), health_of(target)));
        let healths = found.target_health_descriptions().iter().filter_map(one).collect();
        Ok((arn, healths))
    }
}

fn seconds(time: Option<&aws_smithy_types::DateTime>) -> Option<u64> {
    u64::try_from(time?.secs()).ok()
}

fn health_of(target: &TargetHealthDescription) -> Health {
    let Some(health) = target.target_health() else { return Health::STARTING };
    let words = || {
        let reason = health.description().map(str::to_owned);
        reason.or_else(|| health.reason().map(|reason| reason.as_str().to_owned()))
    };
    match health.state() {
        Some(TargetHealthStateEnum::Healthy) => Health::Healthy,
        Some(TargetHealthStateEnum::Initial | TargetHealthStateEnum::Unused) | None => {
            Health::Starting { waiting: words() }
        }
        Some(_) => Health::Unhealthy { reason: words().unwrap_or_else(|| "no reason given".into()) },
    }
}

/// Whether a group is a Job that was to be removed by now.
pub(super) fn is_expired(group: &InstanceGroup) -> bool {
    job::is_expired(&group.settings, (&group.runs, group.instances.is_empty()), now())
}

/// The members of a group, oldest first.
pub(super) fn instances(
    group: &AutoScalingGroup,
    revisions: &[Revision],
    around: &Surroundings,
) -> Vec<Instance> {
    let mut found: Vec<Instance> = group
        .instances()
        .iter()
        .filter_map(|member| {
            let id = member.instance_id()?.to_owned();
            let revision = version_of(member)?;
            let launch = revisions.iter().find(|found| found.number == revision).map(|found| &found.launch);
            let machine = around.machines.get(&id);
            let since = seconds(machine.and_then(Machine::launch_time)).unwrap_or_default();
            let address = machine.and_then(Machine::private_ip_address);
            let ports = launch.map(|launch| launch.ports.as_slice()).unwrap_or_default();
            let endpoint = |address: &str| {
                let one = |port: &crate::plan::fleet::LaunchPort| Endpoint {
                    port: port.port,
                    protocol: port.protocol,
                    address: format!("{address}:{}", port.port),
                };
                ports.iter().map(one).collect()
            };
            Some(Instance {
                changed: None,
                name: None,
                ordinal: None,
                health: health(
                    member,
                    group,
                    &around.healths,
                    since.saturating_add(u64::from(HEALTH_GRACE_SECONDS)) > now(),
                ),
                state: state(member),
                id: InstanceId(id),
                revision,
                run: None,
                since,
                boot_id: None,
                address6: None,
                address: address.and_then(|address| address.parse().ok()),
                endpoints: address.map(endpoint).unwrap_or_default(),
                accelerator: None,
                from_snapshot: false,
                pid: None,
                containers: vec![],
                replica: None,
                silent: false,
                usage: None,
            })
        })
        .collect();
    found.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
    found
}

fn state(member: &Member) -> InstanceState {
    match member.lifecycle_state() {
        Some(
            LifecycleState::Terminating
            | LifecycleState::TerminatingWait
            | LifecycleState::TerminatingProceed
            | LifecycleState::Detaching,
        ) => InstanceState::Stopping,
        Some(LifecycleState::Terminated | LifecycleState::Detached) => InstanceState::Ended,
        _ => InstanceState::Running,
    }
}

/// Health in all target groups of the group, and in Auto Scaling's own eyes. A VM that is young is not called unhealthy.
fn health(member: &Member, group: &AutoScalingGroup, healths: &Healths, young: bool) -> Health {
    let id = member.instance_id().unwrap_or_default();
    let mut seen = Vec::new();
    for arn in group.target_group_arns() {
        let found = healths.get(arn).and_then(|targets| targets.get(id)).cloned();
        seen.push(found.unwrap_or(Health::Starting { waiting: Some("to become a target".into()) }));
    }
    if member.health_status() == Some("Unhealthy") {
        seen.push(Health::Unhealthy { reason: "Auto Scaling replaces it".into() });
    }
    if member.lifecycle_state() != Some(&LifecycleState::InService) {
        seen.push(Health::STARTING);
    }
    let worst = seen.iter().find(|health| matches!(health, Health::Unhealthy { .. }));
    match worst.or_else(|| seen.iter().find(|health| **health != Health::Healthy)) {
        None => Health::Healthy,
        Some(Health::Unhealthy { reason }) if young => Health::Starting { waiting: Some(reason.clone()) },
        Some(health) => health.clone(),
    }
}

/// A refresh in our words. `failure` is what an earlier run wrote about one: its id, then why it was given up.
fn refresh(
    found: &InstanceRefresh,
    current: Option<u32>,
    (instances, replicas): (&[Instance], u32),
    failure: Option<&str>,
) -> Refresh {
    let to = wanted(found).unwrap_or_default();
    let new = || instances.iter().filter(|instance| instance.revision == to);
    let own = failure
        .and_then(|text| text.split_once(' '))
        .filter(|(id, _)| Some(*id) == found.instance_refresh_id());
    let words = found.status_reason().map(str::to_owned);
    Refresh {
        status: status(found),
        // Auto Scaling moves the group to the new version only at the end; before, it names the old one.
        from: current.filter(|current| *current != to || status(found).is_active()),
        to,
        updated: crate::plan::fleet::count(new()),
        available: crate::plan::fleet::count(new().filter(|instance| instance.health == Health::Healthy)),
        total: replicas,
        started: seconds(found.start_time()).unwrap_or_default(),
        reason: own.map(|(_, reason)| reason.to_owned()).or(words),
    }
}

/// A Service as it is. A group that exists and is not yet a target is left out, so that a plan puts the Service again; so are
/// all where a run was killed on the way: the Service has target groups of a form that it did not get, a group is a target that
/// it does not lead to, or is in a target group that no stack has any more (`there` are those that one has, where that is
/// known), in which Auto Scaling starts nothing.
fn balancer(
    environment: &str,
    service: &Service,
    stacks: &[Stack],
    (groups, healths, there): (&[AutoScalingGroup], &Healths, Option<&BTreeSet<&String>>),
) -> LoadBalancer {
    let mut spec = service.spec.clone();
    let mut targets = Vec::new();
    let is_abandoned = service.is_abandoned(now());
    let mut look = |output: &str, wanted: &mut Vec<TargetGroup>, port: u16| {
        let Some(arn) = service.stack.outputs.get(output) else { return };
        let is_in = |group: &&AutoScalingGroup| group.target_group_arns().contains(arn);
        let leads = |group: &AutoScalingGroup| {
            let name = group_name(group);
            wanted.iter().any(|target| Some(&target.group) == name.as_ref())
        };
        if is_abandoned || groups.iter().filter(is_in).any(|group| !leads(group)) {
            wanted.clear();
        }
        wanted.retain(|target| {
            let group = groups.iter().find(|group| group_name(group).as_ref() == Some(&target.group));
            group.is_none_or(|group| {
                let has = group.target_group_arns();
                has.contains(arn) && there.is_none_or(|there| has.iter().all(|arn| there.contains(arn)))
            })
        });
        let port = wanted.first().map_or(port, |target| target.port);
        let known = healths.get(arn).into_iter().flatten();
        targets.extend(known.map(|(id, health)| BalancerTarget {
            instance: InstanceId(id.clone()),
            port,
            healthy: *health == Health::Healthy,
        }));
    };
    if let Some(placement) = service.placement {
        for listener in &mut spec.listeners {
            look(&stack_templates::target_name(listener, placement), &mut listener.targets, listener.port);
        }
    }
    let scheme = Scheme::of(spec.kind);
    for backend in spec.http.iter_mut().flat_map(|http| &mut http.backends) {
        look(&ingress::target_name(backend, scheme), &mut backend.targets, backend.port);
    }
    let shared = service.placement.and_then(|placement| {
        let name = name::balancer_stack(environment, placement);
        stacks.iter().find(|stack| stack.name == name)
    });
    let named = if service.placement.is_some() { shared } else { Some(&service.stack) };
    let bound = match &spec.http {
        Some(http) if http.hosts.is_empty() && http.certificates.is_empty() => vec![Some(80)],
        Some(_) => vec![Some(80), Some(443)],
        None => spec
            .listeners
            .iter()
            .map(|listener| (!listener.targets.is_empty()).then_some(listener.port))
            .collect(),
    };
    LoadBalancer {
        host: named.and_then(|stack| stack.outputs.get("DnsName")).cloned().unwrap_or_default(),
        bound,
        spec,
        targets,
        certificates: vec![],
        traffic: Vec::new(),
        requests: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::aws::api::tags::GROUP;
    use crate::cloud::aws::plan::packing::BalancerSlot;
    use crate::cloud::aws::plan::record;
    use crate::manifest::api::Strategy;
    use crate::plan::example;

    #[tokio::test]
    async fn a_group_without_a_revision_is_found_by_the_run_that_put_it() {
        let folder = tempfile::tempdir().unwrap();
        let aws = Aws::unanswered(folder.path()).await;
        let name = Name { namespace: "default".into(), name: "web".into() };
        let settings = example::settings(Strategy::Recreate);
        aws.pending().insert(name.clone(), settings.clone());
        let mut groups = Vec::new();
        aws.add_pending(&mut groups);
        let [pending] = &groups[..] else { panic!("{groups:?}") };
        assert_eq!((&pending.name, &pending.settings, pending.next_revision), (&name, &settings, 1));
        // Once its first revision is there, AWS has it.
        aws.add_pending(&mut groups);
        assert_eq!(groups.len(), 1);
        assert!(aws.pending().is_empty());
    }

    #[test]
    fn a_service_is_put_again_whose_group_is_in_a_target_group_that_is_gone() {
        use aws_sdk_autoscaling::types::TagDescription;

        use crate::manifest::api::{Protocol, ServiceType};
        use crate::plan::fleet::{BalancerSpec, Listener};

        let web = Name { namespace: "default".into(), name: "web".into() };
        let target = TargetGroup { group: web.clone(), port: 8080 };
        let listener = Listener::new(80, Protocol::Tcp, vec![target]);
        let slot = BalancerSlot { scheme: Scheme::Internal, index: 0 };
        let output = stack_templates::target_name(&listener, slot);
        let spec = BalancerSpec::new(web, ServiceType::ClusterIP, vec![listener]);
        let mut parameters: BTreeMap<String, String> = record::write(&spec).into_iter().collect();
        parameters.insert("Placement".into(), slot.to_string());
        let stack = Stack {
            name: "i2kit-service".into(),
            status: "UPDATE_COMPLETE".into(),
            part: "service".into(),
            outputs: [(output, "arn:now".to_owned())].into(),
            parameters,
            changed: 0,
        };
        let service = Service::of(&stack).unwrap();
        let group = |arns: &[&str]| {
            let tag = TagDescription::builder().key(GROUP).value("default/web").build();
            let arns = arns.iter().map(|arn| (*arn).to_owned()).collect();
            AutoScalingGroup::builder().tags(tag).set_target_group_arns(Some(arns)).build()
        };
        let targets = |arns: &[&str]| {
            let there = service.stack.target_groups().collect();
            let seen = (&[group(arns)][..], &Healths::new(), Some(&there));
            let found = balancer("test", &service, std::slice::from_ref(&stack), seen);
            found.spec.listeners[0].targets.len()
        };
        assert_eq!([targets(&["arn:now"]), targets(&[]), targets(&["arn:now", "arn:gone"])], [1, 0, 0]);
        // While another one is being changed nobody knows what is gone.
        let seen = (&[group(&["arn:now", "arn:other"])][..], &Healths::new(), None);
        let found = balancer("test", &service, std::slice::from_ref(&stack), seen);
        assert_eq!(found.spec.listeners[0].targets.len(), 1);
        // Another group is a target that it does not lead to, and target groups of another form were left.
        let of = |service: &Service, groups: &[AutoScalingGroup]| {
            let there = service.stack.target_groups().collect();
            let found = balancer(
                "test",
                service,
                std::slice::from_ref(&stack),
                (groups, &Healths::new(), Some(&there)),
            );
            found.spec.listeners[0].targets.len()
        };
        let mut other = group(&["arn:now"]);
        other.tags.as_mut().unwrap()[0].value = Some("default/other".into());
        assert_eq!(of(&service, &[group(&["arn:now"]), other]), 0);
        let mut bridged = service.clone();
        bridged.stack.outputs.insert("TargetsNext".into(), "arn:next".into());
        assert_eq!(of(&bridged, &[group(&["arn:now"])]), 0);
        bridged.stack.changed = now();
        assert_eq!(of(&bridged, &[group(&["arn:now"])]), 1, "a run may be on the way");
    }
}
