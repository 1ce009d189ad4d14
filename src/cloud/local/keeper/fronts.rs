//! What the HTTP proxy should serve: a front for each Ingress and each port of a Service that ends TLS, with the healthy
//! machines behind it and its certificates.

use std::net::Ipv4Addr;

use super::Keeper;
use super::certificates::{Need, Source};
use super::inside::{self, Proxied};
use super::state::State;
use crate::cloud::engine::environment::Environment;
use crate::cloud::local::acme::Want;
use crate::cloud::local::mover::{Backend, ListenerId, Report};
use crate::cloud::local::proxy::{Front, Pool, ServerAddress, TlsPort, Wanted};
use crate::manifest::api::{Name, Protocol};
use crate::plan::fleet::{HttpAcme, HttpBackend, HttpSpec, Listener, TargetGroup};

/// What the proxy should serve now; `None` while that is not known. Reads and signs certificates that are new.
pub(super) fn wanted(keeper: &Keeper) -> Option<Wanted> {
    let report = keeper.mover.report();
    let found = {
        let state = keeper.state();
        if keeper.proxy.is_settling() && lacks_addresses(&state, &report) {
            return None;
        }
        let services = services(&state, &report);
        ingresses(&state, &report).into_iter().chain(services)
    };
    let (needs, fronts): (Vec<Need>, Vec<Vec<(String, Front)>>) = found.unzip();
    keeper.acme.want(needs.iter().flat_map(|need| &need.acme).cloned());
    let certificates = keeper.certificates.find(&keeper.home, &keeper.acme, &needs);
    let challenges = keeper.acme.challenges();
    let mut complete = Wanted::default();
    for (fronts, certificates) in fronts.into_iter().zip(certificates) {
        for (id, mut front) in fronts {
            front.certificates.clone_from(&certificates);
            if front.tls_port.is_none() {
                front.challenges.clone_from(&challenges);
            }
            complete.0.insert(id, front);
        }
    }
    Some(complete)
}

/// Which certificates an Ingress or a Service needs, and its fronts, without them.
type Found = (Need, Vec<(String, Front)>);

/// Whether there is a healthy machine behind the proxy whose address is not known, since this process has just adopted it.
fn lacks_addresses(state: &State, report: &Report) -> bool {
    state.environments.iter().any(|(name, environment)| {
        inside::proxy_targets(environment).any(|target| {
            let group = environment.groups.get(&target.group);
            let serving =
                group.map_or(0, |group| group.instances.values().filter(|one| one.serves()).count());
            serving > servers(state, report, (name, environment), std::slice::from_ref(target)).len()
        })
    })
}

/// The Ingresses of all environments.
fn ingresses(state: &State, report: &Report) -> Vec<Found> {
    let mut found = Vec::new();
    for (environment_name, environment) in &state.environments {
        let pool = |backend: &HttpBackend| Pool {
            service: backend.service.clone(),
            http2: backend.http2,
            servers: servers(state, report, (environment_name, environment), &backend.targets),
        };
        for (name, balancer) in &environment.balancers {
            let (Some(http), Ok(host)) = (&balancer.spec.http, balancer.host.parse::<Ipv4Addr>()) else {
                continue;
            };
            let front = Front {
                environment: environment_name.clone(),
                host,
                source_ranges: balancer.spec.source_ranges.clone(),
                certificates: Vec::new(),
                tls: tls_hosts(http),
                redirect: !http.plain,
                rules: http.rules.clone(),
                default: http.default,
                pools: http.backends.iter().map(pool).collect(),
                challenges: Vec::new(),
                tls_port: None,
            };
            let fronts = vec![(Front::id(environment_name, name), front)];
            let environment = environment_name.clone();
            let (name, sources) = (name.clone(), sources(http, host));
            found.push((Need { environment, name, sources, acme: wants(http) }, fronts));
        }
    }
    found
}

/// The Services of all environments that end TLS, with a front a port.
fn services(state: &State, report: &Report) -> Vec<Found> {
    let mut found = Vec::new();
    for (environment_name, environment) in &state.environments {
        for (name, balancer) in inside::balanced(environment) {
            let Ok(host) = balancer.host.parse::<Ipv4Addr>() else { continue };
            let hosts = hosts(name, host);
            let spec = &balancer.spec;
            let front = |listener: &Listener| {
                let to_pods = listener.tls.as_ref()?.to_pods;
                let port = TlsPort {
                    port: listener.port,
                    to_pods,
                    affinity_seconds: spec.sticky_clients.then_some(spec.sticky_seconds),
                };
                let servers = servers(state, report, (environment_name, environment), &listener.targets);
                let front = Front {
                    environment: environment_name.clone(),
                    host,
                    source_ranges: spec.source_ranges.clone(),
                    certificates: Vec::new(),
                    tls: hosts.first().cloned().into_iter().map(Some).collect(),
                    redirect: false,
                    rules: Vec::new(),
                    default: None,
                    pools: vec![Pool { service: name.name.clone(), http2: false, servers }],
                    challenges: Vec::new(),
                    tls_port: Some(port),
                };
                // The port may be the front door's still, which had it without TLS.
                let is_free = !report.bound.contains_key(&ListenerId::of(environment_name, name, listener));
                is_free.then(|| (Front::port_id(environment_name, name, listener.port), front))
            };
            if !spec.listeners.iter().any(|listener| listener.tls.is_some()) {
                continue;
            }
            let fronts = spec.listeners.iter().filter_map(front).collect();
            let (environment, name) = (environment_name.clone(), name.clone());
            let sources = vec![(None, hosts.clone())];
            found.push((Need { environment, name, sources, acme: Vec::new() }, fronts));
        }
    }
    found
}

/// What the certificate of a Service is for: the names by which the environment knows it, its address, and this computer's
/// own name, for tunnels.
fn hosts(Name { namespace, name }: &Name, host: Ipv4Addr) -> Vec<String> {
    vec![
        format!("{name}.{namespace}.svc.cluster.local"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
        name.clone(),
        "localhost".to_owned(),
        host.to_string(),
    ]
}

/// The machines that serve, with the addresses by which the proxy reaches them.
fn servers(
    state: &State,
    report: &Report,
    (name, environment): (&str, &Environment),
    targets: &[TargetGroup],
) -> Vec<ServerAddress> {
    let mut servers = if state.addresses.are_in(environment) {
        proxied_servers((name, environment), report, targets)
    } else {
        let backend =
            |target: &TargetGroup| state.backends(environment, &target.group, (target.port, Protocol::Tcp));
        let server = |backend: Backend| ServerAddress { machine: backend.machine, address: backend.address };
        targets.iter().flat_map(backend).map(server).collect()
    };
    servers.sort();
    servers
}

/// The machines that serve a backend and that the front door reaches in the environment's network.
fn proxied_servers(
    (name, environment): (&str, &Environment),
    report: &Report,
    targets: &[TargetGroup],
) -> Vec<ServerAddress> {
    let machines = targets.iter().flat_map(|target| inside::proxied(name, environment, target));
    let server = |found: Proxied| {
        let port = *report.bound.get(&found.id)?;
        Some(ServerAddress { machine: found.machine, address: (found.host, port).into() })
    };
    machines.filter(|found| found.serves).filter_map(server).collect()
}

/// The hosts of an Ingress that have TLS.
fn tls_hosts(http: &HttpSpec) -> Vec<Option<String>> {
    let is_for_all = http.all_hosts || http.secrets.iter().any(|secret| secret.hosts.is_empty());
    let for_all = is_for_all.then_some(None);
    http.hosts.iter().cloned().map(Some).chain(for_all).collect()
}

/// The hosts of an Ingress that a CA gives a certificate.
fn wants(http: &HttpSpec) -> Vec<Want> {
    let Some(HttpAcme { issuer, hosts }) = &http.acme else { return Vec::new() };
    hosts.iter().map(|host| Want { host: host.clone(), issuer: issuer.clone() }).collect()
}

/// The certificates of an Ingress: one a Secret, and one a host that no Secret is for. Those of the authority are for the
/// front's address as well, for clients that go by that.
fn sources(http: &HttpSpec, host: Ipv4Addr) -> Vec<Source> {
    let mut sources: Vec<Source> =
        http.secrets.iter().map(|secret| (Some(secret.clone()), secret.hosts.clone())).collect();
    let covered = |host: &&String| !http.secrets.iter().any(|secret| secret.hosts.contains(host));
    sources
        .extend(http.hosts.iter().filter(covered).map(|name| (None, vec![name.clone(), host.to_string()])));
    if sources.is_empty() && http.all_hosts {
        sources.push((None, vec![host.to_string()]));
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fleet::HttpSecret;

    #[test]
    fn a_certificate_of_a_service_is_for_every_name_that_clients_have_for_it() {
        let name = Name { namespace: "shop".into(), name: "db".into() };
        let hosts = hosts(&name, Ipv4Addr::new(127, 77, 1, 2));
        let wanted = ["db.shop.svc.cluster.local", "db.shop.svc", "db.shop", "db", "localhost", "127.77.1.2"];
        assert_eq!(hosts, wanted);
    }

    #[test]
    fn tls_without_a_host_is_for_all_and_has_a_certificate_of_the_address() {
        let host = Ipv4Addr::new(127, 77, 1, 2);
        let mut http = HttpSpec { all_hosts: true, ..HttpSpec::default() };
        assert!(http.has_tls());
        assert_eq!(tls_hosts(&http), [None]);
        assert_eq!(sources(&http, host), [(None, vec!["127.77.1.2".to_owned()])]);
        let secret = HttpSecret { secret: "own".into(), version: "0".into(), hosts: vec![] };
        http.secrets.push(secret.clone());
        assert_eq!(tls_hosts(&http), [None]);
        assert_eq!(sources(&http, host), [(Some(secret), vec![])]);
    }
}
