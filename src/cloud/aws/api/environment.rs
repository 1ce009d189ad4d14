//! An environment in AWS: the settings and clients of a run, and what it remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_ec2::config::Credentials;
use aws_sdk_ec2::types::Subnet;
use tokio::sync::OnceCell;

use super::client::Clients;
use super::error::failed;
use super::generation::Planned;
use super::made::Made;
use super::settings::AwsSettings;
use super::tags;
use super::wait::clock;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name::{self, hash};
use crate::cloud::aws::plan::stack_templates::{self, Frame, SUBNETS};
use crate::cloud::secret::Key;
use crate::manifest::api::Name;
use crate::plan::fleet::GroupSettings;
use crate::plan::image::ImageId;
use crate::report::Events;

/// Zones by the types of instance that are offered there.
pub(super) type Offers = BTreeMap<String, BTreeSet<String>>;

/// An environment in AWS.
#[derive(Debug, Clone)]
pub struct Aws {
    pub(super) settings: AwsSettings,
    pub(super) clients: Clients,
    pub(super) events: Events,
    /// Settings of groups that have no revision yet.
    pending: Arc<Mutex<BTreeMap<Name, GroupSettings>>>,
    /// Tells this run's acts from those of every other run.
    run: String,
    /// The definitions that the newest plan of this run holds for.
    planned: Arc<Mutex<Planned>>,
    /// What AWS may show late.
    made: Arc<Mutex<Made>>,
    /// Stacks that this run has warned of.
    told: Arc<Mutex<BTreeSet<String>>>,
    /// What EC2 offers, once this run has asked.
    pub(super) offers: Arc<OnceCell<Offers>>,
    /// What the environment's stack made, once this run has put it.
    frame: Arc<OnceCell<Frame>>,
    /// The key of Secrets' versions, once this run has looked for it.
    pub(super) key: Arc<OnceCell<Key>>,
}

impl Aws {
    /// Connects; nothing is asked yet.
    pub async fn new(settings: AwsSettings, events: Events) -> Result<Self, CloudError> {
        Self::with(settings, events, None).await
    }

    pub(super) async fn with(
        settings: AwsSettings,
        events: Events,
        credentials: Option<Credentials>,
    ) -> Result<Self, CloudError> {
        let clients = Clients::new(&settings, credentials).await;
        let run = format!("{} {}", std::process::id(), clock().as_nanos());
        let (pending, planned) = (Arc::default(), Arc::default());
        let (made, told, offers) = (Arc::default(), Arc::default(), Arc::default());
        let (frame, key) = (Arc::default(), Arc::default());
        let aws = Self { settings, clients, events, pending, run, planned, made, told, offers, frame, key };
        std::fs::create_dir_all(aws.folder()).map_err(CloudError::file("make", &aws.folder()))?;
        Ok(aws)
    }

    /// The images that AWS holds for the environment.
    pub async fn images(&self) -> Result<Vec<ImageId>, CloudError> {
        let found = self.machine_images(None).await?;
        let ids = found
            .iter()
            .filter_map(|image| tags::value(image.tags(), tags::IMAGE)?.parse().ok().map(ImageId));
        Ok(self.made().images(ids))
    }

    /// Where this machine keeps what it knows of snapshots, by the version of its format; losing it costs time only.
    pub(super) fn folder(&self) -> PathBuf {
        self.settings.cache.join("aws/1")
    }

    /// Stands for one act of one plan of this run, so that AWS does it once however often a lost answer makes us ask.
    /// Another run, and a plan that was made again, have other tokens: AWS remembers a token longer than what was made with
    /// it may exist, and answers with what is gone.
    pub(super) fn token(&self, what: &str) -> String {
        hash(&format!("{} {} {what}", self.run, self.planned().plan()))
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, BTreeMap<Name, GroupSettings>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this run has not warned of a stack yet; from now on it has.
    pub(super) fn is_new_warning(&self, stack: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(stack.to_owned())
    }

    pub(super) fn planned(&self) -> MutexGuard<'_, Planned> {
        self.planned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the environment has once, put by the first that needs it.
    pub(super) async fn frame(&self) -> Result<Frame, CloudError> {
        let put = self.frame.get_or_try_init(async || {
            let zones = match self.settings.network {
                Some(_) => vec![],
                None => self.network_zones().await?,
            };
            let place = stack_templates::EnvironmentPlace {
                zones,
                environment: self.settings.environment.clone(),
                network: self.settings.network.clone(),
                boundary: self.settings.boundary.clone(),
            };
            let stack = self.put_stack(&stack_templates::environment(&place)).await?;
            let subnets: Vec<String> = stack.output("Subnets")?.split(',').map(str::to_owned).collect();
            let given = self.settings.network.as_ref().map(|network| network.for_balancers().to_vec());
            Ok(Frame {
                balancer_subnets: given.unwrap_or_else(|| subnets.clone()),
                vpc: stack.output("Vpc")?,
                subnets,
                machines: stack.output("Machines")?,
                zone: stack.output("Zone")?,
                profile: stack.output("MachineProfile")?,
            })
        });
        put.await.cloned()
    }

    /// The zones of a network of its own: those that it has, which never change, or the best ones.
    async fn network_zones(&self) -> Result<Vec<String>, CloudError> {
        let name = name::environment_stack(&self.settings.environment);
        // One that is being made has no outputs yet, and may be in other zones than those that are best now.
        let Some(stack) = self.at_rest(&name).await? else { return self.best_zones().await };
        if let Some(zones) = stack.outputs.get("Zones") {
            return Ok(zones.split(',').map(str::to_owned).collect());
        }
        // An earlier version of the program wrote none, and its network is in zones all the same.
        let Some(subnets) = stack.outputs.get("Subnets") else { return self.best_zones().await };
        let subnets: Vec<String> = subnets.split(',').map(str::to_owned).collect();
        let asked = self.clients.ec2.describe_subnets().set_subnet_ids(Some(subnets.clone())).send().await;
        let found = asked.map_err(failed("DescribeSubnets"))?.subnets.unwrap_or_default();
        zones_of(&subnets, &found).ok_or_else(|| CloudError::Refused {
            message: format!(
                "stack {name} does not say in which zones its network is, and of its subnets {} not each is in a zone of its own; \
                 name the VPC and two of its subnets in `provider.vpc` and `provider.subnets` of the environment file",
                subnets.join(", ")
            ),
        })
    }

    /// The environment's subnets.
    pub(super) async fn frame_subnets(&self) -> Result<Vec<Subnet>, CloudError> {
        let subnets = self.frame().await?.subnets;
        let asked = self.clients.ec2.describe_subnets().set_subnet_ids(Some(subnets)).send().await;
        Ok(asked.map_err(failed("DescribeSubnets"))?.subnets.unwrap_or_default())
    }

    /// The zones of the environment's subnets.
    pub(super) async fn frame_zones(&self) -> Result<Vec<String>, CloudError> {
        let found = self.frame_subnets().await?;
        Ok(found.into_iter().filter_map(|subnet| subnet.availability_zone).collect())
    }
}

/// The zones of a network's subnets, in their order; `None` where two are in one zone, or one is in none.
fn zones_of(subnets: &[String], found: &[Subnet]) -> Option<Vec<String>> {
    let zone = |id: &String| {
        let subnet = found.iter().find(|subnet| subnet.subnet_id() == Some(id.as_str()))?;
        subnet.availability_zone().map(str::to_owned)
    };
    let zones: Vec<String> = subnets.iter().map(zone).collect::<Option<_>>()?;
    (zones.len() == SUBNETS.len() && zones.iter().collect::<BTreeSet<_>>().len() == zones.len())
        .then_some(zones)
}

#[cfg(test)]
impl Aws {
    /// An environment whose calls nobody answers.
    pub(super) async fn unanswered(cache: &std::path::Path) -> Self {
        let settings = AwsSettings {
            environment: "test".into(),
            region: "us-east-1".into(),
            profile: None,
            endpoint: Some("http://127.0.0.1:9".into()),
            network: None,
            guest_endpoint: None,
            boundary: None,
            free_plan: false,
            cache: cache.into(),
            holder: "tests".into(),
        };
        let credentials = Credentials::new("example", "example", None, None, "test");
        Self::with(settings, Events::none(), Some(credentials)).await.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_stays_in_the_zones_of_its_subnets() {
        let subnet = |id: &str, zone: &str| Subnet::builder().subnet_id(id).availability_zone(zone).build();
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        // EC2 answers in an order of its own.
        let found = [subnet("subnet-1", "us-east-1b"), subnet("subnet-0", "us-east-1c")];
        let zones = zones_of(&ids(&["subnet-0", "subnet-1"]), &found);
        assert_eq!(zones, Some(ids(&["us-east-1c", "us-east-1b"])));
        assert_eq!(zones_of(&ids(&["subnet-0", "subnet-2"]), &found), None);
        assert_eq!(zones_of(&ids(&["subnet-0"]), &found), None);
        let same = [subnet("subnet-1", "us-east-1b"), subnet("subnet-0", "us-east-1b")];
        assert_eq!(zones_of(&ids(&["subnet-0", "subnet-1"]), &same), None);
    }

    #[tokio::test]
    async fn a_plan_that_is_made_again_has_tokens_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let aws = Aws::unanswered(folder.path()).await;
        aws.observed(BTreeMap::new());
        let first = aws.token("web 1");
        assert_eq!(aws.token("web 1"), first, "a lost answer is asked for again");
        // Somebody else deleted what the first plan made: the same act is another one now.
        aws.observed(BTreeMap::new());
        assert_ne!(aws.token("web 1"), first);
    }
}
