//! The stacks of an environment as CloudFormation templates, rendered from `templates/aws`: network, load balancers,
//! Services, names.
//!
//! Every value goes through JSON, which YAML contains, so that no name in a manifest can change a template's structure.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::name;
use super::packing::{BalancerSlot, Load, MOST_LISTENERS, MOST_RULES, Scheme};
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

/// The tag with the kind of a stack: `environment`, `balancer` or `service`.
pub const TAG_PART: &str = "i2kit:part";

/// Addresses of a network of our own: beside those of default VPCs and of container engines.
const NETWORK: &str = "172.20.0.0/16";

/// Its subnets, each in a zone of its own.
const SUBNETS: [&str; 2] = ["172.20.0.0/18", "172.20.64.0/18"];

/// The largest text that CloudFormation takes as a parameter.
pub(super) const LARGEST_PARAMETER: usize = 4096;

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
    pub parameters: Vec<(&'static str, String)>,
}

/// Why a Service cannot be put on AWS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A target group has one port.
    #[error(
        "port {port} of Service {service} leads to different ports of its pods; on AWS it must be the same port in all"
    )]
    Ports {
        /// The Service.
        service: Name,
        /// Its port.
        port: u16,
    },
    /// TLS needs a certificate.
    #[error(
        "port {port} of Service {service} ends TLS and names no certificate; name one in its annotation `service.beta.kubernetes.io/aws-load-balancer-ssl-cert`"
    )]
    Certificate {
        /// The Service.
        service: Name,
        /// Its port.
        port: u16,
    },
    /// TLS of an Ingress needs a certificate.
    #[error(
        "Ingress {ingress} has `tls` and no certificate: name its hosts, for which the certificate manager is searched, or name \
         a certificate in its annotation `alb.ingress.kubernetes.io/certificate-arn`"
    )]
    Tls {
        /// The Ingress' balancer.
        ingress: Name,
    },
    /// A network load balancer that ends TLS cannot keep a client with a machine.
    #[error(
        "port {port} of Service {service} ends TLS, and AWS keeps no client with a machine there; remove `sessionAffinity`, or let the pods end TLS"
    )]
    Sticky {
        /// The Service.
        service: Name,
        /// Its port.
        port: u16,
    },
    /// A path that no pattern can be made of.
    #[error(
        "Ingress {ingress} has the path `{path}`, which AWS cannot match: at most 126 letters, digits and _-.$/~\"'@:+&"
    )]
    Path {
        /// The Ingress.
        ingress: Name,
        /// The path.
        path: String,
    },
    /// A host without a certificate.
    #[error(
        "no certificate of the region covers `{host}` of Ingress {ingress}; request one in ACM, or name one in its annotation `alb.ingress.kubernetes.io/certificate-arn`"
    )]
    Host {
        /// The Ingress.
        ingress: Name,
        /// The host.
        host: String,
    },
    /// A load balancer has one listener a port.
    #[error(
        "port {port} of Service {service} is one of TCP and one of UDP, and a port of a load balancer of AWS has one protocol; give \
         one of them another port, or put it into a Service of its own"
    )]
    Protocols {
        /// The Service.
        service: Name,
        /// Its port.
        port: u16,
    },
    /// A security group has so many rules.
    #[error(
        "Service {service} needs {needed} rules of a security group, one for each port and range of clients, and AWS allows {most} \
         by default (quota L-0EA8095F); split it, or name its clients in fewer ranges with `loadBalancerSourceRanges`"
    )]
    Rules {
        /// The Service.
        service: Name,
        /// Its rules.
        needed: usize,
        /// The most that there may be.
        most: usize,
    },
    /// It does not fit into a parameter of a stack, or on a load balancer.
    #[error("Service {service} has too many ports for AWS; split it")]
    TooLarge {
        /// The Service.
        service: Name,
    },
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

/// Refuses a Service that no load balancer can have, also one that has nothing else.
pub fn refuse(spec: &BalancerSpec) -> Result<(), FrameError> {
    let service = &spec.name;
    let mut ports = BTreeSet::new();
    if let Some(twice) = spec.listeners.iter().find(|listener| !ports.insert(listener.port)) {
        return Err(FrameError::Protocols { service: service.clone(), port: twice.port });
    }
    let load = Load::of(spec);
    if load.rules() > MOST_RULES {
        return Err(FrameError::Rules { service: service.clone(), needed: load.rules(), most: MOST_RULES });
    }
    if load.listeners > MOST_LISTENERS {
        return Err(FrameError::TooLarge { service: service.clone() });
    }
    Ok(())
}

/// The stack of a Service.
pub fn service(environment: &str, placed: Placed<'_>, frame: &Frame) -> Result<StackPlan, FrameError> {
    refuse(placed.spec)?;
    service_stack(environment, placed, placed.balancer, (frame, listeners_of(placed)?))
}

/// The stack of a Service on its way from `old` to `new`: all that clients use stays, and beside it are the target groups that
/// it will have, each behind a listener, since load balancers check no others. A target group belongs to one load balancer
/// and has one port and protocol for as long as it exists. With `named`, the Service's name leads to the new load balancer.
/// `None` when no target group is new.
pub fn bridge(
    environment: &str,
    (old, new): (Placed<'_>, Placed<'_>),
    named: bool,
    frame: &Frame,
) -> Result<Option<StackPlan>, FrameError> {
    let (mut listeners, wanted) = (listeners_of(old)?, listeners_of(new)?);
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
    if added == 0 {
        return Ok(None);
    }
    let balancer = if named { new.balancer } else { old.balancer };
    service_stack(environment, old, balancer, (frame, listeners)).map(Some)
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

fn listeners_of(placed: Placed<'_>) -> Result<Vec<Value>, FrameError> {
    placed
        .spec
        .listeners
        .iter()
        .filter_map(|listener| listener_values(placed, listener).transpose())
        .collect()
}

fn service_stack(
    environment: &str,
    placed: Placed<'_>,
    named: &Balancer,
    (frame, listeners): (&Frame, Vec<Value>),
) -> Result<StackPlan, FrameError> {
    let Placed { spec, placement, .. } = placed;
    let service = &spec.name;
    let values = json!({
        "description": format!("i2kit: Service {}/{} of environment {environment}", service.namespace, service.name),
        "vpc": frame.vpc,
        "healthPort": HEALTH_PORT.to_string(),
        "drainSeconds": spec.drain_seconds.0.clamp(LEAST_DRAIN_SECONDS, MOST_DRAIN_SECONDS).to_string(),
        "dnsName": named.dns_name,
        "dnsZone": named.dns_zone,
        "zone": frame.zone,
        "recordName": format!("{}.{}.svc.{}", service.name, service.namespace, ZONE),
        "tags": tags(environment),
        "listeners": listeners,
    });
    let text = serde_json::to_string(spec).expect("a balancer spec has only string keys");
    if text.len() > LARGEST_PARAMETER {
        return Err(FrameError::TooLarge { service: service.clone() });
    }
    Ok(StackPlan {
        name: name::service_stack(environment, service),
        part: "service",
        template: render(SERVICE, &values),
        parameters: vec![("Spec", text), ("Placement", placement.to_string())],
    })
}

/// A network load balancer goes on sending new connections to a target for up to two minutes after it was taken away, whatever
/// the attribute says; the machine serves until this time is over.
const LEAST_DRAIN_SECONDS: u64 = 150;

/// The longest delay that AWS takes.
pub(super) const MOST_DRAIN_SECONDS: u64 = 3600;

/// The stack of a Service that is an alias: a record.
pub fn alias(environment: &str, spec: &BalancerSpec, external_name: &str, frame: &Frame) -> StackPlan {
    let service = &spec.name;
    let values = json!({
        "description": format!("i2kit: Service {}/{} of environment {environment}", service.namespace, service.name),
        "zone": frame.zone,
        "recordName": format!("{}.{}.svc.{}", service.name, service.namespace, ZONE),
        "externalName": external_name,
    });
    let text = serde_json::to_string(spec).expect("a balancer spec has only string keys");
    StackPlan {
        name: name::service_stack(environment, service),
        part: "service",
        template: render(ALIAS, &values),
        parameters: vec![("Spec", text)],
    }
}

/// The private zone, so that names are those of Kubernetes. A VPC has one zone of a name, thus one environment.
const ZONE: &str = "cluster.local";

/// The values of one listener; `None` when it leads nowhere, since a listener needs a target group with a port.
fn listener_values(placed: Placed<'_>, listener: &Listener) -> Result<Option<Value>, FrameError> {
    let Placed { spec, placement, balancer } = placed;
    let Some(first) = listener.targets.first() else { return Ok(None) };
    if listener.targets.iter().any(|target| target.port != first.port) {
        return Err(FrameError::Ports { service: spec.name.clone(), port: listener.port });
    }
    let protocol = match listener.protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    };
    let name = listener_name(listener, placement);
    // A name follows from what it is for, never from a place in a list: what moves to another place must not be made anew.
    let source = |cidr: &String| json!({"name": format!("{name}From{}", name::hash(cidr)), "cidr": cidr, "ipv6": cidr.contains(':')});
    let tls = listener.tls.as_ref();
    let certificate = tls.map(|tls| tls_values(spec, (listener, &name), tls)).transpose()?;
    Ok(Some(json!({
        "name": name,
        "target": target_name(listener, placement),
        "clients": balancer.clients,
        "balancer": balancer.arn,
        "targetProtocol": if tls.is_some_and(|tls| tls.to_pods) { "TLS" } else { protocol },
        "listenerProtocol": if tls.is_some() { "TLS" } else { protocol },
        "ipProtocol": protocol.to_lowercase(),
        "port": first.port,
        "listenerPort": listener.port,
        // A network load balancer always shows UDP the client's address.
        "hidesClients": listener.protocol == Protocol::Tcp && !spec.keep_client_address,
        // Said either way: an attribute that a template leaves out keeps its value.
        "sticky": spec.sticky_clients.to_string(),
        "tls": certificate,
        "sources": placement.scheme.clients(spec).iter().map(source).collect::<Vec<_>>(),
    })))
}

/// The versions and ciphers of TLS when nobody names a policy: 1.2 and 1.3, with forward secrecy.
pub(super) const TLS_POLICY: &str = "ELBSecurityPolicy-TLS13-1-2-2021-06";

/// A listener has one certificate, and a list of those by host in resources of their own.
fn tls_values(
    spec: &BalancerSpec,
    (listener, name): (&Listener, &str),
    tls: &Tls,
) -> Result<Value, FrameError> {
    if spec.sticky_clients {
        return Err(FrameError::Sticky { service: spec.name.clone(), port: listener.port });
    }
    let Some(first) = tls.certificates.first() else {
        return Err(FrameError::Certificate { service: spec.name.clone(), port: listener.port });
    };
    let policy = tls.policy.as_deref().unwrap_or(TLS_POLICY);
    Ok(json!({"certificate": first, "more": more_certificates(name, &tls.certificates), "policy": policy}))
}

/// The list of a listener's certificates, each named by what it is. Where there are several the first is among them, too, so
/// that another order changes nothing but which one is for clients that name no host.
pub(super) fn more_certificates(listener: &str, certificates: &[String]) -> Vec<Value> {
    if certificates.len() < 2 {
        return vec![];
    }
    let distinct: std::collections::BTreeSet<&String> = certificates.iter().collect();
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

pub(super) fn render(template: &str, values: &Value) -> String {
    templates()
        .render_template(template, values)
        .expect("the template names only values that are given; golden tests render it")
}

#[cfg(test)]
mod tests;
