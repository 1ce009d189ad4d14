//! What keeps a host from giving machines a network of their own, and what to do about it. Pure but for [`Host::here`].

use std::fs;
use std::path::Path;

use rustix::io::Errno;

use super::namespace::{DEVICE, NamespaceError, NamespaceStep};

/// What is there instead.
const INSTEAD: &str = "machines have qemu's user network instead: pods have no addresses of their own; headless Services and NetworkPolicies \
     are refused, and machines of an environment that has some are not started";

/// Settings of a host that restrict who makes namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1.
    is_confined: bool,
    /// `kernel.unprivileged_userns_clone` is 0.
    is_forbidden: bool,
    /// It is a container.
    is_container: bool,
}

impl Host {
    /// This host.
    pub(super) fn here() -> Self {
        let is = |name: &str, value: &str| {
            fs::read_to_string(format!("/proc/sys/kernel/{name}")).is_ok_and(|text| text.trim() == value)
        };
        Self {
            is_confined: is("apparmor_restrict_unprivileged_userns", "1"),
            is_forbidden: is("unprivileged_userns_clone", "0"),
            is_container: ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists()),
        }
    }
}

/// The sentence for a failure.
pub(super) fn advice(failure: &NamespaceError, host: &Host) -> String {
    let NamespaceError { step, error } = failure;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let is_denied = matches!(errno, Some(Errno::PERM | Errno::ACCESS));
    let what = match step {
        NamespaceStep::User => "a user namespace cannot be made",
        NamespaceStep::Network => "a network namespace cannot be made",
        NamespaceStep::Join => "the environment's network cannot be joined",
        NamespaceStep::Settings => "settings of a network cannot be written",
        NamespaceStep::Device => "an interface cannot be made",
        NamespaceStep::Routes => "routes cannot be set",
        NamespaceStep::Rules => "rules of nftables cannot be written",
        NamespaceStep::Sockets => "the network cannot be opened",
    };
    let todo = match (step, errno) {
        (NamespaceStep::User | NamespaceStep::Network, Some(Errno::NOSPC)) => {
            "as root once: `sysctl -w user.max_user_namespaces=15000 user.max_net_namespaces=15000` (lines of a file below \
             /etc/sysctl.d keep it)"
        }
        (NamespaceStep::User | NamespaceStep::Network, _) if is_denied && host.is_confined => {
            "AppArmor keeps user namespaces from this program, as on Ubuntu since 24.04; as root once: `sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0` (a line of a file below /etc/sysctl.d keeps it), or run as root"
        }
        (NamespaceStep::User | NamespaceStep::Network, _) if is_denied && host.is_forbidden => {
            "as root once: `sysctl -w kernel.unprivileged_userns_clone=1` (a line of a file below /etc/sysctl.d keeps it), or \
             run as root"
        }
        (NamespaceStep::User | NamespaceStep::Network | NamespaceStep::Settings, _) if host.is_container => {
            "run the container with `--security-opt seccomp=unconfined --device /dev/net/tun`, or with \
             `--cap-add SYS_ADMIN --cap-add NET_ADMIN`, and with a /proc/sys that can be written"
        }
        (NamespaceStep::User | NamespaceStep::Network, _) => {
            "run as root, or let this user make user namespaces"
        }
        (NamespaceStep::Device, Some(Errno::NOENT | Errno::NODEV)) => {
            "as root once: `modprobe tun` (a line `tun` of a file below /etc/modules-load.d keeps it)"
        }
        (NamespaceStep::Device, _) if is_denied => {
            "as root once: `chmod 666 /dev/net/tun`, which is what udev's rules give it"
        }
        (NamespaceStep::Rules, Some(Errno::NOENT | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT)) => {
            "the kernel lacks a part of nftables (nf_tables, nft_ct, nft_connlimit, nft_nat, nft_numgen, nft_hash, nft_reject, nft_socket, nft_tproxy)"
        }
        _ => "the log of the local cloud has what it tried",
    };
    let device = if *step == NamespaceStep::Device { format!(" by {DEVICE}") } else { String::new() };
    format!("{what}{device}: {error}; {todo}; until then {INSTEAD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_advice() {
        let none = Host::default();
        let confined = Host { is_confined: true, ..Host::default() };
        let forbidden = Host { is_forbidden: true, ..Host::default() };
        let container = Host { is_container: true, ..Host::default() };
        for (step, errno, host, says) in [
            (NamespaceStep::User, Errno::PERM, &confined, "apparmor_restrict_unprivileged_userns=0"),
            (NamespaceStep::User, Errno::ACCESS, &confined, "AppArmor"),
            (NamespaceStep::User, Errno::PERM, &forbidden, "unprivileged_userns_clone=1"),
            (NamespaceStep::User, Errno::NOSPC, &none, "max_user_namespaces"),
            (NamespaceStep::User, Errno::PERM, &container, "--device /dev/net/tun"),
            (NamespaceStep::Settings, Errno::ROFS, &container, "/proc/sys"),
            (NamespaceStep::Network, Errno::PERM, &none, "run as root"),
            (NamespaceStep::Device, Errno::NOENT, &none, "modprobe tun"),
            (NamespaceStep::Device, Errno::ACCESS, &none, "chmod 666 /dev/net/tun"),
            (NamespaceStep::Rules, Errno::NOENT, &none, "nft_tproxy"),
        ] {
            let said = advice(&NamespaceError { step, error: errno.into() }, host);
            assert!(said.contains(says) && said.ends_with(INSTEAD), "{said}");
        }
    }
}
