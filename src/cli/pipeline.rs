//! What several verbs do alike: read the set, resolve and plan its images, name groups, carry plans out.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde::Serialize;

use super::args::Manifests;
use super::check;
use super::context::Context;
use super::environment::Provider;
use super::exit::{Exit, Failure, OrExit as _};
use super::profiles;
use super::secrets::Secrets;
use super::summary;
use crate::cloud::Cloud;
use crate::cloud::local::{Home, LocalCloud};
use crate::image::{self, DiskImage, Workshop};
use crate::manifest::api::{Name, ObjectSet};
use crate::oci::{Platform, Reference, ResolvedImage};
use crate::plan::fleet::{Fleet, Health, Instance, InstanceGroup, InstanceState};
use crate::plan::image::{ImageId, ImagePlan};
use crate::plan::rollout::{Desired, RolloutPlan};
use crate::plan::{pod, workload};
use crate::registry::{Registry, Store};
use crate::report::{self, Format};
use crate::rollout;

/// A set that can be built and rolled out: every image is pinned, every decision is made.
#[derive(Debug)]
pub(super) struct Prepared {
    /// The objects.
    pub set: ObjectSet,
    /// One plan a Deployment, in their order.
    pub plans: Vec<ImagePlan>,
    images: BTreeMap<Reference, ResolvedImage>,
    workshop: Workshop,
    cause: String,
}

/// Reads the manifests, resolves their images and plans them.
pub(super) async fn prepare(context: &Context, manifests: &Manifests) -> Result<Prepared, Failure> {
    let set = check::read(manifests, context)?;
    let guest = image::guest::find(context.guest.as_deref(), &context.dirs.data).or_exit(Exit::Build)?;
    let registry = registry(context)?;
    let images = resolve(&registry, &set).await?;
    let profiles = profiles::read(context, &set)?;
    let facts = pod::Facts { images: &images, guest: &guest.facts, profiles: &profiles };
    let plans = plans(&set, &facts)?;
    let names: Vec<String> = manifests.manifests.iter().map(|path| path.display().to_string()).collect();
    Ok(Prepared {
        set,
        plans,
        images,
        workshop: Workshop::new(registry, guest, context.events.clone()),
        cause: format!("i2kit deploy {}", names.join(" ")),
    })
}

fn plans(set: &ObjectSet, facts: &pod::Facts<'_>) -> Result<Vec<ImagePlan>, Failure> {
    let mut names: Vec<&Name> = set.pods().map(|(name, _)| name).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let name = twice[0];
        return Err(Failure::new(
            Exit::Manifest,
            anyhow::anyhow!(
                "two workloads are called {name}, and both become a group of that name; rename one"
            ),
        ));
    }
    set.pods()
        .map(|(name, template)| pod::image(name, template, facts))
        .collect::<Result<_, _>>()
        .or_exit(Exit::Manifest)
}

/// Pins every image of the set, all at once.
async fn resolve(
    registry: &Registry,
    set: &ObjectSet,
) -> Result<BTreeMap<Reference, ResolvedImage>, Failure> {
    let mut wanted: Vec<&Reference> = set
        .pods()
        .map(|(_, template)| &template.spec)
        .flat_map(|pod| pod.init_containers.iter().chain(&pod.containers))
        .map(|container| &container.image)
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let platform = Platform::default();
    let resolved = wanted.into_iter().map(async |reference| {
        let image = registry.resolve(reference, &platform).await?;
        Ok::<_, crate::registry::Error>((reference.clone(), image))
    });
    futures::future::try_join_all(resolved).await.map(BTreeMap::from_iter).or_exit(Exit::Image)
}

impl Prepared {
    /// What the environment should hold.
    pub(super) fn desired(&self, context: &Context, secrets: &Secrets, prune: bool) -> Desired {
        let ids: Vec<ImageId> = self.plans.iter().map(ImagePlan::id).collect();
        let (groups, balancers) = workload::desired(&self.set, &ids, &secrets.versions);
        Desired {
            environment: context.environment.name.clone(),
            groups,
            balancers,
            cause: self.cause.clone(),
            prune,
        }
    }

    /// Builds the images whose ids `wanted` picks.
    pub(super) async fn build(&self, wanted: impl Fn(ImageId) -> bool) -> Result<Vec<DiskImage>, Failure> {
        let mut built = BTreeMap::new();
        for plan in &self.plans {
            let id = plan.id();
            if wanted(id) && !built.contains_key(&id) {
                built.insert(id, self.workshop.build(plan, &self.images).await.or_exit(Exit::Build)?);
            }
        }
        Ok(built.into_values().collect())
    }
}

/// Access to images as the environment asks for it.
fn registry(context: &Context) -> Result<Registry, Failure> {
    let store = Store::open(&context.dirs.cache).or_exit(Exit::Build)?;
    Registry::new(context.images.clone(), store, context.events.clone()).or_exit(Exit::Environment)
}

/// The cloud that the environment names.
pub(super) async fn cloud(context: &Context) -> Result<Box<dyn Cloud>, Failure> {
    match &context.environment.provider {
        Provider::Local => Ok(Box::new(LocalCloud::new(home(context)?, &context.environment.name))),
        Provider::Aws(provider) => super::aws::cloud(context, provider).await,
    }
}

/// Where the local cloud lives.
pub(super) fn home(context: &Context) -> Result<Home, Failure> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(Home::new(&context.dirs.state, &context.dirs.cache, program))
}

/// What the environment holds, or of it one group and what is in front of it.
pub(super) async fn observe(cloud: &dyn Cloud, name: Option<&str>) -> Result<Fleet, Failure> {
    let mut fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    if let Some(name) = name {
        let group = group(&fleet, name)?.name.clone();
        fleet.groups.retain(|found| found.name == group);
        fleet.balancers.retain(|balancer| balancer.spec.targets().any(|target| target.group == group));
    }
    Ok(fleet)
}

/// The group that the user calls `name`: `NAME` in the default namespace or the only one of that name, or
/// `NAMESPACE/NAME`.
pub(super) fn group<'f>(fleet: &'f Fleet, name: &str) -> Result<&'f InstanceGroup, Failure> {
    let found: Vec<&InstanceGroup> = match name.split_once('/') {
        Some((namespace, name)) => {
            fleet.group(&Name { namespace: namespace.into(), name: name.into() }).into_iter().collect()
        }
        None => match fleet.group(&Name { namespace: "default".into(), name: name.into() }) {
            Some(group) => vec![group],
            None => fleet.groups.iter().filter(|group| group.name.name == name).collect(),
        },
    };
    let list = |groups: &mut dyn Iterator<Item = &InstanceGroup>| {
        groups.map(|group| group.name.to_string()).collect::<Vec<_>>().join(", ")
    };
    match found[..] {
        [group] => Ok(group),
        [] if fleet.groups.is_empty() => Err(Failure::new(
            Exit::NotFound,
            anyhow::anyhow!("environment {} has no groups; nothing is deployed", fleet.environment),
        )),
        [] => Err(Failure::new(
            Exit::NotFound,
            anyhow::anyhow!(
                "environment {} has no group `{name}`; it has {}",
                fleet.environment,
                list(&mut fleet.groups.iter())
            ),
        )),
        _ => Err(Failure::new(
            Exit::NotFound,
            anyhow::anyhow!("`{name}` is several groups: {}", list(&mut found.into_iter())),
        )),
    }
}

/// The group that the user calls `name`, or one instance and its group: its id alone, or `GROUP/INSTANCE` with its
/// number from 1 in the order of age, its id, or the id's last part.
pub(super) fn group_or_instance<'f>(
    fleet: &'f Fleet,
    name: &str,
) -> Result<(&'f InstanceGroup, Option<&'f Instance>), Failure> {
    let of = |group: &'f InstanceGroup| group.instances.iter().find(|instance| instance.id == name);
    if let Some((group, instance)) = fleet.groups.iter().find_map(|group| Some((group, of(group)?))) {
        return Ok((group, Some(instance)));
    }
    let failure = match group(fleet, name) {
        Ok(group) => return Ok((group, None)),
        Err(failure) => failure,
    };
    let Some((name, wanted)) = name.rsplit_once('/') else { return Err(failure) };
    // `NAMESPACE/NAME` of a group that there is not, rather than an instance of a group that there is not.
    let group = group(fleet, name).map_err(|_| failure)?;
    let mut instances: Vec<&Instance> = group.instances.iter().collect();
    instances.sort_by_key(|instance| (instance.since, &instance.id));
    let number =
        wanted.parse::<usize>().ok().and_then(|number| instances.get(number.checked_sub(1)?).copied());
    let named =
        |instance: &&&Instance| instance.id == wanted || instance.id.rsplit('-').next() == Some(wanted);
    if let Some(instance) = number.or_else(|| instances.iter().find(named).copied()) {
        return Ok((group, Some(instance)));
    }
    let ids: Vec<&str> = instances.iter().map(|instance| instance.id.as_str()).collect();
    Err(Failure::new(
        Exit::NotFound,
        anyhow::anyhow!("{} has no instance `{wanted}`; it has {}", group.name, ids.join(", ")),
    ))
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

/// A container that none of `owner`'s instances knows is a slip. An instance that has told of none yet may have any.
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

/// Carries `plan` out and says how it ended.
pub(super) async fn carry_out(
    context: &Context,
    cloud: &dyn Cloud,
    plan: &RolloutPlan,
    images: &[DiskImage],
) -> Result<Exit, Failure> {
    carry_out_to(context, cloud, plan, (images, true)).await
}

/// As [`carry_out`]; without waiting it ends once everything is started.
pub(super) async fn carry_out_to(
    context: &Context,
    cloud: &dyn Cloud,
    plan: &RolloutPlan,
    (images, wait): (&[DiskImage], bool),
) -> Result<Exit, Failure> {
    for note in &plan.notes {
        context.events.note(note.clone());
    }
    let images: BTreeMap<ImageId, DiskImage> = images.iter().map(|image| (image.id, image.clone())).collect();
    let options = rollout::Options { poll: cloud.poll(), wait };
    let ended = rollout::execute(plan, &images, cloud, &context.events, &options).await;
    if context.summary.is_some() {
        let fleet = cloud.observe().await.unwrap_or_else(|error| {
            context.events.warn(format!("the step summary shows no groups: {error}"));
            Fleet::default()
        });
        summary::write(context, plan, &fleet, ended.as_ref().err().map(ToString::to_string).as_deref());
    }
    ended.or_exit(Exit::Rollout)?;
    let unchanged = plan.is_unchanged();
    match context.format {
        Format::Json => json(&serde_json::json!({
            "environment": plan.environment,
            "changed": !unchanged,
            "steps": plan.steps,
        })),
        Format::Text if plan.is_empty() => report::result("unchanged\n"),
        Format::Text => {}
    }
    Ok(Exit::Success)
}

/// Prints `value` as indented JSON.
pub(super) fn json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("results have only string keys");
    report::result(&(text + "\n"));
}

/// An instance's health in one word, with the reason when it is bad.
pub(super) fn health(instance: &Instance) -> String {
    use crate::plan::fleet::InstanceState::{Draining, Ended, Running, Stopping};
    match (instance.state, &instance.health) {
        (Running, Health::Unhealthy { reason }) => format!("unhealthy: {reason}"),
        (Running, health) => health.to_string(),
        (Draining, _) => "draining".into(),
        (Stopping, _) => "stopping".into(),
        (Ended, Health::Unhealthy { reason }) => format!("ended: {reason}"),
        (Ended, _) => "ended".into(),
    }
}

/// A size for people, in the unit that leaves one to three digits before the point.
pub(super) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Seconds since the Unix epoch as `2026-01-31T12:00:00Z`.
pub(super) fn utc(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0))
        .map_or_else(|| format!("@{seconds}"), |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}
