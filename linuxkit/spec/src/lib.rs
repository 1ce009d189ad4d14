//! Values that host and guest share: what the host writes into the pod file system of an image and what the guest reads
//! from it when it boots. A manifest's field that the guest obeys has its one type here, which the manifest, the plan and
//! the guest use. Serde types only, and the two rules that both sides apply, [`expand()`] and what follows from the record of a
//! [`job`]; no behaviour beyond that, constants and constructors.
//!
//! Two files make up the contract of an image: [`PodBoot`] is `etc/i2kit/pod.json`, and each container has an OCI runtime
//! `config.json` in LinuxKit's layout, of which [`runtime::Config`] is the subset that host and guest agree on.
//! Both are strict: an unknown field is an error on the reading side, so that a guest never ignores half of what
//! a newer host asked for. In a cloud, [`user_data::UserData`] has what belongs to a launch and not to the image.

pub mod architecture;
pub mod boot;
pub mod cmdline;
pub mod console;
pub mod control;
pub mod end;
pub mod env;
mod expand;
pub mod guest;
pub mod identity;
pub mod job;
pub mod names;
pub mod port;
pub mod probe;
pub mod replica;
pub mod runtime;
pub mod seccomp;
pub mod secrets;
pub mod status;
pub mod units;
pub mod user_data;
pub mod verity;
pub mod volume;

pub use architecture::Architecture;
pub use boot::{
    ContainerBoot, DEFAULT_GRACE_PERIOD, POD_BOOT_PATH, POD_BOOT_VERSION, POD_MOUNT, POD_PARTITION, PodBoot,
    PodMeta, RestartPolicy, Seccomp, TERMINATION_LOG, over,
};
pub use end::{ContainerEnd, PodEnd};
pub use env::{EnvValue, EnvVar, InstanceField, LateEnvironment, SecretKey, SecretName};
pub use expand::expand;
pub use guest::{
    GUEST_CLOUD, GUEST_INITRD, GUEST_KERNEL, GUEST_MANIFEST, GUEST_STUB, GUEST_VERSION, GuestManifest,
};
pub use names::{HostAlias, Names};
pub use port::Protocol;
pub use probe::{Hook, Probe, ProbeAction, Probes};
pub use units::{Bytes, Millis, Seconds};
pub use volume::{
    LateContent, LateFile, POD_VOLUMES, VOLUMES_MOUNT, VolumeBoot, VolumeKind, disk_serial, scratch_serial,
};
