//! What a container may do: a manifest's `securityContext` in the words of the OCI runtime specification.

use i2kit_spec::Seccomp;
use i2kit_spec::runtime::{Capabilities, Config, MAX_ID, User};

use crate::manifest::api::{
    ALL_CAPABILITIES, BROAD_CAPABILITIES, DEFAULT_CAPABILITIES, OTHER_CAPABILITIES, PodSpec, SeccompProfile,
    Security,
};

/// Parts of /proc and /sys that show more of the kernel than a container should know.
const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// Parts of /proc through which the kernel can be changed.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Applies `security` and the pod's settings to a configuration that has none of them yet.
pub(super) fn apply(config: &mut Config, security: &Security, pod: &PodSpec) {
    config.process.capabilities = capabilities(security);
    config.process.no_new_privileges = security.forbid_privilege_escalation && !security.privileged;
    config.process.user = User {
        additional_gids: pod.supplemental_groups.iter().copied().chain(pod.fs_group).collect(),
        ..User::default()
    };
    config.root.readonly = security.read_only_root_filesystem;
    if security.privileged {
        open_up(config);
    } else {
        config.linux.masked_paths = MASKED_PATHS.map(Into::into).into();
        config.linux.readonly_paths = READONLY_PATHS.map(Into::into).into();
    }
}

/// A privileged container sees the machine's devices and may write to all of /sys.
fn open_up(config: &mut Config) {
    for mount in &mut config.mounts {
        if mount.destination == "/dev" {
            mount.kind = "devtmpfs".into();
            mount.source = "devtmpfs".into();
            mount.options = vec!["nosuid".into()];
        } else if mount.destination.starts_with("/sys") {
            mount.options.retain(|option| option != "ro");
        }
    }
}

/// The system call filter.
pub(super) fn seccomp(security: &Security) -> Seccomp {
    match security.seccomp {
        SeccompProfile::Guest(profile) if !security.privileged => profile,
        // A profile in a file is part of the container's configuration.
        _ => Seccomp::Unconfined,
    }
}

/// The file of the profile that filters system calls, when it is one of a file.
pub(super) fn profile(security: &Security) -> Option<&str> {
    match &security.seccomp {
        SeccompProfile::Localhost(file) if !security.privileged => Some(file),
        _ => None,
    }
}

/// The user in the words of an image's configuration: the manifest's number, or else the image's user.
pub(super) fn user(security: &Security, image: &str) -> String {
    security.run_as_user.map_or_else(|| image.to_owned(), |uid| uid.to_string())
}

/// A number in an image's user, `USER[:GROUP]`, that is none of a user or a group.
pub(super) fn beyond_ids(user: &str) -> Option<&str> {
    user.split(':').find(|part| {
        let number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        number && part.parse::<u32>().map_or(true, |id| id > MAX_ID)
    })
}

/// Whether the user is root for all that can be known without looking into the image.
pub(super) fn is_root(user: &str) -> bool {
    matches!(user.split(':').next(), None | Some("" | "0" | "root"))
}

/// The defaults without what is dropped, and what is added. What is dropped by name stays away, even if it is added.
fn capabilities(security: &Security) -> Capabilities {
    let (add, drop) = (&security.capabilities_add, &security.capabilities_drop);
    let has = |list: &[String], name: &str| list.iter().any(|listed| listed == name);
    let everything = security.privileged || has(add, ALL_CAPABILITIES);
    let granted = |name: &str, usual: bool| {
        let base = everything || usual && !has(drop, ALL_CAPABILITIES);
        (base || has(add, name)) && !has(drop, name)
    };
    let usual = DEFAULT_CAPABILITIES.iter().map(|name| (*name, true));
    let others = OTHER_CAPABILITIES.iter().chain(&BROAD_CAPABILITIES).map(|name| (*name, false));
    let mut all: Vec<String> = usual
        .chain(others)
        .filter(|(name, usual)| granted(name, *usual))
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    all.sort();
    Capabilities { bounding: all.clone(), effective: all.clone(), permitted: all, ..Capabilities::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(add: &[&str], drop: &[&str]) -> Vec<String> {
        let words = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        let security =
            Security { capabilities_add: words(add), capabilities_drop: words(drop), ..Security::default() };
        capabilities(&security).bounding
    }

    #[test]
    fn capabilities_are_dropped_and_added_as_kubernetes_does() {
        assert_eq!(names(&[], &[]).len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(names(&["NET_BIND_SERVICE"], &["ALL"]), ["CAP_NET_BIND_SERVICE"]);
        assert!(!names(&[], &["NET_RAW"]).contains(&"CAP_NET_RAW".to_owned()));
        assert!(names(&["NET_ADMIN"], &[]).contains(&"CAP_NET_ADMIN".to_owned()));
        assert!(!names(&["KILL"], &["KILL"]).contains(&"CAP_KILL".to_owned()));
        assert_eq!(names(&["ALL"], &[]).len(), 41);
    }

    #[test]
    fn numbers_of_users_have_a_bound() {
        for user in ["4294967295", "1:2147483648", "99999999999999999999", "www:4294967296"] {
            assert!(beyond_ids(user).is_some(), "{user}");
        }
        for user in ["", "0", "2147483647:2147483647", "www", "www:wheel", "4294967295x", "1:"] {
            assert_eq!(beyond_ids(user), None, "{user}");
        }
    }

    #[test]
    fn root_is_known_by_number_by_name_and_by_default() {
        assert!(is_root("") && is_root("0") && is_root("root:www") && is_root("0:1"));
        assert!(!is_root("1000") && !is_root("nginx") && !is_root("rooty"));
    }
}
