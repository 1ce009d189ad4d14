//! What the HTTP proxy should serve: a front for each Ingress, with the healthy machines behind it and its certificates.

use std::net::Ipv4Addr;

use super::Keeper;
use super::certificates::{Need, Source};
use super::inside::{self, Proxied};
use super::state::State;
use crate::cloud::engine::environment::Environment;
use crate::cloud::local::acme::Want;
use crate::cloud::local::mover::{Backend, Report};
use crate::cloud::local::proxy::{Front, Pool, ServerAddress, Wanted};
use crate::manifest::api::Protocol;
use crate::plan::fleet::{HttpAcme, HttpBackend, HttpSpec, TargetGroup};

/// What the proxy should serve now; `None` while that is not known. Reads and signs certificates that are new.
pub(super) fn wanted(keeper: &Keeper) -> Option<Wanted> {
    let report = keeper.mover.report();
    let found = {
        let state = keeper.state();
        if keeper.proxy.is_settling() && lacks_addresses(&state, &report) {
            return None;
        }
        ingresses(&state, &report)
    };
    let (needs, fronts): (Vec<Need>, Vec<Front>) = found.into_iter().unzip();
    keeper.acme.want(needs.iter().flat_map(|need| &need.acme).cloned());
    let certificates = keeper.certificates.find(&keeper.home, &keeper.acme, &needs);
    let challenges = keeper.acme.challenges();
    let complete = needs.iter().zip(fronts).zip(certificates).map(|((need, mut front), certificates)| {
        front.certificates = certificates;
        front.challenges.clone_from(&challenges);
        (Front::id(&need.environment, &need.name), front)
    });
    Some(Wanted(complete.collect()))
}

/// Whether there is a healthy machine behind an Ingress whose address is not known, since this process has just adopted it.
fn lacks_addresses(state: &State, report: &Report) -> bool {
    state.environments.iter().any(|(name, environment)| {
        let ingresses = environment.balancers.values().filter_map(|balancer| balancer.spec.http.as_ref());
        ingresses.flat_map(|http| &http.backends).flat_map(|backend| &backend.targets).any(|target| {
            let group = environment.groups.get(&target.group);
            let serving =
                group.map_or(0, |group| group.instances.values().filter(|one| one.serves()).count());
            serving > servers(state, report, (name, environment), std::slice::from_ref(target)).len()
        })
    })
}

/// The Ingresses of all environments, without their certificates.
fn ingresses(state: &State, report: &Report) -> Vec<(Need, Front)> {
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
            };
            let environment = environment_name.clone();
            let (name, sources) = (name.clone(), sources(http, host));
            found.push((Need { environment, name, sources, acme: wants(http) }, front));
        }
    }
    found
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
    fn tls_without_a_host_is_for_all_and_has_a_certificate_of_the_address() {
        let host = Ipv4Addr::new(127, 77, 1, 2);
        let mut http = HttpSpec {
            certificates: vec![],
            hosts: vec![],
            all_hosts: true,
            secrets: vec![],
            acme: None,
            plain: false,
            backends: vec![],
            rules: vec![],
            default: None,
        };
        assert!(http.has_tls());
        assert_eq!(tls_hosts(&http), [None]);
        assert_eq!(sources(&http, host), [(None, vec!["127.77.1.2".to_owned()])]);
        let secret = HttpSecret { secret: "own".into(), version: "0".into(), hosts: vec![] };
        http.secrets.push(secret.clone());
        assert_eq!(tls_hosts(&http), [None]);
        assert_eq!(sources(&http, host), [(Some(secret), vec![])]);
    }
}
