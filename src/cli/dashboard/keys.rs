//! Who is let in: random keys, and the one decision about each request.
//!
//! The URL that the terminal shows has a token, which is exchanged at once for a cookie and a path, so that the address bar
//! does not keep it. A browser may keep every URL that it came by; what `--open` hands it has a token of its own, which opens
//! the page once. The path is random too, because cookies know hosts and no ports: a
//! browser sends this cookie to no other server of 127.0.0.1, whatever page of that the user visits.

use std::sync::atomic::{AtomicBool, Ordering};

use hyper::header::HeaderMap;
use hyper::http::request::Parts;
use hyper::{Method, Uri};

use crate::cloud::{CloudError, random};

/// Bytes of a key: 256 bits.
const KEY_BYTES: usize = 32;

/// The name of the cookie.
const COOKIE_NAME: &str = "i2kit-dashboard";

/// The keys of one run.
#[derive(Debug)]
pub(super) struct Keys {
    port: u16,
    /// What the URL has.
    token: String,
    /// What the URL for the desktop's browser has.
    once: String,
    /// Whether that was used.
    is_used: AtomicBool,
    /// What the cookie has.
    session: String,
    /// The folder that everything is in.
    place: String,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has the token: it gets the cookie, and is sent to the page.
    Enter,
    /// It comes from another page, whose browser may keep the cookie back: it is sent to the same place once more, by itself.
    Again,
    /// It may have what is at this path below [`Keys::folder`].
    Serve(String),
    /// It is refused.
    Refuse(Refusal),
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is for another host: a name that leads to this computer, and is none of its own.
    Host,
    /// It has no key, or a wrong one.
    Key,
    /// It comes from a page of another server.
    Origin,
    /// A change is JSON, so that no form of another page can make it.
    Form,
    /// Neither `GET` nor `POST`.
    Method,
}

impl Refusal {
    /// What is wrong and what to do.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Host => "This is the dashboard of i2kit. Open the URL that `i2kit dashboard` has printed.",
            Self::Key => {
                "The key is missing or wrong. Open the URL that `i2kit dashboard` has printed; each run has a new one."
            }
            Self::Origin => {
                "A page of another server has asked. Open the URL that `i2kit dashboard` has printed."
            }
            Self::Form => "A change is sent as application/json.",
            Self::Method => "Only GET and POST are answered.",
        }
    }
}

/// Whether two keys are the same, in a time that depends on their lengths alone.
fn are_same(given: &str, key: &str) -> bool {
    let differences = given.bytes().zip(key.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == key.len() && std::hint::black_box(differences) == 0
}

/// The value of a header that stands once.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

impl Keys {
    /// New keys from the system's source of random numbers, for a server on that port.
    pub(super) fn random(port: u16) -> Result<Self, CloudError> {
        let key = || random::<KEY_BYTES>().map(hex::encode);
        let is_used = AtomicBool::new(false);
        Ok(Self { port, token: key()?, once: key()?, is_used, session: key()?, place: key()? })
    }

    /// What the user opens.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token)
    }

    /// What the desktop's browser opens, once.
    pub(super) fn url_once(&self) -> String {
        format!("http://127.0.0.1:{}/?once={}", self.port, self.once)
    }

    /// The path of the page.
    pub(super) fn folder(&self) -> String {
        format!("/{}/", self.place)
    }

    /// The cookie: scripts do not see it, and no other site makes the browser send it.
    pub(super) fn cookie(&self) -> String {
        format!("{COOKIE_NAME}={}; Path={}; HttpOnly; SameSite=Strict", self.session, self.folder())
    }

    /// Decides about a request.
    pub(super) fn judge(&self, request: &Parts) -> Verdict {
        let Some(host) = self.host(request) else { return Verdict::Refuse(Refusal::Host) };
        if !matches!(request.method, Method::GET | Method::POST) {
            return Verdict::Refuse(Refusal::Method);
        }
        let path = request.uri.path();
        if path == "/" && request.method == Method::GET && self.has_token(&request.uri) {
            return Verdict::Enter;
        }
        let below = path.strip_prefix('/').and_then(|path| path.split_once('/'));
        let Some((_, below)) = below.filter(|(place, _)| are_same(place, &self.place)) else {
            return Verdict::Refuse(Refusal::Key);
        };
        // Browsers say from what kind of page a request comes.
        let from = only(&request.headers, "sec-fetch-site");
        let is_page = below.is_empty() && request.method == Method::GET;
        let has_cookie = self.has_cookie(&request.headers);
        match from {
            None | Some("same-origin") => {}
            // The user has typed it, or a file leads to it.
            Some("none") if has_cookie => {}
            // A link, from a page of another server or of another port of this one.
            Some(_) if is_page => return Verdict::Again,
            Some(_) if has_cookie => return Verdict::Refuse(Refusal::Origin),
            Some(_) => {}
        }
        if !has_cookie {
            return Verdict::Refuse(Refusal::Key);
        }
        if request.method == Method::POST {
            if only(&request.headers, "origin") != Some(&format!("http://{host}")) {
                return Verdict::Refuse(Refusal::Origin);
            }
            if only(&request.headers, "content-type") != Some("application/json") {
                return Verdict::Refuse(Refusal::Form);
            }
        }
        Verdict::Serve(below.to_owned())
    }

    /// The host that the request is for, if it is this server's. A page of another name that leads here has that name.
    fn host<'r>(&self, request: &'r Parts) -> Option<&'r str> {
        if request.uri.authority().is_some() {
            return None;
        }
        let host = only(&request.headers, "host")?;
        let own = ["127.0.0.1", "localhost", "[::1]"].map(|name| match self.port {
            // Browsers leave the usual port out.
            80 => name.to_owned(),
            port => format!("{name}:{port}"),
        });
        own.contains(&host.to_ascii_lowercase()).then_some(host)
    }

    fn has_token(&self, uri: &Uri) -> bool {
        let query = uri.query().unwrap_or_default();
        match query.split_once('=') {
            Some(("token", given)) => are_same(given, &self.token),
            Some(("once", given)) => {
                are_same(given, &self.once) && !self.is_used.swap(true, Ordering::Relaxed)
            }
            _ => false,
        }
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let all = headers.get_all("cookie").iter().filter_map(|value| value.to_str().ok());
        let mut pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, given)| name == COOKIE_NAME && are_same(given, &self.session))
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn keys() -> Keys {
        let key = |letter: &str| letter.repeat(2 * KEY_BYTES);
        let is_used = AtomicBool::new(false);
        Keys { port: 8001, token: key("t"), once: key("o"), is_used, session: key("s"), place: key("p") }
    }

    fn judge(method: &str, path: &str, headers: &[(&str, &str)]) -> Verdict {
        judged(&keys(), method, path, headers)
    }

    fn judged(keys: &Keys, method: &str, path: &str, headers: &[(&str, &str)]) -> Verdict {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        keys.judge(&request.body(()).unwrap().into_parts().0)
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:8001");

    fn cookie() -> String {
        format!("other=1; i2kit-dashboard={}", "s".repeat(64))
    }

    #[test]
    fn the_token_opens_the_page_and_nothing_less_does() {
        let token = "t".repeat(64);
        assert_eq!(judge("GET", &format!("/?token={token}"), &[HERE]), Verdict::Enter);
        let refused = Verdict::Refuse(Refusal::Key);
        for path in ["/", "/?token=", "/?token=t", "/?", "/favicon.ico", "//", "/p/"] {
            assert_eq!(judge("GET", path, &[HERE]), refused, "{path}");
        }
        for path in [
            format!("/?token={token}t"),
            format!("/?token={}u", "t".repeat(63)),
            format!("/?x&token={token}"),
        ] {
            assert_eq!(judge("GET", &path, &[HERE]), refused, "{path}");
        }
        assert_eq!(judge("POST", &format!("/?token={token}"), &[HERE]), refused);
        // The folder without the cookie, and with a wrong one.
        let page = keys().folder();
        assert_eq!(judge("GET", &page, &[HERE]), refused);
        assert_eq!(judge("GET", &page, &[HERE, ("cookie", "i2kit-dashboard=s")]), refused);
        let cookie = cookie();
        let with = |path: &str| judge("GET", path, &[HERE, ("cookie", &cookie)]);
        assert_eq!(with(&page), Verdict::Serve(String::new()));
        assert_eq!(with(&(page + "watch?environment=a")), Verdict::Serve("watch".into()));
        assert_eq!(with("/q/watch"), refused);
        assert_eq!(judge("DELETE", "/", &[HERE]), Verdict::Refuse(Refusal::Method));
    }

    #[test]
    fn a_name_that_is_made_to_lead_here_is_refused() {
        let (page, cookie) = (keys().folder(), cookie());
        let with = |host: &str| judge("GET", &page, &[("host", host), ("cookie", &cookie)]);
        for host in ["127.0.0.1:8001", "localhost:8001", "LocalHost:8001", "[::1]:8001"] {
            assert_eq!(with(host), Verdict::Serve(String::new()), "{host}");
        }
        for host in ["evil.example:8001", "127.0.0.1", "127.0.0.1:8002", "127.0.0.1.evil.example:8001", ""] {
            assert_eq!(with(host), Verdict::Refuse(Refusal::Host), "{host}");
        }
        assert_eq!(judge("GET", &page, &[("cookie", &cookie)]), Verdict::Refuse(Refusal::Host));
        let twice = [HERE, ("host", "evil.example"), ("cookie", &cookie)];
        assert_eq!(judge("GET", &page, &twice), Verdict::Refuse(Refusal::Host));
        let absolute = format!("http://evil.example{page}");
        assert_eq!(judge("GET", &absolute, &[HERE, ("cookie", &cookie)]), Verdict::Refuse(Refusal::Host));
    }

    #[test]
    fn a_page_of_another_server_changes_nothing_and_reads_nothing() {
        let (path, cookie) = (keys().folder() + "change", cookie());
        let base = [HERE, ("cookie", &cookie), ("content-type", "application/json")];
        let with = |more: &[(&str, &str)]| judge("POST", &path, &[&base[..], more].concat());
        let origin = ("origin", "http://127.0.0.1:8001");
        assert_eq!(with(&[origin, ("sec-fetch-site", "same-origin")]), Verdict::Serve("change".into()));
        let refused = Verdict::Refuse(Refusal::Origin);
        assert_eq!(with(&[]), refused);
        for other in ["http://127.0.0.1:8002", "https://127.0.0.1:8001", "http://localhost:8001", "null"] {
            assert_eq!(with(&[("origin", other)]), refused, "{other}");
        }
        for site in ["same-site", "cross-site"] {
            assert_eq!(with(&[origin, ("sec-fetch-site", site)]), refused, "{site}");
            let read = [HERE, ("cookie", cookie.as_str()), ("sec-fetch-site", site)];
            assert_eq!(judge("GET", &(keys().folder() + "environments"), &read), refused, "{site}");
        }
        let form = [HERE, ("cookie", &cookie), ("content-type", "text/plain"), origin];
        assert_eq!(judge("POST", &path, &form), Verdict::Refuse(Refusal::Form));
    }

    #[test]
    fn a_link_of_another_page_is_followed_once_more_and_gets_nothing_else() {
        let page = keys().folder();
        let from = |path: &str, site: &str| judge("GET", path, &[HERE, ("sec-fetch-site", site)]);
        assert_eq!(from(&page, "cross-site"), Verdict::Again);
        assert_eq!(from(&page, "same-origin"), Verdict::Refuse(Refusal::Key));
        assert_eq!(from(&format!("{page}watch"), "cross-site"), Verdict::Refuse(Refusal::Key));
        // Another port of this host is the same site, which gets the cookie.
        let cookie = cookie();
        let with = |path: &str, site: &str| {
            judge("GET", path, &[HERE, ("cookie", &cookie), ("sec-fetch-site", site)])
        };
        for site in ["same-site", "cross-site"] {
            assert_eq!(with(&page, site), Verdict::Again, "{site}");
            assert_eq!(with(&format!("{page}watch"), site), Verdict::Refuse(Refusal::Origin), "{site}");
        }
        assert_eq!(with(&page, "same-origin"), Verdict::Serve(String::new()));
        assert_eq!(with(&page, "none"), Verdict::Serve(String::new()));
    }

    #[test]
    fn what_the_desktops_browser_gets_opens_the_page_once() {
        let keys = keys();
        let path = keys.url_once().split_once(":8001").unwrap().1.to_owned();
        assert!(!path.contains(&keys.token));
        assert_eq!(judged(&keys, "GET", "/?once=o", &[HERE]), Verdict::Refuse(Refusal::Key));
        assert_eq!(judged(&keys, "GET", &path, &[HERE]), Verdict::Enter);
        assert_eq!(judged(&keys, "GET", &path, &[HERE]), Verdict::Refuse(Refusal::Key));
        let token = format!("/?token={}", keys.token);
        for _ in 0..2 {
            assert_eq!(judged(&keys, "GET", &token, &[HERE]), Verdict::Enter);
        }
    }

    #[test]
    fn keys_are_long_and_never_the_same() {
        let (one, other) = (Keys::random(1).unwrap(), Keys::random(1).unwrap());
        let all = [&one, &other].map(|keys| [&keys.token, &keys.once, &keys.session, &keys.place]).concat();
        assert!(all.iter().all(|key| key.len() == 2 * KEY_BYTES), "{all:?}");
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert!(!one.cookie().contains(&one.token) && !one.folder().contains(&one.token));
        assert!(one.cookie().contains("; HttpOnly; SameSite=Strict") && one.cookie().contains(&one.folder()));
    }
}
