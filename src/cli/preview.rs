//! `i2kit preview`: deploy in the foreground, show the logs, leave nothing behind.

use futures::StreamExt as _;
use futures::stream::SelectAll;

use super::args::Manifests;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::secrets::Secrets;
use super::{destroy, logs, pipeline, secrets, status};
use crate::cloud::{Cloud, LogQuery};
use crate::plan::rollout::{self, Desired};
use crate::report::{self, Format};

/// Deploys the set, streams its logs until Ctrl-C, then destroys what it deployed.
pub(super) async fn run(context: &Context, set: &Manifests) -> Result<Exit, Failure> {
    let prepared = pipeline::prepare(context, set).await?;
    let cloud = pipeline::cloud(context).await?;
    let secrets = secrets::find(context, cloud.as_ref(), &prepared.set).await?;
    let desired = prepared.desired(context, &secrets, false);
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    for group in desired.groups.iter().filter(|group| fleet.group(&group.name).is_some()) {
        context
            .events
            .warn(format!("{} is deployed already; the preview takes it along when it ends", group.name));
    }
    let outcome = tokio::select! {
        outcome = serve(context, cloud.as_ref(), prepared, (&desired, &secrets)) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    context.events.note("tearing down; Ctrl-C again leaves it to `i2kit destroy`");
    tokio::select! {
        torn = teardown(context, cloud.as_ref(), &desired) => torn?,
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Interrupted),
    };
    outcome.map(|()| Exit::Success)
}

async fn teardown(context: &Context, cloud: &dyn Cloud, desired: &Desired) -> Result<Exit, Failure> {
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let doomed = destroy::Doomed {
        groups: desired.groups.iter().map(|group| group.name.clone()).collect(),
        balancers: desired.balancers.iter().map(|balancer| balancer.name.clone()).collect(),
    };
    destroy::teardown(context, cloud, &destroy::only(fleet, &doomed)).await
}

async fn serve(
    context: &Context,
    cloud: &dyn Cloud,
    prepared: pipeline::Prepared,
    (desired, secrets): (&Desired, &Secrets),
) -> Result<(), Failure> {
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    let plan = rollout::rollout(desired, &fleet);
    let wanted: Vec<_> = plan.images().collect();
    let images = prepared.build(|id| wanted.contains(&id)).await?;
    secrets.put(cloud, &plan).await?;
    pipeline::carry_out(context, cloud, &plan, &images).await?;
    // The cloud has its own copies now; the cache may be pruned while the preview goes on.
    drop(prepared);
    if context.format == Format::Text {
        let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
        report::message(&status::text(&fleet, false));
        pipeline::warn(context, &fleet);
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
