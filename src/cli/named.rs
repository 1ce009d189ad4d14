//! What a user calls by name: groups, instances, containers.

use std::collections::BTreeSet;

use super::exit::{Exit, Failure, OrExit as _};
use crate::cloud::{Cloud, Scope};
use crate::manifest::api::Name;
use crate::plan::cloud_event;
use crate::plan::fleet::{Fleet, Health, Instance, InstanceGroup, InstanceState};
use crate::plan::rollout::GroupKind;

/// What the environment holds, or of it one group and what is in front of it.
pub(super) async fn observe(cloud: &dyn Cloud, name: Option<&str>) -> Result<Fleet, Failure> {
    inspect(cloud, name, &Scope::Environment).await
}

/// The same, as far as `scope` asks.
pub(super) async fn inspect(cloud: &dyn Cloud, name: Option<&str>, scope: &Scope) -> Result<Fleet, Failure> {
    let mut fleet = cloud.inspect(scope).await.or_exit(Exit::Cloud)?;
    if let Some(name) = name {
        let group = group_or_instance(&fleet, name)?.0.name.clone();
        fleet.groups.retain(|found| found.name == group);
        fleet.balancers.retain(|balancer| balancer.spec.targets().any(|target| target.group == group));
    }
    Ok(fleet)
}

/// What may stand in front of a group's name, and what the group is then; a Pod may run on or end. `group` is how
/// events name one of any kind.
static KINDS: [(&[&str], &[GroupKind]); 7] = [
    (&["deployment", "deployments", "deploy"], &[GroupKind::Service]),
    (&["replicaset", "replicasets", "rs"], &[GroupKind::Service]),
    (&["statefulset", "statefulsets", "sts"], &[GroupKind::Service]),
    (&["pod", "pods", "po"], &[GroupKind::Service, GroupKind::Job]),
    (&["job", "jobs"], &[GroupKind::Job]),
    (&["cronjob", "cronjobs", "cj"], &[GroupKind::CronJob]),
    (&["group"], &[GroupKind::Service, GroupKind::Job, GroupKind::CronJob]),
];

/// The group that the user calls `name`: `NAME` in the default namespace or the only one of that name, or
/// `NAMESPACE/NAME`; each with `KIND/` in front or without.
pub(super) fn group<'f>(fleet: &'f Fleet, name: &str) -> Result<&'f InstanceGroup, Failure> {
    let (kinds, bare) = without_kind(fleet, name);
    let group = by_name(fleet, bare)?;
    if kinds.is_empty() || kinds.contains(&GroupKind::of(&group.settings)) {
        return Ok(group);
    }
    let error = anyhow::anyhow!(
        "environment {} has no `{name}`: {} is of another kind",
        fleet.environment,
        group.name
    );
    Err(Failure::new(Exit::NotFound, error))
}

/// The name without the kind in front, and what that kind becomes; nothing where no kind is given. A namespace that is
/// called like a kind comes first.
fn without_kind<'n>(fleet: &Fleet, name: &'n str) -> (&'static [GroupKind], &'n str) {
    let Some((kind, rest)) = name.split_once('/') else { return (&[], name) };
    let is_namespace = fleet.groups.iter().any(|group| group.name.namespace == kind);
    let word = kind.to_ascii_lowercase();
    // `deployment.apps/web` is how kubectl prints it.
    let word = word.split('.').next().unwrap_or_default();
    let known = KINDS.iter().find(|(words, _)| words.contains(&word));
    match known {
        Some((_, kinds)) if !is_namespace => (*kinds, rest),
        _ => (&[], name),
    }
}

fn by_name<'f>(fleet: &'f Fleet, name: &str) -> Result<&'f InstanceGroup, Failure> {
    let all = || fleet.groups.iter().map(|group| (&group.name, group));
    if let Some(group) = one(name, "groups", all())? {
        return Ok(group);
    }
    if fleet.groups.is_empty() {
        let error = anyhow::anyhow!("environment {} has no groups; nothing is deployed", fleet.environment);
        return Err(Failure::new(Exit::NotFound, error));
    }
    Err(none(name, &fleet.environment, "group", all().map(|(name, _)| name)))
}

/// The one of `all` that the user calls `name`: `NAME` in the default namespace or the only one of that name, or
/// `NAMESPACE/NAME`. `None` where there is none; `kind` is what several are in the error.
pub(super) fn one<'n, T>(
    name: &str,
    kind: &str,
    all: impl Iterator<Item = (&'n Name, T)>,
) -> Result<Option<T>, Failure> {
    let (namespace, short) = name.split_once('/').map_or((None, name), |(space, name)| (Some(space), name));
    let is_meant = |found: &Name| found.name == short && namespace.is_none_or(|it| found.namespace == it);
    let mut found: Vec<(&Name, T)> = all.filter(|(name, _)| is_meant(name)).collect();
    if let Some(default) = found.iter().position(|(name, _)| name.namespace == "default") {
        return Ok(Some(found.swap_remove(default).1));
    }
    if found.len() < 2 {
        return Ok(found.pop().map(|(_, one)| one));
    }
    let names: Vec<String> = found.iter().map(|(name, _)| name.to_string()).collect();
    Err(Failure::new(Exit::NotFound, anyhow::anyhow!("`{name}` is several {kind}: {}", names.join(", "))))
}

/// The error that the environment has no such thing, with those that it has.
pub(super) fn none<'n>(
    name: &str,
    environment: &str,
    kind: &str,
    all: impl Iterator<Item = &'n Name>,
) -> Failure {
    let known: Vec<String> = all.map(ToString::to_string).collect();
    let error = if known.is_empty() {
        anyhow::anyhow!("environment {environment} has no {kind}s")
    } else {
        anyhow::anyhow!("environment {environment} has no {kind} `{name}`; it has {}", known.join(", "))
    };
    Failure::new(Exit::NotFound, error)
}

/// The group that the user calls `name`, or one instance and its group: its id or name alone, or `GROUP/INSTANCE` with
/// its number from 1 in the order of age (its index in a StatefulSet), its id or name, or the id's last part.
pub(super) fn group_or_instance<'f>(
    fleet: &'f Fleet,
    name: &str,
) -> Result<(&'f InstanceGroup, Option<&'f Instance>), Failure> {
    // As events print it.
    let id = name.strip_prefix(cloud_event::INSTANCE).and_then(|rest| rest.strip_prefix('/'));
    let name = id.unwrap_or(name);
    let of = |group: &'f InstanceGroup| group.instances.iter().find(|instance| *instance.id == *name);
    if let Some((group, instance)) = fleet.groups.iter().find_map(|group| Some((group, of(group)?))) {
        return Ok((group, Some(instance)));
    }
    let failure = match group(fleet, name) {
        Ok(group) => return Ok((group, None)),
        Err(failure) => failure,
    };
    if let Some((group, instance)) = member_called(fleet, name)? {
        return Ok((group, Some(instance)));
    }
    let Some((name, wanted)) = name.rsplit_once('/') else { return Err(failure) };
    // `NAMESPACE/NAME` of a group that there is not, rather than an instance of a group that there is not.
    let group = group(fleet, name).map_err(|_| failure)?;
    let mut instances: Vec<&Instance> = group.instances.iter().collect();
    instances.sort_by_key(|instance| (instance.since, &instance.id));
    let number = if group.settings.stateful.is_some() {
        let ordinal = wanted.parse::<u32>().ok();
        member(group, |instance| ordinal.is_some() && instance.ordinal == ordinal)
            .or_else(|| member(group, |instance| instance.name.as_deref() == Some(wanted)))
    } else {
        wanted.parse::<usize>().ok().and_then(|number| instances.get(number.checked_sub(1)?).copied())
    };
    let named =
        |instance: &&&Instance| *instance.id == *wanted || instance.id.rsplit('-').next() == Some(wanted);
    if let Some(instance) = number.or_else(|| instances.iter().find(named).copied()) {
        return Ok((group, Some(instance)));
    }
    let ids: Vec<&str> = instances.iter().map(|instance| instance.called()).collect();
    Err(Failure::new(
        Exit::NotFound,
        anyhow::anyhow!("{} has no instance `{wanted}`; it has {}", group.name, ids.join(", ")),
    ))
}

/// The member of a StatefulSet that the user calls `name`: `db-0` in the default namespace or the only one of that name, or
/// `NAMESPACE/db-0`.
fn member_called<'f>(
    fleet: &'f Fleet,
    name: &str,
) -> Result<Option<(&'f InstanceGroup, &'f Instance)>, Failure> {
    let short = name.split_once('/').map_or(name, |(_, short)| short);
    let of = |group: &'f InstanceGroup| {
        let member = member(group, |instance| instance.name.as_deref() == Some(short))?;
        let called = Name { namespace: group.name.namespace.clone(), name: short.to_owned() };
        Some((called, (group, member)))
    };
    let found: Vec<_> = fleet.groups.iter().filter_map(of).collect();
    one(name, "instances", found.iter().map(|(name, found)| (name, *found)))
}

/// The newest instance of those that are the same member of a StatefulSet: one that has ended comes last.
fn member(group: &InstanceGroup, is_it: impl Fn(&Instance) -> bool) -> Option<&Instance> {
    let found = group.instances.iter().filter(|instance| is_it(instance));
    found.max_by_key(|instance| (instance.state != InstanceState::Ended, instance.since))
}

/// One instance that runs and has the container: the one that `name` names, or of its group the first healthy one.
pub(super) fn running_with<'f>(
    fleet: &'f Fleet,
    name: &str,
    container: Option<&str>,
) -> Result<&'f Instance, Failure> {
    let instance = running(fleet, name)?;
    if let Some(container) = container {
        has_container(&instance.id, std::slice::from_ref(instance), container)?;
    }
    Ok(instance)
}

/// One instance that runs: the one that `name` names, or of its group the first healthy one.
pub(super) fn running<'f>(fleet: &'f Fleet, name: &str) -> Result<&'f Instance, Failure> {
    let (group, instance) = group_or_instance(fleet, name)?;
    if let Some(instance) = instance {
        return Ok(instance);
    }
    let running = || group.instances.iter().filter(|instance| instance.state == InstanceState::Running);
    let healthy = running().find(|instance| instance.health == Health::Healthy);
    healthy
        .or_else(|| running().next())
        .ok_or_else(|| Failure::new(Exit::NotFound, anyhow::anyhow!("no instance of {} runs", group.name)))
}

/// A container that none of `owner`'s instances knows is a slip. An instance that has reported none yet may have any.
pub(super) fn has_container(owner: &str, instances: &[Instance], container: &str) -> Result<(), Failure> {
    let known = instances.iter().flat_map(|instance| &instance.containers);
    let names: BTreeSet<&str> = known.map(|container| container.name.as_str()).collect();
    let unknown = instances.iter().any(|instance| instance.containers.is_empty());
    if names.is_empty() || unknown || names.contains(container) {
        return Ok(());
    }
    let names: Vec<&str> = names.into_iter().collect();
    let error = anyhow::anyhow!("{owner} has no container `{container}`; it has {}", names.join(", "));
    Err(Failure::new(Exit::NotFound, error))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fleet(namespace: &str) -> Fleet {
        let group = |name: &str, job: bool| {
            let mut group = InstanceGroup::new(
                Name { namespace: namespace.into(), name: name.into() },
                crate::plan::example::settings(crate::manifest::api::Strategy::Recreate),
            );
            if job {
                group.settings.job =
                    serde_json::from_value(json!({"parallelism": 1, "backoffLimit": 6})).unwrap();
            }
            let instance = json!({"id": format!("{name}-1-abcde"), "revision": 1, "state": "running",
                "health": {"status": "healthy"}, "since": 30, "endpoints": [], "containers": []});
            group.instances = vec![serde_json::from_value(instance).unwrap()];
            group
        };
        Fleet { groups: vec![group("busy", false), group("report", true)], ..Fleet::default() }
    }

    #[test]
    fn kinds_may_stand_in_front_of_names() {
        let fleet = fleet("default");
        for name in [
            "busy",
            "default/busy",
            "deployment/busy",
            "Deploy/busy",
            "deployments/default/busy",
            "group/busy",
            "deployment.apps/busy",
            "statefulset/busy",
            "POD/busy",
        ] {
            assert_eq!(&*group(&fleet, name).unwrap().name.name, "busy", "{name}");
        }
        assert_eq!(&*group(&fleet, "jobs/report").unwrap().name.name, "report");
        for name in ["job/busy", "deployment/report", "cronjob/report", "service/busy", "instance/busy"] {
            assert_eq!(group(&fleet, name).unwrap_err().exit, Exit::NotFound, "{name}");
        }
        for name in ["instance/busy-1-abcde", "busy-1-abcde", "deployment/busy/1", "group/busy/abcde"] {
            let found = group_or_instance(&fleet, name).unwrap();
            assert!(found.1.is_some_and(|instance| &*instance.id == "busy-1-abcde"), "{name}");
        }
    }

    #[test]
    fn a_namespace_that_is_called_like_a_kind_is_a_namespace() {
        assert_eq!(&*group(&fleet("pods"), "pods/report").unwrap().name.name, "report");
    }
}
