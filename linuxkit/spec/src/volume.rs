//! Volumes that the guest makes at boot. One whose files are all known at build time is none of them: it is a folder
//! of the pod file system, and containers mount it from there.

use serde::{Deserialize, Serialize};

use crate::env::{InstanceField, SecretKey, SecretName};
use crate::units::Bytes;

/// Where the guest makes volumes, each in a folder of its name; the source of a container's mount starts with this.
pub const VOLUMES_MOUNT: &str = "/volumes";

/// The folder of the pod file system with the files of volumes that are known at build time, a folder a volume.
pub const POD_VOLUMES: &str = "volumes";

/// The serial number by which the guest finds the scratch disk of this number. Its bytes are zero when the machine starts,
/// and nobody looks at them after its end.
pub fn scratch_serial(number: u32) -> String {
    format!("i2kit-scratch-{number}")
}

/// The serial number by which the guest finds the disk of this number that outlives the machine. It has a file system when the
/// machine starts, and whatever a machine before wrote there.
pub fn disk_serial(number: u32) -> String {
    format!("i2kit-disk-{number}")
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeBoot {
    /// Its name, unique in the pod.
    pub name: String,
    /// What it is.
    pub kind: VolumeKind,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum VolumeKind {
    /// Scratch space that all containers share, and that outlives each of them.
    EmptyDir {
        /// Its size at most; in memory, half of the machine's is the bound in any case.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        size_limit: Option<Bytes>,
        /// The number of the disk that it lies on, see [`scratch_serial`]. Without one, or in a machine that does not have
        /// the disk, it lies in memory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<u32>,
    },
    /// A disk that outlives the machine.
    Disk {
        /// Its number, see [`disk_serial`]. A machine without it does not start.
        disk: u32,
    },
    /// Files in memory that is never swapped out: those of the volume's folder in the pod file system, if it has one,
    /// and over them these.
    Files {
        /// The files that are known at boot alone.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<LateFile>,
    },
}

/// A file that is known at boot alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LateFile {
    /// Path below the volume's root; of a whole Secret the folder of its keys, which may be empty.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// Its content.
    pub content: LateContent,
}

/// Content of a file that is known at boot alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum LateContent {
    /// A field of the instance.
    Instance(InstanceField),
    /// A key of a Secret.
    Secret(SecretKey),
    /// All keys of a Secret, a file each.
    WholeSecret(SecretName),
}
