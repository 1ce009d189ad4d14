//! Probes and hooks of a container in the guest's words.

use i2kit_spec::{Hook, Probe, ProbeAction, Probes};

use super::pod::PodError;
use crate::manifest::api::{self, Container};

/// The container's probes.
pub(super) fn probes(wanted: &Container) -> Result<Probes, PodError> {
    let probe = |probe: &Option<api::Probe>| {
        let asked = probe.as_ref().map(|probe| {
            Ok(Probe {
                action: action(wanted, &probe.action)?,
                initial_delay_seconds: probe.initial_delay_seconds,
                period_seconds: probe.period_seconds,
                timeout_seconds: probe.timeout_seconds,
                success_threshold: probe.success_threshold,
                failure_threshold: probe.failure_threshold,
                termination_grace_period_seconds: probe.termination_grace_period_seconds,
            })
        });
        asked.transpose()
    };
    Ok(Probes {
        startup: probe(&wanted.startup)?,
        liveness: probe(&wanted.liveness)?,
        readiness: probe(&wanted.readiness)?,
    })
}

/// One of the container's hooks.
pub(super) fn hook(wanted: &Container, hook: Option<&api::Hook>) -> Result<Option<Hook>, PodError> {
    let hook = hook.map(|hook| {
        Ok(match hook {
            api::Hook::Exec(command) => Hook::Ask(ProbeAction::Exec { command: command.clone() }),
            api::Hook::HttpGet(get) => Hook::Ask(action(wanted, &api::Action::HttpGet(get.clone()))?),
            api::Hook::Sleep(seconds) => Hook::Sleep { seconds: *seconds },
        })
    });
    hook.transpose()
}

fn action(wanted: &Container, action: &api::Action) -> Result<ProbeAction, PodError> {
    let refused = |what| Err(PodError::Probe { container: wanted.name.clone(), what });
    match action {
        api::Action::HttpGet(get) if get.tls => refused("HTTPS"),
        api::Action::HttpGet(get) => Ok(ProbeAction::HttpGet {
            host: get.host.clone(),
            port: get.port,
            path: get.path.clone(),
            headers: get.headers.clone(),
        }),
        api::Action::Tcp { host, port } => Ok(ProbeAction::Tcp { host: host.clone(), port: *port }),
        api::Action::Exec(command) => Ok(ProbeAction::Exec { command: command.clone() }),
        api::Action::Grpc { port, service } => {
            Ok(ProbeAction::Grpc { port: *port, service: service.clone() })
        }
    }
}
