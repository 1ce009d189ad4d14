//! From manifests to images: the set is read, its images are pinned and planned, and what a plan needs is built.

use std::collections::BTreeMap;

use i2kit_spec::Architecture;

use super::args::Manifests;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::secrets::Secrets;
use super::{connection, profiles, reading, secrets};
use crate::cloud::{Cloud, Materials};
use crate::image::{self, DiskImage, Workshop};
use crate::manifest::api::{Name, ObjectSet};
use crate::oci::{Reference, ResolvedImage};
use crate::plan::fleet::{BalancerSpec, Fleet};
use crate::plan::image::{ImageId, ImagePlan, LaunchImage};
use crate::plan::rollout::{self, Desired, GroupSpec, RolloutPlan};
use crate::plan::{pod, replicated, workload};
use crate::registry::{Registry, Settings, Store};

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
    let set = replicated::expand(reading::read(manifests, context)?);
    within_bounds(context, &set)?;
    let guest = image::guest::find(context.guest.as_deref(), &context.dirs.data).or_exit(Exit::Build)?;
    let registry = registry(context, &set)?;
    let mut images = resolve(&registry, &set, guest.facts.architecture).await?;
    images.extend(coordinator(&set, &guest)?);
    let profiles = profiles::read(context, &set)?;
    let facts = pod::Facts { images: &images, guest: &guest.facts, profiles: &profiles };
    let plans = plans(&set, &facts)?;
    let files =
        manifests.manifests.iter().chain(&manifests.options.filename).map(|path| path.display().to_string());
    let folders = manifests.options.kustomize.iter().map(|folder| format!("-k {}", folder.display()));
    let names: Vec<String> = files.chain(folders).collect();
    Ok(Prepared {
        set,
        plans,
        images,
        workshop: Workshop::new(registry, guest, context.events.clone()),
        cause: format!("i2kit deploy {}", names.join(" ")),
    })
}

/// The image of the coordinators of replicated pods, where the set has any: a file of the guest bundle.
fn coordinator(
    set: &ObjectSet,
    guest: &image::guest::GuestBundle,
) -> Result<Option<(Reference, ResolvedImage)>, Failure> {
    if !replicated::is_needed(set) {
        return Ok(None);
    }
    let missing = || {
        let error = anyhow::anyhow!(
            "the guest bundle has no coordinator for replicated pods; make it anew with scripts/guest"
        );
        Failure::new(Exit::Build, error)
    };
    let layer = guest.coordinator.as_ref().ok_or_else(missing)?;
    Ok(Some((replicated::reference(), replicated::image(layer.digest, layer.size))))
}

/// A deployment that is planned and not begun.
#[derive(Debug)]
pub(super) struct PlannedDeployment {
    /// The set.
    pub prepared: Prepared,
    /// The connection that the plan was made on.
    pub cloud: Box<dyn Cloud>,
    /// What the environment held then.
    pub fleet: Fleet,
    /// The Secrets of the set.
    pub secrets: Secrets,
    /// What the environment should hold.
    pub desired: Desired,
    /// What is to be done for that.
    pub plan: RolloutPlan,
}

/// Prepares the set, looks at what the environment holds, and plans what is to be done; changes nothing. With `prune` groups and
/// Services that the set does not have are deleted.
pub(super) async fn plan(
    context: &Context,
    set: &Manifests,
    prune: bool,
) -> Result<PlannedDeployment, Failure> {
    let prepared = prepare(context, set).await?;
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let secrets = secrets::find(context, cloud.as_ref(), (&prepared.set, &fleet)).await?;
    let desired = prepared.desired(context, &secrets, prune);
    rollout::check_replicas(&desired, &fleet).or_exit(Exit::Manifest)?;
    rollout::check_disks(&desired, &fleet).or_exit(Exit::Manifest)?;
    let plan = rollout::rollout(&desired, &fleet);
    Ok(PlannedDeployment { prepared, cloud, fleet, secrets, desired, plan })
}

/// Refuses a group that its cloud cannot have, or that is, or may be scaled to be, larger than it has them, and a balancer that it cannot have: no other
/// try of the same manifests would help.
fn within_bounds(context: &Context, set: &ObjectSet) -> Result<(), Failure> {
    let (groups, balancers) = unplanned(set);
    let environment = &context.environment;
    for spec in &balancers {
        environment.provider.refuse_balancer(&environment.name, spec, &groups).or_exit(Exit::Manifest)?;
    }
    for group in &groups {
        environment.provider.refuse_group(group).or_exit(Exit::Manifest)?;
        let scaling = group.settings.scaling.iter().flat_map(|scaling| [scaling.min, scaling.max]);
        for size in scaling.chain([group.replicas]) {
            environment.provider.refuse_size(&group.name, size).or_exit(Exit::Manifest)?;
        }
    }
    Ok(())
}

/// The groups and balancers of the set before its images are planned: their ids and the versions of Secrets are not known.
pub(super) fn unplanned(set: &ObjectSet) -> (Vec<GroupSpec>, Vec<BalancerSpec>) {
    let images = vec![LaunchImage::unplanned(); set.pods().count()];
    workload::desired(set, &images, &BTreeMap::new())
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
    architecture: Architecture,
) -> Result<BTreeMap<Reference, ResolvedImage>, Failure> {
    let own = replicated::reference();
    let mut wanted: Vec<&Reference> = set
        .pods()
        .map(|(_, template)| &template.spec)
        .flat_map(|pod| pod.init_containers.iter().chain(&pod.containers))
        .map(|container| &container.image)
        .filter(|image| **image != own || !replicated::is_needed(set))
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let resolved = wanted.into_iter().map(async |reference| {
        let image = registry.resolve(reference, architecture).await?;
        Ok::<_, crate::registry::Error>((reference.clone(), image))
    });
    futures::future::try_join_all(resolved).await.map(BTreeMap::from_iter).or_exit(Exit::Image)
}

impl Prepared {
    /// What the environment should hold.
    pub(super) fn desired(&self, context: &Context, secrets: &Secrets, prune: bool) -> Desired {
        let images: Vec<LaunchImage> = self.plans.iter().map(LaunchImage::from).collect();
        let (groups, balancers) = workload::desired(&self.set, &images, &secrets.versions);
        Desired {
            environment: context.environment.name.clone(),
            groups,
            balancers,
            disks: workload::disks(&self.set),
            classes: self.set.storage_classes.iter().map(|class| class.meta.name.name.clone()).collect(),
            cause: self.cause.clone(),
            prune,
        }
    }

    /// Checks the guest bundle against its digests.
    pub(super) fn verify_guest(&self) -> Result<(), Failure> {
        self.workshop.guest().verify().or_exit(Exit::Build)
    }

    /// Builds what `plan` puts, and hands over the values of Secrets that it may name.
    pub(super) async fn materials(
        &self,
        plan: &RolloutPlan,
        secrets: &Secrets,
    ) -> Result<Materials, Failure> {
        let wanted: Vec<ImageId> = plan.images().collect();
        let images = self.build(|id| wanted.contains(&id)).await?;
        let images = images.into_iter().map(|image| (image.id, image)).collect();
        let (groups, _) = unplanned(&self.set);
        let most = |group: GroupSpec| (group.name, group.settings.most_machines(group.replicas));
        let sizes = groups.into_iter().map(most).collect();
        Ok(Materials { images, secrets: secrets.values.clone(), sizes })
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

/// Access to images as the environment and the pods of the set ask for it.
fn registry(context: &Context, set: &ObjectSet) -> Result<Registry, Failure> {
    let store = Store::open(&context.dirs.cache).or_exit(Exit::Build)?;
    let settings = Settings { pull_secrets: secrets::for_pulling(context, set)?, ..context.images.clone() };
    Registry::new(settings, store, context.events.clone()).or_exit(Exit::Environment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::context;
    use crate::manifest::{Options, SourceFile, read};
    use crate::report::Format;

    #[test]
    fn a_scaler_asks_for_no_more_than_a_group_of_the_cloud_can_have() {
        let context = context::context(None, Format::Json, true).unwrap();
        let refused = |replicas: u32, min: u32, max: u32| {
            let text = format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\n\
                 spec: {{replicas: {replicas}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, \
                 spec: {{containers: [{{name: web, image: nginx, resources: {{requests: {{cpu: 100m}}}}}}]}}}}}}\n---\n\
                 apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: web}}\n\
                 spec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}, minReplicas: {min}, maxReplicas: {max}}}\n"
            );
            let file = SourceFile { name: "web.yaml".into(), bytes: text.into_bytes() };
            let reading = read(&[file], &Options::default());
            assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
            let failure = within_bounds(&context, &reading.set).err()?;
            assert_eq!(failure.exit, Exit::Manifest);
            Some(failure.error.unwrap().to_string())
        };
        assert_eq!(refused(2, 1, 1000), None);
        for (replicas, min, max) in [(2, 1, 1001), (2, 1001, 1001), (1001, 1, 1000)] {
            let error = refused(replicas, min, max).unwrap();
            assert!(error.contains("at most 1000"), "{error}");
        }
    }
}
