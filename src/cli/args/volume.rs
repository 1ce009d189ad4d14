//! Arguments of the verb about disks that outlive machines.

use clap::Subcommand;

/// `volume`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum VolumeVerb {
    /// List volumes with their sizes, instances and snapshots
    Ls,
    /// Copy what is on a volume; a machine that has it is paused meanwhile
    Snapshot {
        /// Volume: NAME or NAMESPACE/NAME
        volume: String,
        /// Name of the snapshot [default: snapshot-1 and so on]
        name: Option<String>,
    },
    /// Bring a volume back to a snapshot; refused while an instance has the volume
    Restore {
        /// Volume: NAME or NAMESPACE/NAME
        volume: String,
        /// Name of the snapshot
        snapshot: String,
    },
    /// Delete volumes with all that is on them, and their snapshots; refused while an instance has one
    Rm {
        /// Volumes: NAME or NAMESPACE/NAME
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
        /// Delete this snapshot of the volume, and keep the volume
        #[arg(long, value_name = "SNAPSHOT")]
        snapshot: Option<String>,
    },
}
