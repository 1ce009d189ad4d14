//! The last step of a trial: everything is deleted, and looked for afterwards, until nothing is left.

use std::time::Duration;

use tokio::time::Instant;

use super::cost::{DELETING, hours};
use super::manifest::{GROUP, KILLED, MOVED};
use super::stage::{Findings, LATER, Stage, failed, named};
use crate::cli::connection;
use crate::cli::context::holder;
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cloud::trial::seconds;
use crate::manifest::api::Name;
use crate::plan::fleet::Fleet;
use crate::plan::rollout::destroy;
use crate::rollout::release;

/// The pause before the second try; it doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Step 12: what `i2kit destroy --all` does, and then a look for everything of the environment. What fails is tried again:
/// what is left goes on costing.
pub(super) async fn take_down(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let rest = DELETING.saturating_sub(started.elapsed());
        let failure = match tokio::time::timeout(rest, once(stage)).await {
            Ok(Ok(left)) if left.is_empty() => break,
            Ok(Ok(left)) => failed(format!("still there: {}", left.join(", "))),
            // It is not a trial's environment, or not one that this program can reach: so it stays.
            Ok(Err(failure)) if failure.exit == Exit::Environment => return Err(failure),
            Ok(Err(failure)) => failure,
            Err(_) => failed(format!("deleting was not done within {} h", hours(DELETING))),
        };
        let why = failure.words();
        if pause == FIRST_PAUSE {
            found.push(format!("the first try did not delete everything: {why}"));
        }
        if started.elapsed() + pause > DELETING {
            return Err(Failure::new(failure.exit, anyhow::anyhow!("{why}; {LATER}")));
        }
        stage.context.events.warn(format!(
            "not everything is deleted yet, and it is tried again in {} s: {why}",
            pause.as_secs()
        ));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    found.push(format!("everything was deleted within {}", seconds(started.elapsed())));
    found.push("no group, machine, template, image, snapshot or stack of the environment is left");
    Ok(())
}

/// Deletes everything; what is left of it.
async fn once(stage: &Stage<'_>) -> Result<Vec<String>, Failure> {
    let cloud = connection::cloud(stage.context).await?;
    let fleet = cloud.observe().await.or_exit(Exit::Cloud)?;
    refuse_others(&fleet, &stage.context.environment.name)?;
    let plan = destroy(&fleet, true);
    stage.carry_out(cloud.as_ref(), &plan).await?;
    release(cloud.as_ref(), &holder()).await.or_exit(Exit::Cloud)?;
    stage.account().await?.left().await.or_exit(Exit::Cloud)
}

/// Refuses an environment that holds what no trial makes: somebody may have called a real one so.
fn refuse_others(fleet: &Fleet, environment: &str) -> Result<(), Failure> {
    let own = [GROUP, KILLED, MOVED].map(named);
    let groups = fleet.groups.iter().map(|group| &group.name);
    let balancers = fleet.balancers.iter().map(|balancer| &balancer.spec.name);
    let disks = fleet.disks.iter().map(|disk| &disk.spec.name);
    let others = groups.chain(balancers).chain(disks).filter(|name| !own.contains(name));
    let mut others: Vec<String> = others.map(Name::to_string).collect();
    if others.is_empty() {
        return Ok(());
    }
    others.sort();
    others.dedup();
    let error = anyhow::anyhow!(
        "the environment {environment} holds {}, which no trial makes: it is not a trial's, and nothing was deleted; give the \
         trial an environment file with another name, or delete its own things one by one with `i2kit destroy NAME`",
        others.join(", ")
    );
    Err(Failure::new(Exit::Environment, error))
}

/// Refuses to begin where something is there already: it may be that of a trial under way.
pub(super) async fn vacant(stage: &Stage<'_>) -> Result<(), Failure> {
    let left = match stage.account().await {
        Ok(account) => account.left().await.or_exit(Exit::Cloud),
        Err(failure) => Err(failure),
    };
    match left {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => {
            let error = anyhow::anyhow!(
                "the environment {} holds {}: an earlier trial was killed, or one is under way; `i2kit trial --take-down` \
                 deletes it",
                stage.context.environment.name,
                left.join(", ")
            );
            Err(Failure::new(Exit::Overtaken, error))
        }
        // Nothing is made beside what is not known.
        Err(failure) => {
            let error = anyhow::anyhow!(
                "what an earlier trial left is not known: {}; `i2kit preflight` tells what the account lacks",
                failure.words()
            );
            Err(Failure::new(failure.exit, error))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_trial_makes_is_refused() {
        let fleet = |service: &str, namespace: &str| {
            let balancer = json!({
                "spec": {"name": {"namespace": namespace, "name": service}, "kind": "ClusterIP", "listeners": []},
                "host": "h", "bound": [], "targets": [],
            });
            Fleet { balancers: vec![serde_json::from_value(balancer).unwrap()], ..Fleet::default() }
        };
        for own in [GROUP, KILLED, MOVED] {
            assert!(refuse_others(&fleet(own, "default"), "trial-x").is_ok(), "{own}");
        }
        for (service, namespace, told) in
            [("web", "default", "holds web,"), (GROUP, "shop", "holds shop/trial,")]
        {
            let refused = refuse_others(&fleet(service, namespace), "trial-x").unwrap_err();
            assert_eq!(refused.exit, Exit::Environment);
            assert!(refused.error.unwrap().to_string().contains(told));
        }
    }
}
