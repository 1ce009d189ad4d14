//! What a deployment goes through, for the verbs that share it: read the set, resolve and plan its images, build, carry
//! a plan out, show the result.

use std::collections::BTreeMap;

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
use crate::plan::fleet::{Fleet, Health, Instance};
use crate::plan::image::{ImageId, ImagePlan};
use crate::plan::rollout::{Desired, RolloutPlan, Step};
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
    let files = manifests.manifests.iter().map(|path| path.display().to_string());
    let folders = manifests.kustomize.kustomize.iter().map(|folder| format!("-k {}", folder.display()));
    let names: Vec<String> = files.chain(folders).collect();
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

    /// Checks that the guest bundle is what it says.
    pub(super) fn verify_guest(&self) -> Result<(), Failure> {
        self.workshop.guest().verify().or_exit(Exit::Build)
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
    let home = Home::new(&context.dirs.state, &context.dirs.cache, program);
    Ok(home.with_environment(context.kept_variables.clone()))
}

/// Carries `plan` out and says how it ended.
pub(super) async fn carry_out(
    context: &Context,
    cloud: &dyn Cloud,
    plan: &RolloutPlan,
    images: &[DiskImage],
) -> Result<Exit, Failure> {
    let left = carry_out_to(context, cloud, plan, (images, true)).await?;
    match context.format {
        Format::Json => json(&done(plan, &left)),
        Format::Text if plan.is_empty() => report::result("unchanged\n"),
        Format::Text => {}
    }
    Ok(Exit::Success)
}

/// What was done, and what is left, for programs.
pub(super) fn done(plan: &RolloutPlan, left: &[Step]) -> serde_json::Value {
    let steps: Vec<&Step> = plan.steps.iter().filter(|step| !left.contains(step)).collect();
    serde_json::json!({
        "environment": plan.environment,
        "changed": !plan.is_unchanged(),
        "steps": steps,
        "left": left,
    })
}

/// Carries `plan` out; without waiting it ends once everything is started. Returns the steps that are left then.
pub(super) async fn carry_out_to(
    context: &Context,
    cloud: &dyn Cloud,
    plan: &RolloutPlan,
    (images, wait): (&[DiskImage], bool),
) -> Result<Vec<Step>, Failure> {
    for note in &plan.notes {
        context.events.note(note.clone());
    }
    let images: BTreeMap<ImageId, DiskImage> = images.iter().map(|image| (image.id, image.clone())).collect();
    let options = rollout::Options { poll: cloud.poll(), wait };
    let ended = rollout::execute(plan, &images, cloud, &context.events, &options).await;
    if context.summary.is_some() || ended.is_err() {
        let fleet = cloud.observe().await.unwrap_or_else(|error| {
            context.events.warn(format!("what the environment holds now is not known: {error}"));
            Fleet::default()
        });
        if ended.is_err() {
            warn(context, &fleet);
        }
        summary::write(context, plan, &fleet, ended.as_ref().err().map(ToString::to_string).as_deref());
    }
    let left = ended.or_exit(Exit::Rollout)?;
    if !left.is_empty() {
        let steps: Vec<String> = left.iter().map(|step| format!("\n  {step}")).collect();
        context.events.note(format!(
            "left, since it is not waited for (`i2kit wait` waits, the next deploy does the rest):{}",
            steps.concat()
        ));
    }
    Ok(left)
}

/// Says what the cloud cannot give the environment for now.
pub(super) fn warn(context: &Context, fleet: &Fleet) {
    for warning in &fleet.warnings {
        context.events.warn(warning.as_str());
    }
}

/// Prints `value` as indented JSON.
pub(super) fn json(value: &impl Serialize) {
    let text = serde_json::to_string_pretty(value).expect("results have only string keys");
    report::document(&(text + "\n"));
}

/// An instance's health in one word, with the reason when it is bad.
pub(super) fn health(instance: &Instance) -> String {
    use crate::plan::fleet::InstanceState::{Draining, Ended, Running, Stopping};
    match (instance.state, &instance.health) {
        (Running, health) => health.to_string(),
        (Draining, _) => "draining".into(),
        (Stopping, _) => "stopping".into(),
        (Ended, Health::Unhealthy { reason } | Health::Lost { reason }) => format!("ended: {reason}"),
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
