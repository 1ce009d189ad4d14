//! Kernel parameters of the pod. The kernel is the pod's own.

use std::collections::BTreeMap;
use std::fs;

use crate::error::{Doing, Error};

/// Sets them all; one that the kernel does not take ends the boot, as kubelet refuses such a pod.
pub(crate) fn set(parameters: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in parameters {
        let path =
            path(name).ok_or_else(|| Error::Unknown { what: "kernel parameter", value: name.clone() })?;
        fs::write(&path, value).doing(|| format!("set the kernel parameter {name} to {value:?}"))?;
    }
    Ok(())
}

/// Its file. Dots divide the parts of a name unless a slash comes first; then a dot is a dot, as in names of interfaces.
fn path(name: &str) -> Option<String> {
    let slashed = match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    };
    let whole = slashed.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    whole.then(|| format!("/proc/sys/{slashed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_below_proc_sys() {
        assert_eq!(path("net.core.somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        assert_eq!(
            path("net/ipv4/conf/eth0.1/rp_filter").unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/1.rp_filter").unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/rp_filter"
        );
        for name in ["", "../x", "net/../../x", "a//b", "/etc/passwd"] {
            assert_eq!(path(name), None, "{name}");
        }
    }
}
