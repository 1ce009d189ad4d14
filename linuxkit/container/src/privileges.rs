//! Capabilities, resource limits and identity of a container's process. Every function changes the calling process and
//! is called in the cloned child only.

use std::os::fd::BorrowedFd;

use i2kit_spec::runtime::{Capabilities, Rlimit};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::Resource;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{Doing, Error};
use crate::user::Identity;

/// All capabilities of the kernel in the order of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// The resource limits in the runtime specification's words.
const RESOURCES: [(&str, Resource); 16] = [
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_STACK", Resource::Stack),
];

/// The set with these names.
fn capability_set(names: &[String]) -> Result<CapabilitySet, Error> {
    names.iter().try_fold(CapabilitySet::empty(), |set, name| {
        let number = CAPABILITIES.iter().position(|known| known == name);
        let number = number.ok_or_else(|| Error::Unknown { what: "capability", value: name.clone() })?;
        Ok(set | CapabilitySet::from_bits_retain(1 << number))
    })
}

/// Sets the limits that programs of the container start with.
pub(crate) fn set_rlimits(limits: &[Rlimit]) -> Result<(), Error> {
    for limit in limits {
        let (name, resource) = RESOURCES
            .iter()
            .find(|(name, _)| *name == limit.kind)
            .ok_or_else(|| Error::Unknown { what: "rlimit", value: limit.kind.clone() })?;
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let value = rustix::process::Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
        rustix::process::setrlimit(*resource, value).doing(|| format!("set {name}"))?;
    }
    Ok(())
}

/// Hands output pipes to a user by the VM's number, because programs open them again by `/dev/stdout`, which looks at
/// the owner.
pub(crate) fn hand_over(pipes: [BorrowedFd<'_>; 2], uid: u32) -> Result<(), Error> {
    for pipe in pipes {
        rustix::fs::fchown(pipe, Some(Uid::from_raw(uid)), None)
            .doing(|| "hand the output pipe to the user".into())?;
    }
    Ok(())
}

/// Becomes the identity with exactly these capabilities.
pub(crate) fn become_user(
    identity: &Identity,
    capabilities: &Capabilities,
    no_new_privileges: bool,
) -> Result<(), Error> {
    let user = Uid::from_raw(identity.uid);
    drop_bounding(capability_set(&capabilities.bounding)?)?;
    rustix::thread::set_keep_capabilities(true).doing(|| "keep capabilities".into())?;
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).doing(|| "set groups".into())?;
    let group = Gid::from_raw(identity.gid);
    rustix::thread::set_thread_res_gid(group, group, group).doing(|| format!("set gid {}", identity.gid))?;
    rustix::thread::set_thread_res_uid(user, user, user).doing(|| format!("set uid {}", identity.uid))?;
    let sets = CapabilitySets {
        effective: capability_set(&capabilities.effective)?,
        permitted: capability_set(&capabilities.permitted)?,
        inheritable: capability_set(&capabilities.inheritable)?,
    };
    rustix::thread::set_capabilities(None, sets).doing(|| "set capabilities".into())?;
    rustix::thread::clear_ambient_capability_set().doing(|| "clear ambient capabilities".into())?;
    for capability in capability_set(&capabilities.ambient)?.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)
            .doing(|| "set ambient capabilities".into())?;
    }
    // The kernel knows no way back: the call with `false` is an invalid argument.
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).doing(|| "set no_new_privs".into())?;
    }
    Ok(())
}

fn drop_bounding(keep: CapabilitySet) -> Result<(), Error> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that this kernel does not know: all are done.
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(errno).doing(|| "drop capabilities".into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        let set = |name: &str| capability_set(&[name.to_owned()]).unwrap();
        assert_eq!(set("CAP_CHOWN"), CapabilitySet::CHOWN);
        assert_eq!(set("CAP_NET_BIND_SERVICE"), CapabilitySet::NET_BIND_SERVICE);
        assert_eq!(set("CAP_AUDIT_WRITE"), CapabilitySet::AUDIT_WRITE);
        assert_eq!(set("CAP_CHECKPOINT_RESTORE"), CapabilitySet::CHECKPOINT_RESTORE);
        assert!(capability_set(&["CHOWN".to_owned()]).is_err());
    }
}
