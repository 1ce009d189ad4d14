//! What would change, field by field: groups and Services as they are and as they should be, as text that is compared
//! line by line. Of a machine image that text is its LinuxKit file.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use similar::TextDiff;

use super::fleet::{BalancerSpec, Fleet, GroupSettings, InstanceGroup, LaunchSpec};
use super::image::ImageId;
use super::rollout::{Desired, GroupSpec};
use crate::manifest::api::Name;

/// One object that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `group` or `balancer`.
    pub kind: &'static str,
    /// Its name.
    pub name: Name,
    /// Lines in the unified form.
    pub text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "diff {}/{}\n{}", self.kind, self.name, self.text)
    }
}

/// What differs between `fleet` and `desired`. `images` holds the text of images, as far as they are known here.
pub fn differences(desired: &Desired, fleet: &Fleet, images: &BTreeMap<ImageId, String>) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |kind, name: &Name, before: &str, after: &str| {
        if before != after {
            found.push(Difference { kind, name: name.clone(), text: unified(before, after) });
        }
    };
    for spec in &desired.groups {
        let is = fleet.group(&spec.name).map(|group| group_text(group, images)).unwrap_or_default();
        // A group that is scaled by its load keeps the size that it has.
        let scaled = fleet.group(&spec.name).filter(|_| spec.settings.scaling.is_some());
        let replicas = scaled.map_or(spec.replicas, |group| group.replicas);
        compare("group", &spec.name, &is, &spec_text(spec, replicas, images));
    }
    for spec in &desired.balancers {
        let is = fleet.balancer(&spec.name).map(|balancer| balancer_text(&balancer.spec));
        compare("balancer", &spec.name, &is.unwrap_or_default(), &balancer_text(spec));
    }
    if desired.prune {
        for group in fleet.groups.iter().filter(|g| desired.groups.iter().all(|spec| spec.name != g.name)) {
            compare("group", &group.name, &group_text(group, images), "");
        }
        let kept = |name: &Name| desired.balancers.iter().any(|spec| spec.name == *name);
        for balancer in fleet.balancers.iter().filter(|balancer| !kept(&balancer.spec.name)) {
            compare("balancer", &balancer.spec.name, &balancer_text(&balancer.spec), "");
        }
    }
    found
}

fn unified(before: &str, after: &str) -> String {
    TextDiff::from_lines(before, after)
        .unified_diff()
        .context_radius(3)
        .header("as it is", "as the manifests say")
        .to_string()
}

/// What both sides have in common.
#[derive(Serialize)]
struct Text<'a> {
    replicas: u32,
    settings: &'a GroupSettings,
    launch: Option<&'a LaunchSpec>,
}

/// A group as it runs.
fn group_text(group: &InstanceGroup, images: &BTreeMap<ImageId, String>) -> String {
    let launch = group.current.and_then(|number| group.revision(number)).map(|revision| &revision.launch);
    text(&Text { replicas: group.replicas, settings: &group.settings, launch }, images)
}

fn spec_text(spec: &GroupSpec, replicas: u32, images: &BTreeMap<ImageId, String>) -> String {
    let launch = Some(&spec.launch);
    text(&Text { replicas, settings: &spec.settings, launch }, images)
}

fn text(group: &Text, images: &BTreeMap<ImageId, String>) -> String {
    let image = group.launch.map(|launch| match images.get(&launch.image) {
        Some(text) => text.clone(),
        None => format!("# what image {} is made of is not in this machine's cache\n", launch.image),
    });
    yaml(group) + &image.unwrap_or_default()
}

fn balancer_text(spec: &BalancerSpec) -> String {
    yaml(spec)
}

fn yaml(value: &impl Serialize) -> String {
    serde_yaml::to_string(value).expect("specs have only string keys and finite numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::{Protocol, ServiceType};
    use crate::plan::fleet::LoadBalancer;
    use serde_json::json;

    fn balancer(port: u16) -> BalancerSpec {
        serde_json::from_value(json!({
            "name": {"namespace": "default", "name": "web"},
            "kind": ServiceType::LoadBalancer,
            "listeners": [{"port": port, "protocol": Protocol::Tcp, "targets": []}],
        }))
        .unwrap()
    }

    fn desired(balancers: Vec<BalancerSpec>, prune: bool) -> Desired {
        Desired {
            environment: "test".into(),
            groups: vec![],
            balancers,
            disks: vec![],
            classes: vec![],
            cause: String::new(),
            prune,
        }
    }

    #[test]
    fn only_lines_that_differ_are_marked() {
        let one = LoadBalancer {
            spec: balancer(80),
            host: String::new(),
            bound: vec![],
            targets: vec![],
            traffic: vec![],
        };
        let fleet = Fleet { balancers: vec![one], ..Fleet::default() };
        let none = BTreeMap::new();
        assert_eq!(differences(&desired(vec![balancer(80)], true), &fleet, &none), []);
        let found = differences(&desired(vec![balancer(81)], false), &fleet, &none);
        let [only] = &found[..] else { panic!("{found:?}") };
        let marked: Vec<&str> =
            only.text.lines().skip(2).filter(|line| line.starts_with(['+', '-'])).collect();
        assert_eq!(marked.len(), 2, "{only}");
        assert!(marked[0].ends_with("port: 80") && marked[1].ends_with("port: 81"), "{only}");
        assert!(differences(&desired(vec![], false), &fleet, &none).is_empty());
        assert_eq!(differences(&desired(vec![], true), &fleet, &none).len(), 1);
    }
}
