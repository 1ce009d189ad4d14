//! The command line as it is typed. What it means is decided in one file a verb.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::manifest::{External, Options, Provider};

/// Deploy pods as micro-VMs: one immutable machine image a pod, rolled out behind a load balancer, without a cluster.
#[derive(Debug, Parser)]
#[command(name = "i2kit", version, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Arguments {
    /// The verb.
    #[command(subcommand)]
    pub verb: Verb,
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Environment file [default: ./environment.yml if it exists, else the local cloud]
    #[arg(short = 'e', long = "environment", value_name = "FILE", global = true, env = "I2KIT_ENVIRONMENT")]
    pub environment: Option<PathBuf>,
    /// How results are printed; with json, progress is written to standard error as JSON lines
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text, global = true)]
    pub output: Output,
    /// Say nothing but results, warnings and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Manifests given on the command line.
#[derive(Debug, Args)]
#[expect(clippy::struct_field_names, reason = "the word that messages of clap show")]
pub(super) struct Manifests {
    /// Manifest files, folders of them, or `-` for standard input; all are read as one set
    #[arg(value_name = "MANIFEST", required_unless_present = "kustomize")]
    pub manifests: Vec<PathBuf>,
    /// Folders with a kustomization.
    #[command(flatten)]
    pub kustomize: Kustomize,
    /// How they are read.
    #[command(flatten)]
    pub reading: Reading,
}

/// `-k`, as kubectl has it.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Kustomize {
    /// Folder with a kustomization: reads what `kubectl kustomize` or `kustomize build` makes of it (may be repeated)
    #[arg(short = 'k', long = "kustomize", value_name = "DIR")]
    pub kustomize: Vec<PathBuf>,
}

/// How manifests are read.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Reading {
    /// Leave objects of this kind out, as KIND or KIND.GROUP (may be repeated)
    #[arg(long, value_name = "KIND")]
    pub ignore_kind: Vec<String>,
    /// An object that exists already, such as secret/NAME in the cloud's secret store (may be repeated)
    #[arg(long, value_name = "KIND/NAME")]
    pub external: Vec<External>,
    /// Accept privileged containers; the machine holds them, but they can change it
    #[arg(long)]
    pub allow_privileged: bool,
    /// Take hostNetwork, hostPID and hostIPC to be about the pod's own machine
    #[arg(long)]
    pub host_is_vm: bool,
}

impl Reading {
    /// The options that the room takes.
    pub(super) fn options(&self) -> Options {
        Options {
            ignore_kinds: self.ignore_kind.iter().cloned().collect(),
            external: self.external.iter().cloned().collect(),
            allow_privileged: self.allow_privileged,
            host_is_vm: self.host_is_vm,
            language_only: false,
            provider: Provider::default(),
            certificate: None,
            region: None,
        }
    }
}

/// `preflight`.
#[derive(Debug, Args)]
pub(super) struct PreflightArgs {
    /// Manifest files, folders of them, or `-`: what is to be deployed beside what there is
    #[arg(value_name = "MANIFEST")]
    pub manifests: Vec<PathBuf>,
    /// Folders with a kustomization.
    #[command(flatten)]
    pub kustomize: Kustomize,
    /// How they are read.
    #[command(flatten)]
    pub reading: Reading,
}

/// `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// How findings are printed [default: as --output says]
    #[arg(long, value_enum)]
    pub format: Option<Findings>,
    /// Check against the language alone, not against what this version can deploy
    #[arg(long)]
    pub language_only: bool,
}

/// `check --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Findings {
    /// For people, each with its line
    Text,
    /// A JSON list
    Json,
    /// SARIF 2.1.0, for code scanning services
    Sarif,
    /// Workflow commands, which GitHub shows beside the lines of a change
    Github,
}

/// `convert`.
#[derive(Debug, Args)]
pub(super) struct ConvertArgs {
    /// Manifest files, folders of them, or `-` for standard input
    #[arg(value_name = "MANIFEST", required = true)]
    pub manifests: Vec<PathBuf>,
}

/// `explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// The code that a finding names; all codes without one
    pub code: Option<String>,
}

/// `schema`.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {
    /// What to print
    #[arg(long, value_enum, default_value_t = SchemaFormat::JsonSchema)]
    pub format: SchemaFormat,
}

/// `schema --format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SchemaFormat {
    /// A JSON Schema, for editors
    JsonSchema,
    /// The page docs/manifests.md
    Markdown,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Check manifests and say everything that is wrong with them
    Check(CheckArgs),
    /// Show what deploy would do, and why
    Plan(PlanArgs),
    /// Show what deploy would change, line by line; exits with 10 when something differs
    Diff(DiffArgs),
    /// Build the machine image of every pod
    Build(BuildArgs),
    /// Build what changed and roll it out; wait until it is healthy
    Deploy(DeployArgs),
    /// Deploy, stream the logs, and destroy on Ctrl-C
    Preview(Manifests),
    /// Show groups, instances and balancers
    Status(StatusArgs),
    /// Show what happened to groups and instances, oldest first
    Events(StatusArgs),
    /// Print the output of a group's containers
    Logs(LogsArgs),
    /// Run a command in a container; its exit code is the result
    Exec(ExecArgs),
    /// Copy files to or from a container
    Cp(CpArgs),
    /// Show what an instance's serial console says
    Console(ConsoleArgs),
    /// List the revisions of a group
    History(GroupArgs),
    /// Roll a group out at an earlier revision
    Rollback(RollbackArgs),
    /// Set the number of instances of a group
    Scale(ScaleArgs),
    /// Wait until groups are what an earlier run began to make them
    Wait(WaitArgs),
    /// Check credentials, permissions, quotas, subnets and certificates, before anything is built
    Preflight(PreflightArgs),
    /// Print the smallest IAM policy with which everything works in the environment
    IamPolicy,
    /// Delete images that no revision needs, and what interrupted runs left
    Gc(GcArgs),
    /// Delete groups and balancers, and what is left behind them
    Destroy(DestroyArgs),
    /// Show or shrink the local cache of blobs, layers and images
    Cache {
        /// What to do with it.
        #[command(subcommand)]
        verb: CacheVerb,
    },
    /// Explain the code of a finding of check
    Explain(ExplainArgs),
    /// Print the JSON Schema of what manifests may say
    Schema(SchemaArgs),
    /// Print manifests in the short form as a Deployment and a Service
    Convert(ConvertArgs),
    /// Print a shell completion script
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// The local cloud's own process; started on demand
    #[command(hide = true)]
    LocalCloud,
}

/// `plan`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Also delete groups and balancers of the environment that the manifests do not name
    #[arg(long)]
    pub prune: bool,
    /// Exit with 0 when nothing would change and with 10 when something would
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `diff`.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Also show groups and balancers of the environment that the manifests do not name
    #[arg(long)]
    pub prune: bool,
}

/// `build`.
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Folder for the disks and their parts [default: build into the cache only]
    #[arg(short, long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The disk's form
    #[arg(long, value_enum, default_value_t = DiskFormat::Raw, requires = "dir")]
    pub format: DiskFormat,
    /// Private key (PEM) that signs what firmware boots, for Secure Boot; needs sbsign
    #[arg(long, value_name = "FILE", requires = "sign_cert")]
    pub sign_key: Option<PathBuf>,
    /// Certificate (PEM) of that key
    #[arg(long, value_name = "FILE", requires = "sign_key")]
    pub sign_cert: Option<PathBuf>,
}

/// `build --format`, in LinuxKit's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DiskFormat {
    /// Partitions of the pod and its layers; qemu starts kernel and initrd from files of their own
    Raw,
    /// The same behind an EFI system partition, for firmware and clouds
    RawEfi,
    /// The disk that firmware boots, for qemu
    Qcow2,
    /// The disk that firmware boots, for Hyper-V and Azure
    Vhd,
    #[value(help = "The disk that firmware boots, for VMware")]
    Vmdk,
}

/// `deploy`.
#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    /// The set.
    #[command(flatten)]
    pub set: Manifests,
    /// Also delete groups and balancers of the environment that the manifests do not name
    #[arg(long)]
    pub prune: bool,
    /// Wait until everything is healthy; `--wait=false` only starts it, and `i2kit wait` waits
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, value_name = "BOOL")]
    pub wait: bool,
}

/// `wait`.
#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// Groups: NAME or NAMESPACE/NAME [default: all]
    pub names: Vec<String>,
}

/// `gc`.
#[derive(Debug, Args)]
pub(super) struct GcArgs {
    /// Only list them
    #[arg(long)]
    pub dry_run: bool,
}

/// `status` and `events`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only this group: NAME or NAMESPACE/NAME
    pub name: Option<String>,
}

/// A verb about one group.
#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    /// The group: NAME or NAMESPACE/NAME
    pub name: String,
}

/// `logs`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the command line")]
pub(super) struct LogsArgs {
    /// The group, NAME or NAMESPACE/NAME, all of its instances or one with /INSTANCE
    pub name: String,
    /// Go on printing as lines come
    #[arg(short, long)]
    pub follow: bool,
    /// Only this container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Only the last lines of each instance
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// What each container said before it was started the last time
    #[arg(short, long, conflicts_with = "follow")]
    pub previous: bool,
    /// Only lines that are no older than that, such as 90s, 10m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// Print the time of each line
    #[arg(long)]
    pub timestamps: bool,
    /// Print lines as the containers wrote them, with what acts on a terminal
    #[arg(long)]
    pub raw: bool,
}

/// `exec`.
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// The group, NAME or NAMESPACE/NAME, and one of its instances: /INSTANCE, its number, id or the id's last part
    /// [default: the first healthy one]
    pub name: String,
    /// The container [default: the pod's first]
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Program and arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `console`.
#[derive(Debug, Args)]
pub(super) struct ConsoleArgs {
    /// The group, NAME or NAMESPACE/NAME, and one of its instances, as for exec
    pub name: String,
    /// Print bytes as they come, with what acts on a terminal
    #[arg(long)]
    pub raw: bool,
}

/// `cp`.
#[derive(Debug, Args)]
pub(super) struct CpArgs {
    /// A file or folder here, NAME[/INSTANCE]:PATH in a container, or - for a tar stream
    pub from: String,
    /// Where it goes, in the same form
    pub to: String,
    /// The container [default: the pod's first]
    #[arg(short, long)]
    pub container: Option<String>,
}

/// A duration in Go's words, as kubectl takes it: `1h30m`, `90s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration; write it like 90s, 10m or 1h30m");
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|at| *at > 0).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = match rest.as_bytes()[digits] {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            _ => return Err(wrong()),
        };
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        rest = &rest[digits + 1..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

/// `rollback`.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The group: NAME or NAMESPACE/NAME
    pub name: String,
    /// The revision, a number of `history` [default: the one before the current]
    #[arg(long, alias = "to", value_name = "REVISION")]
    pub to_revision: Option<u32>,
}

/// `scale`.
#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// The group: NAME or NAMESPACE/NAME
    pub name: String,
    /// How many instances
    #[arg(long)]
    pub replicas: u32,
}

/// `destroy`.
#[derive(Debug, Args)]
pub(super) struct DestroyArgs {
    /// Manifests whose objects are deleted; names of groups (NAME or NAMESPACE/NAME) are taken too
    #[arg(required_unless_present_any = ["all", "lost", "kustomize"])]
    pub targets: Vec<String>,
    /// Folders with a kustomization.
    #[command(flatten)]
    pub kustomize: Kustomize,
    /// Delete everything in the environment
    #[arg(long, conflicts_with_all = ["targets", "kustomize"])]
    pub all: bool,
    /// End machines of the local cloud, of all environments, whose database is gone or damaged; it is kept aside
    #[arg(long, conflicts_with_all = ["targets", "kustomize", "all"])]
    pub lost: bool,
    /// How manifests are read.
    #[command(flatten)]
    pub reading: Reading,
}

/// `cache`.
#[derive(Debug, Subcommand)]
pub(super) enum CacheVerb {
    /// List what the cache holds
    Ls,
    /// Read all that the cache holds and delete what is not what was written there; exits with 1 when there was any
    Verify {
        /// Only say what is spoiled
        #[arg(long)]
        keep: bool,
    },
    /// Delete what was not used for a while, and what killed runs left; what is deployed is not touched
    Prune {
        /// Delete everything, however lately it was used
        #[arg(long)]
        all: bool,
        /// Keep what was used within so many days
        #[arg(long, default_value_t = 30, conflicts_with = "all")]
        days: u32,
        /// Delete more, the longest unused first, until so many MiB are left
        #[arg(long, value_name = "MIB")]
        max_size_mib: Option<u64>,
    },
}
