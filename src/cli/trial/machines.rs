//! Steps of a trial up to one machine: rights, images, the environment's frame, launches, a boot, an end.

use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::console;
use super::manifest::{CONTAINER, GROUP, KILLED, MACHINES, MOVED, SAID, Workload, service};
use super::stage::{Findings, Stage, failed, group, named, until};
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cli::{connection, preflight, scale};
use crate::cloud::LogQuery;
use crate::cloud::trial::seconds;
use crate::plan::act::Act;
use crate::plan::fleet::Fleet;

/// How long a console may be without what a machine has written.
const CONSOLE: Duration = Duration::from_mins(6);

/// How long lines of a container may take to the cloud's store.
const LINES: Duration = Duration::from_mins(3);

/// How long a machine may take to end.
const ENDING: Duration = Duration::from_mins(20);

/// How long the console of a machine that has ended may lack its last lines.
const LAST_WORDS: Duration = Duration::from_mins(3);

/// All that is deployed at one moment of the trial, with so many machines more in each group.
pub(super) fn whole(image: &str, more: u32) -> String {
    let serving = Workload { name: GROUP, image, page: 1, replicas: MACHINES + more };
    let killed = Workload { name: KILLED, replicas: 1 + more, ..serving };
    [
        serving.manifest(),
        service(GROUP, GROUP, "LoadBalancer", 80),
        service(MOVED, GROUP, "ClusterIP", 82),
        format!("---\n{}", killed.manifest()),
        service(KILLED, KILLED, "LoadBalancer", 81),
    ]
    .concat()
}

/// Step 1: what `i2kit preflight` finds.
pub(super) async fn preflight(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    let set = stage.set(whole(&stage.args.image, 0))?;
    let checks = preflight::checks(stage.context, &set).await?;
    found.extend(checks.iter().map(|check| preflight::line(check).trim_end().to_owned()));
    if checks.iter().any(|check| check.ok == Some(false)) {
        let error = anyhow::anyhow!(
            "a check failed; see `i2kit iam-policy --trial` for what the trial may have to do"
        );
        return Err(Failure::new(Exit::Cloud, error));
    }
    Ok(())
}

/// Step 2: the smallest image shows the rights, and the pod's the time.
pub(super) async fn images(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    found.extend(stage.account().await?.try_image().await.or_exit(Exit::Cloud)?);
    let started = Instant::now();
    let is_image: fn(&Act) -> bool = |act| matches!(act, Act::PutImage { .. });
    stage.deploy_only(&stage.workload(1).manifest(), is_image).await?;
    found.push(format!("the pod's image was built, sent and available after {}", seconds(started.elapsed())));
    Ok(())
}

/// Step 3: what an environment has once.
pub(super) async fn frame(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    found.extend(stage.account().await?.try_frame().await.or_exit(Exit::Cloud)?);
    Ok(())
}

/// Step 4: launches by the template of a first revision, of which none is made.
pub(super) async fn launches(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    let is_definition: fn(&Act) -> bool =
        |act| matches!(act, Act::PutImage { .. } | Act::PutGroup { .. } | Act::PutRevision { .. });
    stage.deploy_only(&stage.workload(1).manifest(), is_definition).await?;
    let tried = stage.account().await?.try_launches(&named(GROUP)).await.or_exit(Exit::Cloud)?;
    let mut zones: Vec<&str> = tried.iter().map(|launch| launch.zone.as_str()).collect();
    zones.sort_unstable();
    zones.dedup();
    let mut kinds: Vec<&str> = tried.iter().map(|launch| launch.kind.as_str()).collect();
    kinds.dedup();
    let mut everywhere = 0;
    for kind in kinds {
        let of_kind = tried.iter().filter(|launch| launch.kind == kind);
        let refused: Vec<String> = of_kind
            .filter_map(|launch| Some(format!("{}: {}", launch.zone, launch.refusal.as_ref()?)))
            .collect();
        everywhere += u32::from(refused.is_empty());
        let outcome = if refused.is_empty() { "refused in no zone".to_owned() } else { refused.join("; ") };
        found.push(format!("{kind}: {outcome}"));
    }
    found.push(format!("zones: {}", zones.join(", ")));
    if everywhere == 0 && !tried.is_empty() && tried.iter().all(|launch| launch.is_denied) {
        let error = anyhow::anyhow!(
            "every launch was refused for who asked; `i2kit iam-policy --trial` prints what the trial may have to do"
        );
        return Err(Failure::new(Exit::Cloud, error));
    }
    if everywhere == 0 {
        return Err(failed("each type of machine is refused in a zone"));
    }
    Ok(())
}

/// The id of the first machine of the group that serves; `why` is the error where there is none.
fn first_machine(fleet: &Fleet, why: &str) -> Result<String, Failure> {
    let first = group(fleet, GROUP)?.instances.first();
    first.map(|machine| machine.id.to_string()).ok_or_else(|| failed(why))
}

/// Step 5: one machine, from its firmware to its lines in the cloud's store.
pub(super) async fn boot(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    let started = Instant::now();
    let deployed = stage.deploy(&stage.workload(1).manifest(), true).await?;
    let since = || seconds(started.elapsed());
    found.push(format!("its group had what it should have after {}", since()));
    let id = first_machine(&deployed.fleet, "the group has no machine")?;
    let account = stage.account().await?;
    let shown = until(CONSOLE, || async {
        let text = account.console_text(&id).await.or_exit(Exit::Cloud)?;
        Ok(console::missing(&text).is_empty().then_some(text))
    });
    let Some(text) = shown.await? else {
        let text = account.console_text(&id).await.or_exit(Exit::Cloud)?;
        found.extend(console::findings(&text));
        let missing = console::missing(&text).join(", ");
        return Err(failed(format!("the console of {id} does not show the phases {missing}")));
    };
    found.push(format!("its console showed all phases after {}", since()));
    found.extend(console::findings(&text));
    let cloud = connection::cloud(stage.context).await?;
    let query = LogQuery {
        group: named(GROUP),
        instance: Some(id),
        container: Some(CONTAINER.to_owned()),
        tail: None,
        previous: false,
        since_seconds: None,
        follow: false,
    };
    let line = until(LINES, || async {
        let lines = cloud.logs(&query).await.or_exit(Exit::Cloud)?;
        let lines: Vec<_> = lines.collect().await;
        Ok(lines.into_iter().flatten().find(|line| line.text.contains(SAID)))
    });
    let line = line.await?.ok_or_else(|| failed("the container's lines did not come"))?;
    found.push(format!("its container's first line was there after {}: {}", since(), line.text));
    Ok(())
}

/// Step 6: the machine is told to power off, and is waited for.
pub(super) async fn power_button(stage: &Stage<'_>, found: &Findings) -> Result<(), Failure> {
    let fleet = stage.fleet().await?;
    let id = first_machine(&fleet, "no machine runs: step 5 starts one")?;
    let started = Instant::now();
    let plan = scale::plan(stage.context, &fleet, &named(GROUP), 0)?;
    let cloud = connection::cloud(stage.context).await?;
    stage.carry_out(cloud.as_ref(), &plan).await?;
    let account = stage.account().await?;
    let ended =
        until(ENDING, || async { Ok(account.has_ended(&id).await.or_exit(Exit::Cloud)?.then_some(())) });
    ended.await?.ok_or_else(|| failed(format!("{id} has not ended after {} min", ENDING.as_secs() / 60)))?;
    found.push(format!("the machine had ended {} after its group was told to", seconds(started.elapsed())));
    let noticed = until(LAST_WORDS, || async {
        let text = account.console_text(&id).await.or_exit(Exit::Cloud)?;
        Ok(console::noticed_button(&text).then_some(()))
    });
    found.push(match noticed.await? {
        Some(()) => "its console says that the power button was pressed".to_owned(),
        None => format!("its console did not show its end within {} min", LAST_WORDS.as_secs() / 60),
    });
    Ok(())
}
