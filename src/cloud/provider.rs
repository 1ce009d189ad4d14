//! A cloud before an environment in it is connected: what an environment file says of it, what it supports, and what it
//! tells without being asked over a network. The command line knows clouds by this interface alone.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Map, Value};

use super::trial::Tryable;
use super::{Cloud, CloudError};
use crate::manifest::api::{AcmeIssuer, Name};
use crate::manifest::support::Support;
use crate::plan::fleet::{BalancerSpec, Fleet};
use crate::plan::rollout::{GroupSpec, RolloutPlan};
use crate::report::Events;

/// A kind of cloud: an entry of the table of clouds.
#[derive(Debug)]
pub struct Kind {
    /// What it supports, with its names.
    pub support: &'static Support,
    /// Reads the fields of `provider` in an environment file, without `type`. Unknown fields are errors.
    pub read: ReadSettings,
}

/// The reader of a cloud's settings.
pub type ReadSettings = fn(Map<String, Value>) -> Result<Arc<dyn Provider>, serde_json::Error>;

/// What the tool gives to a cloud that it connects to.
#[derive(Debug, Clone)]
pub struct Client {
    /// The environment's name.
    pub environment: String,
    /// The tool's folder of what cannot be made again.
    pub state: PathBuf,
    /// The tool's cache folder.
    pub cache: PathBuf,
    /// The tool's own file.
    pub program: PathBuf,
    /// The environment variables that processes get which outlive the command.
    pub variables: Vec<(OsString, OsString)>,
    /// Who runs the command, in letters, digits and hyphens, for others who wait for it.
    pub holder: String,
    /// Where events go.
    pub events: Events,
    /// Whether a process that serves the environment is started, or replaced by this program's, where that is needed.
    /// Otherwise a question that needs one is an error.
    pub starts: bool,
}

/// A cloud as an environment file names it.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync {
    /// What it supports, with its names.
    fn support(&self) -> &'static Support;

    /// The certificate of balancers that end TLS and name none.
    fn certificate(&self) -> Option<&str> {
        None
    }

    /// The CA that gives certificates to public hosts of Ingresses.
    fn acme(&self) -> Option<&AcmeIssuer> {
        None
    }

    /// The region that machines are in, where the cloud has such.
    fn region(&self) -> Option<&str> {
        None
    }

    /// How to build a program that can connect, where this one was built without that.
    fn missing(&self) -> Option<&'static str> {
        None
    }

    /// Connects to the client's environment.
    async fn connect(&self, client: &Client) -> Result<Box<dyn Cloud>, CloudError>;

    /// Connects to the client's environment for the trial of its account; an error where there is no account to try.
    async fn tryable(&self, _client: &Client) -> Result<Box<dyn Tryable>, CloudError> {
        Err(CloudError::Unsupported {
            what: "the trial of an account".into(),
            advice: "name an environment in an account of a cloud with -e".into(),
        })
    }

    /// The environments that a person may look at from here: the client's, and others where the cloud knows them.
    async fn environments(&self, client: &Client) -> Result<Vec<String>, CloudError> {
        Ok(vec![client.environment.clone()])
    }

    /// Checks what a deployment needs, for an environment that is to hold these groups and balancers beside those that it
    /// has. Every check is made.
    async fn preflight(
        &self,
        client: &Client,
        groups: Vec<GroupSpec>,
        balancers: Vec<BalancerSpec>,
    ) -> Result<Vec<Check>, CloudError>;

    /// Refuses a size that no group of this cloud can have, before anything is done for it.
    ///
    /// # Errors
    /// The largest size.
    fn refuse_size(&self, _group: &Name, _replicas: u32) -> Result<(), CloudError> {
        Ok(())
    }

    /// Refuses a group that this cloud cannot have, before anything is done for it.
    ///
    /// # Errors
    /// The reason, and what to change.
    fn refuse_group(&self, _spec: &GroupSpec) -> Result<(), CloudError> {
        Ok(())
    }

    /// Refuses a balancer that this cloud cannot have in the environment, in front of these groups, before anything is done for it.
    ///
    /// # Errors
    /// The reason, and what to change.
    fn refuse_balancer(
        &self,
        _environment: &str,
        _spec: &BalancerSpec,
        _groups: &[GroupSpec],
    ) -> Result<(), CloudError> {
        Ok(())
    }

    /// Refuses a network that the environment file names and that cannot hold what a deployment brings: new groups, if there are any,
    /// and those of these balancers that the environment does not have. What may keep them from working is a warning.
    ///
    /// # Errors
    /// All that is wrong, and what to do.
    async fn refuse_network(
        &self,
        _client: &Client,
        _balancers: &[BalancerSpec],
        _has_new_groups: bool,
    ) -> Result<(), CloudError> {
        Ok(())
    }

    /// The smallest policy with which everything works in the environment; `None` where nobody needs permission.
    fn iam_policy(&self, _environment: &str) -> Option<Value> {
        None
    }

    /// The most that roles which i2kit makes for machines may do; `None` where there are no roles.
    fn permissions_boundary(&self, _environment: &str) -> Option<Value> {
        None
    }

    /// The function that masks a word for a trial's report: without whose account it is and who works with it, by the forms of
    /// the cloud's own names. Where there are no accounts the word stays.
    fn mask(&self) -> fn(&str) -> String {
        str::to_owned
    }

    /// What `plan` does to the cloud's resources and to their cost; `None` where nothing costs.
    fn cost(&self, _plan: &RolloutPlan, _fleet: &Fleet) -> Option<Cost> {
        None
    }
}

/// The outcome of one check of `preflight`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The subject.
    pub name: String,
    /// `true` when a deployment can go on, `false` when it would fail, `None` when that could not be found out.
    pub ok: Option<bool>,
    /// What was found, and what to do about it.
    pub finding: String,
}

impl Check {
    /// An outcome.
    pub fn new(name: &str, ok: Option<bool>, finding: impl Into<String>) -> Self {
        Self { name: name.into(), ok, finding: finding.into() }
    }
}

/// Hours of a month, as clouds' own calculators count them.
pub const MONTH_HOURS: u64 = 730;

/// Resources and their cost, before and after a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Resources that are created, changed and deleted, in this order.
    pub changes: Vec<ResourceChange>,
    /// Millionths of a US dollar a month before the plan.
    pub before_micros: u64,
    /// And after it.
    pub after_micros: u64,
    /// What the prices are of, and what they leave out.
    #[serde(skip)]
    pub basis: String,
}

/// One resource that a plan touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceChange {
    /// `+` creates, `~` changes, `-` deletes.
    pub mark: char,
    /// The type, in the cloud's words.
    pub kind: &'static str,
    /// The resource among those of its type.
    pub name: String,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "resources")?;
        for ResourceChange { mark, kind, name } in &self.changes {
            writeln!(f, "  {mark} {kind} {name}")?;
        }
        let dollars = |micros: u64| format!("{}.{:02}", micros / 1_000_000, micros % 1_000_000 / 10_000);
        let (before, after) = (dollars(self.before_micros), dollars(self.after_micros));
        writeln!(f, "estimated cost of a month: {before} -> {after} USD ({})", self.basis)
    }
}
