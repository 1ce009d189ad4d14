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
use super::error::failed;
use super::routes;
use super::stack::Stack;
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::cloud::aws::plan::packing::Scheme;
use crate::cloud::aws::plan::stack_templates::{Network, ZONE};
use crate::plan::fleet::BalancerSpec;

/// Free addresses that a load balancer needs in each of its subnets, a rule of AWS.
const FEWEST_ADDRESSES: i32 = 8;

/// Addresses of Amazon's name server that are the same in every network; it answers two behind the network's first one, too.
const RESOLVERS: [&str; 2] = ["AmazonProvidedDNS", "169.254.169.253"];

/// Services that machines call: where they have no way out, an endpoint of each stands for it.
const CALLED: [&str; 2] = ["secretsmanager", "logs"];

/// What is to be made in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ToMake {
    /// A load balancer.
    pub(super) has_balancers: bool,
    /// One that everybody is to reach.
    pub(super) is_public: bool,
}

impl ToMake {
    /// What these Services and Ingresses need.
    fn of(balancers: &[BalancerSpec]) -> Self {
        let is_real = |spec: &&BalancerSpec| spec.external_name.is_none();
        let is_public = |spec: &BalancerSpec| Scheme::of(spec.kind) == Scheme::Public;
        Self {
            has_balancers: balancers.iter().any(|spec| is_real(&spec)),
            is_public: balancers.iter().filter(is_real).any(is_public),
        }
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
    /// Refuses the network of the environment file where these new Services and Ingresses, or machines, cannot work in it, before
    /// anything is made. What may keep them from working is a warning.
    ///
    /// # Errors
    /// All that is wrong with the network, or a call that failed.
    pub async fn refuse_network(&self, balancers: &[BalancerSpec]) -> Result<(), CloudError> {
        let Some(network) = &self.settings.network else { return Ok(()) };
        let found = self.look_at_network(network, ToMake::of(balancers)).await?;
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

    /// Looks at a network that exists, for what is to be made there.
    pub(super) async fn look_at_network(
        &self,
        network: &Network,
        to_make: ToMake,
    ) -> Result<NetworkFindings, CloudError> {
        let ids: BTreeSet<&String> = network.subnets.iter().chain(&network.balancer_subnets).collect();
        let ids: Vec<String> = ids.into_iter().cloned().collect();
        let asked = self.clients.ec2.describe_subnets().set_subnet_ids(Some(ids)).send().await;
        let subnets = asked.map_err(failed("DescribeSubnets"))?.subnets.unwrap_or_default();
        let tables = self.route_tables(&network.vpc).await?;
        let mut found =
            of_subnets(network, &subnets, to_make.has_balancers).and(self.of_names(network).await?);
        if to_make.is_public {
            found = found.and(of_public(network, &tables));
        }
        Ok(found.and(self.of_ways_out(network, &tables).await?))
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
        let asked = self.clients.ec2.describe_vpcs().vpc_ids(vpc).send().await;
        let vpcs = asked.map_err(failed("DescribeVpcs"))?.vpcs.unwrap_or_default();
        let described = vpcs.first().ok_or_else(|| CloudError::not_found("VPC", vpc))?;
        let options = match described.dhcp_options_id() {
            // The network has no options at all.
            None | Some("default") => vec![],
            Some(id) => {
                let asked = self.clients.ec2.describe_dhcp_options().dhcp_options_ids(id).send().await;
                asked.map_err(failed("DescribeDhcpOptions"))?.dhcp_options.unwrap_or_default()
            }
        };
        Ok(found.and(of_resolver(described, options.first())).and(self.of_zones(vpc).await?))
    }

    /// Whether the network is free for the environment's private zone: it takes one of a name.
    async fn of_zones(&self, vpc: &str) -> Result<NetworkFindings, CloudError> {
        let stack = self.stack(&name::environment_stack(&self.settings.environment)).await?;
        // Nobody knows which zone is its own while it is being made: CloudFormation tells.
        if stack.as_ref().is_some_and(Stack::is_moving) {
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

/// Zones and free addresses of the subnets. Where load balancers are there already, they have theirs.
fn of_subnets(network: &Network, all: &[Subnet], has_balancers: bool) -> NetworkFindings {
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
        if has_balancers && free < FEWEST_ADDRESSES {
            found.wrong.push(format!(
                "{id} has {free} free addresses, and a load balancer needs {FEWEST_ADDRESSES} in each of its subnets: free some, or name \
                 other subnets in `provider.balancerSubnets`"
            ));
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
    let is_amazons = |server: &&str| RESOLVERS.contains(server) || own.as_deref() == Some(*server);
    if servers.iter().any(is_amazons) {
        return NetworkFindings::default();
    }
    NetworkFindings::doubt(format!(
        "the DHCP options of {id} name {}, and not Amazon's name server: names of Services resolve only if it passes questions below \
         `{ZONE}` on to that one; otherwise {advice}",
        servers.join(", ")
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
         secretsmanager pods get no Secrets, without that of logs no lines are sent; give the subnets a route to a NAT gateway, or make interface endpoints of \
         com.amazonaws.{region}.secretsmanager and com.amazonaws.{region}.logs",
        shut.join(", "),
        missing.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::State;

    use super::*;

    fn network(machines: &[&str], balancers: &[&str]) -> Network {
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
        Network { vpc: "vpc-1".into(), subnets: ids(machines), balancer_subnets: ids(balancers) }
    }

    fn subnet(id: &str, zone: &str, free: i32) -> Subnet {
        let subnet = Subnet::builder().subnet_id(id).vpc_id("vpc-1").availability_zone(zone);
        subnet.available_ip_address_count(free).build()
    }

    fn has(findings: &[String], words: &[&str]) -> bool {
        findings.iter().any(|finding| words.iter().all(|word| finding.contains(word)))
    }

    #[test]
    fn load_balancers_take_one_subnet_of_each_zone() {
        let all =
            [subnet("a", "z1", 99), subnet("b", "z2", 99), subnet("c", "z2", 99), subnet("d", "z1", 99)];
        let wrong = |machines: &[&str], balancers: &[&str]| {
            of_subnets(&network(machines, balancers), &all, true).wrong
        };
        assert_eq!(wrong(&["a", "b"], &[]), Vec::<String>::new());
        let same = wrong(&["a", "b", "c"], &[]);
        assert!(same.len() == 1 && has(&same, &["b and c", "z2", "provider.balancerSubnets"]), "{same:?}");
        // Machines alone may have several in a zone.
        assert_eq!(wrong(&["a", "b", "c"], &["a", "b"]), Vec::<String>::new());
        assert!(has(&wrong(&["a", "b"], &["b", "c"]), &["subnets of load balancers lie in one zone"]));
        assert!(has(&wrong(&["b", "c"], &["a", "b"]), &["subnets of machines lie in one zone"]));
        let elsewhere = Subnet::builder().subnet_id("a").vpc_id("vpc-2").availability_zone("z1").build();
        let found = of_subnets(&network(&["a", "b"], &[]), &[elsewhere, subnet("b", "z2", 99)], false);
        assert!(has(&found.wrong, &["a is not in vpc-1"]), "{found:?}");
    }

    #[test]
    fn a_new_load_balancer_needs_free_addresses_and_one_that_is_there_none() {
        let all = [subnet("a", "z1", 7), subnet("b", "z2", 8), subnet("m", "z1", 3), subnet("n", "z2", 99)];
        let wrong = |machines: &[&str], balancers: &[&str], is_new| {
            of_subnets(&network(machines, balancers), &all, is_new).wrong
        };
        let few = wrong(&["a", "b"], &[], true);
        assert!(few.len() == 1 && has(&few, &["a has 7 free addresses", "needs 8"]), "{few:?}");
        assert_eq!(wrong(&["a", "b"], &[], false), Vec::<String>::new());
        // Subnets of machines alone are not a load balancer's.
        assert!(!has(&wrong(&["m", "n"], &["a", "b"], true), &["m has"]));
    }

    #[test]
    fn what_is_made_says_what_the_network_must_have() {
        use crate::manifest::api::{Name, Protocol, ServiceType};
        use crate::plan::fleet::Listener;
        let spec = |kind| {
            let name = Name { namespace: "default".into(), name: "web".into() };
            BalancerSpec::new(name, kind, vec![Listener::new(80, Protocol::Tcp, vec![])])
        };
        let made = |specs: &[BalancerSpec]| {
            let to_make = ToMake::of(specs);
            (to_make.has_balancers, to_make.is_public)
        };
        assert_eq!(made(&[]), (false, false));
        assert_eq!(made(&[spec(ServiceType::ClusterIP)]), (true, false));
        assert_eq!(made(&[spec(ServiceType::ClusterIP), spec(ServiceType::LoadBalancer)]), (true, true));
        let alias =
            BalancerSpec { external_name: Some("db.example".into()), ..spec(ServiceType::LoadBalancer) };
        assert_eq!(made(&[alias]), (false, false));
    }

    fn resolver(servers: Option<&[&str]>) -> NetworkFindings {
        let vpc = Vpc::builder().vpc_id("vpc-1").cidr_block("10.1.0.0/16").build();
        let options = servers.map(|servers| {
            let values = servers.iter().map(|server| AttributeValue::builder().value(*server).build());
            let configuration = DhcpConfiguration::builder()
                .key("domain-name-servers")
                .set_values(Some(values.collect()))
                .build();
            DhcpOptions::builder().dhcp_options_id("dopt-1").dhcp_configurations(configuration).build()
        });
        of_resolver(&vpc, options.as_ref())
    }

    #[test]
    fn private_zones_need_amazons_name_server() {
        for good in ["AmazonProvidedDNS", "169.254.169.253", "10.1.0.2"] {
            assert_eq!(resolver(Some(&["10.9.9.9", good])), NetworkFindings::default(), "{good}");
        }
        let other = resolver(Some(&["10.9.9.9"]));
        assert!(other.wrong.is_empty(), "{other:?}");
        assert!(has(&other.doubts, &["10.9.9.9", "cluster.local", "domain-name-servers=AmazonProvidedDNS"]));
        let empty: &[&str] = &[];
        for none in [None, Some(empty)] {
            assert!(has(&resolver(none).wrong, &["name no name server", "AmazonProvidedDNS"]));
        }
    }

    #[test]
    fn a_network_has_one_private_zone_of_a_name() {
        let zones = |all: &[(&str, &str)], own| {
            let all: Vec<(String, String)> =
                all.iter().map(|(id, name)| ((*id).to_owned(), (*name).to_owned())).collect();
            of_other_zones("vpc-1", &all, own).wrong
        };
        let here = [("Z1", "example.com."), ("Z2", "cluster.local.")];
        let found = zones(&here, None);
        assert!(has(&found, &["vpc-1", "cluster.local", "Z2", "network of its own"]), "{found:?}");
        assert_eq!(zones(&here, Some("Z2")), Vec::<String>::new());
        assert!(has(&zones(&here, Some("Z1")), &["Z2"]));
        assert_eq!(zones(&[("/hostedzone/Z2", "cluster.local")], Some("Z2")), Vec::<String>::new());
        assert_eq!(zones(&[("Z3", "db.cluster.local.")], None), Vec::<String>::new());
    }

    #[test]
    fn machines_without_a_way_out_need_endpoints() {
        let endpoint = |service: &str, is_private: bool| {
            let endpoint = VpcEndpoint::builder().service_name(format!("com.amazonaws.eu-west-1.{service}"));
            endpoint.state(State::from("available")).private_dns_enabled(is_private).build()
        };
        let doubts =
            |endpoints: &[VpcEndpoint]| of_endpoints(("vpc-1", "eu-west-1"), &["a", "b"], endpoints).doubts;
        let none = doubts(&[]);
        assert!(has(&none, &["machines in a, b", "NAT gateway", "no Secrets"]), "{none:?}");
        assert!(has(
            &none,
            &["private DNS of com.amazonaws.eu-west-1.secretsmanager, com.amazonaws.eu-west-1.logs:"]
        ));
        let one = doubts(&[endpoint("logs", true)]);
        assert!(has(&one, &["private DNS of com.amazonaws.eu-west-1.secretsmanager:"]), "{one:?}");
        // Without private DNS machines ask the public address.
        assert!(!doubts(&[endpoint("logs", true), endpoint("secretsmanager", false)]).is_empty());
        assert_eq!(doubts(&[endpoint("logs", true), endpoint("secretsmanager", true)]), Vec::<String>::new());
    }
}
