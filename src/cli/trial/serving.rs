//! Steps of a trial behind a load balancer: the first answer, a rollout under load, a bad revision, a Service that moves.

use std::time::Duration;

use tokio::time::Instant;

use super::load::{self, Load};
use super::manifest::{GROUP, MACHINES, MOVED, PAGE, service};
use super::stage::{Findings, Stage, failed, group, named, until};
use crate::cli::exit::{Exit, Failure};
use crate::cloud::trial::seconds;

/// How long a Service may take to its first answer: load balancers take minutes, and so do names.
const ANSWER: Duration = Duration::from_mins(20);

/// How long the machines of the revision before may take to be all there again.
const BACK: Duration = Duration::from_mins(3);

/// The port of the Service, and of the one that is moved.
const PORT: u16 = 80;
const MOVED_PORT: u16 = 82;

/// The group with its Service.
fn serving(stage: &Stage<'_>) -> String {
    stage.workload(MACHINES).manifest() + &service(GROUP, GROUP, "LoadBalancer", PORT)
}

/// Waits until a Service has an address and answers there with the trial's page.
async fn answered(stage: &Stage<'_>, name: &str) -> Result<(), Failure> {
    let late = |what: &str| failed(format!("the Service {name} {what} within {} min", ANSWER.as_secs() / 60));
    let host = until(ANSWER, || async {
        let fleet = stage.fleet().await?;
        // It is not there until its load balancer is.
        let is_there = stage.args.address.is_some() || fleet.balancer(&named(name)).is_some();
        if is_there { stage.address(&fleet, name).map(Some) } else { Ok(None) }
    });
    let host = &host.await?.ok_or_else(|| late("had no load balancer"))?;
    let answer = until(ANSWER, || async {
        // The name comes late, too, and leads elsewhere in between.
        let Ok(addresses) = load::addresses(host).await else { return Ok(None) };
        let Some(address) = addresses.first() else { return Ok(None) };
        Ok(load::page(host, *address).await.ok())
    });
    answer.await?.map(drop).ok_or_else(|| late("did not answer"))
}

/// Tells where clients connected, unless that is where everybody does.
fn tell_address(stage: &Stage<'_>, found: &Findings) {
    if stage.args.address.is_some() {
        found.push("clients connected to --address");
    }
}

/// Step 7: three machines behind a load balancer.
pub(super) async fn first_answer(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    tell_address(stage, found);
    let started = Instant::now();
    let text = serving(stage);
    stage.deploy(&text, false).await?;
    found.push(format!("everything was begun after {}", seconds(started.elapsed())));
    answered(stage, GROUP).await?;
    found.push(format!("the first answer came after {}", seconds(started.elapsed())));
    stage.deploy(&text, true).await?;
    found.push(format!("{MACHINES} machines were healthy after {}", seconds(started.elapsed())));
    Ok(())
}

/// Step 8: another page, machine by machine, while clients connect.
pub(super) async fn rollout(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    tell_address(stage, found);
    let host = stage.address(&stage.fleet().await?, GROUP)?;
    let addresses = load::addresses(&host).await.map_err(failed)?;
    let first = *addresses.first().ok_or_else(|| failed("the load balancer has no address"))?;
    stage.turn_page();
    let text = serving(stage);
    let started = Instant::now();
    let load = Load::start(&host, addresses);
    let deployed = stage.deploy(&text, true).await;
    let tally = load.stop().await;
    found.push(format!("under load the rollout took {}", seconds(started.elapsed())));
    found.push(tally.sentence());
    deployed?;
    if tally.answered == 0 || tally.failures() > 0 {
        return Err(failed(format!("{} connections failed", tally.failures())));
    }
    let new = format!("{PAGE}{}", stage.page());
    let shown =
        load::page(&host, first).await.map_err(|what| failed(format!("after the rollout: {what}")))?;
    if !shown.contains(&new) {
        return Err(failed(format!("after the rollout `{}` is served, not `{new}`", shown.join("`, `"))));
    }
    found.push(format!("after it `{new}` is served"));
    Ok(())
}

/// Step 9: a revision whose pod ends at once.
pub(super) async fn bad_revision(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    let before = group(&stage.fleet().await?, GROUP)?.current;
    let bad = stage.workload(MACHINES).failing(stage.args.deadline);
    let started = Instant::now();
    let outcome = stage.deploy(&(bad + &service(GROUP, GROUP, "LoadBalancer", PORT)), true).await;
    let took = seconds(started.elapsed());
    match outcome {
        Ok(_) => return Err(failed("the revision that is meant to fail became healthy")),
        Err(Failure { exit: Exit::Rollout, error: Some(error) }) => {
            found.push(format!("given up after {took}: {error:#}"));
        }
        Err(failure) => return Err(failure),
    }
    let back = until(BACK, || async {
        let fleet = stage.fleet().await?;
        let after = group(&fleet, GROUP)?;
        Ok((after.current == before && after.healthy() >= MACHINES).then_some(()))
    });
    back.await?.ok_or_else(|| failed("the revision before is not back with all of its machines"))?;
    found.push(format!("{MACHINES} machines of the revision before are healthy"));
    Ok(())
}

/// Step 11: a Service that only machines reach becomes one that everybody does.
pub(super) async fn moved(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    let with = |kind: &str| serving(stage) + &service(MOVED, GROUP, kind, MOVED_PORT);
    let started = Instant::now();
    stage.deploy(&with("ClusterIP"), true).await?;
    found.push(format!("the Service was there for machines after {}", seconds(started.elapsed())));
    let started = Instant::now();
    stage.deploy(&with("LoadBalancer"), true).await?;
    found.push(format!("it was moved within {}", seconds(started.elapsed())));
    if stage.args.address.is_some() {
        found.push("not shown: whether it answers everybody, since --address leads elsewhere");
    } else {
        answered(stage, MOVED).await?;
        found.push(format!("it answered everybody {} after the move began", seconds(started.elapsed())));
    }
    let certificate = stage.context.environment.provider.certificate();
    let names = if certificate.is_some() { "one" } else { "none" };
    found.push(format!(
        "not shown: certificates in another order, which takes two, and the environment file names {names}"
    ));
    Ok(())
}
