//! Any text as the host and the path of a request to an Ingress: what is compared with rules is in its normal form, and some
//! backend is found whenever there is one for all.

use i2kit::cloud::local::http_routing::{Routing, host, normal};
use i2kit::plan::fleet::HttpRule;

/// Fails when something does not hold.
pub(crate) fn run(data: &[u8]) {
    let text: &str = &String::from_utf8_lossy(data);
    let (authority, path) = text.split_once('\n').unwrap_or((text, "/"));
    let rule = |host: Option<&str>, path: &str, backend| HttpRule {
        host: host.map(str::to_owned),
        path: path.to_owned(),
        exact: false,
        backend,
    };
    let rules =
        [rule(Some("a.test"), "/a", 0), rule(Some("*.a.test"), "/", 1), rule(Some(authority), path, 2)];
    let routing = Routing::new(&rules, Some(3));
    if let Some(found) = host(authority) {
        assert_eq!(host(&found).as_deref(), Some(&*found));
        assert!(!found.bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' '));
        if let Some(path) = normal(path) {
            assert!(!path.split('/').any(|element| element == "." || element == ".."));
            assert!(routing.find(&found, &path).is_some());
        }
    }
}
