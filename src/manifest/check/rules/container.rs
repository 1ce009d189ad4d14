//! Rules about containers.

use std::collections::HashMap;

use crate::manifest::api::{ALL_CAPABILITIES, BROAD_CAPABILITIES, DEFAULT_CAPABILITIES, OTHER_CAPABILITIES};
use crate::manifest::check::quantity::{bytes, cpu_millis};
use crate::manifest::check::report::Check;
use crate::manifest::code::Code;
use crate::manifest::tree::{Node, Resolved, Value};
use crate::manifest::words::{list, nearest};

/// Ports of a container: each name once, each number and protocol once.
pub(in crate::manifest) fn unique_ports(check: &mut Check<'_>, container: &Node<'_>) {
    let Some(ports) = container.get("ports") else { return };
    check.key("ports", |check| {
        check.unique(ports, "name", "name");
        let mut seen = HashMap::new();
        for (i, port) in ports.items().iter().enumerate() {
            let Some(number) = port.get("containerPort") else { continue };
            let key = (number.scalar().unwrap_or_default(), port.str("protocol").unwrap_or("TCP"));
            if let Some(first) = seen.insert(key, number.span) {
                let other = check.place(first);
                check.index(i, |check| {
                    let message = format!("port {}/{} is listed twice", key.0, key.1);
                    check.report(Code::RepeatedItem, number.span, message).also(other, "first listed here");
                });
            }
        }
    });
}

/// A variable that is set twice: the last one wins.
pub(in crate::manifest) fn repeated_env(check: &mut Check<'_>, container: &Node<'_>) {
    let mut seen = HashMap::new();
    check.each(container, "env", |check, variable| {
        let Some(name) = variable.get("name") else { return };
        let Some(text) = name.scalar() else { return };
        if let Some(first) = seen.insert(text.to_owned(), name.span) {
            let other = check.place(first);
            let message = format!("variable `{text}` is set twice; the last one wins");
            check.report(Code::RepeatedEnv, name.span, message).also(other, "first set here");
        }
    });
}

/// Braces of templates that nobody rendered, where programs would read them.
pub(in crate::manifest) fn unrendered(check: &mut Check<'_>, container: &Node<'_>) {
    let look = |check: &mut Check<'_>, node: &Node<'_>| {
        if node.scalar().is_some_and(|text| text.contains("{{") && text.contains("}}")) {
            check
                .report(
                    Code::TemplateLeftIn,
                    node.span,
                    "`{{ }}` looks like a template that was not rendered",
                )
                .help("run `helm template` first, or ignore this if the braces are meant");
        }
    };
    check.each(container, "env", |check, variable| {
        if let Some(value) = variable.get("value") {
            check.key("value", |check| look(check, value));
        }
    });
    check.each(container, "command", look);
    check.each(container, "args", look);
}

/// A privileged container that only sets parameters of the kernel needs no rights: the pod can have them.
pub(in crate::manifest) fn privileged_sysctl(check: &mut Check<'_>, container: &Node<'_>) {
    if check.options.allow_privileged
        || container.at(&["securityContext", "privileged"]).and_then(Node::scalar) != Some("true")
    {
        return;
    }
    let words = ["command", "args"].iter().filter_map(|field| container.get(field)).flat_map(Node::items);
    let parameters = sysctls(words.filter_map(Node::scalar));
    if parameters.is_empty() {
        return;
    }
    let items: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{{name: {name}, value: {value:?}}}")).collect();
    let help = format!(
        "remove it, and give the pod what the container sets: `securityContext: {{sysctls: [{}]}}`",
        items.join(", ")
    );
    let path = check.key("securityContext", |check| check.key("privileged", |check| check.path.clone()));
    check.findings.advise(Code::RefusedField, &path, help);
}

/// What `sysctl -w NAME=VALUE…` sets among the words of a command, which may be a shell's.
fn sysctls<'w>(words: impl Iterator<Item = &'w str>) -> Vec<(&'w str, &'w str)> {
    let ends = |c: char| c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')' | '\'' | '"');
    let mut found = Vec::new();
    let mut is_sysctl = false;
    for word in words.flat_map(|words| words.split(ends)).filter(|word| !word.is_empty()) {
        let is_name = |name: &str| {
            name.contains('.') && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        };
        match word.split_once('=') {
            Some((name, value)) if is_sysctl && is_name(name) => found.push((name, value)),
            _ if word.starts_with('-') => {}
            _ => is_sysctl = word == "sysctl" || word.ends_with("/sysctl"),
        }
    }
    found
}

/// Two volumes at one place.
pub(in crate::manifest) fn unique_mounts(check: &mut Check<'_>, container: &Node<'_>) {
    if let Some(mounts) = container.get("volumeMounts") {
        check.key("volumeMounts", |check| check.unique(mounts, "mountPath", "path"));
    }
}

/// Ports that probes and hooks name.
pub(in crate::manifest) fn probe_ports(check: &mut Check<'_>, container: &Node<'_>) {
    let name = container.str("name").unwrap_or("?").to_owned();
    let known: Vec<String> = container
        .get("ports")
        .map(|ports| ports.items().iter().filter_map(|port| port.str("name")).map(str::to_owned).collect())
        .unwrap_or_default();
    let places: [&[&str]; 8] = [
        &["readinessProbe", "httpGet", "port"],
        &["livenessProbe", "httpGet", "port"],
        &["startupProbe", "httpGet", "port"],
        &["readinessProbe", "tcpSocket", "port"],
        &["livenessProbe", "tcpSocket", "port"],
        &["startupProbe", "tcpSocket", "port"],
        &["lifecycle", "preStop", "httpGet", "port"],
        &["lifecycle", "postStart", "httpGet", "port"],
    ];
    for keys in places {
        let Some(port) = container.at(keys) else { continue };
        let Value::Scalar(scalar) = &port.value else { continue };
        let wanted = scalar.text.as_ref();
        if scalar.resolved() != Resolved::Text || known.iter().any(|known| known == wanted) {
            continue;
        }
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        let has = if names.is_empty() {
            "its ports have no names".to_owned()
        } else {
            format!("it has: {}", names.join(", "))
        };
        let message = format!("no port named `{wanted}` in container `{name}`; {has}");
        let help = match (nearest(wanted, names.iter().copied()), names.as_slice()) {
            (Some(near), _) => Some(format!("did you mean `{near}`?")),
            (None, [only]) => Some(format!("write `port: {only}`")),
            (None, []) => Some(format!("write the port's number, or name the port `{wanted}` in `ports`")),
            (None, _) => None,
        };
        check.below(keys, |check| {
            check.report(Code::UnknownPort, port.span, message).maybe_help(help);
        });
    }
    for probe in ["livenessProbe", "startupProbe"] {
        let Some(threshold) = container.at(&[probe, "successThreshold"]) else { continue };
        if threshold.scalar() != Some("1") {
            check.below(&[probe, "successThreshold"], |check| {
                check.report(Code::InvalidValue, threshold.span, format!("must be 1 for a {probe}"));
            });
        }
    }
}

/// Fields of the pod in variables: those that are whole maps have no value there.
pub(in crate::manifest) fn env_source(check: &mut Check<'_>, source: &Node<'_>) {
    let Some(path) = source.at(&["fieldRef", "fieldPath"]) else { return };
    let Some(text) = path.scalar() else { return };
    check.below(&["fieldRef", "fieldPath"], |check| {
        if matches!(text, "metadata.labels" | "metadata.annotations") {
            check
                .report(Code::InvalidValue, path.span, format!("a variable cannot hold all of `{text}`"))
                .help(format!("name one: {text}['KEY']"));
        }
    });
}

/// `hostPort`: the machine is the host.
pub(in crate::manifest) fn host_port(check: &mut Check<'_>, port: &Node<'_>) {
    let Some(host) = port.entry("hostPort") else { return };
    let (wanted, own) =
        (host.value.scalar().unwrap_or_default(), port.str("containerPort").unwrap_or_default());
    if wanted != own {
        check.key("hostPort", |check| {
            let message = "not deployable yet: `hostPort` that differs from `containerPort`";
            let help = format!(
                "write a Service of `type: LoadBalancer` with `port` {} and `targetPort` {}, which has an address of its own",
                check.shown(wanted),
                check.shown(own)
            );
            check.report(Code::NotDeployableYet, host.key_span, message).help(help);
        });
    }
}

/// Requests above limits.
pub(in crate::manifest) fn requests_within_limits(check: &mut Check<'_>, resources: &Node<'_>) {
    let (Some(requests), Some(limits)) = (resources.get("requests"), resources.get("limits")) else { return };
    check.key("requests", |check| {
        for request in requests.entries() {
            let Some(limit) = limits.entry(&request.key) else { continue };
            let (Some(asked), Some(allowed)) = (request.value.scalar(), limit.value.scalar()) else {
                continue;
            };
            let amount = |text: &str| match request.key.as_ref() {
                "cpu" => cpu_millis(text).ok(),
                _ => bytes(text).ok().map(|(size, _)| size),
            };
            let (Some(asked_amount), Some(allowed_amount)) = (amount(asked), amount(allowed)) else {
                continue;
            };
            if asked_amount > allowed_amount {
                let other = check.place(limit.value.span);
                let message = format!("request {asked} is larger than limit {allowed}");
                check.key(&request.key, |check| {
                    check
                        .report(Code::Conflict, request.value.span, message)
                        .also(other, "the limit")
                        .help("raise the limit or lower the request");
                });
            }
        }
    });
}

/// Where volumes may be mounted.
pub(in crate::manifest) fn mount_path(check: &mut Check<'_>, mount: &Node<'_>) {
    let Some(path) = mount.get("mountPath") else { return };
    let Some(text) = path.scalar() else { return };
    check.key("mountPath", |check| {
        if text.contains(':') {
            let message = format!("a mount path must not contain `:`, got {}", check.shown(text));
            check.report(Code::InvalidValue, path.span, message);
        } else if !text.starts_with('/') && !text.is_empty() {
            let message = format!("{} must be an absolute path", check.shown(text));
            check.report(Code::InvalidValue, path.span, message).help(format!("did you mean `/{text}`?"));
        } else if text.trim_end_matches('/').is_empty() && !text.is_empty() {
            check.report(
                Code::InvalidValue,
                path.span,
                "a volume cannot replace the whole file system of a container",
            );
        }
    });
}

/// A profile's file belongs to one type of filter alone, and lies in its folder.
pub(in crate::manifest) fn seccomp_profile(check: &mut Check<'_>, profile: &Node<'_>) {
    let file = profile.get("localhostProfile");
    let is_local = profile.str("type") == Some("Localhost");
    match file {
        None if is_local => {
            check.report(Code::MissingField, profile.span, "type `Localhost` needs `localhostProfile`");
        }
        Some(file) if !is_local => check.key("localhostProfile", |check| {
            let message = "`localhostProfile` has a meaning with type `Localhost` alone";
            check.report(Code::InvalidValue, file.span, message).help("remove it, or set the type");
        }),
        Some(file) => check.key("localhostProfile", |check| {
            let text = file.scalar().unwrap_or_default();
            if text.starts_with('/') || text.split('/').any(|part| part == "..") {
                let message = format!("{} leads out of the folder of profiles", check.shown(text));
                check
                    .report(Code::InvalidValue, file.span, message)
                    .help("write a relative path without `..`");
            }
        }),
        None => {}
    }
}

/// Capabilities that do not exist, and those that reach the machine's kernel.
pub(in crate::manifest) fn capabilities(check: &mut Check<'_>, capabilities: &Node<'_>) {
    let bare = |text: &str| text.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
    let broad = || [ALL_CAPABILITIES].into_iter().chain(BROAD_CAPABILITIES);
    let known = || broad().chain(DEFAULT_CAPABILITIES).chain(OTHER_CAPABILITIES);
    let exists = |name: &str| known().any(|known| known == name);
    let unknown = |check: &mut Check<'_>, item: &Node<'_>, name: &str| {
        let help = nearest(name, known()).map(|near| format!("did you mean `{near}`?"));
        let message = format!("{} is not a capability of the kernel", check.shown(name));
        check.report(Code::InvalidValue, item.span, message).maybe_help(help);
    };
    check.each(capabilities, "drop", |check, item| {
        let name = bare(item.scalar().unwrap_or_default());
        if !exists(&name) {
            unknown(check, item, &name);
        }
    });
    check.each(capabilities, "add", |check, item| {
        let name = bare(item.scalar().unwrap_or_default());
        if broad().any(|broad| broad == name) {
            if !check.options.allow_privileged {
                let message = format!("capability `{name}` is refused: it reaches the machine's kernel");
                let help = format!(
                    "add only what is needed (not {}), or pass --allow-privileged",
                    list(&broad().collect::<Vec<_>>(), "or")
                );
                check.report(Code::RefusedValue, item.span, message).help(help);
            }
        } else if !exists(&name) {
            unknown(check, item, &name);
        } else if OTHER_CAPABILITIES.contains(&name.as_str()) {
            let message =
                format!("capability `{name}` holds for the pod's own machine, which is the boundary");
            check.report(Code::Adapted, item.span, message);
        }
    });
}
