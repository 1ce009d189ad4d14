//! What a preview made, and so what it may delete.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::manifest::api::Name;
use crate::plan::act::Act;
use crate::plan::fleet::{BalancerSpec, Fleet, InstanceGroup, LaunchSpec};
use crate::plan::image::ImageId;

/// What this run made, as far as the cloud was asked for it.
#[derive(Debug, Default)]
pub(super) struct Own {
    groups: BTreeSet<Name>,
    /// Launch specs of the revisions, by group and number.
    revisions: BTreeMap<(Name, u32), LaunchSpec>,
    balancers: BTreeMap<Name, BalancerSpec>,
    disks: BTreeSet<Name>,
    images: BTreeSet<ImageId>,
}

impl Own {
    /// What these acts make.
    pub(super) fn of(sent: &[Act]) -> Self {
        let mut own = Self::default();
        for act in sent {
            match act {
                Act::PutImage { image } => drop(own.images.insert(*image)),
                Act::PutBalancer { spec } => drop(own.balancers.insert(spec.name.clone(), spec.clone())),
                Act::PutDisk { disk } => drop(own.disks.insert(disk.name.clone())),
                Act::PutGroup { group, .. } => drop(own.groups.insert(group.clone())),
                Act::PutRevision { group, revision } => {
                    own.revisions.insert((group.clone(), revision.number), revision.launch.clone());
                }
                _ => {}
            }
        }
        own
    }

    /// Whether the cloud was asked for nothing.
    pub(super) fn is_nothing(&self) -> bool {
        self.groups.is_empty() && self.balancers.is_empty() && self.images.is_empty()
    }

    /// The part of the fleet that is this run's alone, and the names of what somebody else has changed since.
    pub(super) fn part(&self, fleet: Fleet) -> (Fleet, Vec<Name>) {
        let is_own = |group: &InstanceGroup| {
            let mut revisions = group.revisions.iter();
            revisions
                .all(|found| self.revisions.get(&(group.name.clone(), found.number)) == Some(&found.launch))
        };
        let (groups, others): (Vec<_>, Vec<_>) =
            fleet.groups.into_iter().partition(|group| self.groups.contains(&group.name) && is_own(group));
        let is_own =
            |spec: &BalancerSpec| self.balancers.get(&spec.name).is_some_and(|own| is_same(own, spec));
        let (balancers, other_balancers): (Vec<_>, Vec<_>) =
            fleet.balancers.into_iter().partition(|balancer| is_own(&balancer.spec));
        let kept: BTreeSet<ImageId> =
            others.iter().flat_map(|group| &group.revisions).map(|revision| revision.launch.image).collect();
        let images =
            fleet.images.into_iter().filter(|image| self.images.contains(image) && !kept.contains(image));
        let changed = others.iter().map(|group| &group.name).filter(|name| self.groups.contains(name));
        let names = other_balancers.iter().map(|balancer| &balancer.spec.name);
        let changed = changed.chain(names.filter(|name| self.balancers.contains_key(name)));
        let changed = changed.cloned().collect();
        let images = images.collect();
        let disks = fleet.disks.into_iter().filter(|disk| self.disks.contains(&disk.spec.name)).collect();
        (
            Fleet { groups, balancers, disks, images, half_deleted: vec![], leftovers: vec![], ..fleet },
            changed,
        )
    }
}

/// Whether a balancer is what was asked for. A cloud leaves groups out of what it shows until they are targets.
fn is_same(own: &BalancerSpec, found: &BalancerSpec) -> bool {
    let without_targets = |spec: &BalancerSpec| {
        let mut spec = spec.clone();
        spec.listeners.iter_mut().for_each(|listener| listener.targets.clear());
        let backends = spec.http.iter_mut().flat_map(|http| &mut http.backends);
        backends.for_each(|backend| backend.targets.clear());
        spec
    };
    without_targets(own) == without_targets(found)
        && found.targets().all(|target| own.targets().any(|known| known == target))
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = self.groups.iter().map(|name| format!("group {name}"));
        let balancers = self.balancers.keys().map(|name| format!("balancer {name}"));
        let images = self.images.iter().map(|image| format!("image {}", image.0.short()));
        f.write_str(&groups.chain(balancers).chain(images).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Protocol, ServiceType, Strategy};
    use crate::oci::Digest;
    use crate::plan::act::NewRevision;
    use crate::plan::example;
    use crate::plan::fleet::{Listener, LoadBalancer, Revision, TargetGroup};

    fn name(name: &str) -> Name {
        Name { namespace: "default".into(), name: name.into() }
    }

    fn image(number: u8) -> ImageId {
        ImageId(Digest::of(&[number]))
    }

    fn spec(service: &str, port: u16) -> BalancerSpec {
        let targets = vec![TargetGroup { group: name(service), port: 80 }];
        let listeners = vec![Listener::new(port, Protocol::Tcp, targets)];
        BalancerSpec::new(name(service), ServiceType::ClusterIP, listeners)
    }

    fn balancer(spec: BalancerSpec) -> LoadBalancer {
        LoadBalancer {
            spec,
            host: "127.77.0.1".into(),
            bound: vec![],
            targets: vec![],
            certificates: vec![],
            traffic: vec![],
            requests: vec![],
        }
    }

    /// A group with revisions of these images, numbered from 1.
    fn group(group: &str, images: &[u8]) -> InstanceGroup {
        let revision = |(index, number): (usize, &u8)| Revision {
            number: u32::try_from(index).unwrap() + 1,
            launch: example::launch(image(*number)),
            created: 0,
            cause: "test".into(),
            deployed: None,
        };
        InstanceGroup {
            replicas: 1,
            current: Some(1),
            next_revision: 2,
            revisions: images.iter().enumerate().map(revision).collect(),
            ..InstanceGroup::new(name(group), example::settings(Strategy::Recreate))
        }
    }

    /// The acts of a preview of a group of image 1 behind a balancer, both of that name.
    fn acts(group: &str) -> Vec<Act> {
        let revision = NewRevision { number: 1, launch: example::launch(image(1)), cause: "test".into() };
        vec![
            Act::PutImage { image: image(1) },
            Act::PutBalancer { spec: spec(group, 80) },
            Act::PutGroup { group: name(group), settings: example::settings(Strategy::Recreate) },
            Act::PutRevision { group: name(group), revision },
            Act::StartRefresh { group: name(group), to: 1, replicas: 1 },
        ]
    }

    fn parted(sent: &[Act], fleet: Fleet) -> (Vec<Name>, Vec<Name>, Vec<ImageId>, Vec<Name>) {
        let (part, changed) = Own::of(sent).part(fleet);
        let groups = part.groups.into_iter().map(|group| group.name).collect();
        let balancers = part.balancers.into_iter().map(|balancer| balancer.spec.name).collect();
        (groups, balancers, part.images, changed)
    }

    #[test]
    fn a_preview_deletes_what_it_made_and_nothing_else() {
        let fleet = || Fleet {
            groups: vec![group("other", &[2]), group("web", &[1])],
            // An alias of somebody else that leads to the group.
            balancers: vec![
                balancer(spec("web", 80)),
                balancer(BalancerSpec { name: name("alias"), ..spec("web", 80) }),
            ],
            images: vec![image(1), image(2), image(3)],
            ..Fleet::default()
        };
        let (web, own) = (vec![name("web")], vec![image(1)]);
        assert_eq!(parted(&acts("web"), fleet()), (web.clone(), web, own, vec![]));
        // It failed, or was interrupted, before its first act: all this is somebody else's.
        assert!(Own::of(&[]).is_nothing());
        assert_eq!(parted(&[], fleet()), (vec![], vec![], vec![], vec![]));
        // Only its image was put.
        assert_eq!(parted(&acts("web")[..1], fleet()), (vec![], vec![], vec![], vec![]));
        let mut unused = fleet();
        unused.groups.clear();
        assert_eq!(parted(&acts("web")[..1], unused).2, [image(1)]);
    }

    #[test]
    fn what_somebody_else_deployed_over_a_preview_stays() {
        let fleet = Fleet {
            groups: vec![group("web", &[1, 2])],
            balancers: vec![balancer(spec("web", 81))],
            images: vec![image(1), image(2)],
            ..Fleet::default()
        };
        let changed = vec![name("web"), name("web")];
        assert_eq!(parted(&acts("web"), fleet), (vec![], vec![], vec![], changed));
    }

    #[test]
    fn a_balancer_whose_group_is_no_target_yet_is_the_previews() {
        let mut untargeted = spec("web", 80);
        untargeted.listeners[0].targets.clear();
        assert!(is_same(&spec("web", 80), &untargeted));
        let mut elsewhere = spec("web", 80);
        elsewhere.listeners[0].targets[0].group = name("other");
        assert!(!is_same(&spec("web", 80), &elsewhere));
    }
}
