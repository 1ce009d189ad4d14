//! `guest.json`: what a guest bundle holds, and which guest a host wants.

use serde::{Deserialize, Serialize};

use crate::architecture::Architecture;

/// The version of the guest that belongs to this host; the bundle lies in a folder of this name. It is the version of
/// the whole workspace, because host and guest share [`crate::PodBoot`] and are released together.
pub const GUEST_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The bundle's description, `guest.json`, beside the files that it names.
pub const GUEST_MANIFEST: &str = "guest.json";

/// The kernel's file name inside a bundle.
pub const GUEST_KERNEL: &str = "kernel";

/// The initrd's file name inside a bundle.
pub const GUEST_INITRD: &str = "initrd";

/// The file name of what is added to the initrd where firmware boots the disk: what verifies the disk, drivers of clouds.
pub const GUEST_CLOUD: &str = "initrd.cloud";

/// The EFI stub's file name inside a bundle.
pub const GUEST_STUB: &str = "stub.efi";

/// The file name of the coordinator of replicated pods inside a bundle: a tar, which is a layer of their images.
pub const GUEST_COORDINATOR: &str = "coordinator.tar";

/// The content of `guest.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestManifest {
    /// Equal to the host's [`GUEST_VERSION`], or the host refuses the bundle.
    pub version: String,
    /// Release of the kernel, as `uname -r` prints it.
    pub kernel_release: String,
    /// The architecture of kernel and programs.
    pub arch: Architecture,
    /// `sha256:…` of the file `kernel`.
    pub kernel: String,
    /// `sha256:…` of the file `initrd`.
    pub initrd: String,
    /// The version of the message by which its guest takes what is one machine's alone, see [`crate::identity`]. Without it the
    /// guest knows the kernel's command line alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<u16>,
    /// `sha256:…` of the file `initrd.cloud`, in bundles that firmware can boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// `sha256:…` of the file `stub.efi`, systemd's EFI stub, in bundles that firmware can boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stub: Option<String>,
    /// `sha256:…` of the file `coordinator.tar`, in bundles that replicated pods can be built with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coordinator: Option<String>,
}
