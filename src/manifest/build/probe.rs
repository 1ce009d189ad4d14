//! Probes and hooks.

use super::env::port;
use super::object::{Object, Read};
use crate::manifest::api::{Action, Hook, HttpGet, Probe};

/// The probe under `field` of a container.
pub(super) fn probe(container: Object<'_>, field: &str) -> Read<Option<Probe>> {
    if !container.has(field) {
        return Ok(None);
    }
    let probe = container.object(field)?;
    Ok(Some(Probe {
        action: action(probe, container)?,
        initial_delay_seconds: probe.number("initialDelaySeconds")?,
        period_seconds: probe.number("periodSeconds")?,
        timeout_seconds: probe.number("timeoutSeconds")?,
        success_threshold: probe.number("successThreshold")?,
        failure_threshold: probe.number("failureThreshold")?,
        termination_grace_period_seconds: probe.number_if("terminationGracePeriodSeconds")?,
    }))
}

fn action(probe: Object<'_>, container: Object<'_>) -> Read<Action> {
    if probe.has("httpGet") {
        return Ok(Action::HttpGet(http_get(probe.object("httpGet")?, container)?));
    }
    if probe.has("tcpSocket") {
        let socket = probe.object("tcpSocket")?;
        return Ok(Action::Tcp { host: socket.text_if("host")?, port: port(socket, container)? });
    }
    if probe.has("grpc") {
        let grpc = probe.object("grpc")?;
        return Ok(Action::Grpc { port: grpc.number("port")?, service: grpc.text("service")? });
    }
    Ok(Action::Exec(command(probe)?))
}

fn command(owner: Object<'_>) -> Read<Vec<String>> {
    let exec = owner.object("exec")?;
    exec.texts_if("command")?.ok_or_else(|| exec.missing("command"))
}

fn http_get(get: Object<'_>, container: Object<'_>) -> Read<HttpGet> {
    let header = |header: Object<'_>| Ok((header.text("name")?, header.text("value")?));
    Ok(HttpGet {
        host: get.text_if("host")?,
        port: port(get, container)?,
        path: get.text("path")?,
        tls: get.text("scheme")? == "HTTPS",
        headers: get.objects("httpHeaders")?.into_iter().map(header).collect::<Read<_>>()?,
    })
}

/// The hook under `field` of a container's `lifecycle`.
pub(super) fn hook(container: Object<'_>, field: &str) -> Read<Option<Hook>> {
    let lifecycle = container.object("lifecycle")?;
    if !lifecycle.has(field) {
        return Ok(None);
    }
    let handler = lifecycle.object(field)?;
    Ok(Some(if handler.has("httpGet") {
        Hook::HttpGet(http_get(handler.object("httpGet")?, container)?)
    } else if handler.has("sleep") {
        Hook::Sleep(handler.object("sleep")?.number("seconds")?)
    } else {
        Hook::Exec(command(handler)?)
    }))
}
