//! A CronJob under the same faults, and what ran before the host was restarted.

use std::collections::BTreeSet;

use super::{CloudError, REPLICAS, Sim, image, launch, name};
use crate::manifest::api::{Concurrency, CronRules, JobRules, Schedule, Strategy};
use crate::plan::act::{Act, NewRevision};
use crate::plan::example;
use crate::plan::fleet::{GroupSettings, InstanceState, RefreshStatus};

impl Sim {
    /// Deploys a CronJob that is due every ten seconds.
    fn deploy_schedule(&mut self) -> Result<(), CloudError> {
        self.apply(Act::PutImage { image: image(1) })?;
        let settings = GroupSettings {
            job: Some(JobRules { completions: Some(2), parallelism: 2, ..JobRules::once(6) }),
            schedule: Some(CronRules {
                schedule: Schedule::parse("@every 10s", "Etc/UTC").unwrap(),
                concurrency: Concurrency::Forbid,
                suspend: false,
                starting_deadline_seconds: None,
                successful_history: 1,
                failed_history: 1,
            }),
            ..example::settings(Strategy::Recreate)
        };
        self.apply(Act::PutGroup { group: name(), settings })?;
        let new = NewRevision { number: 1, launch: launch(1), cause: "deploy".into() };
        self.apply(Act::PutRevision { group: name(), revision: new })?;
        self.apply(Act::StartRefresh { group: name(), to: 1, replicas: 1 })
    }

    /// The life of a CronJob: some of its times, a run by hand, and its end.
    pub(super) fn live_by_schedule(&mut self) {
        self.ending = true;
        self.command(Self::deploy_schedule);
        let succeeded = |sim: &Self| {
            let runs = sim.group().map(|group| group.memory.runs.as_slice()).unwrap_or_default();
            runs.last().filter(|run| run.status == RefreshStatus::Successful).map_or(0, |run| run.number)
        };
        self.until("two runs", |sim| succeeded(sim) >= 2);
        let before = self.group().unwrap().memory.last_run;
        self.command(|sim| {
            let is_there = sim.group().is_some_and(|group| {
                group.memory.runs.iter().any(|run| run.number > before && run.scheduled.is_none())
            });
            if is_there { Ok(()) } else { sim.apply(Act::StartRun { group: name(), revision: 1 }) }
        });
        self.until("the run by hand", |sim| succeeded(sim) > before);
        self.ending = false;
        self.command(|sim| {
            sim.apply(Act::DeleteGroup { group: name() })?;
            sim.until("end of the group", |sim| sim.group().is_none());
            sim.apply(Act::DeleteImages { images: vec![image(1)] })
        });
        self.until("empty world", |sim| sim.world().alive.is_empty() && sim.state.environments.is_empty());
        self.restart();
        assert!(self.world().folders.is_empty() && self.state.machines.is_empty(), "{:?}", self.world());
    }
}

/// The computer was started again: no process and no machine is left, and folders and records are.
#[test]
fn what_ran_before_the_host_was_restarted_is_started_again() {
    let mut sim = Sim::new(None);
    sim.command(|sim| sim.deploy(1));
    sim.until("two machines", |sim| sim.converged(REPLICAS));
    let members = |sim: &Sim| -> BTreeSet<String> {
        let group = sim.group().unwrap();
        let members = group.instances.values().filter(|record| record.state == InstanceState::Running);
        members.map(|record| record.id.to_string()).collect()
    };
    // Long enough that their end says nothing about the next ones.
    (0..100).for_each(|_| sim.tick());
    let (before, began) = (members(&sim), sim.now);
    sim.world().alive.clear();
    sim.restart();
    sim.until("two new machines", |sim| sim.converged(REPLICAS));
    assert!(sim.now < began + 10_000, "{} ms", sim.now - began);
    assert!(members(&sim).is_disjoint(&before));
    // A run of a Job that was under way goes on, and a time that passed meanwhile is run for once.
    let mut sim = Sim::new(None);
    sim.command(Sim::deploy_schedule);
    let is_running = |sim: &Sim| {
        sim.group().is_some_and(|group| group.memory.runs.len() == 1) && sim.world().alive.len() == 2
    };
    sim.until("two machines of the first run", is_running);
    sim.world().alive.clear();
    sim.now += 10 * 60_000;
    sim.restart();
    sim.ending = true;
    sim.until("the end of both runs", |sim| {
        let runs = &sim.group().unwrap().memory.runs;
        runs.iter().any(|run| run.number > 1 && run.status == RefreshStatus::Successful)
    });
    let times: Vec<u64> = sim.runs.keys().copied().collect();
    assert!(times.len() <= 3 && times.iter().all(|time| *time <= sim.now), "{times:?} at {}", sim.now);
}
