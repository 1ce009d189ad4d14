//! Checks before a deployment: credentials, permissions, quotas, subnets, certificates. All are made, whatever fails.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_iam::types::{ContextEntry, ContextKeyTypeEnum, PolicyEvaluationDecisionType};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;

use super::environment::Aws;
use super::error::failed;
use super::network::NetworkFindings;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::calls::{CALLS, SCOPES, Scope};
use crate::cloud::aws::plan::fit;
use crate::cloud::aws::plan::iam_policy::{self, Account, Subject};
use crate::cloud::aws::plan::machine;
use crate::cloud::aws::plan::packing::{self, Sizes};
use crate::cloud::aws::plan::refusal;
use crate::cloud::provider::Check;
use crate::manifest::api::Name;
use crate::plan::fleet::{BalancerSpec, Fleet, InstanceGroup, LaunchSpec, count};
use crate::plan::rollout::GroupSpec;

/// Actions that one simulation takes.
const AT_ONCE: usize = 50;

/// Roles that Auto Scaling and balancers act with.
const SERVICE_ROLES: [&str; 2] = ["AWSServiceRoleForAutoScaling", "AWSServiceRoleForElasticLoadBalancing"];

/// Quotas that a deployment meets first: service, code, and what it counts.
const VCPUS: (&str, &str) = ("ec2", "L-1216C47A");
const SPOT_VCPUS: (&str, &str) = ("ec2", "L-34B43A08");
const BALANCERS: (&str, &str) = ("elasticloadbalancing", "L-69A177A2");
const INGRESSES: (&str, &str) = ("elasticloadbalancing", "L-53DA6B97");

/// What the environment should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// How many VMs of which kind each group has.
    pub groups: BTreeMap<Name, (u32, LaunchSpec)>,
    /// The most machines that there may be of each.
    pub sizes: Sizes,
    /// The balancers.
    pub balancers: Vec<BalancerSpec>,
}

impl Wanted {
    /// What `fleet` holds, and what `groups` and `balancers` make of it.
    pub fn new(fleet: &Fleet, groups: Vec<GroupSpec>, mut balancers: Vec<BalancerSpec>) -> Self {
        let launch = |group: &InstanceGroup| group.revisions.last().map(|revision| revision.launch.clone());
        let held = fleet.groups.iter();
        let mut all: BTreeMap<Name, (u32, LaunchSpec)> =
            held.filter_map(|group| Some((group.name.clone(), (group.replicas, launch(group)?)))).collect();
        let there = fleet.groups.iter();
        let there = there.map(|group| (group.name.clone(), group.settings.most_machines(group.replicas)));
        let sizes = there.chain(packing::sizes_of(&groups)).collect();
        all.extend(groups.into_iter().map(|group| (group.name, (group.replicas, group.launch))));
        let new: BTreeSet<Name> = balancers.iter().map(|spec| spec.name.clone()).collect();
        let kept = fleet.balancers.iter().filter(|balancer| !new.contains(&balancer.spec.name));
        balancers.extend(kept.map(|balancer| balancer.spec.clone()));
        Self { groups: all, sizes, balancers }
    }
}

impl Aws {
    /// Every check, for an environment that should hold what is `wanted`.
    pub async fn preflight(&self, wanted: &Wanted) -> Vec<Check> {
        let identity =
            self.clients.sts.get_caller_identity().send().await.map_err(failed("GetCallerIdentity"));
        let arn = match identity {
            Ok(found) => found.arn.unwrap_or_default(),
            Err(error) => return vec![Check::new("credentials", Some(false), error.to_string())],
        };
        let mut checks =
            vec![Check::new("credentials", Some(true), format!("{arn} in {}", self.settings.region))];
        checks.push(self.permissions(&arn).await);
        checks.push(self.service_roles().await);
        checks.push(self.subnets(wanted).await);
        checks.extend(self.quotas(wanted).await);
        let (refused, others) = refusals(&self.settings.environment, &wanted.balancers, &wanted.sizes);
        checks.extend(refused);
        checks.extend(self.certificate_checks(&others).await);
        checks
    }

    /// Simulates every action of the table, each with the keys that such a call has: a policy of `iam-policy` asks for no
    /// others.
    async fn permissions(&self, caller: &str) -> Check {
        let name = "permissions";
        let source = self.source_of(caller).await;
        let mut denied = BTreeSet::new();
        for scope in SCOPES {
            match self.denied(scope, caller, &source).await {
                Ok(found) => denied.extend(found),
                Err(error) => return Check::new(name, None, format!("cannot be simulated: {error}")),
            }
        }
        if denied.is_empty() {
            let actions: BTreeSet<&str> =
                CALLS.iter().filter(|call| !call.action.contains('*')).map(|call| call.action).collect();
            return Check::new(name, Some(true), format!("all {} calls are allowed", actions.len()));
        }
        let denied: Vec<String> = denied.into_iter().collect();
        Check::new(
            name,
            Some(false),
            format!("denied: {}; `i2kit iam-policy` prints a policy that is enough", denied.join(", ")),
        )
    }

    /// Actions of `scope` that the caller may not do.
    async fn denied(&self, scope: Scope, caller: &str, source: &str) -> Result<Vec<String>, CloudError> {
        let mut parts = caller.split(':').skip(1);
        let (partition, id) = (parts.next().unwrap_or("aws"), parts.nth(2).unwrap_or_default());
        let account = Account { partition, region: &self.settings.region, id };
        let boundary = self.settings.boundary.as_deref();
        let subject = Subject { environment: &self.settings.environment, boundary };
        let simulation = iam_policy::simulation(scope, subject, account);
        let named = CALLS.iter().filter(|call| call.scope == scope && !call.action.contains('*'));
        let actions: Vec<String> = named.map(|call| call.action.to_owned()).collect();
        let context: Vec<ContextEntry> = simulation.context.iter().map(entry).collect();
        let mut denied = Vec::new();
        for some in actions.chunks(AT_ONCE) {
            let asked = self
                .clients
                .iam
                .simulate_principal_policy()
                .policy_source_arn(source)
                .set_action_names(Some(some.to_vec()))
                .set_resource_arns(simulation.resource.clone().map(|arn| vec![arn]))
                .set_context_entries(Some(context.clone()))
                .send()
                .await
                .map_err(failed("SimulatePrincipalPolicy"))?;
            let results = asked.evaluation_results().iter();
            let not =
                results.filter(|result| *result.eval_decision() != PolicyEvaluationDecisionType::Allowed);
            denied.extend(not.map(|result| result.eval_action_name().to_owned()));
        }
        Ok(denied)
    }

    /// Whose policies a simulation is of: the role behind a session, with the path that the session's ARN lacks.
    async fn source_of(&self, caller: &str) -> String {
        let Some((_, session)) = caller.split_once(":assumed-role/") else { return caller.to_owned() };
        let role = session.split('/').next().unwrap_or_default();
        let found = self.clients.iam.get_role().role_name(role).send().await;
        found.ok().and_then(|found| found.role).map_or_else(|| role_of(caller), |role| role.arn)
    }

    /// The roles that AWS' own services act with: an account gets each when it uses the service for the first time.
    async fn service_roles(&self) -> Check {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for role in SERVICE_ROLES {
            match self.clients.iam.get_role().role_name(role).send().await {
                Ok(_) => there.push(role),
                Err(error) if error.code() == Some("NoSuchEntity") => missing.push(role),
                Err(error) => {
                    return Check::new("service roles", None, failed("GetRole")(error).to_string());
                }
            }
        }
        let mut finding = there.join(", ");
        if !missing.is_empty() {
            let comma = if there.is_empty() { "" } else { "; " };
            finding = format!("{finding}{comma}made at the first deployment: {}", missing.join(", "));
        }
        Check::new("service roles", Some(true), finding)
    }

    async fn subnets(&self, wanted: &Wanted) -> Check {
        let name = "subnets";
        let Some(network) = &self.settings.network else {
            return Check::new(name, Some(true), "the environment makes a network of its own");
        };
        match self.look_at_network(network, &wanted.balancers).await {
            Ok(NetworkFindings { wrong, doubts }) if !wrong.is_empty() => {
                Check::new(name, Some(false), [wrong, doubts].concat().join("; "))
            }
            Ok(NetworkFindings { doubts, .. }) if !doubts.is_empty() => {
                Check::new(name, None, doubts.join("; "))
            }
            Ok(_) => {
                let all: BTreeSet<&String> =
                    network.subnets.iter().chain(&network.balancer_subnets).collect();
                Check::new(name, Some(true), format!("{} subnets of {}", all.len(), network.vpc))
            }
            Err(error) => Check::new(name, Some(false), error.to_string()),
        }
    }

    async fn quotas(&self, wanted: &Wanted) -> Vec<Check> {
        let counts = wanted.groups.values().map(|(replicas, launch)| machine::vcpus(launch, *replicas));
        let (demanded, spot) = counts
            .fold((0_u32, 0_u32), |sum, more| (sum.0.saturating_add(more.0), sum.1.saturating_add(more.1)));
        let balancers = packing::needed(&wanted.balancers, &wanted.sizes);
        let ingresses = count(wanted.balancers.iter().filter(|spec| spec.http.is_some()));
        let mut checks = vec![self.quota("quota of vCPUs", VCPUS, demanded).await];
        if spot > 0 {
            checks.push(self.quota("quota of Spot vCPUs", SPOT_VCPUS, spot).await);
        }
        checks.push(self.quota("quota of network load balancers", BALANCERS, count(balancers.iter())).await);
        if ingresses > 0 {
            checks.push(self.quota("quota of application load balancers", INGRESSES, ingresses).await);
        }
        checks
    }

    /// What is used by others in the account is not known here; a quota below what is wanted is too small for sure.
    async fn quota(&self, name: &str, (service, code): (&str, &str), needed: u32) -> Check {
        let asked =
            self.clients.quotas.get_service_quota().service_code(service).quota_code(code).send().await;
        let found: Result<_, CloudError> = asked.map_err(failed("GetServiceQuota"));
        match found.map(|found| found.quota.and_then(|quota| quota.value)) {
            Ok(Some(value)) => {
                let ok = f64::from(needed) <= value;
                let advice = if ok { "" } else { "; raise it in Service Quotas" };
                Check::new(name, Some(ok), format!("{needed} of {value} are needed{advice}"))
            }
            Ok(None) => Check::new(name, None, "Service Quotas does not know it"),
            Err(error) => Check::new(name, None, error.to_string()),
        }
    }
}

/// A check for each Service and Ingress that no load balancer of AWS can have, and all the others: what is refused needs no
/// further check.
fn refusals(environment: &str, balancers: &[BalancerSpec], sizes: &Sizes) -> (Vec<Check>, Vec<BalancerSpec>) {
    let (mut refused, mut others) = (Vec::new(), Vec::new());
    for spec in balancers {
        match fit::refuse(environment, spec).and_then(|()| refusal::refuse_targets(spec, sizes)) {
            Ok(()) => others.push(spec.clone()),
            Err(error) => {
                let kind = if spec.http.is_some() { "Ingress" } else { "Service" };
                refused.push(Check::new(kind, Some(false), error.to_string()));
            }
        }
    }
    (refused, others)
}

/// A condition key with its value, for a simulation.
fn entry((key, value): &(String, String)) -> ContextEntry {
    let kind =
        if key == "aws:CalledVia" { ContextKeyTypeEnum::StringList } else { ContextKeyTypeEnum::String };
    ContextEntry::builder().context_key_name(key).context_key_values(value).context_key_type(kind).build()
}

/// The role behind a session, if it has no path: simulations are of roles and users, not of sessions.
fn role_of(caller: &str) -> String {
    let Some((account, session)) = caller.split_once(":assumed-role/") else { return caller.to_owned() };
    let role = session.split('/').next().unwrap_or_default();
    format!("{}:role/{role}", account.replacen(":sts:", ":iam:", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_aws_cannot_have_fails_the_check() {
        use crate::manifest::api::{Protocol, ServiceType};
        use crate::plan::fleet::Listener;
        let listeners = |ports: std::ops::Range<u16>| {
            ports.map(|port| Listener::new(port, Protocol::Tcp, vec![])).collect::<Vec<_>>()
        };
        let spec = |name: &str, ports| {
            let name = Name { namespace: "shop".into(), name: name.into() };
            BalancerSpec::new(name, ServiceType::ClusterIP, listeners(ports))
        };
        let (found, others) = refusals("test", &[spec("small", 1..2), spec("large", 1..17)], &Sizes::new());
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].finding.contains("Service shop/large needs 64 rules"), "{found:?}");
        assert_eq!(others, [spec("small", 1..2)], "what is refused is not checked once more");
    }

    #[test]
    fn a_session_is_simulated_as_its_role() {
        let session = "arn:aws:sts::123456789012:assumed-role/deploy/run-1";
        assert_eq!(role_of(session), "arn:aws:iam::123456789012:role/deploy");
        let user = "arn:aws:iam::123456789012:user/ana";
        assert_eq!(role_of(user), user);
    }
}
