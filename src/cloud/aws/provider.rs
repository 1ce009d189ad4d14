//! AWS as environment files name it: `provider: {type: aws, region: …}`.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Map, Value};

#[cfg(feature = "aws")]
use super::api::{Aws, AwsSettings, Wanted};
use super::plan::cost;
use super::plan::iam_policy::{self, Subject};
#[cfg(feature = "aws")]
use super::plan::stack_templates::Network;
use super::plan::{fit, job, mask, packing, refusal};
use super::support::SUPPORT;
use crate::cloud::provider::{Check, Client, Cost, Kind, Provider};
use crate::cloud::trial::Tryable;
use crate::cloud::{Cloud, CloudError};
use crate::manifest::support::Support;
use crate::plan::fleet::{BalancerSpec, Fleet};
use crate::plan::rollout::{GroupSpec, RolloutPlan};

/// AWS in the table of clouds.
pub const KIND: Kind = Kind { support: &SUPPORT, read };

/// `provider` with `type: aws`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Account {
    region: String,
    /// A profile of AWS' configuration files; without it, credentials come from where all AWS tools look for them.
    profile: Option<String>,
    /// A VPC that exists; without it, the environment makes one of its own.
    vpc: Option<String>,
    /// Subnets of that VPC, at least two, in zones of their own.
    #[serde(default)]
    subnets: Vec<String>,
    /// Other subnets of that VPC for load balancers: machines may be in private ones.
    #[serde(default)]
    balancer_subnets: Vec<String>,
    certificate: Option<String>,
    /// The ARN of a managed policy: roles of machines are made with it as their boundary.
    permissions_boundary: Option<String>,
    /// The account is of the free plan: machines are of the types that it may start.
    #[serde(default)]
    free_plan: bool,
    /// An emulator that answers instead of all services of AWS.
    endpoint: Option<String>,
    /// The same address as machines reach it.
    machines_endpoint: Option<String>,
}

fn read(fields: Map<String, Value>) -> Result<Arc<dyn Provider>, serde_json::Error> {
    let account: Account = serde_json::from_value(fields.into())?;
    let whole = match (account.vpc.is_some(), account.subnets.len(), account.balancer_subnets.len()) {
        (true, machines, balancers) => machines >= 2 && balancers != 1,
        (false, machines, balancers) => machines + balancers == 0,
    };
    if !whole {
        return Err(serde_json::Error::custom(
            "vpc and subnets belong together: name a VPC and at least two of its subnets (balancerSubnets: two, too), or neither",
        ));
    }
    Ok(Arc::new(account))
}

#[cfg(feature = "aws")]
impl Account {
    async fn aws(&self, client: &Client) -> Result<Aws, CloudError> {
        let network = self.vpc.clone().map(|vpc| Network {
            vpc,
            subnets: self.subnets.clone(),
            balancer_subnets: self.balancer_subnets.clone(),
        });
        let settings = AwsSettings {
            environment: client.environment.clone(),
            region: self.region.clone(),
            profile: self.profile.clone(),
            network,
            endpoint: self.endpoint.clone(),
            guest_endpoint: self.machines_endpoint.clone(),
            boundary: self.permissions_boundary.clone(),
            free_plan: self.free_plan,
            cache: client.cache.clone(),
            holder: client.holder.clone(),
        };
        Aws::new(settings, client.events.clone()).await
    }
}

#[async_trait]
impl Provider for Account {
    fn support(&self) -> &'static Support {
        &SUPPORT
    }

    fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    fn region(&self) -> Option<&str> {
        Some(&self.region)
    }

    fn missing(&self) -> Option<&'static str> {
        (!cfg!(feature = "aws")).then_some("install it with AWS: `cargo install --locked --path .`")
    }

    #[cfg(feature = "aws")]
    async fn connect(&self, client: &Client) -> Result<Box<dyn Cloud>, CloudError> {
        Ok(Box::new(self.aws(client).await?))
    }

    #[cfg(not(feature = "aws"))]
    async fn connect(&self, _client: &Client) -> Result<Box<dyn Cloud>, CloudError> {
        Err(not_built())
    }

    #[cfg(feature = "aws")]
    async fn tryable(&self, client: &Client) -> Result<Box<dyn Tryable>, CloudError> {
        Ok(Box::new(self.aws(client).await?))
    }

    #[cfg(not(feature = "aws"))]
    async fn tryable(&self, _client: &Client) -> Result<Box<dyn Tryable>, CloudError> {
        Err(not_built())
    }

    #[cfg(feature = "aws")]
    async fn preflight(
        &self,
        client: &Client,
        groups: Vec<GroupSpec>,
        balancers: Vec<BalancerSpec>,
    ) -> Result<Vec<Check>, CloudError> {
        let aws = self.aws(client).await?;
        let wanted = Wanted::new(&aws.observe().await.unwrap_or_default(), groups, balancers);
        Ok(aws.preflight(&wanted).await)
    }

    #[cfg(not(feature = "aws"))]
    async fn preflight(
        &self,
        _client: &Client,
        _groups: Vec<GroupSpec>,
        _balancers: Vec<BalancerSpec>,
    ) -> Result<Vec<Check>, CloudError> {
        Err(not_built())
    }

    fn refuse_group(&self, spec: &GroupSpec) -> Result<(), CloudError> {
        job::refuse(spec).map_err(|error| CloudError::Refused { message: error.to_string() })
    }

    fn refuse_balancer(
        &self,
        environment: &str,
        spec: &BalancerSpec,
        groups: &[GroupSpec],
    ) -> Result<(), CloudError> {
        let sizes: packing::Sizes = packing::sizes_of(groups).collect();
        let refused = fit::refuse(environment, spec).and_then(|()| refusal::refuse_targets(spec, &sizes));
        refused.map_err(|error| CloudError::Refused { message: error.to_string() })
    }

    #[cfg(feature = "aws")]
    async fn refuse_network(
        &self,
        client: &Client,
        balancers: &[BalancerSpec],
        has_new_groups: bool,
    ) -> Result<(), CloudError> {
        if self.vpc.is_none() {
            return Ok(());
        }
        self.aws(client).await?.refuse_network(balancers, has_new_groups).await
    }

    fn iam_policy(&self, environment: &str) -> Option<Value> {
        Some(iam_policy::policy(Subject { environment, boundary: self.permissions_boundary.as_deref() }))
    }

    fn permissions_boundary(&self, environment: &str) -> Option<Value> {
        Some(iam_policy::boundary(environment))
    }

    fn mask(&self) -> fn(&str) -> String {
        mask::masked
    }

    fn cost(&self, plan: &RolloutPlan, fleet: &Fleet) -> Option<Cost> {
        Some(cost::cost(plan, fleet))
    }
}

#[cfg(not(feature = "aws"))]
fn not_built() -> CloudError {
    CloudError::Unsupported {
        what: "calling AWS".into(),
        advice: "install i2kit with AWS: `cargo install --locked --path .`".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_that_no_load_balancer_has_room_for_is_refused() {
        use crate::manifest::api::{Name, Protocol, ServiceType};
        use crate::plan::fleet::Listener;
        let Value::Object(fields) = json!({"region": "r"}) else { panic!("a map") };
        let aws = read(fields).unwrap();
        let service = |count: u16| {
            let listeners = (1..=count).map(|port| Listener::new(port, Protocol::Tcp, vec![])).collect();
            let name = Name { namespace: "shop".into(), name: "web".into() };
            BalancerSpec::new(name, ServiceType::ClusterIP, listeners)
        };
        assert!(aws.refuse_balancer("test", &service(15), &[]).is_ok());
        let error = aws.refuse_balancer("test", &service(16), &[]).unwrap_err().to_string();
        assert!(error.contains("Service shop/web needs 64 rules"), "{error}");
    }

    #[test]
    fn a_report_s_words_are_without_the_account() {
        let Value::Object(fields) = json!({"region": "r"}) else { panic!("a map") };
        let masked = read(fields).unwrap().mask();
        assert_eq!(masked("arn:aws:iam::123456789012:user/ann"), "arn:aws:iam::***:user/***");
    }

    #[test]
    fn settings_are_whole_and_known() {
        let read = |fields: Value| {
            let Value::Object(fields) = fields else { panic!("a map") };
            read(fields)
        };
        let error = |fields| read(fields).unwrap_err().to_string();
        assert!(error(json!({})).contains("missing field `region`"));
        assert!(error(json!({"region": "r", "zone": "z"})).contains("unknown field `zone`"));
        assert!(error(json!({"region": "r", "vpc": "v"})).contains("belong together"));
        assert!(error(json!({"region": "r", "balancerSubnets": ["a", "b"]})).contains("belong together"));
        let one = json!({"region": "r", "vpc": "v", "subnets": ["a", "b"], "balancerSubnets": ["c"]});
        assert!(error(one).contains("balancerSubnets: two"));
        let found =
            read(json!({"region": "r", "vpc": "v", "subnets": ["a", "b"], "certificate": "c"})).unwrap();
        assert_eq!((found.region(), found.certificate()), (Some("r"), Some("c")));
    }
}
