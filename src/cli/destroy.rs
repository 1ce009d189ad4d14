//! `i2kit destroy`: delete groups and balancers.

use std::path::{Path, PathBuf};

use super::args::{DestroyArgs, Manifests};
use super::context::{Context, holder};
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named, reading};
use crate::cloud::{Cloud, Materials, local};
use crate::manifest::api::Name;
use crate::plan::fleet::{Fleet, LaunchDisk};
use crate::plan::{ingress, rollout};

/// Deletes what the targets name, or everything.
pub(super) async fn run(context: &Context, args: &DestroyArgs) -> Result<Exit, Failure> {
    if args.lost {
        return lost(context).await;
    }
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let doomed = if args.all { fleet } else { only(fleet.clone(), &targets(&fleet, args, context)?) };
    teardown(context, cloud.as_ref(), &doomed, args.volumes).await
}

/// Deletes everything that `doomed` holds, and the environment itself when nothing is left in it.
pub(super) async fn teardown(
    context: &Context,
    cloud: &dyn Cloud,
    doomed: &Fleet,
    volumes: bool,
) -> Result<Exit, Failure> {
    let plan = rollout::destroy(doomed, volumes);
    let exit = carry_out::carry_out(context, cloud, &plan, &Materials::default()).await?;
    crate::rollout::release(cloud, &holder()).await.or_exit(Exit::Cloud)?;
    Ok(exit)
}

/// Ends the local cloud's VMs whose records are lost.
async fn lost(context: &Context) -> Result<Exit, Failure> {
    if context.environment.provider.support().provider != local::SUPPORT.provider {
        let error =
            anyhow::anyhow!("--lost is about the local cloud, and this environment is in another one");
        return Err(Failure::new(Exit::Usage, error));
    }
    let lost = local::destroy_lost(&local::home(&connection::client(context)?)).await.or_exit(Exit::Cloud)?;
    if lost.ended.is_empty() {
        context.events.note("no machine of the local cloud runs");
    }
    for id in &lost.ended {
        context.events.note(format!("ended {id}"));
    }
    if let Some(aside) = &lost.aside {
        context.events.note(format!("the damaged database is kept as {}", aside.display()));
    }
    Ok(Exit::Success)
}

/// What is deleted: names of groups and names of balancers.
#[derive(Debug, Default)]
pub(super) struct Doomed {
    /// Groups.
    pub groups: Vec<Name>,
    /// Balancers.
    pub balancers: Vec<Name>,
    /// Disks, beside those of the groups.
    pub disks: Vec<Name>,
}

/// A target that is a file or looks like one is a manifest; any other is a group's name. What may be both is not guessed,
/// since a folder may name more than the group.
fn targets(fleet: &Fleet, args: &DestroyArgs, context: &Context) -> Result<Doomed, Failure> {
    let mut doomed = Doomed::default();
    let mut manifests = Vec::new();
    for target in &args.targets {
        let path = Path::new(target);
        let looks_like_file = target == "-"
            || target.starts_with(['.', '/'])
            || path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if !looks_like_file && path.exists() && named::group(fleet, target).is_ok() {
            let error = anyhow::anyhow!(
                "`{target}` is a group and a file or folder here: write ./{target} for that, NAMESPACE/NAME for the group"
            );
            return Err(Failure::new(Exit::Usage, error));
        }
        if looks_like_file || path.exists() {
            manifests.push(PathBuf::from(target));
        } else {
            doomed.groups.push(named::group(fleet, target)?.name.clone());
        }
    }
    if !manifests.is_empty() || !args.options.is_empty() {
        let options = args.options.clone();
        let set = Manifests { manifests, options, reading: args.reading.clone() };
        let set = reading::read(&set, context)?;
        doomed.groups.extend(set.pods().map(|(name, _)| name.clone()));
        doomed.disks.extend(set.claims.iter().map(|claim| claim.meta.name.clone()));
        doomed.balancers.extend(set.services.iter().map(|service| service.meta.name.clone()));
        doomed.balancers.extend(set.ingresses.iter().map(|ingress| ingress::name(&ingress.meta.name)));
    }
    Ok(doomed)
}

/// The part of the fleet that goes: a balancer that is not named goes too when all its groups do, and an image when no
/// revision that stays needs it.
pub(super) fn only(mut fleet: Fleet, doomed: &Doomed) -> Fleet {
    let stays = |group: &Name| !doomed.groups.contains(group);
    let kept: Vec<_> = fleet
        .groups
        .iter()
        .filter(|group| stays(&group.name))
        .flat_map(|group| &group.revisions)
        .map(|revision| revision.launch.image)
        .collect();
    fleet.images.retain(|image| !kept.contains(image));
    fleet.balancers.retain(|balancer| {
        let mut targets = balancer.spec.targets().peekable();
        let orphaned = targets.peek().is_some() && targets.all(|target| !stays(&target.group));
        orphaned || doomed.balancers.contains(&balancer.spec.name)
    });
    let of_groups: Vec<Name> = fleet
        .groups
        .iter()
        .filter(|group| !stays(&group.name))
        .flat_map(|group| {
            let disks = group.revisions.iter().flat_map(|revision| &revision.launch.disks);
            disks.filter(|disk| matches!(disk, LaunchDisk::Claim(_))).map(|disk| disk.name(&group.name, None))
        })
        .collect();
    fleet.disks.retain(|disk| {
        let name = &disk.spec.name;
        let of_member = disk.spec.owner.as_ref().is_some_and(|owner| !stays(&owner.group));
        of_member || of_groups.contains(name) || doomed.disks.contains(name)
    });
    fleet.groups.retain(|group| !stays(&group.name));
    fleet
}
