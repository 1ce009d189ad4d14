//! What the steps of a trial share: its environment, its deployments, and waiting.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::Instant;

use super::manifest::{self, Workload};
use crate::cli::args::{DeployArgs, FileOptions, Manifests, Reading, TrialArgs};
use crate::cli::context::Context;
use crate::cli::deploy::{self, Deployed, Pick};
use crate::cli::exit::{Exit, Failure, OrExit as _};
use crate::cli::{carry_out, connection, reading};
use crate::cloud::trial::Tryable;
use crate::cloud::{Cloud, Materials};
use crate::manifest::api::{Name, ObjectSet};
use crate::manifest::{SourceFile, read};
use crate::plan::fleet::{Fleet, InstanceGroup};
use crate::plan::rollout::RolloutPlan;
use crate::rollout::RunRecord;

/// What leaves the rest to a later command.
pub(super) const LATER: &str = "`i2kit trial --take-down` deletes what is left";

/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_secs(2);

/// What a step has found so far, a sentence each. It is kept when the step is interrupted.
#[derive(Debug, Default)]
pub(super) struct Findings(RefCell<Vec<String>>);

impl Findings {
    /// Something was found.
    pub(super) fn push(&self, found: impl Into<String>) {
        self.0.borrow_mut().push(found.into());
    }

    /// Several things were found.
    pub(super) fn extend(&self, found: impl IntoIterator<Item = String>) {
        self.0.borrow_mut().extend(found);
    }

    /// All that was found; nothing is left here.
    pub(super) fn take(&self) -> Vec<String> {
        self.0.take()
    }
}

/// A trial under way.
#[derive(Debug)]
pub(super) struct Stage<'t> {
    /// The trial's own environment.
    pub(super) context: &'t Context,
    /// What was asked for.
    pub(super) args: &'t TrialArgs,
    /// The page that the group serves.
    page: Cell<u8>,
}

impl<'t> Stage<'t> {
    /// Nothing is done yet.
    pub(super) fn new(context: &'t Context, args: &'t TrialArgs) -> Self {
        Self { context, args, page: Cell::new(1) }
    }

    /// The account, by a connection of its own.
    pub(super) async fn account(&self) -> Result<Box<dyn Tryable>, Failure> {
        let provider = connection::provider(self.context)?;
        provider.tryable(&connection::client(self.context)?).await.or_exit(Exit::Cloud)
    }

    /// What the environment holds.
    pub(super) async fn fleet(&self) -> Result<Fleet, Failure> {
        connection::cloud(self.context).await?.observe().await.or_exit(Exit::Cloud)
    }

    /// The group that serves, with so many machines.
    pub(super) fn workload(&self, replicas: u32) -> Workload<'_> {
        Workload { name: manifest::GROUP, image: &self.args.image, page: self.page.get(), replicas }
    }

    /// The page that the group is to serve.
    pub(super) fn page(&self) -> u8 {
        self.page.get()
    }

    /// From now on the group serves the next page.
    pub(super) fn turn_page(&self) {
        self.page.set(self.page.get() + 1);
    }

    /// The set that manifests describe.
    pub(super) fn set(&self, text: String) -> Result<ObjectSet, Failure> {
        let given = manifests(vec![]);
        let file = SourceFile { name: "trial.yaml".into(), bytes: text.into_bytes() };
        let found = read(&[file], &reading::options(&given, &self.context.environment));
        if found.has_errors() {
            let said: Vec<&str> = found.diagnostics.iter().map(|finding| finding.message.as_str()).collect();
            let error = anyhow::anyhow!("what the trial deploys is refused: {}", said.join("; "));
            return Err(Failure::new(Exit::Manifest, error));
        }
        Ok(found.set)
    }

    /// Writes a manifest where this computer keeps what can be made again, in a folder of the environment's own: another trial
    /// may be under way here.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let folder = self.context.dirs.cache.join("trial").join(&self.context.environment.name);
        let path = folder.join(name);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Deploys a manifest as `i2kit deploy` does, and waits for its end unless told otherwise.
    pub(super) async fn deploy(&self, text: &str, wait: bool) -> Result<Deployed, Failure> {
        self.carry(text, wait, None).await
    }

    /// Does those acts of a deployment that are picked.
    pub(super) async fn deploy_only(&self, text: &str, picked: Pick) -> Result<(), Failure> {
        self.carry(text, true, Some(picked)).await.map(drop)
    }

    async fn carry(&self, text: &str, wait: bool, only: Option<Pick>) -> Result<Deployed, Failure> {
        let args = deploy_args(&self.write("trial.yaml", text)?, wait);
        let record = RunRecord::default();
        Box::pin(deploy::carry(self.context, &args, &record, only)).await
    }

    /// Carries out a plan that puts nothing new, and waits for its end.
    pub(super) async fn carry_out(&self, cloud: &dyn Cloud, plan: &RolloutPlan) -> Result<(), Failure> {
        let (nothing, record) = (Materials::default(), RunRecord::default());
        let work = (plan, &nothing);
        Box::pin(carry_out::carry_out_to(self.context, cloud, work, true, &record)).await.map(drop)
    }

    /// Where clients of a Service connect: `HOST:PORT`.
    pub(super) fn address(&self, fleet: &Fleet, service: &str) -> Result<String, Failure> {
        if let Some(address) = &self.args.address {
            return Ok(address.clone());
        }
        let found =
            fleet.balancer(&named(service)).and_then(|balancer| balancer.addresses().into_iter().next());
        found.ok_or_else(|| failed(format!("the Service {service} has no address")))
    }
}

/// The arguments that deploy a manifest.
pub(super) fn deploy_args(manifest: &Path, wait: bool) -> DeployArgs {
    DeployArgs { set: manifests(vec![manifest.to_owned()]), prune: false, wait }
}

fn manifests(manifests: Vec<PathBuf>) -> Manifests {
    Manifests { manifests, options: FileOptions::default(), reading: Reading::default() }
}

/// The name of a workload or Service of the trial.
pub(super) fn named(name: &str) -> Name {
    Name { namespace: "default".into(), name: name.into() }
}

/// A group of the trial that must be there.
pub(super) fn group<'f>(fleet: &'f Fleet, name: &str) -> Result<&'f InstanceGroup, Failure> {
    fleet
        .group(&named(name))
        .ok_or_else(|| failed(format!("there is no group {name} any more: an earlier step made it")))
}

/// A finding that fails a step: what runs is not what should run.
pub(super) fn failed(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Rollout, anyhow::Error::msg(what.into()))
}

/// Asks until there is an answer; after `limit` there is none.
pub(super) async fn until<T, F>(limit: Duration, mut ask: impl FnMut() -> F) -> Result<Option<T>, Failure>
where
    F: Future<Output = Result<Option<T>, Failure>>,
{
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await? {
            return Ok(Some(answer));
        }
        if started.elapsed() > limit {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
