//! The stacks of an environment as CloudFormation templates, rendered from `templates/aws`: network, load balancers,
//! Services, names.
//!
//! Every value goes through JSON, which YAML contains, so that no name in a manifest can change a template's structure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::packing::{BalancerSlot, Scheme, listed};
use super::{name, record};
use crate::manifest::api::{Name, Protocol, Tls};
use crate::plan::fleet::{BalancerSpec, Listener};
use crate::plan::pod::HEALTH_PORT;
use crate::plan::template::templates;

const ENVIRONMENT: &str = include_str!("../../../../templates/aws/environment.yml");
const BALANCER: &str = include_str!("../../../../templates/aws/balancer.yml");
const ALIAS: &str = include_str!("../../../../templates/aws/alias.yml");
const SERVICE: &str = include_str!("../../../../templates/aws/service.yml");

/// The tag that names the environment.
pub const TAG_ENVIRONMENT: &str = "i2kit:environment";

/// The tag that names the group that a launch template, an Auto Scaling group or an instance belongs to: `NAMESPACE/NAME`.
pub const TAG_GROUP: &str = "i2kit:group";

/// The tag with the kind of a stack: `environment`, `balancer` or `service`.
pub const TAG_PART: &str = "i2kit:part";

/// Addresses of a network of our own: beside those of default VPCs and of container engines.
const NETWORK: &str = "172.20.0.0/16";

/// Its subnets, each in a zone of its own.
pub const SUBNETS: [&str; 2] = ["172.20.0.0/18", "172.20.64.0/18"];

/// Where an environment lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentPlace {
    /// The environment.
    pub environment: String,
    /// A network that exists, with its subnets; one of our own otherwise.
    pub network: Option<Network>,
    /// Of a network of our own the zones, one for each of its subnets.
    pub zones: Vec<String>,
    /// The ARN of the managed policy that bounds the machines' role, if any.
    pub boundary: Option<String>,
}

/// A network that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The VPC.
    pub vpc: String,
    /// Its subnets, in zones of their own.
    pub subnets: Vec<String>,
    /// The subnets of load balancers, where these are others.
    pub balancer_subnets: Vec<String>,
}

impl Network {
    /// The subnets that load balancers lie in.
    pub fn for_balancers(&self) -> &[String] {
        if self.balancer_subnets.is_empty() { &self.subnets } else { &self.balancer_subnets }
    }
}

/// What the environment's stack made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The VPC.
    pub vpc: String,
    /// The subnets of machines.
    pub subnets: Vec<String>,
    /// The subnets of load balancers.
    pub balancer_subnets: Vec<String>,
    /// Security group of all machines.
    pub machines: String,
    /// The private zone.
    pub zone: String,
    /// The instance profile of pods without a ServiceAccount of their own.
    pub profile: String,
}

/// What a balancer's stack made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balancer {
    /// Its ARN.
    pub arn: String,
    /// Its DNS name.
    pub dns_name: String,
    /// The zone of that name.
    pub dns_zone: String,
    /// Security group of the clients.
    pub clients: String,
}

/// The largest template that CloudFormation takes with a call, in bytes; it reads larger ones from S3 alone. So few bytes hold neither
/// the 500 resources nor the 200 outputs that a template may have.
pub const MOST_TEMPLATE_BYTES: usize = 51_200;

/// A stack to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackPlan {
    /// Its name.
    pub name: String,
    /// What it is, for its tag.
    pub part: &'static str,
    /// The template.
    pub template: String,
    /// Values of its parameters.
    pub parameters: Vec<(String, String)>,
}

impl StackPlan {
    /// Whether CloudFormation takes the template with a call.
    pub fn fits(&self) -> bool {
        self.template.len() <= MOST_TEMPLATE_BYTES
    }
}

/// The stack of what the environment has once.
pub fn environment(place: &EnvironmentPlace) -> StackPlan {
    let environment = &place.environment;
    let subnet = |(index, (cidr, zone)): (usize, (&&str, &String))| json!({"name": format!("Subnet{index}"), "zone": zone, "cidr": cidr});
    let subnets = SUBNETS.iter().zip(&place.zones).enumerate().map(subnet).collect::<Vec<_>>();
    let own = json!({"cidr": NETWORK, "zones": place.zones.join(","), "subnets": subnets});
    let refs = || -> Vec<Value> {
        (0..SUBNETS.len()).map(|index| json!({"Ref": format!("Subnet{index}")})).collect()
    };
    let (network, vpc, subnets) = match &place.network {
        Some(network) => (Value::Bool(false), json!(network.vpc), json!(network.subnets.join(","))),
        None => (own, json!({"Ref": "Network"}), json!({"Fn::Join": [",", refs()]})),
    };
    let values = json!({
        "description": format!("i2kit: environment {environment}"),
        "tags": tags(environment),
        "network": network,
        "vpc": vpc,
        "subnets": subnets,
        "machines": format!("machines of the i2kit environment {environment}"),
        "logGroup": name::log_group(environment),
        "records": name::records(environment),
        "zone": ZONE,
        "path": name::role_path(environment),
        "boundary": place.boundary,
        "roles": [{"name": "Machine", "description": format!("machines of the i2kit environment {environment}")}],
    });
    StackPlan {
        name: name::environment_stack(environment),
        part: "environment",
        template: render(ENVIRONMENT, &values),
        parameters: vec![],
    }
}

/// The pattern of an ARN in the stack's own partition, region and account, for `Fn::Sub`.
pub(super) fn arn(service: &str, resource: &str) -> String {
    format!("arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:{resource}")
}

/// The stack of a network load balancer.
pub fn balancer(environment: &str, placement: BalancerSlot, frame: &Frame) -> StackPlan {
    let values = json!({
        "description": format!("i2kit: load balancer {placement} of environment {environment}"),
        "clients": format!("clients of load balancer {placement} of the i2kit environment {environment}"),
        "vpc": frame.vpc,
        "subnets": frame.balancer_subnets,
        "machines": frame.machines,
        "scheme": if placement.scheme == Scheme::Public { "internet-facing" } else { "internal" },
        "tags": tags(environment),
    });
    StackPlan {
        name: name::balancer_stack(environment, placement),
        part: "balancer",
        template: render(BALANCER, &values),
        parameters: vec![],
    }
}

/// A Service on a load balancer.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// What it asks for.
    pub spec: &'a BalancerSpec,
    /// The load balancer among those of its environment.
    pub placement: BalancerSlot,
    /// What that one's stack made.
    pub balancer: &'a Balancer,
}

/// The stack of a Service that is not refused.
pub fn service(environment: &str, placed: Placed<'_>, frame: &Frame) -> StackPlan {
    service_stack(environment, placed, (placed.balancer, &[placed]), (frame, listeners_of(placed)))
}

/// The stack of a Service on its way from `old` to `new`: all that clients use stays, and beside it are the target groups that
/// it will have, each behind a listener, since load balancers check no others. A target group belongs to one load balancer
/// and has one port and protocol for as long as it exists. With `named`, the Service's name leads to the new load balancer.
/// `None` when no target group is new. It may be more than fits.
pub fn bridge(
    environment: &str,
    (old, new): (Placed<'_>, Placed<'_>),
    named: bool,
    frame: &Frame,
) -> Option<StackPlan> {
    let (mut listeners, wanted) = (listeners_of(old), listeners_of(new));
    let has = |listeners: &[Value], key: &str, value: &Value| listeners.iter().any(|one| one[key] == *value);
    let first = WARM_PORTS.0 + warm_offset(&old.spec.name);
    let mut added = 0_u16;
    for mut listener in wanted {
        if has(&listeners, "target", &listener["target"]) {
            continue;
        }
        if has(&listeners, "name", &listener["name"]) {
            // Nobody connects here: the load balancer's security group lets no client in.
            listener["name"] = json!(format!("Warm{}", listener["target"].as_str().unwrap_or_default()));
            listener["listenerPort"] = json!(first + added);
            listener["sources"] = json!([]);
        }
        added += 1;
        listeners.push(listener);
    }
    let balancer = if named { new.balancer } else { old.balancer };
    (added > 0).then(|| service_stack(environment, old, (balancer, &[old, new]), (frame, listeners)))
}

/// Ports of listeners that no client uses, the first and how many a Service begins within.
const WARM_PORTS: (u16, u16) = (50_000, 15_000);

/// Where in [`WARM_PORTS`] a Service begins: two that move at once rarely meet, and where they do the stack of the later one
/// stays as it is.
fn warm_offset(service: &Name) -> u16 {
    let digits = name::hash(&service.to_string());
    let number = u32::from_str_radix(digits.get(..6).unwrap_or_default(), 16).unwrap_or_default();
    u16::try_from(number % u32::from(WARM_PORTS.1)).unwrap_or_default()
}

fn listeners_of(placed: Placed<'_>) -> Vec<Value> {
    placed.spec.listeners.iter().filter_map(|listener| listener_values(placed, listener)).collect()
}

/// The stack of a Service with these listeners, which are on load balancers that `all` names.
fn service_stack(
    environment: &str,
    placed: Placed<'_>,
    (named, all): (&Balancer, &[Placed<'_>]),
    (frame, listeners): (&Frame, Vec<Value>),
) -> StackPlan {
    let Placed { spec, placement, .. } = placed;
    let service = &spec.name;
    let description =
        format!("i2kit: Service {}/{} of environment {environment}", service.namespace, service.name);
    // What each listener would repeat is a parameter.
    let arn = |on: &Placed<'_>| (balancer_parameter(on.placement), on.balancer.arn.clone());
    let balancers: Vec<(String, String)> =
        all.iter().map(arn).collect::<BTreeMap<_, _>>().into_iter().collect();
    let mut parameters = record::write(spec);
    let values = json!({
        "description": description,
        "record": names_of(&parameters),
        "balancers": names_of(&balancers),
        "vpc": frame.vpc,
        "healthPort": HEALTH_PORT.to_string(),
        "drainSeconds": spec.drain_seconds.0.clamp(LEAST_DRAIN_SECONDS, MOST_DRAIN_SECONDS).to_string(),
        "dnsName": named.dns_name,
        "dnsZone": named.dns_zone,
        "zone": frame.zone,
        "recordName": format!("{}.{}.svc.{}", service.name, service.namespace, ZONE),
        "tags": owner_tags(environment),
        "listeners": listeners,
    });
    parameters.push(("Placement".to_owned(), placement.to_string()));
    parameters.push(("Clients".to_owned(), description));
    parameters.extend(balancers);
    StackPlan {
        name: name::service_stack(environment, service),
        part: "service",
        template: render(SERVICE, &values),
        parameters,
    }
}

/// The parameter with the ARN of a load balancer.
fn balancer_parameter(placement: BalancerSlot) -> String {
    format!("Balancer{}", placement.in_template())
}

/// Names of parameters, for a template to declare them.
pub(super) fn names_of(parameters: &[(String, String)]) -> Value {
    parameters.iter().map(|(name, _)| json!({"name": name})).collect()
}

/// A network load balancer goes on sending new connections to a target for up to two minutes after it was taken away, whatever
/// the attribute says; the machine serves until this time is over.
const LEAST_DRAIN_SECONDS: u64 = 150;

/// The longest delay that AWS takes.
pub(super) const MOST_DRAIN_SECONDS: u64 = 3600;

/// The stack of a Service that is an alias: a record.
pub fn alias(environment: &str, spec: &BalancerSpec, external_name: &str, frame: &Frame) -> StackPlan {
    let service = &spec.name;
    let parameters = record::write(spec);
    let values = json!({
        "description": format!("i2kit: Service {}/{} of environment {environment}", service.namespace, service.name),
        "record": names_of(&parameters),
        "zone": frame.zone,
        "recordName": format!("{}.{}.svc.{}", service.name, service.namespace, ZONE),
        "externalName": external_name,
    });
    StackPlan {
        name: name::service_stack(environment, service),
        part: "service",
        template: render(ALIAS, &values),
        parameters,
    }
}

/// The private zone, so that names are those of Kubernetes. A VPC has one zone of a name, thus one environment.
pub const ZONE: &str = "cluster.local";

/// The values of one listener; `None` when it leads nowhere, since a listener needs a target group with a port.
fn listener_values(placed: Placed<'_>, listener: &Listener) -> Option<Value> {
    let Placed { spec, placement, balancer } = placed;
    let first = listener.targets.first()?;
    let protocol = match listener.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let name = listener_name(listener, placement);
    // A name follows from what it is for, never from a place in a list: what moves to another place must not be made anew.
    let source = |cidr: &String| json!({"name": format!("{name}From{}", name::hash(cidr)), "cidr": cidr, "ipv6": cidr.contains(':')});
    let tls = listener.tls.as_ref();
    Some(json!({
        "name": name,
        "target": target_name(listener, placement),
        "clients": balancer.clients,
        "balancer": balancer_parameter(placement),
        "targetProtocol": if tls.is_some_and(|tls| tls.to_pods) { "TLS" } else { protocol },
        "listenerProtocol": if tls.is_some() { "TLS" } else { protocol },
        "ipProtocol": protocol.to_lowercase(),
        "port": first.port,
        "listenerPort": listener.port,
        // A network load balancer always shows UDP the client's address.
        "hidesClients": listener.protocol == Protocol::Tcp && !spec.keep_client_address,
        // Said either way: an attribute that a template leaves out keeps its value.
        "sticky": spec.sticky_clients.to_string(),
        "sticks": spec.sticky_clients,
        "tls": tls.map(|tls| tls_values(&name, tls)),
        "sources": placement.scheme.clients(spec).iter().map(source).collect::<Vec<_>>(),
    }))
}

/// The versions and ciphers of TLS when nobody names a policy: 1.2 and 1.3, with forward secrecy.
pub(super) const TLS_POLICY: &str = "ELBSecurityPolicy-TLS13-1-2-2021-06";

/// A listener has one certificate, and a list of those by host in resources of their own.
fn tls_values(listener: &str, tls: &Tls) -> Value {
    let policy = tls.policy.as_deref().unwrap_or(TLS_POLICY);
    let more = more_certificates(listener, &tls.certificates);
    json!({"certificate": tls.certificates.first(), "more": more, "policy": policy})
}

/// The list of a listener's certificates, each named by what it is. Where there are several the first is among them, too, so
/// that another order changes nothing but which one is for clients that name no host.
pub(super) fn more_certificates(listener: &str, certificates: &[String]) -> Vec<Value> {
    let distinct: std::collections::BTreeSet<&String> = listed(certificates).iter().collect();
    let one = |certificate: &String| json!({"name": format!("{listener}Certificate{}", name::hash(certificate)), "certificate": certificate});
    distinct.into_iter().map(one).collect()
}

/// A load balancer's listener of a port; the load balancer is part of the name, so that both exist while a Service moves.
fn listener_name(listener: &Listener, placement: BalancerSlot) -> String {
    format!("Listener{}{}", placement.in_template(), port_name(listener))
}

fn port_name(listener: &Listener) -> String {
    let protocol = if listener.protocol == Protocol::Udp { "Udp" } else { "" };
    format!("Port{}{protocol}", listener.port)
}

/// The output of a Service's stack that holds the ARN of the listener's target group. What a target group keeps for as long as
/// it exists is part of the name: its load balancer, port and protocol.
pub fn target_name(listener: &Listener, placement: BalancerSlot) -> String {
    let to = listener.targets.first().map_or(listener.port, |target| target.port);
    let tls = if listener.tls.as_ref().is_some_and(|tls| tls.to_pods) { "Tls" } else { "" };
    format!("Targets{}{}To{to}{tls}", placement.in_template(), port_name(listener))
}

pub(super) fn tags(environment: &str) -> Value {
    json!([{"Key": TAG_ENVIRONMENT, "Value": environment}, {"Key": "Name", "Value": format!("i2kit-{environment}")}])
}

/// The tag of what there are many of, and what has a name of its own: without that of the environment for those who look.
pub(super) fn owner_tags(environment: &str) -> Value {
    json!([{"Key": TAG_ENVIRONMENT, "Value": environment}])
}

pub(super) fn render(template: &str, values: &Value) -> String {
    templates()
        .render_template(template, values)
        .expect("the template names only values that are given; golden tests render it")
}

#[cfg(test)]
mod tests;
