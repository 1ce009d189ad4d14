//! Probes and hooks of a container in the guest's words.

use std::fmt::Write as _;

use i2kit_spec::{Hook, Probe, ProbeAction, Probes};

use crate::manifest::api::{self, Container};

/// The container's probes.
pub(super) fn probes(wanted: &Container) -> Probes {
    let probe = |probe: &Option<api::Probe>| {
        probe.as_ref().map(|probe| Probe {
            action: action(&probe.action),
            initial_delay_seconds: probe.initial_delay_seconds,
            period_seconds: probe.period_seconds,
            timeout_seconds: probe.timeout_seconds,
            success_threshold: probe.success_threshold,
            failure_threshold: probe.failure_threshold,
            termination_grace_period_seconds: probe.termination_grace_period_seconds,
        })
    };
    Probes {
        startup: probe(&wanted.startup),
        liveness: probe(&wanted.liveness),
        readiness: probe(&wanted.readiness),
    }
}

/// A hook of a container.
pub(super) fn hook(hook: &api::Hook) -> Hook {
    match hook {
        api::Hook::Exec(command) => Hook::Ask(ProbeAction::Exec { command: command.clone() }),
        api::Hook::HttpGet(get) => Hook::Ask(http_get(get)),
        api::Hook::Sleep(seconds) => Hook::Sleep { seconds: *seconds },
    }
}

fn action(action: &api::Action) -> ProbeAction {
    match action {
        api::Action::HttpGet(get) => http_get(get),
        api::Action::Tcp { host, port } => ProbeAction::Tcp { host: host.clone(), port: *port },
        api::Action::Exec(command) => ProbeAction::Exec { command: command.clone() },
        api::Action::Grpc { port, service } => ProbeAction::Grpc { port: *port, service: service.clone() },
    }
}

/// The path and the query of a request as the kubelet sends them: from the root, without a fragment, and with what cannot
/// stand in a request written as its bytes' numbers.
fn request_path(written: &str) -> String {
    let written = written.split('#').next().unwrap_or_default();
    let mut path = if written.starts_with('/') { String::new() } else { "/".to_owned() };
    for byte in written.bytes() {
        if byte.is_ascii_graphic() {
            path.push(char::from(byte));
        } else {
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

fn http_get(get: &api::HttpGet) -> ProbeAction {
    ProbeAction::HttpGet {
        host: get.host.clone(),
        port: get.port,
        tls: get.tls,
        path: request_path(&get.path),
        headers: get.headers.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_asked_for_as_the_kubelet_does() {
        for (written, asked) in [
            ("health?deep=1", "/health?deep=1"),
            ("/health", "/health"),
            ("", "/"),
            ("?a=b", "/?a=b"),
            ("/a b\r\nX: y", "/a%20b%0D%0AX:%20y"),
            ("/ü#part", "/%C3%BC"),
            ("//host/x", "//host/x"),
        ] {
            assert_eq!(request_path(written), asked, "{written:?}");
        }
    }
}
