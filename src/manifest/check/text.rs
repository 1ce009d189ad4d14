//! Forms of text: names, paths, image references.

use std::net::IpAddr;

use base64::Engine as _;

use super::report::Check;
use crate::manifest::api::{Indexes, Schedule, zone};
use crate::manifest::code::Code;
use crate::manifest::language::Text;
use crate::manifest::tree::Span;
use crate::manifest::words::nearest;
use crate::oci::{Reference, ReferenceError, signal_number};

impl Check<'_> {
    /// Checks `text` against its form.
    pub(super) fn text(&mut self, text: &str, span: Span, form: Text) {
        match form {
            Text::Any => {}
            Text::Label => self.name(text, span, 63, false),
            Text::Subdomain => self.name(text, span, 253, true),
            Text::Image => self.image(text, span),
            Text::PortName => self.port_name(text, span),
            Text::FieldPath => self.field_path(text, span),
            _ => {
                if let Err(must) = other(text, form) {
                    let message = format!("{} must be {must}", self.shown(text));
                    let help = (form == Text::Base64 && self.secret)
                        .then_some("encode it with `base64`, or write it as text under `stringData`");
                    self.report(Code::InvalidValue, span, message).maybe_help(help);
                }
            }
        }
    }

    fn name(&mut self, text: &str, span: Span, longest: usize, dots: bool) {
        let good = |part: &str| {
            let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
            edge(part.bytes().next())
                && edge(part.bytes().last())
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if text.len() > longest {
            let message = format!("a name has at most {longest} characters, got {}", text.chars().count());
            self.report(Code::InvalidName, span, message);
        } else if !(if dots { text.split('.').all(good) } else { good(text) }) {
            let kind = if dots { "DNS name" } else { "DNS label" };
            let extra = if dots { ", `.`" } else { "" };
            let message =
                format!("{} is not a {kind} (lower-case letters, digits, `-`{extra})", self.shown(text));
            let help = suggested_name(text).map(|name| format!("use `{name}`"));
            self.report(Code::InvalidName, span, message).maybe_help(help);
        }
    }

    fn port_name(&mut self, text: &str, span: Span) {
        let good = (1..=15).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && text.bytes().any(|b| b.is_ascii_lowercase())
            && !text.starts_with('-')
            && !text.ends_with('-')
            && !text.contains("--");
        if !good {
            let message = format!(
                "{} is not a port name (at most 15 lower-case letters, digits, `-`, with a letter)",
                self.shown(text)
            );
            self.report(Code::InvalidName, span, message);
        }
    }

    fn image(&mut self, text: &str, span: Span) {
        match text.parse::<Reference>() {
            Ok(reference) if reference.is_floating() => {
                let message = match &reference.tag {
                    None => format!("image `{text}` has no tag, so each build may get another one"),
                    Some(tag) => {
                        format!("tag `{tag}` of image `{text}` moves, so each build may get another one")
                    }
                };
                self.report(Code::FloatingImage, span, message).help("pin a version or a digest");
            }
            Ok(_) => {}
            Err(error) => {
                let help = match &error {
                    _ if text.trim() != text => Some("remove the blanks around it".to_owned()),
                    _ if text.contains("://") => Some(
                        "an image reference has no scheme: remove what stands before `//`, and `//`"
                            .to_owned(),
                    ),
                    ReferenceError::Placeholder(_) if text.contains("{{") => {
                        Some("render the template first, for instance with `helm template`".to_owned())
                    }
                    ReferenceError::Placeholder(_) => Some("write the real name".to_owned()),
                    ReferenceError::Repository(_) if text != text.to_lowercase() => {
                        Some(format!("use `{}`", text.to_lowercase()))
                    }
                    _ => None,
                };
                self.report(Code::InvalidImage, span, error.to_string()).maybe_help(help);
            }
        }
    }

    fn field_path(&mut self, text: &str, span: Span) {
        let plain = [
            "metadata.name",
            "metadata.namespace",
            "metadata.uid",
            "spec.serviceAccountName",
            "spec.nodeName",
            "status.hostIP",
            "status.hostIPs",
            "status.podIP",
            "status.podIPs",
        ];
        if matches!(text, "spec.nodeName" | "status.hostIP" | "status.hostIPs") {
            let means =
                if text == "spec.nodeName" { "the instance's id" } else { "the machine's own address" };
            self.report(Code::Unlike, span, format!("there are no nodes: `{text}` is {means}"));
        }
        if !plain.contains(&text)
            && subscript(text).is_none()
            && !matches!(text, "metadata.labels" | "metadata.annotations")
        {
            let message = format!("{} is not a field that pods offer", self.shown(text));
            let help = nearest(text, plain).map_or_else(
                || "use metadata.name, metadata.labels['KEY'], status.podIP or another of those listed in the docs".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            self.report(Code::InvalidValue, span, message).help(help);
        }
    }
}

/// `metadata.labels['key']` and `metadata.annotations['key']`: whether it is a label, and the key.
pub(in crate::manifest) fn subscript(text: &str) -> Option<(bool, &str)> {
    let (label, rest) = match text.strip_prefix("metadata.labels") {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix("metadata.annotations")?),
    };
    let inner = rest.strip_prefix('[')?.strip_suffix(']')?;
    let key = inner
        .strip_prefix('\'')
        .and_then(|key| key.strip_suffix('\''))
        .or_else(|| inner.strip_prefix('"').and_then(|key| key.strip_suffix('"')))
        .unwrap_or(inner);
    (!key.is_empty()).then_some((label, key))
}

/// The names that a text refers to as `$(NAME)`; `$$` is a dollar sign.
pub(in crate::manifest) fn variable_references(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let after = &rest[rest.find('$')? + 1..];
            if let Some(tail) = after.strip_prefix('$') {
                rest = tail;
            } else if let Some(inner) = after.strip_prefix('(') {
                let (name, tail) = inner.split_once(')')?;
                rest = tail;
                return Some(name);
            } else {
                rest = after;
            }
        }
    })
}

/// A DNS label like `text`.
pub(in crate::manifest) fn suggested_name(text: &str) -> Option<String> {
    let mapped: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let name = mapped.trim_matches('-').to_owned();
    (!name.is_empty() && name != text).then_some(name)
}

fn other(text: &str, form: Text) -> Result<(), String> {
    let must = |good: bool, must: &str| if good { Ok(()) } else { Err(must.to_owned()) };
    let word = |text: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        text.len() <= 63
            && edge(text.bytes().next())
            && edge(text.bytes().last())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    match form {
        Text::Signal => must(
            text.starts_with("SIG") && signal_number(text).is_some(),
            "the name of a signal, such as `SIGQUIT`",
        ),
        Text::Filled => must(!text.is_empty(), "something, not empty"),
        Text::EnvName => must(
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'='),
            "a variable name: letters, digits, `_`, `-`, `.`, without `=` and blanks",
        ),
        Text::LabelKey => {
            let (prefix, name) = text.split_once('/').unwrap_or(("", text));
            let dns = |prefix: &str| {
                prefix
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'))
            };
            must(
                word(name) && prefix.len() <= 253 && dns(prefix) && !text.starts_with('/'),
                "a label key: `name` or `prefix/name`, the name at most 63 letters, digits, `-`, `_`, `.`",
            )
        }
        Text::LabelValue => must(
            text.is_empty() || word(text),
            "a label value: at most 63 letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit",
        ),
        Text::SubPath => must(
            !text.is_empty() && !text.starts_with('/') && text.split('/').all(|part| part != ".."),
            "a relative path without `..`",
        ),
        Text::DataKey => must(
            (1..=253).contains(&text.len())
                && text != "."
                && !text.starts_with("..")
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')),
            "a key: letters, digits, `-`, `_`, `.`",
        ),
        Text::Host => must(is_host(text), "a DNS name in lower case, with `*.` at most in front"),
        Text::Base64 => {
            let bare: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            must(base64::engine::general_purpose::STANDARD.decode(bare).is_ok(), "base64")
        }
        Text::Cidr => must(is_cidr(text), "a range of addresses such as 10.0.0.0/8"),
        Text::Ip => must(text.parse::<IpAddr>().is_ok(), "an IP address"),
        Text::Cron => Schedule::parse(text, "Etc/UTC").map(drop),
        Text::TimeZone => zone(text).map(drop),
        Text::Indexes => text.parse::<Indexes>().map(drop),
        Text::PortMapping => port_mapping(text).map(drop),
        Text::Assignment => must(
            text.split_once('=')
                .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())),
            "NAME=VALUE",
        ),
        Text::Any | Text::Label | Text::Subdomain | Text::Image | Text::PortName | Text::FieldPath => Ok(()),
    }
}

/// Whether it is a range of addresses.
pub(in crate::manifest) fn is_cidr(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else { return false };
    let (Ok(ip), Ok(bits)) = (ip.parse::<IpAddr>(), bits.parse::<u8>()) else { return false };
    bits <= if ip.is_ipv4() { 32 } else { 128 }
}

/// Whether a range is within another one, and smaller.
pub(in crate::manifest) fn is_part_of_cidr(part: &str, whole: &str) -> bool {
    let (Some(part), Some(whole)) = (range(part), range(whole)) else { return false };
    part.2 > whole.2 && share(part, whole)
}

/// Whether two ranges have an address in common.
pub(in crate::manifest) fn overlap(one: &str, other: &str) -> bool {
    range(one).zip(range(other)).is_some_and(|(one, other)| share(one, other))
}

/// A range: whether it is of IPv4, its address, whose first bits are the number's, and how many of them are its own.
type Range = (bool, u128, u32);

fn range(text: &str) -> Option<Range> {
    let (ip, bits) = text.split_once('/')?;
    let bits: u32 = bits.parse().ok()?;
    match ip.parse().ok()? {
        IpAddr::V4(ip) => Some((true, u128::from(ip.to_bits()) << 96, bits)),
        IpAddr::V6(ip) => Some((false, ip.to_bits(), bits)),
    }
}

/// Whether the smaller one is within the other one.
fn share(one: Range, other: Range) -> bool {
    one.0 == other.0 && (one.1 ^ other.1).leading_zeros() >= one.2.min(other.2)
}

fn is_host(text: &str) -> bool {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    rest.len() <= 253
        && rest.split('.').all(|part| {
            !part.is_empty()
                && part.len() <= 63
                && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        })
}

/// A port of the short form: listener protocol and port, container protocol and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::manifest) struct PortMapping {
    /// Whether the balancer ends TLS: `https` or `ssl` in front of `http` or `tcp`.
    pub(in crate::manifest) terminates_tls: bool,
    pub(in crate::manifest) listener: u16,
    pub(in crate::manifest) container: u16,
}

/// Reads `80` and `https:443:http:80`.
pub(in crate::manifest) fn port_mapping(text: &str) -> Result<PortMapping, String> {
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| "a port 1-65535, or https:443:http:80".to_owned())
    };
    let encrypted = |protocol: &str| match protocol {
        "http" | "tcp" => Ok(false),
        "https" | "ssl" => Ok(true),
        _ => Err("made of the protocols http, https, tcp and ssl".to_owned()),
    };
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [number] => {
            let number = port(number)?;
            Ok(PortMapping { terminates_tls: false, listener: number, container: number })
        }
        [outer, listener, inner, container] => {
            let (outside, inside) = (encrypted(outer)?, encrypted(inner)?);
            let (listener, container) = (port(listener)?, port(container)?);
            Ok(PortMapping { terminates_tls: outside && !inside, listener, container })
        }
        _ => Err("a number, or https:443:http:80".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_suggested() {
        assert_eq!(suggested_name("Web_App").as_deref(), Some("web-app"));
        assert_eq!(suggested_name("-a.b-").as_deref(), Some("a-b"));
        assert_eq!(suggested_name("___"), None);
    }

    #[test]
    fn port_mappings_of_the_short_form() {
        assert_eq!(
            port_mapping("80"),
            Ok(PortMapping { terminates_tls: false, listener: 80, container: 80 })
        );
        assert_eq!(
            port_mapping("https:443:http:80"),
            Ok(PortMapping { terminates_tls: true, listener: 443, container: 80 })
        );
        for bad in ["0", "x", "80:80", "udp:1:udp:1", "http:80:http:99999", ""] {
            assert!(port_mapping(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn field_paths() {
        assert_eq!(subscript("metadata.labels['app']"), Some((true, "app")));
        assert_eq!(subscript("metadata.annotations[\"a/b\"]"), Some((false, "a/b")));
        assert_eq!(subscript("metadata.labels"), None);
        assert_eq!(subscript("metadata.labels['']"), None);
    }
}
