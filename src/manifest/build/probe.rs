//! Probes and hooks. Names of ports are looked up among the container's, paths are written as a request has them.

use std::fmt::Write as _;

use i2kit_spec::{Hook, Probe, ProbeAction, Probes};

use super::env::port;
use super::object::{Object, Read};

/// The probes of a container.
pub(super) fn probes(container: Object<'_>) -> Read<Probes> {
    Ok(Probes {
        startup: probe(container, "startupProbe")?,
        liveness: probe(container, "livenessProbe")?,
        readiness: probe(container, "readinessProbe")?,
    })
}

/// The probe under `field` of a container.
fn probe(container: Object<'_>, field: &str) -> Read<Option<Probe>> {
    if !container.has(field) {
        return Ok(None);
    }
    let probe = container.object(field)?;
    Ok(Some(Probe {
        action: action(probe, container)?,
        initial_delay_seconds: probe.seconds("initialDelaySeconds")?,
        period_seconds: probe.seconds("periodSeconds")?,
        timeout_seconds: probe.seconds("timeoutSeconds")?,
        success_threshold: probe.number("successThreshold")?,
        failure_threshold: probe.number("failureThreshold")?,
        termination_grace_period_seconds: probe.seconds_if("terminationGracePeriodSeconds")?,
    }))
}

fn action(probe: Object<'_>, container: Object<'_>) -> Read<ProbeAction> {
    if probe.has("httpGet") {
        return http_get(probe.object("httpGet")?, container);
    }
    if probe.has("tcpSocket") {
        let socket = probe.object("tcpSocket")?;
        return Ok(ProbeAction::Tcp { host: socket.text_if("host")?, port: port(socket, container)? });
    }
    if probe.has("grpc") {
        let grpc = probe.object("grpc")?;
        return Ok(ProbeAction::Grpc { port: grpc.number("port")?, service: grpc.text("service")? });
    }
    exec(probe)
}

fn exec(owner: Object<'_>) -> Read<ProbeAction> {
    let exec = owner.object("exec")?;
    let command = exec.texts_if("command")?.ok_or_else(|| exec.missing("command"))?;
    Ok(ProbeAction::Exec { command })
}

fn http_get(get: Object<'_>, container: Object<'_>) -> Read<ProbeAction> {
    let header = |header: Object<'_>| Ok((header.text("name")?, header.text("value")?));
    Ok(ProbeAction::HttpGet {
        host: get.text_if("host")?,
        port: port(get, container)?,
        tls: get.text("scheme")? == "HTTPS",
        path: request_path(&get.text("path")?),
        headers: get.objects("httpHeaders")?.into_iter().map(header).collect::<Read<_>>()?,
    })
}

/// Path and query of a request as the kubelet sends them: from the root, without a fragment, and with a percent sign and
/// its number for each byte that a request cannot have.
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

/// The hook under `field` of a container's `lifecycle`.
pub(super) fn hook(container: Object<'_>, field: &str) -> Read<Option<Hook>> {
    let lifecycle = container.object("lifecycle")?;
    if !lifecycle.has(field) {
        return Ok(None);
    }
    let handler = lifecycle.object(field)?;
    Ok(Some(if handler.has("httpGet") {
        Hook::Handler(http_get(handler.object("httpGet")?, container)?)
    } else if handler.has("sleep") {
        Hook::Sleep { seconds: handler.object("sleep")?.seconds("seconds")? }
    } else {
        Hook::Handler(exec(handler)?)
    }))
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
