//! The contract between host and guest: what the host writes into the pod file system of an image and what
//! the guest reads from it when it boots. Serde types only, and the one rule that both sides apply, [`expand()`];
//! no behaviour beyond that, constants and constructors.
//!
//! Two files make up the contract of an image: [`PodBoot`] is `etc/i2kit/pod.json`, and each container has an OCI runtime
//! `config.json` in LinuxKit's layout, of which [`runtime::Config`] is the subset that host and guest agree on.
//! Both are strict: an unknown field is an error on the reading side, so that a guest never ignores half of what
//! a newer host asked for. In a cloud, [`launch::LaunchSpec`] says what belongs to a launch and not to the image.

pub mod boot;
pub mod cmdline;
pub mod console;
pub mod control;
pub mod end;
mod expand;
pub mod guest;
pub mod late;
pub mod launch;
pub mod names;
pub mod probe;
pub mod runtime;
pub mod seccomp;
pub mod secrets;
pub mod status;
pub mod verity;
pub mod volume;

pub use boot::{
    ContainerBoot, POD_BOOT_PATH, POD_BOOT_VERSION, POD_MOUNT, POD_PARTITION, PodBoot, PodMeta,
    RestartPolicy, Seccomp, TERMINATION_LOG, over,
};
pub use end::{ContainerEnd, PodEnd};
pub use expand::expand;
pub use guest::{
    GUEST_CLOUD, GUEST_INITRD, GUEST_KERNEL, GUEST_MANIFEST, GUEST_STUB, GUEST_VERSION, GuestManifest,
};
pub use late::{InstanceField, LateEnvironment, LateValue, LateVariable, SecretKey, SecretName};
pub use names::{HostAlias, Names};
pub use probe::{Hook, Probe, ProbeAction, Probes};
pub use volume::{LateContent, LateFile, POD_VOLUMES, VOLUMES_MOUNT, VolumeBoot, VolumeKind, scratch_serial};
