//! Which backend a request goes to, by host and path, as `networking.k8s.io/v1` Ingress has it. Pure.
//!
//! Hosts: the exact one, then `*.` with one label before it, then rules for all hosts. Within a host the longest path is
//! taken, and `Exact` before `Prefix`. What no rule of a host matches is looked for in the less exact hosts, and then
//! goes to the default backend, as listener rules of the other clouds do.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use crate::plan::fleet::HttpRule;

/// The rules of an Ingress, ready to be asked.
#[derive(Debug, Default)]
pub struct Routing {
    exact: HashMap<String, Vec<Path>>,
    /// By what follows `*`, with its dot.
    wildcard: HashMap<String, Vec<Path>>,
    any: Vec<Path>,
    default: Option<usize>,
}

/// A path of a rule, and its backend.
#[derive(Debug)]
struct Path {
    text: String,
    exact: bool,
    backend: usize,
}

impl Path {
    /// Whether the rule takes a path that [`normal`] returned.
    fn takes(&self, path: &str) -> bool {
        if self.exact {
            return self.text == path;
        }
        // Element by element: a slash at the end of either makes no difference.
        let prefix = self.text.trim_end_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// How much of a path the rule names: slashes at the end of a prefix count for nothing.
    fn length(&self) -> usize {
        if self.exact { self.text.len() } else { self.text.trim_end_matches('/').len() }
    }
}

impl Routing {
    /// The rules as written, and the backend of what they do not match.
    pub fn new(rules: &[HttpRule], default: Option<usize>) -> Self {
        let mut routing = Self { default, ..Self::default() };
        for rule in rules {
            // As paths of requests are compared. One that no request has stays as it is written.
            let text = normal(&rule.path).map_or_else(|| rule.path.clone(), Cow::into_owned);
            let path = Path { text, exact: rule.exact, backend: rule.backend };
            let host = rule.host.as_deref().filter(|host| !host.is_empty()).map(str::to_ascii_lowercase);
            let paths = match host {
                None => &mut routing.any,
                Some(host) => match host.strip_prefix('*') {
                    Some(suffix) => routing.wildcard.entry(suffix.to_owned()).or_default(),
                    None => routing.exact.entry(host).or_default(),
                },
            };
            paths.push(path);
        }
        let lists = routing.exact.values_mut().chain(routing.wildcard.values_mut());
        for paths in lists.chain([&mut routing.any]) {
            // Of two that are equal the first one written stays first.
            paths.sort_by_key(|path| std::cmp::Reverse((path.length(), path.exact)));
        }
        routing
    }

    /// The backend of a request: `host` as [`host`] returned it, `path` as [`normal`] did.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        let wildcard = || self.wildcard.get(&host[host.find('.')?..]);
        let lists = [self.exact.get(host), wildcard(), Some(&self.any)];
        let mut paths = lists.into_iter().flatten().flatten();
        paths.find(|known| known.takes(path)).map(|known| known.backend).or(self.default)
    }

    /// The same where every server reads the path in one way, or where all readings lead to one backend; otherwise why
    /// the request is refused: the server would be asked for what another rule is about.
    pub fn route(&self, host: &str, path: &str) -> Result<Option<usize>, &'static str> {
        let found = self.find(host, path);
        if readings(path).iter().all(|reading| self.find(host, reading) == found) {
            return Ok(found);
        }
        Err("servers read this path in several ways, and rules of the Ingress send them to several Services")
    }
}

/// Other paths that servers take a path for: empty elements are left out, a backslash or a slash that is encoded is a
/// slash, and what follows a `;` belongs to no name.
fn readings(path: &str) -> Vec<String> {
    let marks = ["//", ";", "\\", "%2F", "%5C"];
    if !marks.iter().any(|mark| path.contains(mark)) {
        return Vec::new();
    }
    let without_parameters = |path: &str| {
        let names: Vec<&str> =
            path.split('/').map(|element| element.split(';').next().unwrap_or_default()).collect();
        names.join("/")
    };
    let mut readings = vec![path.to_owned()];
    let ways: [&dyn Fn(&str) -> String; 4] =
        [&without_parameters, &with_slashes, &without_parameters, &|path| {
            let names: Vec<&str> = path.split('/').filter(|element| !element.is_empty()).collect();
            let end = if path.ends_with('/') && !names.is_empty() { "/" } else { "" };
            format!("/{}{end}", names.join("/"))
        }];
    for read in ways {
        let more: Vec<String> = readings.iter().map(|reading| read(reading)).collect();
        readings.extend(more);
        readings.sort();
        readings.dedup();
    }
    readings
}

/// With slashes in the place of what some servers take for one.
fn with_slashes(path: &str) -> String {
    path.replace("%2F", "/").replace("%5C", "/").replace('\\', "/")
}

/// Hosts, as rules have them.
#[derive(Debug, Default)]
pub struct Hosts {
    exact: HashSet<String>,
    /// By what follows `*`, with its dot.
    wildcard: HashSet<String>,
    all: bool,
}

impl Hosts {
    /// These, with `*.` in front of some; `None` is every host.
    pub fn new(hosts: &[Option<String>]) -> Self {
        let mut known = Self::default();
        for host in hosts {
            let Some(host) = host.as_deref().map(str::to_ascii_lowercase) else {
                known.all = true;
                continue;
            };
            match host.strip_prefix('*') {
                Some(suffix) => known.wildcard.insert(suffix.to_owned()),
                None => known.exact.insert(host),
            };
        }
        known
    }

    /// Whether a host as [`host`] returned it is one of them.
    pub fn cover(&self, host: &str) -> bool {
        let suffix = || host.find('.').map(|dot| &host[dot..]);
        self.all || self.exact.contains(host) || suffix().is_some_and(|suffix| self.wildcard.contains(suffix))
    }
}

/// The host of `HOST[:PORT]` in small letters, without the dot at its end; `None` for what is no host.
pub fn host(authority: &str) -> Option<Cow<'_, str>> {
    let host = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        is_port(port).then_some(&authority[..address.len() + 2])?
    } else {
        let (host, port) = authority.find(':').map_or((authority, ""), |at| authority.split_at(at));
        is_port(port).then_some(host.strip_suffix('.').unwrap_or(host))?
    };
    let is_known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b'[' | b']' | b':');
    if host.is_empty() || host.ends_with('.') || !host.bytes().all(is_known) {
        return None;
    }
    let is_lower = !host.bytes().any(|c| c.is_ascii_uppercase());
    Some(if is_lower { Cow::Borrowed(host) } else { Cow::Owned(host.to_ascii_lowercase()) })
}

/// Whether the text is empty, or `:` and a port, which may be missing.
fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|port| port.is_empty() || port.parse::<u16>().is_ok())
}

/// A path as rules are compared with it: letters, digits and `-._~` that are percent-encoded without need are decoded,
/// what is beyond ASCII is encoded, digits of encodings are capitals (RFC 3986, 6.2.2).
/// `None` for one with the elements `.` or `..`, in any encoding: a server may resolve them, and would be asked for what
/// another rule is about. Clients resolve them before they ask.
pub fn normal(path: &str) -> Option<Cow<'_, str>> {
    let is_plain = path.is_ascii() && !path.contains('%');
    let decoded = if is_plain { Cow::Borrowed(path) } else { Cow::Owned(decode(path)?) };
    // Some servers take a backslash, or a slash that is encoded, for a slash.
    let is_dots = |element: &str| matches!(element, "." | "..");
    let element_is_dots = |element: &str| is_dots(element.split(';').next().unwrap_or_default());
    if decoded.contains('.') && with_slashes(&decoded).split('/').any(element_is_dots) {
        return None;
    }
    Some(decoded)
}

/// Decodes what needs no encoding, and encodes what does; `None` where two digits do not follow a `%`.
fn decode(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (byte, encoded) = match byte {
            b'%' => (u8::try_from(digit()? * 16 + digit()?).ok()?, true),
            byte => (byte, !byte.is_ascii()),
        };
        let c = char::from(byte);
        if !encoded || c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') {
            decoded.push(c);
        } else {
            let _ = write!(decoded, "%{byte:02X}");
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: Option<&str>, path: &str, exact: bool, backend: usize) -> HttpRule {
        HttpRule { host: host.map(str::to_owned), path: path.into(), exact, backend }
    }

    /// The table "Examples" of the page of Ingress in Kubernetes' documentation, whole: kind, paths, request, the path
    /// that matches.
    #[test]
    fn paths_match_as_the_table_of_kubernetes_documentation_has_it() {
        let (exact, prefix) = (true, false);
        for (kind, paths, request, wanted) in [
            (prefix, &["/"][..], "/anything/at/all", Some(0)),
            (exact, &["/foo"], "/foo", Some(0)),
            (exact, &["/foo"], "/bar", None),
            (exact, &["/foo"], "/foo/", None),
            (exact, &["/foo/"], "/foo", None),
            (prefix, &["/foo"], "/foo", Some(0)),
            (prefix, &["/foo"], "/foo/", Some(0)),
            (prefix, &["/foo/"], "/foo", Some(0)),
            (prefix, &["/foo/"], "/foo/", Some(0)),
            (prefix, &["/aaa/bb"], "/aaa/bbb", None),
            (prefix, &["/aaa/bbb"], "/aaa/bbb", Some(0)),
            (prefix, &["/aaa/bbb/"], "/aaa/bbb", Some(0)),
            (prefix, &["/aaa/bbb"], "/aaa/bbb/", Some(0)),
            (prefix, &["/aaa/bbb"], "/aaa/bbb/ccc", Some(0)),
            (prefix, &["/aaa/bbb"], "/aaa/bbbxyz", None),
            (prefix, &["/", "/aaa"], "/aaa/ccc", Some(1)),
            (prefix, &["/", "/aaa", "/aaa/bbb"], "/aaa/bbb", Some(2)),
            (prefix, &["/", "/aaa", "/aaa/bbb"], "/ccc", Some(0)),
            (prefix, &["/aaa"], "/ccc", None),
        ] {
            let rules: Vec<_> =
                paths.iter().enumerate().map(|(number, path)| rule(None, path, kind, number)).collect();
            let found = Routing::new(&rules, None).find("any.example", &normal(request).unwrap());
            assert_eq!(found, wanted, "exact {kind}, {paths:?}, {request}");
        }
        // "Mixed": Exact is preferred, and only what it does not match is left to Prefix.
        for rules in [
            [rule(None, "/foo", prefix, 0), rule(None, "/foo", exact, 1)],
            [rule(None, "/foo", exact, 1), rule(None, "/foo", prefix, 0)],
        ] {
            assert_eq!(Routing::new(&rules, None).find("h", "/foo"), Some(1));
            assert_eq!(Routing::new(&rules, None).find("h", "/foo/"), Some(0));
        }
    }

    /// The table "Hostname wildcards" of the same page.
    #[test]
    fn wildcards_take_one_label() {
        let rules = [rule(Some("*.foo.com"), "/", false, 0)];
        let routing = Routing::new(&rules, None);
        assert_eq!(routing.find("bar.foo.com", "/"), Some(0));
        assert_eq!(routing.find("baz.bar.foo.com", "/"), None);
        assert_eq!(routing.find("foo.com", "/"), None);
    }

    #[test]
    fn hosts_go_from_the_exact_one_to_all_and_then_to_the_default() {
        let rules = [
            rule(None, "/all", false, 3),
            rule(Some("*.shop.test"), "/wild", false, 2),
            rule(Some("A.shop.test"), "/a", false, 1),
        ];
        let routing = Routing::new(&rules, Some(9));
        for (host, path, wanted) in [
            ("a.shop.test", "/a/x", 1),
            ("a.shop.test", "/wild", 2),
            ("a.shop.test", "/all", 3),
            ("a.shop.test", "/none", 9),
            ("b.shop.test", "/a", 9),
            ("elsewhere", "/all/of", 3),
            ("", "/allofit", 9),
        ] {
            assert_eq!(routing.find(host, path), Some(wanted), "{host}{path}");
        }
    }

    #[test]
    fn hosts_are_read_without_port_and_case() {
        for (text, wanted) in [
            ("Shop.Test:8080", Some("shop.test")),
            ("shop.test.", Some("shop.test")),
            ("shop.test:", Some("shop.test")),
            ("127.77.1.2:80", Some("127.77.1.2")),
            ("[::1]:80", Some("[::1]")),
            ("[::1", None),
            ("[evil]:80", None),
            ("shop.test:80:80", None),
            ("shop.test:99999", None),
            ("user@shop.test", None),
            ("shop.test/x", None),
            ("", None),
            (":80", None),
            ("a b", None),
        ] {
            assert_eq!(host(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn needless_encoding_is_undone_and_dots_are_refused() {
        for (path, wanted) in [
            ("/a%64min", Some("/admin")),
            ("/a%2Fb", Some("/a%2Fb")),
            ("/%c3%b6", Some("/%C3%B6")),
            ("/\u{f6}", Some("/%C3%B6")),
            ("/a.b/...", Some("/a.b/...")),
            ("/a/../b", None),
            ("/a/%2e%2E/b", None),
            ("/a%2f..%2fb", None),
            ("/a/..;x=1/b", None),
            ("/a\\..\\b", None),
            ("/a/.", None),
            ("/a%", None),
            ("/a%+1", None),
            ("/a%zz", None),
        ] {
            assert_eq!(normal(path).as_deref(), wanted, "{path}");
        }
    }

    #[test]
    fn a_path_that_servers_read_in_several_ways_is_refused_where_rules_differ() {
        let rules = [rule(None, "/", false, 0), rule(None, "/admin", false, 1), rule(None, "/only", true, 2)];
        let routing = Routing::new(&rules, None);
        let route = |path: &str| routing.route("h", &normal(path).unwrap());
        for path in [
            "//admin",
            "/admin;x=1",
            "/%2Fadmin",
            "/%2fadmin/x",
            "/\\admin",
            "/;/admin",
            "/only;%2f",
            "///only",
            "/;x/;y%2F%2Fadmin",
        ] {
            assert!(route(path).is_err(), "{path}");
        }
        for (path, wanted) in [
            ("/admin", 1),
            ("/admin//x;y=1", 1),
            ("/admin/a%2Fb", 1),
            ("/x//y", 0),
            ("/x;y=1/z%2F", 0),
            ("/only", 2),
            ("/administrator;x", 0),
        ] {
            assert_eq!(route(path), Ok(Some(wanted)), "{path}");
        }
    }

    #[test]
    fn rules_match_however_a_path_is_encoded() {
        for (written, asked) in
            [("/a%64min", "/admin"), ("/\u{f6}", "/%c3%b6"), ("/caf%C3%A9", "/caf%c3%a9"), ("/a b", "/a b")]
        {
            let routing = Routing::new(&[rule(None, written, true, 0)], None);
            assert_eq!(routing.find("h", &normal(asked).unwrap()), Some(0), "{written}");
            assert_eq!(routing.find("h", &normal(written).unwrap()), Some(0), "{written}");
        }
    }

    #[test]
    fn hosts_with_tls_are_found_as_rules_have_them() {
        let hosts = Hosts::new(&["A.test", "*.b.test"].map(|host| Some(host.to_owned())));
        for (host, wanted) in
            [("a.test", true), ("x.b.test", true), ("b.test", false), ("x.y.b.test", false), ("", false)]
        {
            assert_eq!(hosts.cover(host), wanted, "{host}");
        }
        assert!(Hosts::new(&[None]).cover("any"));
    }

    proptest::proptest! {
        #[test]
        fn no_host_and_no_path_is_a_panic(host_text in "\\PC{0,40}", path in "\\PC{0,40}") {
            let routing = Routing::new(&[rule(Some("*.a"), &path, false, 0)], Some(1));
            if let (Some(host), Some(path)) = (host(&host_text), normal(&path)) {
                proptest::prop_assert!(routing.find(&host, &path).is_some());
            }
        }
    }
}
