//! A network that exists, before anything is made in it: what keeps an environment from working there, and what may. AWS makes
//! load balancers, machines and zones in networks where nobody reaches them, and says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use aws_sdk_ec2::types::{
    AttributeBooleanValue, AttributeValue, DhcpConfiguration, DhcpOptions, Filter, RouteTable, Subnet, Vpc,
    VpcAttributeName, VpcEndpoint,
};
use aws_sdk_route53::types::VpcRegion;

use super::environment::Aws;
use super::error::{failed, is_denied};
use super::routes;
use super::stack::Stack;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::cloud::aws::plan::packing::Scheme;
use crate::cloud::aws::plan::stack_templates::{Network, ZONE};
use crate::plan::fleet::BalancerSpec;

/// Free addresses that a load balancer needs in each of its subnets, a rule of AWS.
const FEWEST_ADDRESSES: i32 = 8;

/// When Services that come need no new load balancer.
const UNLESS: &str = "unless there is room on the load balancers that are there";

/// Addresses of Amazon's name server that are the same in every network; it answers two behind the network's first one, too.
const RESOLVERS: [&str; 3] = ["AmazonProvidedDNS", "169.254.169.253", "fd00:ec2::253"];

/// Services that machines call: where they have no way out, an endpoint of each stands for it.
const CALLED: [&str; 2] = ["secretsmanager", "logs"];

/// Whether a load balancer is to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Prospect {
    /// None is.
    #[default]
    No,
    /// One is, unless what comes has room on those that are there.
    Perhaps,
    /// One is.
    Surely,
}

/// What is to be made in a network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct ToMake {
    /// A load balancer.
    balancers: Prospect,
    /// Whether something comes that everybody is to reach.
    is_public: bool,
}

impl ToMake {
    /// What these new Services and Ingresses need, where there are load balancers of these schemes that Services share. An Ingress has
    /// one of its own.
    fn of<'s>(balancers: impl Iterator<Item = &'s BalancerSpec>, there: &BTreeSet<Scheme>) -> Self {
        let mut to_make = Self::default();
        for spec in balancers.filter(|spec| spec.external_name.is_none()) {
            let scheme = Scheme::of(spec.kind);
            let shares = spec.http.is_none() && there.contains(&scheme);
            let own = if shares { Prospect::Perhaps } else { Prospect::Surely };
            to_make.balancers = to_make.balancers.max(own);
            to_make.is_public |= scheme == Scheme::Public;
        }
        to_make
    }
}

/// What was found out about a network, in sentences without an end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NetworkFindings {
    /// What keeps an environment from working there.
    pub(super) wrong: Vec<String>,
    /// What may keep it from that, or could not be found out.
    pub(super) doubts: Vec<String>,
}

impl NetworkFindings {
    fn wrong(finding: String) -> Self {
        Self { wrong: vec![finding], doubts: vec![] }
    }

    fn doubt(finding: String) -> Self {
        Self { wrong: vec![], doubts: vec![finding] }
    }

    fn and(mut self, other: Self) -> Self {
        self.wrong.extend(other.wrong);
        self.doubts.extend(other.doubts);
        self
    }
}

impl Aws {
    /// Refuses the network of the environment file, before anything is made, where those of these Services and Ingresses that have no
    /// load balancer yet cannot work in it, or new groups, if there are any. What may keep them from working is a warning. Where
    /// nothing is new, the network is not looked at.
    ///
    /// # Errors
    /// All that is wrong with the network, or a call that failed.
    pub async fn refuse_network(
        &self,
        balancers: &[BalancerSpec],
        has_new_groups: bool,
    ) -> Result<(), CloudError> {
        let Some(network) = &self.settings.network else { return Ok(()) };
        let to_make = to_make(&self.settings.environment, &self.stacks().await?, balancers);
        if to_make.is_none() && !has_new_groups {
            return Ok(());
        }
        let found = self.look_at(network, to_make.unwrap_or_default()).await?;
        if !found.wrong.is_empty() {
            let (vpc, wrong) = (&network.vpc, found.wrong.join("; "));
            let message = format!("{vpc} cannot hold what the deployment makes: {wrong}");
            return Err(CloudError::Refused { message });
        }
        for doubt in found.doubts {
            self.events.warn(doubt);
        }
        Ok(())
    }

    /// Looks at a network that exists, for those of these Services and Ingresses that have no load balancer yet.
    pub(super) async fn look_at_network(
        &self,
        network: &Network,
        balancers: &[BalancerSpec],
    ) -> Result<NetworkFindings, CloudError> {
        let to_make = to_make(&self.settings.environment, &self.stacks().await?, balancers);
        self.look_at(network, to_make.unwrap_or_default()).await
    }

    async fn look_at(&self, network: &Network, to_make: ToMake) -> Result<NetworkFindings, CloudError> {
        let ids: BTreeSet<&String> = network.subnets.iter().chain(&network.balancer_subnets).collect();
        let ids: Vec<String> = ids.into_iter().cloned().collect();
        let asked = self.clients.ec2.describe_subnets().set_subnet_ids(Some(ids)).send().await;
        let subnets = asked.map_err(failed("DescribeSubnets"))?.subnets.unwrap_or_default();
        let tables = self.route_tables(&network.vpc).await?;
        let mut found = of_subnets(network, &subnets, to_make.balancers).and(self.of_names(network).await?);
        if to_make.is_public {
            found = found.and(of_public(network, &tables));
        }
        let ways_out = self.of_ways_out(network, &tables).await;
        Ok(found.and(unless_denied("ec2:DescribeVpcEndpoints", ways_out)?))
    }

    /// What names of Services need.
    async fn of_names(&self, network: &Network) -> Result<NetworkFindings, CloudError> {
        let vpc = &network.vpc;
        let mut found = NetworkFindings::default();
        for (attribute, option) in [
            (VpcAttributeName::EnableDnsSupport, "--enable-dns-support"),
            (VpcAttributeName::EnableDnsHostnames, "--enable-dns-hostnames"),
        ] {
            let asked = self.clients.ec2.describe_vpc_attribute().vpc_id(vpc).attribute(attribute.clone());
            let told = asked.send().await.map_err(failed("DescribeVpcAttribute"))?;
            let value = told.enable_dns_support().or(told.enable_dns_hostnames());
            if value.and_then(AttributeBooleanValue::value) == Some(false) {
                let attribute = attribute.as_str();
                found.wrong.push(format!(
                    "{vpc} has {attribute} off, and names of Services need it: `aws ec2 modify-vpc-attribute --vpc-id {vpc} {option}`"
                ));
            }
        }
        let resolver = unless_denied("ec2:DescribeDhcpOptions", self.of_dhcp(vpc).await);
        let resolver = unless_denied("ec2:DescribeVpcs", resolver)?;
        let zones = unless_denied("route53:ListHostedZonesByVPC", self.of_zones(vpc).await)?;
        Ok(found.and(resolver).and(zones))
    }

    /// Which name server machines ask.
    async fn of_dhcp(&self, vpc: &str) -> Result<NetworkFindings, CloudError> {
        let asked = self.clients.ec2.describe_vpcs().vpc_ids(vpc).send().await;
        let vpcs = asked.map_err(failed("DescribeVpcs"))?.vpcs.unwrap_or_default();
        let vpc = vpcs.first().ok_or_else(|| CloudError::not_found("VPC", &vpc))?;
        let options = match vpc.dhcp_options_id() {
            // The network has no options at all.
            None | Some("default") => vec![],
            Some(id) => {
                let asked = self.clients.ec2.describe_dhcp_options().dhcp_options_ids(id).send().await;
                asked.map_err(failed("DescribeDhcpOptions"))?.dhcp_options.unwrap_or_default()
            }
        };
        Ok(of_resolver(vpc, options.first()))
    }

    /// Whether the network is free for the environment's private zone: it takes one of a name.
    async fn of_zones(&self, vpc: &str) -> Result<NetworkFindings, CloudError> {
        let stack = self.stack(&name::environment_stack(&self.settings.environment)).await?;
        if stack.as_ref().is_some_and(hides_its_zone) {
            return Ok(NetworkFindings::default());
        }
        let mut zones: Vec<(String, String)> = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let asked = self
                .clients
                .zones
                .list_hosted_zones_by_vpc()
                .vpc_id(vpc)
                .vpc_region(VpcRegion::from(self.settings.region.as_str()))
                .set_next_token(token)
                .send()
                .await;
            let page = asked.map_err(failed("ListHostedZonesByVPC"))?;
            let one = page.hosted_zone_summaries().iter();
            zones.extend(one.map(|zone| (zone.hosted_zone_id().to_owned(), zone.name().to_owned())));
            token = page.next_token().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        let own = stack.as_ref().and_then(|stack| stack.outputs.get("Zone"));
        Ok(of_other_zones(vpc, &zones, own.map(String::as_str)))
    }

    /// How machines reach the services that they call.
    async fn of_ways_out(
        &self,
        network: &Network,
        tables: &[RouteTable],
    ) -> Result<NetworkFindings, CloudError> {
        let shut = network.subnets.iter().filter(|subnet| !routes::has_way_out(tables, subnet));
        let shut: Vec<&str> = shut.map(String::as_str).collect();
        if shut.is_empty() {
            return Ok(NetworkFindings::default());
        }
        let filter = Filter::builder().name("vpc-id").values(&network.vpc).build();
        let asked = self.clients.ec2.describe_vpc_endpoints().filters(filter).into_paginator().items().send();
        let endpoints: Vec<VpcEndpoint> =
            asked.try_collect().await.map_err(failed("DescribeVpcEndpoints"))?;
        Ok(of_endpoints((&network.vpc, &self.settings.region), &shut, &endpoints))
    }
}

/// What is to be made for those of these Services and Ingresses that have no load balancer yet; `None` where each has one.
fn to_make(environment: &str, stacks: &[Stack], balancers: &[BalancerSpec]) -> Option<ToMake> {
    let new = balancers.iter().filter(|spec| !has_its_balancer(environment, stacks, spec));
    let mut new = new.peekable();
    new.peek()?;
    Some(ToMake::of(new, &schemes_there(environment, stacks)))
}

/// Whether the load balancer of a Service or an Ingress is there, or is being made. What somebody is changing, or whose record is
/// damaged, has its load balancer all the same: stacks are asked, and not a fleet, which has neither.
fn has_its_balancer(environment: &str, stacks: &[Stack], spec: &BalancerSpec) -> bool {
    let name = name::service_stack(environment, &spec.name);
    let found = stacks.iter().find(|stack| stack.name == name && stack.stays());
    found.is_some_and(|stack| match stack.record() {
        // What is seen from elsewhere is on another one.
        Ok(there) => there.is_some_and(|there| there.kind == spec.kind),
        // An Ingress, whose stack names none, has one of its own.
        Err(_) => stack.placement().is_none_or(|slot| slot.scheme == Scheme::of(spec.kind)),
    })
}

/// Schemes of the load balancers that there are for Services to share. One that an interrupted run has made has no Service yet.
fn schemes_there(environment: &str, stacks: &[Stack]) -> BTreeSet<Scheme> {
    let there = stacks.iter().filter(|stack| stack.stays());
    there.filter_map(|stack| name::balancer_of(environment, &stack.name)).map(|slot| slot.scheme).collect()
}

/// The findings, or a doubt where the credentials have no such right: that of a policy which an earlier version of the program
/// printed, perhaps. What the call would have told keeps nothing from being made.
fn unless_denied(
    right: &str,
    found: Result<NetworkFindings, CloudError>,
) -> Result<NetworkFindings, CloudError> {
    match found {
        Err(CloudError::Api { operation, code, .. })
            if is_denied(Some(code.as_str())) && right.rsplit(':').next() == Some(operation.as_str()) =>
        {
            Ok(NetworkFindings::doubt(format!(
                "the credentials lack {right}, without which part of the network is not looked at: print the policy again with \
                 `i2kit iam-policy`, and give it to who deploys"
            )))
        }
        other => other,
    }
}

/// Whether nobody knows which zone is that of the environment's stack: while it is being made CloudFormation tells what is wrong,
/// and one that never came to be, or is half deleted, shows no outputs.
fn hides_its_zone(stack: &Stack) -> bool {
    let is_broken = matches!(stack.status.as_str(), "CREATE_FAILED" | "ROLLBACK_FAILED" | "DELETE_FAILED");
    stack.is_moving() || is_broken
}

/// Zones of the subnets, and their free addresses, of which a load balancer takes some when it is made.
fn of_subnets(network: &Network, all: &[Subnet], balancers: Prospect) -> NetworkFindings {
    let mut found = NetworkFindings::default();
    for subnet in all {
        if subnet.vpc_id() != Some(&network.vpc) {
            found.wrong.push(format!("{} is not in {}", id_of(subnet), network.vpc));
        }
    }
    let (for_machines, for_balancers) =
        (by_zone(all, &network.subnets), by_zone(all, network.for_balancers()));
    if for_machines.len() < 2 {
        found.wrong.push(
            "the subnets of machines lie in one zone, and a group needs two to outlive the loss of one: name one of another zone in \
             `provider.subnets`"
                .to_owned(),
        );
    }
    if for_balancers.len() < 2 && !network.balancer_subnets.is_empty() {
        found.wrong.push(
            "the subnets of load balancers lie in one zone, and they need two: name one of another zone in \
             `provider.balancerSubnets`"
                .to_owned(),
        );
    }
    for (zone, several) in for_balancers.iter().filter(|(_, several)| several.len() > 1) {
        let ids: Vec<&str> = several.iter().map(|subnet| id_of(subnet)).collect();
        found.wrong.push(format!(
            "{} lie in one zone, {zone}, and a load balancer takes one subnet of each: name one of them in \
             `provider.balancerSubnets`, beside one of another zone",
            ids.join(" and ")
        ));
    }
    for subnet in for_balancers.values().flatten() {
        let (id, free) = (id_of(subnet), subnet.available_ip_address_count().unwrap_or_default());
        if free >= FEWEST_ADDRESSES {
            continue;
        }
        let few = format!(
            "{id} has {free} free addresses, and a load balancer needs {FEWEST_ADDRESSES} in each of its subnets: free some, or name \
             other subnets in `provider.balancerSubnets`"
        );
        match balancers {
            Prospect::No => {}
            Prospect::Perhaps => found.doubts.push(format!("{few}; {UNLESS}")),
            Prospect::Surely => found.wrong.push(few),
        }
    }
    found
}

/// The subnets that are named, by their zones.
fn by_zone<'s>(all: &'s [Subnet], named: &[String]) -> BTreeMap<&'s str, Vec<&'s Subnet>> {
    let mut zones: BTreeMap<&str, Vec<&Subnet>> = BTreeMap::new();
    for subnet in all.iter().filter(|subnet| named.iter().any(|id| id == id_of(subnet))) {
        zones.entry(subnet.availability_zone().unwrap_or_default()).or_default().push(subnet);
    }
    zones
}

fn id_of(subnet: &Subnet) -> &str {
    subnet.subnet_id().unwrap_or_default()
}

/// Subnets of a load balancer that everybody is to reach, from which surely nothing leads to an internet gateway, and those of
/// which that is not known.
fn of_public(network: &Network, tables: &[RouteTable]) -> NetworkFindings {
    let mut found = NetworkFindings::default();
    for id in network.for_balancers() {
        match routes::leads_out(tables, id) {
            Some(true) => {}
            Some(false) => found.wrong.push(format!(
                "{id} has no route to an internet gateway, and nobody reaches a public load balancer there: name other subnets in \
                 `provider.balancerSubnets`"
            )),
            None => found.doubts.push(format!(
                "whether the routes of {id} lead to an internet gateway, which a public load balancer needs, is not known here"
            )),
        }
    }
    found
}

/// Whether machines ask Amazon's name server, which alone knows private zones. Another one may pass questions on to it.
fn of_resolver(vpc: &Vpc, options: Option<&DhcpOptions>) -> NetworkFindings {
    let id = vpc.vpc_id().unwrap_or_default();
    let servers = options.into_iter().flat_map(DhcpOptions::dhcp_configurations);
    let servers = servers.filter(|one| one.key() == Some("domain-name-servers"));
    let servers: Vec<&str> =
        servers.flat_map(DhcpConfiguration::values).filter_map(AttributeValue::value).collect();
    let advice = "make DHCP options with `domain-name-servers=AmazonProvidedDNS`, and associate them with it";
    if servers.is_empty() {
        return NetworkFindings::wrong(format!(
            "the DHCP options of {id} name no name server, and names of Services do not resolve: {advice}"
        ));
    }
    let own = second_address(vpc).map(|address| address.to_string());
    let is_amazons = |server: &str| RESOLVERS.contains(&server) || own.as_deref() == Some(server);
    if is_amazons(servers[0]) {
        return NetworkFindings::default();
    }
    // The others are asked where it does not answer, and not where it knows no such name.
    NetworkFindings::doubt(format!(
        "the DHCP options of {id} name {} first, and not Amazon's name server: names of Services resolve only if it passes questions \
         below `{ZONE}` on to that one; otherwise {advice}",
        servers[0]
    ))
}

/// The address of Amazon's name server in a network: two behind its first one.
fn second_address(vpc: &Vpc) -> Option<Ipv4Addr> {
    let (first, _) = vpc.cidr_block()?.split_once('/')?;
    let first: Ipv4Addr = first.parse().ok()?;
    u32::from(first).checked_add(2).map(Ipv4Addr::from)
}

/// Private zones of the environment's name that are not its own, among those of the network: each with its id and its name.
fn of_other_zones(vpc: &str, zones: &[(String, String)], own: Option<&str>) -> NetworkFindings {
    let bare = |id: &str| id.trim_start_matches("/hostedzone/").to_owned();
    let own = own.map(bare);
    let same = zones.iter().filter(|(_, name)| name.trim_end_matches('.') == ZONE);
    let other = same.map(|(id, _)| bare(id)).find(|id| Some(id) != own.as_ref());
    other.map_or_else(NetworkFindings::default, |id| {
        NetworkFindings::wrong(format!(
            "{vpc} has the private zone {ZONE} already, as {id}, of another environment or made by somebody else, and a network takes \
             one of a name: give each environment a network of its own, or delete that zone"
        ))
    })
}

/// What machines in subnets without a way out need: private endpoints of the services that they call.
fn of_endpoints((vpc, region): (&str, &str), shut: &[&str], endpoints: &[VpcEndpoint]) -> NetworkFindings {
    let serves = |endpoint: &VpcEndpoint, service: &str| {
        let is_there = endpoint.state().is_some_and(|state| state.as_str().eq_ignore_ascii_case("available"));
        let of = endpoint.service_name().unwrap_or_default();
        is_there
            && endpoint.private_dns_enabled() == Some(true)
            && of.ends_with(&format!(".{region}.{service}"))
    };
    let missing = CALLED.into_iter().filter(|service| !endpoints.iter().any(|one| serves(one, service)));
    let missing: Vec<String> = missing.map(|service| format!("com.amazonaws.{region}.{service}")).collect();
    if missing.is_empty() {
        return NetworkFindings::default();
    }
    NetworkFindings::doubt(format!(
        "machines in {} have no route to a gateway, and {vpc} has no endpoint with private DNS of {}: without that of \
         secretsmanager pods get no Secrets, without that of logs no lines are sent, and machines of Jobs need that of autoscaling, too; give the subnets a route to a NAT gateway, or make interface endpoints of \
         com.amazonaws.{region}.secretsmanager and com.amazonaws.{region}.logs",
        shut.join(", "),
        missing.join(", ")
    ))
}

#[cfg(test)]
mod tests;
