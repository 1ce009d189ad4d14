//! Acts on the keeper's state, with what they need beside records: files of images, addresses, waiting for an end.

use std::sync::Arc;

use super::disks;
use super::records::{ENDING, POLL, admit, record};
use crate::cloud::CloudError;
use crate::cloud::local::clock;
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::machine::{images, secrets};
use crate::cloud::local::wire::{Applied, Apply};
use crate::image::DiskImage;
use crate::manifest::api::Name;
use crate::plan::act::{Act, PlannedAct};
use crate::plan::fleet::{BalancerSpec, Generation};

/// How often an act that waits for ports looks for them.
const LOOKS: u32 = 40;

/// Applies an act.
pub(super) async fn apply(keeper: &Arc<Keeper>, call: Apply) -> Result<Applied, CloudError> {
    let Apply { environment, act, image } = call;
    match &act.act {
        Act::PutBalancer { spec } if spec.headless.is_some() => {
            keeper.require_network(&environment, "a headless Service")?;
            keeper.require_ipv6(&environment, spec)?;
        }
        Act::PutBalancer { spec } => keeper.require_ipv6(&environment, spec)?,
        Act::PutGroup { settings, .. } if settings.policy.is_some() => {
            keeper.require_network(&environment, "a NetworkPolicy")?;
        }
        _ => {}
    }
    let generation = match image {
        _ if disks::is_about(&act.act) => disks::apply(keeper, &environment, &act).await?,
        Some(image) => put_image(keeper, &environment, &act, image).await?,
        None => record(keeper, &environment, &act)?,
    };
    match &act.act {
        Act::PutBalancer { spec } if spec.headless.is_none() => listening(keeper, &environment, spec).await,
        Act::DeleteGroup { group } => ended(keeper, &environment, group).await?,
        // A policy holds when the act has an answer.
        Act::PutGroup { .. } => keeper.enforce(&environment)?,
        _ => {}
    }
    if sweeps(&act.act) {
        sweep_images(keeper).await?;
    }
    // Another's act about disks goes on to its end.
    let ends = act.act == Act::Release && keeper.disks.try_lock().is_ok() && keeper.state().is_idle();
    if ends {
        keeper.ending.cancel();
    }
    Ok(Applied { generation, ends })
}

/// Whether files of images or Secrets may have lost their last use: those of an Ingress are certificates with their keys.
fn sweeps(act: &Act) -> bool {
    match act {
        Act::DeleteRevisions { .. } | Act::DeleteImages { .. } | Act::DeleteBalancer { .. } => true,
        Act::PutBalancer { spec } => spec.http.is_some(),
        _ => false,
    }
}

/// Copies an image, and then records it. An act that will be refused copies nothing.
async fn put_image(
    keeper: &Arc<Keeper>,
    environment: &str,
    act: &PlannedAct,
    image: DiskImage,
) -> Result<Generation, CloudError> {
    let _images = keeper.images.lock().await;
    admit(keeper, environment, act)?;
    let home = keeper.home.clone();
    tokio::task::spawn_blocking(move || images::put(&home, &image))
        .await
        .unwrap_or_else(|panic| Err(CloudError::Store { message: panic.to_string() }))?;
    record(keeper, environment, act)
}

/// Waits for a moment until the control loop has bound the listeners, so that whoever looks next sees their ports. Those in a
/// network that comes with the first machine are bound then.
async fn listening(keeper: &Keeper, environment: &str, spec: &BalancerSpec) {
    // Those of the HTTP proxy are bound without a network.
    let is_carried = spec.http.is_none() && spec.listeners.iter().all(|listener| listener.tls.is_none());
    for _ in 0..LOOKS {
        let carried = keeper.mover.report();
        let is_bound = || keeper.bound(environment, spec, &carried).iter().all(Option::is_some);
        if is_carried && keeper.awaits_network(environment, &carried) || is_bound() {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until nothing is left of a group.
async fn ended(keeper: &Keeper, environment: &str, group: &Name) -> Result<(), CloudError> {
    let exists =
        || keeper.state().environments.get(environment).is_some_and(|found| found.groups.contains_key(group));
    while exists() {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            // Nobody ends the group's VMs any more, until the next process does.
            () = keeper.ending.cancelled() => return Err(CloudError::Unreachable { message: ENDING.into() }),
        }
    }
    Ok(())
}

/// Removes files of images and Secrets that no environment names.
pub(super) async fn sweep_images(keeper: &Arc<Keeper>) -> Result<(), CloudError> {
    let _images = keeper.images.lock().await;
    let kept = keeper.image_folders();
    let home = keeper.home.clone();
    let versions = keeper.secret_versions();
    tokio::task::spawn_blocking(move || {
        secrets::sweep(&home.secrets(), &versions, clock::wall())?;
        images::sweep(&home, |path| kept.contains(path))
    })
    .await
    .unwrap_or_else(|panic| Err(CloudError::Store { message: panic.to_string() }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::cloud::local::home::Home;
    use crate::cloud::local::store;
    use crate::manifest::api::ServiceType;

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_waits_for_ports_that_come_with_the_first_machine() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("state"), root.path(), PathBuf::new());
        home.create().unwrap();
        let keeper = Keeper::open(home).unwrap();
        let spec: BalancerSpec = serde_json::from_value(serde_json::json!({
            "name": {"namespace": "default", "name": "web"}, "kind": "ClusterIP",
            "listeners": [{"port": 80, "protocol": "TCP", "targets": []}],
        }))
        .unwrap();
        let waits =
            async || tokio::time::timeout(POLL / 2, listening(&keeper, "local", &spec)).await.is_err();
        *keeper.state().environments = store::sample();
        keeper.state().environments.get_mut("local").unwrap().groups.clear();
        assert!(waits().await, "on this host's own addresses they are bound at once");
        keeper.state().addresses.are_given = true;
        assert!(!waits().await, "there is no machine, and so no network");
        *keeper.state().environments = store::sample();
        {
            let mut state = keeper.state();
            let groups = state.environments.get_mut("local").unwrap().groups.values_mut();
            for record in groups.flat_map(|group| group.instances.values_mut()) {
                record.address = Some([10, 78, 1, 1].into());
            }
        }
        assert!(waits().await, "the network is about to be there");
    }

    #[test]
    fn a_renewed_certificate_and_an_ingress_that_goes_leave_no_key() {
        let name = Name { namespace: "default".into(), name: "ingress/web".into() };
        let mut spec = BalancerSpec::new(name.clone(), ServiceType::LoadBalancer, vec![]);
        assert!(!sweeps(&Act::PutBalancer { spec: spec.clone() }));
        spec.http = serde_json::from_value(serde_json::json!({"backends": [], "rules": []})).unwrap();
        assert!(sweeps(&Act::PutBalancer { spec }));
        assert!(sweeps(&Act::DeleteBalancer { balancer: name }));
        assert!(!sweeps(&Act::Release));
    }
}
