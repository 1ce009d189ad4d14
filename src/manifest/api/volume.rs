//! Volumes. References to ConfigMaps are resolved: what they hold is here.

use i2kit_spec::{Bytes, LateContent};

/// `volumes[]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Name, unique in the pod.
    pub name: String,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// Scratch space.
    EmptyDir {
        /// Whether it lies in memory.
        memory: bool,
        /// Its size at most.
        size_limit_bytes: Option<Bytes>,
    },
    /// Files, read-only: `configMap`, `secret`, `downwardAPI` and `projected`.
    Files(Vec<VolumeFile>),
    /// A disk that outlives the machine.
    Claim {
        /// Name of the claim, in the pod's namespace.
        claim: String,
        /// Whether the pod may only read it.
        read_only: bool,
    },
    /// The disk that each member of a StatefulSet has of this name.
    Member,
    /// The folder with the supervisor's socket, for the coordinator of a replicated pod. No manifest names it.
    PodSocket,
}

/// A file of a volume, or several that only the machine can know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFile {
    /// Relative to the volume's root.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Its content.
    pub content: FileContent,
}

/// Content of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// These bytes; part of the image.
    Bytes(Vec<u8>),
    /// What is known at boot alone. The path of a whole Secret is the folder of its keys.
    Late(LateContent),
}
