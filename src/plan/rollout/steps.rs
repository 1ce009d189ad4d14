//! What is wanted, and a plan: its steps, and what each of them finds.

use i2kit_spec::Seconds;
use serde::{Deserialize, Serialize};

use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{
    BalancerSpec, DiskSpec, Fleet, Generation, GroupSettings, InstanceGroup, LaunchSpec,
};
use crate::plan::image::ImageId;

/// What an environment should hold, as far as the given manifests say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The environment's name.
    pub environment: String,
    /// One a workload.
    pub groups: Vec<GroupSpec>,
    /// One a Service.
    pub balancers: Vec<BalancerSpec>,
    /// One a PersistentVolumeClaim; those of members are their groups'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskSpec>,
    /// The storage classes among the manifests. What another one says of a disk stays as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// What is said of new revisions in the history, such as `i2kit deploy -f nginx.yaml`.
    pub cause: String,
    /// Whether groups and balancers of the environment that are not in the manifests are deleted.
    pub prune: bool,
}

/// A group as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    /// The workload's name.
    pub name: Name,
    /// Number of VMs.
    pub replicas: u32,
    /// How a VM is started.
    pub launch: LaunchSpec,
    /// Strategy and so on.
    pub settings: GroupSettings,
}

impl GroupSpec {
    /// How many VMs there should be: what the manifest says, or what the scaler made of it since, within its bounds. None at
    /// all turn the scaler off.
    pub(super) fn size(&self, found: Option<&InstanceGroup>) -> u32 {
        match &self.settings.scaling {
            Some(scaling) if self.replicas > 0 => {
                let running = found.filter(|group| group.current.is_some());
                scaling.within(running.map_or(self.replicas, |group| group.replicas))
            }
            _ => self.replicas,
        }
    }
}

/// Every step from what is to what should be, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RolloutPlan {
    /// The environment's name.
    pub environment: String,
    /// The generation of the fleet that it was made on.
    #[serde(default)]
    pub generation: Generation,
    /// What is done.
    pub steps: Vec<Step>,
    /// What the user should know, one sentence each.
    pub notes: Vec<String>,
    /// What it was made for, so that it can be made again on a newer fleet.
    #[serde(skip)]
    pub intent: Intent,
}

impl RolloutPlan {
    /// A plan of these steps on `fleet`.
    pub(super) fn new(fleet: &Fleet, intent: Intent, steps: Vec<Step>) -> Self {
        Self {
            environment: fleet.environment.clone(),
            generation: fleet.generation,
            steps,
            notes: vec![],
            intent,
        }
    }

    /// Whether there is nothing to do and nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Whether nothing is changed; something that an earlier run began may still have to be waited for.
    pub fn is_unchanged(&self) -> bool {
        self.acts().next().is_none()
    }

    /// The acts among its steps.
    pub fn acts(&self) -> impl Iterator<Item = &Act> {
        self.steps.iter().filter_map(Step::act)
    }

    /// Images that must be built before the plan can be carried out.
    pub fn images(&self) -> impl Iterator<Item = ImageId> {
        self.acts().filter_map(|act| match act {
            Act::PutImage { image } => Some(*image),
            _ => None,
        })
    }
}

/// What a plan was made for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Intent {
    /// Steps that were put together by hand: the plan cannot be made again.
    #[default]
    None,
    /// [`rollout`](super::rollout()).
    Deploy(Box<Desired>),
    /// [`rollback`](super::rollback()).
    Rollback {
        /// The group.
        group: Name,
        /// The revision that it goes back to.
        to: Option<u32>,
    },
    /// [`restart`](super::restart()).
    Restart {
        /// The group.
        group: Name,
        /// The revision with the same launch spec.
        revision: u32,
        /// What is said of it in the history.
        cause: String,
    },
    /// [`scale`](super::scale()).
    Scale {
        /// The group.
        group: Name,
        /// The number of VMs.
        replicas: u32,
    },
    /// [`run`](super::run()).
    Run(Name),
    /// [`destroy`](super::destroy()).
    Destroy {
        /// Whether disks are deleted too.
        volumes: bool,
    },
    /// One of the verbs about disks.
    Disk,
    /// [`collect`](super::collect()).
    Collect,
    /// [`wait`](super::wait()): the groups waited for.
    Wait(Vec<Name>),
}

impl Intent {
    /// Leaves of a fleet what the plan is about, for a report of it.
    #[must_use]
    pub fn part(&self, mut fleet: Fleet) -> Fleet {
        let groups: Vec<&Name> = match self {
            Self::Deploy(desired) => desired.groups.iter().map(|group| &group.name).collect(),
            Self::Rollback { group, .. }
            | Self::Restart { group, .. }
            | Self::Scale { group, .. }
            | Self::Run(group) => vec![group],
            Self::Wait(names) if !names.is_empty() => names.iter().collect(),
            Self::None | Self::Destroy { .. } | Self::Collect | Self::Disk | Self::Wait(_) => return fleet,
        };
        let own = match self {
            Self::Deploy(desired) => desired.balancers.as_slice(),
            _ => &[],
        };
        fleet.groups.retain(|group| groups.contains(&&group.name));
        fleet.balancers.retain(|balancer| {
            own.iter().any(|spec| spec.name == balancer.spec.name)
                || balancer.spec.targets().any(|target| groups.contains(&&target.group))
        });
        fleet
    }
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Step {
    /// Apply an act to the cloud. One that was applied before changes nothing.
    Apply(Box<Change>),
    /// Wait until the group consists of healthy VMs of that revision.
    Await {
        /// The group.
        group: Name,
        /// The revision.
        revision: u32,
        /// The number of VMs.
        replicas: u32,
        /// Seconds without progress after which waiting fails, unless the cloud ends its refresh earlier.
        deadline_seconds: Seconds,
        /// Whether it is a Job that is removed some time after its end: then one that is gone has ended.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        expires: bool,
        /// What is waited for.
        #[serde(default, skip_serializing_if = "is_service")]
        kind: GroupKind,
    },
    /// Wait for the end of the run that the step before started.
    AwaitRun {
        /// The group.
        group: Name,
        /// Its number is the first one larger than this that no schedule took.
        after: u32,
    },
}

/// What a group's machines are for, as far as the text of a step says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupKind {
    /// They run on.
    #[default]
    Service,
    /// They run to an end.
    Job,
    /// None of them runs before the time of the schedule.
    CronJob,
}

impl GroupKind {
    /// What a group with these settings is.
    pub fn of(settings: &GroupSettings) -> Self {
        match (&settings.schedule, &settings.job) {
            (Some(_), _) => Self::CronJob,
            (None, Some(_)) => Self::Job,
            (None, None) => Self::Service,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands references")]
fn is_service(kind: &GroupKind) -> bool {
    *kind == GroupKind::Service
}

impl Step {
    /// The step that applies `act` where the fleet was `before`.
    pub(super) fn apply(act: Act, before: Before) -> Self {
        Self::Apply(Box::new(Change { act, before }))
    }

    /// The act that it applies; none when it waits.
    pub fn act(&self) -> Option<&Act> {
        match self {
            Self::Apply(change) => Some(&change.act),
            Self::Await { .. } | Self::AwaitRun { .. } => None,
        }
    }
}

/// An act that does what it does to something new, or whose text needs nothing of what was there before.
impl From<Act> for Step {
    fn from(act: Act) -> Self {
        Self::apply(act, Before::default())
    }
}

/// An act, and what it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What is done.
    #[serde(flatten)]
    pub act: Act,
    /// What was there when the plan was made.
    #[serde(default, skip_serializing_if = "Before::is_nothing")]
    pub before: Before,
}

/// What an act changes, as far as the text of a plan shows it. A cloud does not get it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Before {
    /// The balancer's spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<BalancerSpec>,
    /// The group's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<GroupSettings>,
    /// The disk's spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskSpec>,
    /// The launch spec of the group's current revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<LaunchSpec>,
    /// The group's current revision; none before its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u32>,
    /// The number of VMs that the group should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// What the group is from now on.
    #[serde(default, skip_serializing_if = "is_service")]
    pub kind: GroupKind,
}

impl Before {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::Strategy;
    use crate::plan::example;
    use crate::plan::fleet::InstanceGroup;

    #[test]
    fn a_report_of_one_group_has_no_others() {
        let name = |name: &str| Name { namespace: "default".into(), name: name.into() };
        let group = |own: &str| InstanceGroup::new(name(own), example::settings(Strategy::Recreate));
        let fleet = Fleet { groups: vec![group("web"), group("other")], ..Fleet::default() };
        let part = Intent::Scale { group: name("web"), replicas: 2 }.part(fleet.clone());
        assert_eq!(part.groups.iter().map(|group| &*group.name.name).collect::<Vec<_>>(), ["web"]);
        assert_eq!(Intent::Wait(vec![]).part(fleet.clone()), fleet);
    }
}
