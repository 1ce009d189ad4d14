//! `i2kit volume`: the disks that outlive machines, their snapshots, and their end.

use super::args::VolumeVerb;
use super::context::{Context, holder};
use super::exit::{Exit, Failure, OrExit as _};
use super::{carry_out, connection, named, output, status, tables};
use crate::cloud::{Cloud, Materials};
use crate::manifest::api::Name;
use crate::plan::fleet::{Disk, Fleet};
use crate::plan::rollout::{self, PlanError, RolloutPlan};
use crate::report::{self, Format};

/// Lists disks, copies one, brings one back, or deletes some.
pub(super) async fn run(context: &Context, verb: &VolumeVerb) -> Result<Exit, Failure> {
    let cloud = connection::cloud(context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let plan = match verb {
        VolumeVerb::Ls => {
            match context.format {
                Format::Json => output::json(&fleet.disks),
                Format::Text if fleet.disks.is_empty() => report::result("no volumes\n"),
                Format::Text => {
                    report::result(&tables::lines(&[status::volumes(&fleet.disks)]));
                    connection::warn(context, &fleet);
                }
            }
            return Ok(Exit::Success);
        }
        VolumeVerb::Snapshot { volume, name } => {
            let disk = called(&fleet, volume)?;
            let chosen = name.clone().unwrap_or_else(|| free_name(disk));
            if disk.instance.is_some() {
                let note = "the machine is paused for the copy: a snapshot is crash-consistent, as after a power cut. The file \
                            system and most databases repair that when they start from it";
                context.events.note(note);
            }
            rollout::snapshot_disk(&fleet, &disk.spec.name, &chosen)
        }
        VolumeVerb::Restore { volume, snapshot } => {
            rollout::restore_disk(&fleet, &called(&fleet, volume)?.spec.name, snapshot)
        }
        VolumeVerb::Rm { volumes, snapshot: Some(snapshot) } => {
            let [volume] = &volumes[..] else {
                let error = anyhow::anyhow!("--snapshot goes with one volume; {} were given", volumes.len());
                return Err(Failure::new(Exit::Usage, error));
            };
            rollout::remove_snapshot(&fleet, &called(&fleet, volume)?.spec.name, snapshot)
        }
        VolumeVerb::Rm { volumes, snapshot: None } => {
            let names: Result<Vec<Name>, Failure> =
                volumes.iter().map(|volume| Ok(called(&fleet, volume)?.spec.name.clone())).collect();
            rollout::remove_disks(&fleet, &names?)
        }
    };
    let plan = plan.map_err(|error| Failure::new(exit(&error), error))?;
    carry_out(context, cloud.as_ref(), &plan).await
}

async fn carry_out(context: &Context, cloud: &dyn Cloud, plan: &RolloutPlan) -> Result<Exit, Failure> {
    let exit = carry_out::carry_out(context, cloud, plan, &Materials::default()).await?;
    crate::rollout::release(cloud, &holder()).await.or_exit(Exit::Cloud)?;
    Ok(exit)
}

/// The code of a plan that there is none of.
pub(super) fn exit(error: &PlanError) -> Exit {
    match error {
        PlanError::UnknownDisk { .. } | PlanError::UnknownSnapshot { .. } => Exit::NotFound,
        PlanError::DiskInUse { .. } => Exit::Cloud,
        _ => Exit::Usage,
    }
}

/// The disk that the user calls `name`: `NAME` in the default namespace or the only one of that name, or `NAMESPACE/NAME`.
fn called<'f>(fleet: &'f Fleet, name: &str) -> Result<&'f Disk, Failure> {
    let all = || fleet.disks.iter().map(|disk| (&disk.spec.name, disk));
    let found = named::one(name, "volumes", all())?;
    found.ok_or_else(|| named::none(name, &fleet.environment, "volume", all().map(|(name, _)| name)))
}

/// A name that no snapshot of the disk has: `snapshot-1` for the first.
fn free_name(disk: &Disk) -> String {
    let numbers = disk.snapshots.iter().filter_map(|snapshot| {
        snapshot.name.strip_prefix("snapshot-").and_then(|number| number.parse::<u32>().ok())
    });
    format!("snapshot-{}", numbers.max().unwrap_or(0).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fleet(names: &[(&str, &str)]) -> Fleet {
        let disk = |(namespace, name): &(&str, &str)| {
            let snapshots = json!([{"name": "snapshot-2", "created": 5, "size": 1}, {"name": "mine", "created": 6, "size": 1}]);
            serde_json::from_value(json!({
                "name": {"namespace": namespace, "name": name}, "size": 1 << 30, "created": 5, "used": 1 << 20,
                "snapshots": snapshots,
            }))
            .unwrap()
        };
        Fleet { environment: "test".into(), disks: names.iter().map(disk).collect(), ..Fleet::default() }
    }

    #[test]
    fn a_volume_is_named_as_a_group_is() {
        let fleet = fleet(&[("default", "data"), ("b", "data"), ("b", "logs"), ("c", "logs")]);
        let found = |name: &str| called(&fleet, name).map(|disk| disk.spec.name.to_string());
        let error = |name: &str| called(&fleet, name).unwrap_err().error.unwrap().to_string();
        assert_eq!(found("data").unwrap(), "data");
        assert_eq!(found("b/data").unwrap(), "b/data");
        assert_eq!(error("logs"), "`logs` is several volumes: b/logs, c/logs");
        assert!(error("x").contains("it has data, b/data"), "{}", error("x"));
        assert_eq!(free_name(&fleet.disks[0]), "snapshot-3");
        let shown = tables::lines(&[status::volumes(&fleet.disks[..1])]);
        assert!(shown.contains("data    1 GiB  1 MiB  -      -         snapshot-2, mine\n"), "{shown}");
    }
}
