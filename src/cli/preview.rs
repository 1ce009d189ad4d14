//! `i2kit preview`: deploy in the foreground, show the logs, leave nothing behind.

mod own;

use std::cell::Cell;

use futures::StreamExt as _;
use futures::stream::SelectAll;

use self::own::Own;
use super::args::Manifests;
use super::context::{Context, holder};
use super::exit::{Exit, Failure, OrExit as _};
use super::secrets::Secrets;
use super::signals::Signals;
use super::{carry_out, connection, logs, prepare, secrets, status};
use crate::cloud::{Cloud, LogQuery, Materials};
use crate::manifest::api::Name;
use crate::plan::fleet::Fleet;
use crate::plan::rollout::{self, Desired, Intent, RolloutPlan};
use crate::report::{self, Format};
use crate::rollout::RunRecord;

/// How often what is torn down is looked at, when somebody else's acts come in between.
const LOOKS: u32 = 20;

/// Deploys the set, streams its logs until it is interrupted, then destroys what it deployed. To interrupt one that serves is
/// how it is ended; one that was interrupted before did not do what it was asked.
pub(super) async fn run(context: &Context, set: &Manifests) -> Result<Exit, Failure> {
    let mut signals = Signals::listen().and_then(Signals::with_hangup).or_exit(Exit::Failure)?;
    let ready = tokio::select! {
        ready = prepare(context, set) => ready?,
        () = signals.any() => return Ok(Exit::Interrupted),
    };
    let Ready { prepared, cloud, secrets, desired } = ready;
    let (cloud, record, serves) = (cloud.as_ref(), RunRecord::default(), Cell::new(false));
    let outcome = tokio::select! {
        outcome = serve(context, cloud, (prepared, &secrets), &desired, (&record, &serves)) => outcome,
        () = signals.any() => Ok(()),
    };
    let outcome = outcome.map(|()| if serves.get() { Exit::Success } else { Exit::Interrupted });
    let own = Own::of(&record.sent());
    if own.is_nothing() {
        return outcome;
    }
    if let Err(Failure { exit: Exit::Overtaken, .. }) = &outcome {
        context.events.warn(format!(
            "the preview deletes nothing, since somebody else has changed what it made: {own}"
        ));
        return outcome;
    }
    context.events.note("tearing down; Ctrl-C again leaves it to `i2kit destroy`");
    tokio::select! {
        torn = teardown(context, cloud, &own) => torn?,
        () = signals.interrupt() => return Ok(Exit::Interrupted),
    };
    outcome
}

/// What a preview starts from.
struct Ready {
    prepared: prepare::Prepared,
    cloud: Box<dyn Cloud>,
    secrets: Secrets,
    desired: Desired,
}

async fn prepare(context: &Context, set: &Manifests) -> Result<Ready, Failure> {
    let prepared = prepare::prepare(context, set).await?;
    let cloud = connection::cloud(context).await?;
    // What it deploys is new, and so are the identities of its replicated groups.
    let secrets = secrets::find(context, cloud.as_ref(), (&prepared.set, &Fleet::default())).await?;
    let desired = prepared.desired(context, &secrets, false);
    refuse_taken(cloud.as_ref(), &desired).await?;
    Ok(Ready { prepared, cloud, secrets, desired })
}

/// An error when the environment has something already that the preview is going to make.
async fn refuse_taken(cloud: &dyn Cloud, desired: &Desired) -> Result<(), Failure> {
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let Some(taken) = deployed(desired, &fleet) else { return Ok(()) };
    let error = anyhow::anyhow!(
        "{taken} is deployed already, and a preview deletes at its end what it shows: destroy it first (`i2kit destroy`), \
         change it with `i2kit deploy`, or preview in an environment of another name (`-e FILE`)"
    );
    Err(Failure::new(Exit::Cloud, error))
}

/// A group or a Service of the set that the fleet has already.
fn deployed(desired: &Desired, fleet: &Fleet) -> Option<Name> {
    let groups = desired.groups.iter().map(|group| &group.name).filter(|name| fleet.group(name).is_some());
    let balancers = desired.balancers.iter().map(|balancer| &balancer.name);
    let taken = |name: &&Name| fleet.balancers.iter().any(|balancer| balancer.spec.name == **name);
    groups.chain(balancers.filter(taken)).next().cloned()
}

/// Deletes what is this run's alone. Looks again whenever somebody else's act came in between.
async fn teardown(context: &Context, cloud: &dyn Cloud, own: &Own) -> Result<(), Failure> {
    let record = RunRecord::default();
    let mut looks = 1;
    loop {
        let (doomed, changed) = own.part(cloud.observe().await.or_exit(Exit::Cloud)?);
        // Without an intent it is not made again on a fleet that was not looked at here.
        let plan = RolloutPlan { intent: Intent::None, ..rollout::destroy(&doomed, false) };
        match carry_out::carry_out_with(context, cloud, (&plan, &Materials::default()), &record).await {
            Err(Failure { exit: Exit::Overtaken, .. }) if looks < LOOKS => looks += 1,
            Err(failure) => return Err(failure),
            Ok(_) => {
                for name in changed {
                    context.events.warn(format!("{name} was changed by somebody else since, and stays"));
                }
                return crate::rollout::release(cloud, &holder()).await.or_exit(Exit::Cloud);
            }
        }
    }
}

async fn serve(
    context: &Context,
    cloud: &dyn Cloud,
    (prepared, secrets): (prepare::Prepared, &Secrets),
    desired: &Desired,
    (record, serves): (&RunRecord, &Cell<bool>),
) -> Result<(), Failure> {
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    rollout::check_replicas(desired, &fleet).or_exit(Exit::Manifest)?;
    rollout::check_disks(desired, &fleet).or_exit(Exit::Manifest)?;
    let plan = rollout::rollout(desired, &fleet);
    let materials = prepared.materials(&plan, secrets).await?;
    // The build took minutes.
    refuse_taken(cloud, desired).await?;
    carry_out::carry_out_with(context, cloud, (&plan, &materials), record).await?;
    serves.set(true);
    // The cloud has its own copies now; the cache may be pruned while the preview goes on.
    drop(prepared);
    if context.format == Format::Text {
        let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
        report::message(&status::text(&fleet, false));
        connection::warn(context, &fleet);
        report::message("Serving; Ctrl-C ends the preview and deletes everything it started.");
    }
    let mut lines = SelectAll::new();
    for group in &desired.groups {
        let query = LogQuery {
            group: group.name.clone(),
            instance: None,
            container: None,
            tail: None,
            follow: true,
            previous: false,
            since_seconds: None,
        };
        lines.push(cloud.logs(&query).await.or_exit(Exit::Cloud)?);
    }
    while let Some(line) = lines.next().await {
        logs::print(&line.or_exit(Exit::Cloud)?, context.format, false, false);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::fleet::{BalancerSpec, LoadBalancer};

    #[test]
    fn a_service_that_is_there_already_is_no_preview() {
        let name = |name: &str| Name { namespace: "default".into(), name: name.into() };
        let spec = |service: &str| -> BalancerSpec {
            let fields = json!({ "name": name(service), "kind": "ClusterIP", "listeners": [] });
            serde_json::from_value(fields).unwrap()
        };
        let desired = Desired {
            environment: "local".into(),
            groups: Vec::new(),
            balancers: vec![spec("api"), spec("web")],
            disks: Vec::new(),
            classes: vec![],
            cause: String::new(),
            prune: false,
        };
        let balancer = |service| LoadBalancer {
            spec: spec(service),
            host: "127.77.0.1".into(),
            bound: Vec::new(),
            targets: Vec::new(),
            certificates: vec![],
            traffic: Vec::new(),
            requests: Vec::new(),
        };
        let fleet = |service| Fleet { balancers: vec![balancer(service)], ..Fleet::default() };
        assert_eq!(deployed(&desired, &fleet("web")), Some(name("web")));
        assert_eq!(deployed(&desired, &fleet("other")), None);
    }
}
