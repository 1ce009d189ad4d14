//! What would change, field by field: groups and Services as they are and as they should be, as text that is compared
//! line by line. Of a machine image that text is its LinuxKit file.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_yaml::value::TaggedValue;
use serde_yaml::{Mapping, Value};
use similar::TextDiff;

use super::fleet::{BalancerSpec, Fleet, GroupSettings, InstanceGroup, LaunchSpec};
use super::image::ImageId;
use super::rollout::{Desired, GroupSpec, with_classes};
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
    let desired = &with_classes(desired, fleet);
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

/// A group as it runs, or as the rollout under way makes it: that is what a plan compares with, too.
fn group_text(group: &InstanceGroup, images: &BTreeMap<ImageId, String>) -> String {
    let launch = group.heading().and_then(|number| group.revision(number)).map(|revision| &revision.launch);
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
    let value = serde_yaml::to_value(value).expect("specs have only string keys and finite numbers");
    serde_yaml::to_string(&in_manifest_words(value)).expect("it was made of values")
}

/// The value as a manifest has it: `maxSurge: 25%` in place of the tag and the field name that records have.
fn in_manifest_words(value: Value) -> Value {
    match value {
        Value::Tagged(tagged) => {
            let TaggedValue { tag, value } = *tagged;
            let name = tag.to_string().trim_start_matches('!').to_owned();
            match (name.as_str(), in_manifest_words(value)) {
                ("int", count) => count,
                ("percent", Value::Number(share)) => format!("{share}%").into(),
                (_, inner) => mapping([(name.clone(), inner)]),
            }
        }
        Value::Mapping(fields) => fields
            .into_iter()
            .map(|(key, value)| {
                let value = in_manifest_words(value);
                let value = if key == "strategy" { strategy(value) } else { value };
                (key, value)
            })
            .collect::<Mapping>()
            .into(),
        Value::Sequence(items) => items.into_iter().map(in_manifest_words).collect(),
        other => other,
    }
}

/// `spec.strategy` of a Deployment.
fn strategy(value: Value) -> Value {
    let Value::Mapping(fields) = value else { return mapping([("type".to_owned(), value)]) };
    let bounds = fields.get("RollingUpdate").cloned().unwrap_or_default();
    let bound = |name: &str| bounds.get(name).cloned().unwrap_or_default();
    let bounds = [("maxUnavailable", "max_unavailable"), ("maxSurge", "max_surge")];
    let bounds = bounds.map(|(word, field)| (word.to_owned(), bound(field)));
    mapping([("type".to_owned(), "RollingUpdate".into()), ("rollingUpdate".to_owned(), mapping(bounds))])
}

fn mapping<const N: usize>(fields: [(String, Value); N]) -> Value {
    fields.into_iter().map(|(key, value)| (key.into(), value)).collect::<Mapping>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::IntOrPercent::{Int, Percent};
    use crate::manifest::api::{Protocol, ServiceType, Strategy};
    use crate::oci::Digest;
    use crate::plan::act::Act;
    use crate::plan::example;
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

    /// A group with two revisions whose current one is the first, and a refresh.
    fn refreshed(current: u32, status: &str, to: u32) -> InstanceGroup {
        let revision = |number: u32| json!({"number": number, "launch": launch(number), "created": 10, "cause": "", "deployed": null});
        serde_json::from_value(json!({
            "name": {"namespace": "default", "name": "web"}, "replicas": 2, "settings": settings(), "current": current,
            "nextRevision": 3, "revisions": [revision(1), revision(2)], "instances": [],
            "refresh": {"status": status, "from": 3 - to, "to": to, "updated": 0, "available": 0, "total": 2,
                "started": 40, "reason": null},
        }))
        .unwrap()
    }

    fn launch(revision: u32) -> LaunchSpec {
        example::launch(ImageId(Digest::of(&[u8::try_from(revision).unwrap()])))
    }

    fn settings() -> GroupSettings {
        let strategy = Strategy::RollingUpdate { max_unavailable: Int(0), max_surge: Percent(25) };
        let floors = vec![crate::manifest::api::Floor::MinAvailable(Percent(50))];
        GroupSettings { floors, ..example::settings(strategy) }
    }

    /// While a rollout runs, `diff` has a difference where `plan` has something to change, and only there.
    #[test]
    fn what_differs_during_a_rollout_is_what_a_plan_would_change() {
        for (current, status, to) in [
            (1, "inProgress", 2),
            (2, "inProgress", 1),
            (1, "rollingBack", 2),
            (2, "rollingBack", 1),
            (1, "successful", 1),
        ] {
            for wanted in [1, 2] {
                let fleet = Fleet { groups: vec![refreshed(current, status, to)], ..Fleet::default() };
                let spec = GroupSpec {
                    name: fleet.groups[0].name.clone(),
                    replicas: 2,
                    launch: launch(wanted),
                    settings: settings(),
                };
                let desired = Desired { groups: vec![spec], ..desired(vec![], false) };
                let plan = crate::plan::rollout::rollout(&desired, &fleet);
                let moves = plan.acts().any(|act| matches!(act, Act::StartRefresh { .. }));
                let differs = !differences(&desired, &fleet, &BTreeMap::new()).is_empty();
                assert_eq!(differs, moves, "{status} to {to}, wanted {wanted}: {plan}");
            }
        }
    }

    #[test]
    fn settings_are_shown_in_the_words_of_manifests() {
        let text = yaml(&settings());
        let words =
            "strategy:\n  type: RollingUpdate\n  rollingUpdate:\n    maxUnavailable: 0\n    maxSurge: 25%\n";
        assert!(text.starts_with(words), "{text}");
        assert!(text.contains("- minAvailable: 50%\n") && !text.contains('!'), "{text}");
        let recreate = yaml(&example::settings(Strategy::Recreate));
        assert!(recreate.starts_with("strategy:\n  type: Recreate\n"), "{recreate}");
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
            certificates: vec![],
            traffic: vec![],
            requests: vec![],
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
