//! The image plan: everything that a pod's machine image is a function of.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use i2kit_spec::{Architecture, DEFAULT_GRACE_PERIOD, PodBoot, Seconds, runtime};
use serde::{Deserialize, Serialize};

use crate::oci::{DiffId, Digest};

/// Version of [`ImagePlan`]'s canonical form; part of what [`ImageId`] hashes.
pub const IMAGE_PLAN_VERSION: u32 = 1;

/// The identity of a machine image: sha256 of its plan's canonical JSON. Equal ids mean equal bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageId(pub Digest);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The guest bundle as a plan names it: facts found by `image::guest`, decided on here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFacts {
    /// Version of the bundle.
    pub version: String,
    /// The architecture of kernel and programs, and so of the image. The default is left out of the canonical form.
    #[serde(default, skip_serializing_if = "Architecture::is_default")]
    pub architecture: Architecture,
    /// Kernel release, such as `6.1.0-42-cloud-amd64`.
    pub kernel_release: String,
    /// Digest of the kernel file.
    pub kernel: Digest,
    /// Digest of the initial RAM file system: PID 1, supervisor, modules.
    pub initrd: Digest,
    /// The version of the message by which the guest takes what is one machine's alone, in bundles whose guest does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<u16>,
    /// Digest of what is added to the initial RAM file system where firmware boots the disk, in bundles that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<Digest>,
    /// Digest of the EFI stub that firmware starts, in bundles that have one: clouds need it, qemu on this machine
    /// does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stub: Option<Digest>,
}

/// What a machine image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePlan {
    /// Always [`IMAGE_PLAN_VERSION`].
    pub version: u32,
    /// Kernel and initial RAM file system.
    pub guest: GuestFacts,
    /// Kernel command line that belongs to the image; what belongs to one VM is added at its start.
    pub cmdline: String,
    /// What the guest boots.
    pub boot: PodBoot,
    /// Containers in boot order: onboot entries first, then services.
    pub containers: Vec<ContainerPlan>,
    /// Layers of all containers, each once, base layers first so that a new top layer moves no earlier one.
    pub layers: Vec<DiffId>,
    /// Files of the pod file system besides those that every pod has: what is known of its volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PlanFile>,
}

/// A file of the pod file system, owned by root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanFile {
    /// Path without a leading slash.
    pub path: String,
    /// Permission bits.
    pub mode: u16,
    /// What it is.
    pub content: PlanContent,
}

/// What a [`PlanFile`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PlanContent {
    /// A directory.
    Directory,
    /// A file with this text.
    Text(String),
    /// A file with these bytes, in base64.
    Base64(String),
}

impl PlanContent {
    /// A file with these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(BASE64.encode(bytes)),
        }
    }

    /// Its bytes; none for a directory.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Directory => None,
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Base64(text) => Some(BASE64.decode(text).unwrap_or_default()),
        }
    }
}

/// One container of an [`ImagePlan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    /// Name in the manifest.
    pub name: String,
    /// Full image reference with its digest.
    pub image: String,
    /// Folder inside the pod file system.
    pub bundle: String,
    /// The OCI runtime configuration.
    pub config: runtime::Config,
}

/// What the launch of a machine takes from its image's plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchImage {
    /// The image's identity.
    pub id: ImageId,
    /// The architecture of the machine.
    pub architecture: Architecture,
    /// Time between SIGTERM and SIGKILL, as the guest has it.
    pub grace_period_seconds: Seconds,
}

impl LaunchImage {
    /// An image that was not planned, for checks that start no machine.
    pub fn unplanned() -> Self {
        Self {
            id: ImageId(Digest::of(b"")),
            architecture: Architecture::default(),
            grace_period_seconds: DEFAULT_GRACE_PERIOD,
        }
    }
}

impl From<&ImagePlan> for LaunchImage {
    fn from(plan: &ImagePlan) -> Self {
        Self {
            id: plan.id(),
            architecture: plan.guest.architecture,
            grace_period_seconds: plan.boot.grace_period_seconds,
        }
    }
}

impl ImagePlan {
    /// The canonical form: JSON with the fields in the order of their declaration and maps in key order.
    pub fn canonical(&self) -> String {
        serde_json::to_string(self).expect("a plan has only string keys and finite numbers")
    }

    /// The image's identity.
    pub fn id(&self) -> ImageId {
        ImageId(Digest::of(self.canonical().as_bytes()))
    }
}
