//! What a plan would make, change and delete in AWS, resource by resource, and what a month of it would cost.
//!
//! The cost is an estimate: on-demand prices of one region and one year, without traffic, processing and credits.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::{self, PRICED, PRICED_REGION};
use super::name;
use super::packing::{self, BalancerSlot, Scheme, Sizes};
use super::role::InstanceProfile;
use crate::cloud::provider::{Cost, MONTH_HOURS, ResourceChange};
use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{BalancerSpec, Fleet, GroupSettings, LaunchSpec};
use crate::plan::rollout::RolloutPlan;

/// A load balancer's hour, of either kind, without its capacity units, in millionths of a US dollar.
const BALANCER_HOUR: u64 = 22_500;

/// A public IPv4 address' hour.
const ADDRESS_HOUR: u64 = 5_000;

/// Zones of a balancer, which has an address in each when it is public.
const ZONES: u64 = 2;

/// A month of one GiB of a gp3 volume.
const VOLUME_MONTH: u64 = 80_000;

/// A month of a private zone.
const ZONE_MONTH: u64 = 500_000;

/// A month of a secret of Secrets Manager.
const SECRET_MONTH: u64 = 400_000;

/// Size of a machine's volume in GiB: images are whole GiB, and rarely more than one.
const VOLUME_GIB: u64 = 1;

/// What an environment holds, as far as it costs or is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    groups: BTreeMap<Name, (u32, Option<LaunchSpec>)>,
    settings: BTreeMap<Name, GroupSettings>,
    balancers: BTreeMap<Name, BalancerSpec>,
    images: BTreeSet<String>,
}

impl State {
    fn of(fleet: &Fleet) -> Self {
        let group = |group: &crate::plan::fleet::InstanceGroup| {
            let launch = group.current.and_then(|number| group.revision(number)).map(|r| r.launch.clone());
            (group.name.clone(), (group.replicas, launch))
        };
        Self {
            groups: fleet.groups.iter().map(group).collect(),
            settings: fleet.groups.iter().map(|group| (group.name.clone(), group.settings.clone())).collect(),
            balancers: fleet.balancers.iter().map(|b| (b.spec.name.clone(), b.spec.clone())).collect(),
            images: fleet.images.iter().map(ToString::to_string).collect(),
        }
    }

    fn after(mut self, fleet: &Fleet, plan: &RolloutPlan) -> Self {
        let mut launches: BTreeMap<(&Name, u32), &LaunchSpec> = fleet
            .groups
            .iter()
            .flat_map(|group| group.revisions.iter().map(|r| ((&group.name, r.number), &r.launch)))
            .collect();
        for act in plan.acts() {
            match act {
                Act::PutImage { image } => drop(self.images.insert(image.to_string())),
                Act::DeleteImages { images } => {
                    self.images.retain(|known| images.iter().all(|image| image.to_string() != *known));
                }
                Act::PutBalancer { spec } => {
                    drop(self.balancers.insert(spec.name.clone(), spec.clone()));
                }
                Act::DeleteBalancer { balancer } => drop(self.balancers.remove(balancer)),
                Act::PutGroup { group, settings } => {
                    drop(self.settings.insert(group.clone(), settings.clone()));
                }
                Act::PutRevision { group, revision } => {
                    launches.insert((group, revision.number), &revision.launch);
                }
                Act::StartRefresh { group, to, replicas } => {
                    let launch = launches.get(&(group, *to)).map(|launch| (*launch).clone());
                    self.groups.insert(group.clone(), (*replicas, launch));
                }
                Act::Scale { group, replicas } => {
                    self.groups.entry(group.clone()).or_default().0 = *replicas;
                }
                Act::DeleteGroup { group } => drop(self.groups.remove(group)),
                _ => {}
            }
        }
        self
    }

    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.balancers.is_empty() && self.images.is_empty()
    }

    fn is_job(&self, group: &Name) -> bool {
        self.settings.get(group).is_some_and(|settings| settings.job.is_some())
    }

    /// Load balancers that the Services share.
    fn placements(&self) -> BTreeSet<BalancerSlot> {
        let most = |(name, (replicas, _)): (&Name, &(u32, Option<LaunchSpec>))| {
            let most = self.settings.get(name).map_or(*replicas, |found| found.most_machines(*replicas));
            (name.clone(), most)
        };
        packing::needed(self.balancers.values(), &self.groups.iter().map(most).collect::<Sizes>())
    }

    fn cost(&self) -> u64 {
        // Machines of Jobs cost while they run, which no month tells.
        let lasting = self.groups.iter().filter(|(group, _)| !self.is_job(group));
        let machines = lasting.map(|(_, (replicas, launch))| {
            let kind = launch.as_ref().and_then(machine::type_of).and_then(machine::known);
            let hour = kind.map_or(0, |kind| kind.hourly_micros) + ADDRESS_HOUR;
            u64::from(*replicas) * (hour * MONTH_HOURS + VOLUME_GIB * VOLUME_MONTH)
        });
        let own = self.balancers.values().filter(|spec| spec.http.is_some());
        let schemes = own.map(|spec| Scheme::of(spec.kind));
        let schemes = schemes.chain(self.placements().into_iter().map(|placement| placement.scheme));
        let balancers: u64 = schemes
            .map(|scheme| {
                let addresses = if scheme == Scheme::Public { ZONES * ADDRESS_HOUR } else { 0 };
                (BALANCER_HOUR + addresses) * MONTH_HOURS
            })
            .sum();
        let zone = if self.is_empty() { 0 } else { ZONE_MONTH };
        let held = self.groups.iter().flat_map(|(group, (_, launch))| secrets_of(group, launch.as_ref()));
        let mut secrets: u64 = held.collect::<BTreeSet<_>>().iter().map(|_| SECRET_MONTH).sum();
        if secrets > 0 {
            // The key of their versions is one more.
            secrets += SECRET_MONTH;
        }
        machines.sum::<u64>() + balancers + zone + secrets
    }

    /// Every resource, with what makes it another one.
    fn resources(&self, environment: &str) -> BTreeMap<(&'static str, String), String> {
        let mut found = BTreeMap::new();
        let mut add =
            |kind: &'static str, name: String, content: String| drop(found.insert((kind, name), content));
        if self.is_empty() {
            return found;
        }
        for kind in ["EC2::SecurityGroup", "IAM::Role", "IAM::InstanceProfile", "Route53::HostedZone"] {
            add(kind, environment.to_owned(), String::new());
        }
        add("Logs::LogGroup", name::log_group(environment), String::new());
        add("Logs::LogGroup", name::records(environment), String::new());
        for placement in self.placements() {
            add("ElasticLoadBalancingV2::LoadBalancer", placement.to_string(), String::new());
        }
        for (ingress, spec) in &self.balancers {
            let Some(http) = &spec.http else { continue };
            add("ElasticLoadBalancingV2::LoadBalancer", ingress.to_string(), String::new());
            for backend in http.backends.iter().filter(|backend| !backend.targets.is_empty()) {
                let target = format!("{ingress} -> {}:{}", backend.service, backend.port);
                add("ElasticLoadBalancingV2::TargetGroup", target, format!("{:?}", backend.targets));
            }
            for rule in &http.rules {
                let what = format!("{ingress} {}{}", rule.host.as_deref().unwrap_or("*"), rule.path);
                add("ElasticLoadBalancingV2::ListenerRule", what, format!("{rule:?}"));
            }
        }
        for (service, spec) in self.balancers.iter().filter(|(_, spec)| spec.http.is_none()) {
            for listener in spec.listeners.iter().filter(|listener| !listener.targets.is_empty()) {
                let port = format!("{service}:{}", listener.port);
                add("ElasticLoadBalancingV2::TargetGroup", port.clone(), format!("{:?}", listener.targets));
                add("ElasticLoadBalancingV2::Listener", port, String::new());
            }
            add("Route53::RecordSet", format!("{}.{}.svc", service.name, service.namespace), String::new());
        }
        for image in &self.images {
            add("EC2::Image", image.chars().take(19).collect(), String::new());
        }
        for (group, (replicas, launch)) in &self.groups {
            let is_job = self.is_job(group);
            if let Some(profile) =
                launch.as_ref().and_then(|launch| InstanceProfile::of(group, is_job, launch))
            {
                // A Job has one of its own.
                let account = profile.job.as_ref().unwrap_or(&profile.account).to_string();
                add("IAM::InstanceProfile", account.clone(), format!("{profile:?}"));
                if profile.role.is_none() {
                    add("IAM::Role", account, format!("{:?}", profile.secrets));
                }
            }
            for (secret, version) in secrets_of(group, launch.as_ref()) {
                add("SecretsManager::Secret", secret.to_string(), version);
            }
            add("EC2::LaunchTemplate", group.to_string(), format!("{launch:?}"));
            let kinds = launch.as_ref().map_or_else(|| "?".to_owned(), kinds);
            add("AutoScaling::AutoScalingGroup", format!("{group} ({kinds})"), replicas.to_string());
        }
        found
    }
}

/// The Secrets that a group's machines read, with the versions of their values.
fn secrets_of(group: &Name, launch: Option<&LaunchSpec>) -> Vec<(Name, String)> {
    let secret = |(name, version): (&String, &Option<String>)| {
        let secret = Name { namespace: group.namespace.clone(), name: name.clone() };
        Some((secret, version.clone()?))
    };
    launch.iter().flat_map(|launch| &launch.secrets).filter_map(secret).collect()
}

/// Types of a group's machines, and on what terms they are.
fn kinds(launch: &LaunchSpec) -> String {
    let types = machine::types_of(launch).join(", ");
    match &launch.mix {
        Some(mix) => format!("{types}; {}", mix.terms()),
        None if launch.spot => format!("{types}, Spot"),
        None => types,
    }
}

/// What `plan` does to the resources of `fleet`, and to its cost.
pub fn cost(plan: &RolloutPlan, fleet: &Fleet) -> Cost {
    let before = State::of(fleet);
    let after = before.clone().after(fleet, plan);
    let (old, new) = (before.resources(&plan.environment), after.resources(&plan.environment));
    let mut changes: Vec<ResourceChange> = Vec::new();
    for (key, content) in &new {
        match old.get(key) {
            None => changes.push(ResourceChange { mark: '+', kind: key.0, name: key.1.clone() }),
            Some(previous) if previous != content => {
                changes.push(ResourceChange { mark: '~', kind: key.0, name: key.1.clone() });
            }
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|key| !new.contains_key(key));
    changes.extend(gone.map(|(kind, name)| ResourceChange { mark: '-', kind, name: name.clone() }));
    let basis = format!(
        "on-demand prices of {PRICED_REGION}, {PRICED}; without traffic, load balancer capacity units, logs and snapshots"
    );
    Cost { changes, before_micros: before.cost(), after_micros: after.cost(), basis }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::manifest::api::{Protocol, ServiceType};
    use crate::oci::Digest;
    use crate::plan::act::NewRevision;
    use crate::plan::example;
    use crate::plan::fleet::{Listener, TargetGroup};
    use crate::plan::image::ImageId;

    pub(in crate::cloud::aws::plan) fn launch() -> LaunchSpec {
        example::launch(ImageId(Digest::of(b"image")))
    }

    fn first() -> RolloutPlan {
        let name = Name { namespace: "default".into(), name: "web".into() };
        let targets = vec![TargetGroup { group: name.clone(), port: 80 }];
        let listeners = vec![Listener::new(80, Protocol::Tcp, targets)];
        let spec = BalancerSpec::new(name.clone(), ServiceType::LoadBalancer, listeners);
        let revision = NewRevision { number: 1, launch: launch(), cause: "test".into() };
        let acts = [
            Act::PutImage { image: launch().image },
            Act::PutBalancer { spec },
            Act::PutRevision { group: name.clone(), revision },
            Act::StartRefresh { group: name, to: 1, replicas: 3 },
        ];
        let steps = acts.map(Into::into).into();
        RolloutPlan { environment: "production".into(), steps, ..RolloutPlan::default() }
    }

    #[test]
    fn a_first_deployment_shows_all_that_it_makes_and_what_that_costs() {
        let found = cost(&first(), &Fleet::default());
        insta::assert_snapshot!("cost", found.to_string());
        assert_eq!(found.before_micros, 0);
        // Three machines with addresses and volumes, one load balancer with two addresses, one zone.
        let machines = 3 * ((4_700 + 5_000) * 730 + 80_000);
        assert_eq!(found.after_micros, machines + (22_500 + 2 * 5_000) * 730 + 500_000);
    }

    #[test]
    fn nothing_to_do_changes_nothing() {
        let empty = RolloutPlan { environment: "production".into(), ..RolloutPlan::default() };
        let found = cost(&empty, &Fleet::default());
        assert_eq!((found.changes, found.before_micros, found.after_micros), (vec![], 0, 0));
    }
}
