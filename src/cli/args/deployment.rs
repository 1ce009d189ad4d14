//! Arguments of verbs that plan, build, roll out, change or delete what an environment holds.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::manifests::{FileOptions, Manifests, Reading};

/// `plan`.
#[derive(Debug, Args)]
pub(in crate::cli) struct PlanArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Delete groups and balancers of the environment that the manifests do not name
    #[arg(long)]
    pub prune: bool,
    /// Exit code 0 when nothing would change, 10 when something would
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `diff`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Include groups and balancers of the environment that the manifests do not name
    #[arg(long)]
    pub prune: bool,
}

/// `build`.
#[derive(Debug, Args)]
pub(in crate::cli) struct BuildArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Folder for disks and their parts [default: none, images stay in the cache]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Format of the disks
    #[arg(long, value_enum, default_value_t = DiskFormat::Raw, requires = "dir")]
    pub format: DiskFormat,
    /// Private key (PEM) that signs the boot image for Secure Boot; needs sbsign
    #[arg(long, value_name = "FILE", requires = "sign_cert")]
    pub sign_key: Option<PathBuf>,
    /// Certificate (PEM) of the private key
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    pub sign_cert: Option<PathBuf>,
}

/// `build --format`, in LinuxKit's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum DiskFormat {
    /// Raw disk with the pod's partitions; kernel and initrd are separate files, for qemu
    Raw,
    /// Raw disk that UEFI firmware boots, for clouds
    RawEfi,
    /// Disk that UEFI firmware boots, for qemu
    Qcow2,
    /// Disk that UEFI firmware boots, for Hyper-V and Azure
    Vhd,
    #[value(help = "Disk that UEFI firmware boots, for VMware")]
    Vmdk,
}

/// `deploy`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DeployArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Delete groups and balancers of the environment that the manifests do not name
    #[arg(long)]
    pub prune: bool,
    /// Wait until all groups are healthy; with `--wait=false` rollouts are only started
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, value_name = "BOOL")]
    pub wait: bool,
}

/// `wait`.
#[derive(Debug, Args)]
pub(in crate::cli) struct WaitArgs {
    /// Groups: NAME or NAMESPACE/NAME [default: all]
    pub names: Vec<String>,
}

/// `preflight`.
#[derive(Debug, Args)]
pub(in crate::cli) struct PreflightArgs {
    /// Manifest files, folders of them, or `-`: the deployment to check for
    #[arg(value_name = "MANIFEST")]
    pub manifests: Vec<PathBuf>,
    /// Manifests that are named by options.
    #[command(flatten)]
    pub options: FileOptions,
    /// How they are read.
    #[command(flatten)]
    pub reading: Reading,
}

/// `iam-policy`.
#[derive(Debug, Args)]
pub(in crate::cli) struct IamPolicyArgs {
    /// Print the policy for `provider.permissionsBoundary` instead: the most that roles of machines may do
    #[arg(long)]
    pub boundary: bool,
    /// Print it for the environment that `trial` makes
    #[arg(long)]
    pub trial: bool,
}

/// `rollback`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RollbackArgs {
    /// Group: NAME or NAMESPACE/NAME
    pub name: String,
    /// Number of the revision, as `history` lists it [default: the one that served before, and is not the same again]
    #[arg(long, alias = "to", value_name = "REVISION")]
    pub to_revision: Option<u32>,
}

/// `restart`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RestartArgs {
    /// Group: NAME or NAMESPACE/NAME
    pub name: String,
}

/// `scale`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ScaleArgs {
    /// Group: NAME or NAMESPACE/NAME
    pub name: String,
    /// Number of instances
    #[arg(long)]
    pub replicas: u32,
}

/// `destroy`.
#[derive(Debug, Args)]
pub(in crate::cli) struct DestroyArgs {
    /// Manifests, or names of groups: NAME or NAMESPACE/NAME
    #[arg(required_unless_present_any = ["all", "lost", "filename", "kustomize"])]
    pub targets: Vec<String>,
    /// Manifests that are named by options.
    #[command(flatten)]
    pub options: FileOptions,
    /// Delete everything in the environment
    #[arg(long, conflicts_with_all = ["targets", "filename", "kustomize"])]
    pub all: bool,
    /// Delete disks too, with all that is on them [default: disks are kept]
    #[arg(long, conflicts_with = "lost")]
    pub volumes: bool,
    /// End all machines of a local cloud whose database is lost or damaged; the database is kept under another name
    #[arg(long, conflicts_with_all = ["targets", "filename", "kustomize", "all"])]
    pub lost: bool,
    /// How manifests are read.
    #[command(flatten)]
    pub reading: Reading,
}

/// `gc`.
#[derive(Debug, Args)]
pub(in crate::cli) struct GcArgs {
    /// List them, delete nothing
    #[arg(long)]
    pub dry_run: bool,
}
