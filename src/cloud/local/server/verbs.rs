//! The verbs of the cloud, on the keeper's state.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::sweep_images;
use crate::cloud::CloudError;
use crate::cloud::local::keeper::Keeper;
use crate::cloud::local::machine::images;
use crate::cloud::local::mover::ListenerId;
use crate::cloud::local::network::addresses;
use crate::cloud::local::wire::{Call, Verb};
use crate::image::DiskImage;
use crate::manifest::api::{Name, Protocol};
use crate::plan::fleet::BalancerSpec;

/// How often a verb that waits looks again.
const POLL: Duration = Duration::from_millis(50);

/// What a verb says that waits while the process ends.
const ENDING: &str = "the local cloud is ending; the deletion goes on when it runs again";

/// Carries a verb out; the answer is its result as JSON.
pub(super) async fn carry_out(keeper: &Arc<Keeper>, call: Call) -> Result<Value, CloudError> {
    let environment = call.environment.as_str();
    match call.verb {
        Verb::Observe => {
            let fleet = keeper.fleet(environment);
            return serde_json::to_value(fleet)
                .map_err(|error| CloudError::Store { message: error.to_string() });
        }
        Verb::PutImage { image } => put_image(keeper, environment, image).await?,
        Verb::DeleteImages { images } => {
            keeper.change(environment, |environment| environment.delete_images(&images))?;
            sweep_images(keeper).await?;
        }
        Verb::PutBalancer { spec } => {
            put_balancer(keeper, environment, &spec)?;
            let listeners: Vec<_> = spec.listeners.iter().map(|l| (l.port, l.protocol)).collect();
            listening(keeper, environment, &spec.name, &listeners).await;
        }
        Verb::DeleteBalancer { name } => {
            keeper.change(environment, |environment| {
                environment.balancers.remove(&name);
                Ok(())
            })?;
        }
        Verb::PutGroup { name, settings } => {
            keeper.change(environment, |environment| environment.put_group(&name, &settings))?;
        }
        Verb::PutRevision { group, revision } => {
            let now = keeper.clock.now();
            keeper.change(environment, |environment| environment.put_revision(&group, &revision, now))?;
        }
        Verb::DeleteRevisions { group, revisions } => {
            keeper.change(environment, |environment| environment.delete_revisions(&group, &revisions))?;
            sweep_images(keeper).await?;
        }
        Verb::StartRefresh { group, to, replicas } => {
            let now = keeper.clock.now();
            keeper.change(environment, |environment| environment.start_refresh(&group, to, replicas, now))?;
        }
        Verb::CancelRefresh { group } => {
            keeper.change(environment, |environment| environment.cancel_refresh(&group))?;
        }
        Verb::SetReplicas { group, replicas } => {
            keeper.change(environment, |environment| environment.set_replicas(&group, replicas))?;
        }
        Verb::DeleteGroup { group } => delete_group(keeper, environment, &group).await?,
        Verb::Release => return Ok(release(keeper)),
    }
    Ok(Value::Null)
}

async fn put_image(keeper: &Arc<Keeper>, environment: &str, image: DiskImage) -> Result<(), CloudError> {
    let _images = keeper.images.lock().await;
    let id = image.id;
    let home = keeper.home.clone();
    tokio::task::spawn_blocking(move || images::put(&home, &image))
        .await
        .unwrap_or_else(|panic| Err(CloudError::Store { message: panic.to_string() }))?;
    keeper.change(environment, |environment| {
        environment.images.insert(id);
        Ok(())
    })
}

/// Puts a balancer. Its address is chosen in the same change, so that two that are put at once get two addresses.
fn put_balancer(keeper: &Keeper, environment: &str, spec: &BalancerSpec) -> Result<(), CloudError> {
    keeper.change_all(|environments| {
        let balancers = environments.values().flat_map(|found| found.balancers.values());
        let taken: Vec<String> = balancers.map(|balancer| balancer.host.clone()).collect();
        let found = environments.entry(environment.to_owned()).or_default();
        found.put_balancer(spec, || addresses::balancer(environment, &spec.name, &taken).to_string());
        Ok(())
    })
}

/// Waits for a moment until the control loop has bound the listeners, so that whoever looks next sees their ports.
async fn listening(keeper: &Keeper, environment: &str, name: &Name, listeners: &[(u16, Protocol)]) {
    let id = |(port, protocol): &(u16, Protocol)| ListenerId {
        environment: environment.to_owned(),
        service: name.clone(),
        port: *port,
        protocol: *protocol,
    };
    for _ in 0..20 {
        let bound = keeper.mover.report().bound;
        if listeners.iter().all(|listener| bound.contains_key(&id(listener))) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn delete_group(keeper: &Keeper, environment: &str, group: &Name) -> Result<(), CloudError> {
    keeper.change(environment, |environment| {
        environment.delete_group(group);
        Ok(())
    })?;
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

/// Ends the process when no environment is left; whether it did.
fn release(keeper: &Keeper) -> Value {
    let empty = keeper.state().environments.is_empty();
    if empty {
        keeper.ending.cancel();
    }
    json!(empty)
}
