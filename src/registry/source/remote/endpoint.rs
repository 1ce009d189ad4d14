//! Which hosts to ask for a repository, in which order, and how to speak to each.

use std::net::{IpAddr, Ipv6Addr};

use crate::oci::Reference;
use crate::registry::settings::Settings;

/// A registry or a mirror, and the name that the repository has there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Host and port.
    pub(super) host: String,
    /// Repository below the host.
    pub(super) repository: String,
    /// Whether to speak http without TLS.
    pub(super) plain_http: bool,
    /// Whether it is a registry on this machine without settings. Such a one leads nowhere else, so
    /// the system's certificates, which take longer to read than it takes to answer, are not needed.
    pub(super) is_local: bool,
}

/// Mirrors first, the registry itself last.
pub(super) fn endpoints(settings: &Settings, reference: &Reference) -> Vec<Endpoint> {
    let own = settings.registries.get(&reference.registry);
    let mirrors = own.map(|own| own.mirrors.as_slice()).unwrap_or_default();
    let mut endpoints: Vec<Endpoint> =
        mirrors.iter().map(|mirror| mirror_of(settings, mirror, reference)).collect();
    endpoints.push(Endpoint {
        host: reference.registry.clone(),
        repository: reference.repository.clone(),
        plain_http: is_plain(settings, &reference.registry),
        is_local: is_local(settings, &reference.registry),
    });
    endpoints
}

/// A mirror may be written with a scheme, which then decides, and with a path that goes before the repository.
fn mirror_of(settings: &Settings, mirror: &str, reference: &Reference) -> Endpoint {
    let (scheme, rest) = match mirror.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, mirror),
    };
    let (host, prefix) =
        rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), ""));
    let repository = match prefix {
        "" => reference.repository.clone(),
        prefix => format!("{prefix}/{}", reference.repository),
    };
    let plain_http = scheme.map_or_else(|| is_plain(settings, host), |scheme| scheme == "http");
    let is_local = plain_http && is_local(settings, host);
    Endpoint { host: host.to_owned(), repository, plain_http, is_local }
}

fn is_plain(settings: &Settings, host: &str) -> bool {
    let set = settings.registries.get(host).and_then(|registry| registry.plain_http);
    set.unwrap_or_else(|| is_loopback(host))
}

fn is_local(settings: &Settings, host: &str) -> bool {
    let set = settings.registries.get(host).and_then(|registry| registry.plain_http);
    set.is_none() && is_loopback(host)
}

/// Whether `host`, with or without a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    if let Some((inside, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback());
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::settings::RegistrySettings;

    #[test]
    fn loopback_is_recognised() {
        for host in ["localhost", "localhost:5000", "127.0.0.1", "127.3.2.1:80", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example", "128.0.0.1:5000", "[::2]:5000", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn mirrors_come_first_in_their_order() {
        let mut settings = Settings::default();
        let mirrors = ["127.0.0.1:5000", "https://127.0.0.1:5001", "http://cache.example/hub/"];
        let hub = RegistrySettings { mirrors: mirrors.map(str::to_owned).to_vec(), plain_http: None };
        settings.registries.insert("docker.io".into(), hub);
        let found = endpoints(&settings, &"nginx".parse().unwrap());
        let shown: Vec<String> = found
            .iter()
            .map(|e| format!("{}{}/{}", if e.plain_http { "http:" } else { "" }, e.host, e.repository))
            .collect();
        assert_eq!(
            shown,
            [
                "http:127.0.0.1:5000/library/nginx",
                "127.0.0.1:5001/library/nginx",
                "http:cache.example/hub/library/nginx",
                "docker.io/library/nginx"
            ]
        );
    }

    #[test]
    fn plain_http_is_for_loopback_and_by_setting() {
        let mut settings = Settings::default();
        for (host, plain_http) in
            [("a.example", Some(true)), ("127.0.0.1:1", Some(false)), ("b.example", None)]
        {
            let registry = RegistrySettings { plain_http, ..RegistrySettings::default() };
            settings.registries.insert(host.into(), registry);
        }
        let hosts = ["a.example", "127.0.0.1:1", "b.example", "127.0.0.1:2"];
        assert_eq!(hosts.map(|host| is_plain(&settings, host)), [true, false, false, true]);
        assert_eq!(hosts.map(|host| is_local(&settings, host)), [false, false, false, true]);
    }
}
