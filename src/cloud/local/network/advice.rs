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
    /// `kernel.apparmor_restrict_unprivileged_userns` is there and not 0.
    is_confined: bool,
    /// `kernel.unprivileged_userns_clone` is 0.
    is_forbidden: bool,
    /// It is a container.
    is_container: bool,
}

impl Host {
    /// This host.
    pub(super) fn here() -> Self {
        Self::at(Path::new("/"))
    }

    /// The host whose files lie below `root`. A setting that its kernel does not have restricts nobody.
    fn at(root: &Path) -> Self {
        let is_zero = |name: &str| {
            let text = fs::read_to_string(root.join("proc/sys/kernel").join(name)).ok()?;
            Some(text.trim() == "0")
        };
        Self {
            is_confined: is_zero("apparmor_restrict_unprivileged_userns") == Some(false),
            is_forbidden: is_zero("unprivileged_userns_clone") == Some(true),
            is_container: [".dockerenv", "run/.containerenv"].iter().any(|path| root.join(path).exists()),
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
        // The kernel makes the namespace, and AppArmor takes all capabilities in it: what is denied is any use of them.
        (NamespaceStep::User | NamespaceStep::Network | NamespaceStep::Join | NamespaceStep::Settings, _)
            if is_denied && host.is_confined && !host.is_container =>
        {
            "AppArmor keeps user namespaces from this program, as on Ubuntu since 24.04; as root once: `sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0` (a line of a file below /etc/sysctl.d keeps it), or run as root"
        }
        (NamespaceStep::User | NamespaceStep::Network, _)
            if is_denied && host.is_forbidden && !host.is_container =>
        {
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
        // What the computer restricts is seen in a container as well, which has limits of its own.
        let within = Host { is_container: true, ..confined.clone() };
        for (step, errno, host, says) in [
            (NamespaceStep::User, Errno::PERM, &confined, "apparmor_restrict_unprivileged_userns=0"),
            (NamespaceStep::User, Errno::ACCESS, &confined, "AppArmor"),
            (NamespaceStep::Settings, Errno::ACCESS, &confined, "AppArmor"),
            (NamespaceStep::User, Errno::PERM, &forbidden, "unprivileged_userns_clone=1"),
            (NamespaceStep::User, Errno::PERM, &within, "--device /dev/net/tun"),
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

    #[test]
    fn settings_of_hosts_are_read() {
        let read = |files: &[(&str, &str)]| {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Host::at(root.path())
        };
        let apparmor = "proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        let clone = "proc/sys/kernel/unprivileged_userns_clone";
        let ubuntu = Host { is_confined: true, ..Host::default() };
        let hardened = Host { is_forbidden: true, ..Host::default() };
        // Fedora has neither setting, and Debian allows it.
        assert_eq!(read(&[]), Host::default());
        assert_eq!(read(&[(clone, "1\n")]), Host::default());
        assert_eq!(read(&[(clone, "0\n")]), hardened);
        assert_eq!(read(&[(apparmor, "1\n"), (clone, "1\n")]), ubuntu);
        assert_eq!(read(&[(apparmor, "0\n"), (clone, "1\n")]), Host::default());
        for mark in [".dockerenv", "run/.containerenv"] {
            assert!(read(&[(mark, "")]).is_container, "{mark}");
        }
        let failure = NamespaceError { step: NamespaceStep::User, error: Errno::ACCESS.into() };
        let said = advice(&failure, &read(&[(apparmor, "1\n")]));
        assert!(said.contains("`sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"), "{said}");
    }
}
