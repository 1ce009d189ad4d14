//! Which backend a request goes to, by host and path, as `networking.k8s.io/v1` Ingress has it. Pure.
//!
//! Hosts: the exact one, then `*.` with one label before it, then rules for all hosts. Within a host the longest path is
//! taken, and `Exact` before `Prefix`. What no rule of a host matches is looked for in the less exact hosts, and then
//! goes to the default backend, as listener rules of the other clouds do.

use std::borrow::Cow;
use std::collections::HashMap;

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
            let path = Path { text: rule.path.clone(), exact: rule.exact, backend: rule.backend };
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
}

/// The host of `HOST[:PORT]` in small letters, without a dot at its end; `None` for what is no host.
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
    if host.is_empty() || !host.bytes().all(is_known) {
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

/// A path as rules are compared with it: letters, digits and `-._~` that are percent-encoded without need are decoded.
/// `None` for one with the elements `.` or `..`, in any encoding: a server may resolve them, and would be asked for what
/// another rule is about. Clients resolve them before they ask.
pub fn normal(path: &str) -> Option<Cow<'_, str>> {
    let decoded = if path.contains('%') { Cow::Owned(decode(path)?) } else { Cow::Borrowed(path) };
    // Some servers take a backslash, or a slash that is encoded, for a slash.
    let is_dots = |element: &str| matches!(element, "." | "..");
    if decoded.contains('.') {
        let plain = decoded.replace("%2f", "/").replace("%2F", "/").replace("%5c", "/").replace("%5C", "/");
        if plain.split(['/', '\\']).any(|element| is_dots(element.split(';').next().unwrap_or_default())) {
            return None;
        }
    }
    Some(decoded)
}

/// Decodes what needs no encoding; `None` where two digits do not follow a `%`.
fn decode(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut decoded = parts.next()?.to_owned();
    for part in parts {
        let byte = u8::from_str_radix(part.get(..2).filter(|digits| !digits.starts_with('+'))?, 16).ok()?;
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') {
            decoded.push(c);
            decoded.push_str(&part[2..]);
        } else {
            decoded.push('%');
            decoded.push_str(part);
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
            ("/%c3%b6", Some("/%c3%b6")),
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
