//! The command line as it is typed: the verbs, the options that all of them take, and by subject the arguments of each.
//! What they mean is decided in one file a verb.

mod ca;
mod cache;
mod dashboard;
mod deployment;
mod instances;
mod local_cloud;
mod manifests;
mod trial;
mod volume;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use self::ca::CaVerb;
pub(super) use self::cache::CacheVerb;
pub(super) use self::dashboard::DashboardArgs;
pub(super) use self::deployment::{
    BuildArgs, DeployArgs, DestroyArgs, DiffArgs, DiskFormat, GcArgs, IamPolicyArgs, PlanArgs, PreflightArgs,
    RestartArgs, RollbackArgs, ScaleArgs, WaitArgs,
};
pub(super) use self::instances::{
    ConsoleArgs, CpArgs, EventsArgs, ExecArgs, GroupArgs, LogsArgs, ReplicasArgs, RunArgs, StatusArgs,
    TopArgs, TopOrder,
};
pub(super) use self::local_cloud::LocalCloudVerb;
pub(super) use self::manifests::{
    CheckArgs, ConvertArgs, ExplainArgs, FileOptions, Findings, Manifests, Reading, SchemaArgs, SchemaFormat,
};
pub(super) use self::trial::{STEP_COUNT, TrialArgs};
pub(super) use self::volume::VolumeVerb;

/// Deploy Kubernetes manifests as micro-VMs: one immutable machine image per pod, rolled out behind load balancers, without a cluster
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
    #[arg(
        short = 'e',
        long = "environment",
        value_name = "FILE",
        global = true,
        help = "Environment file [env: I2KIT_ENVIRONMENT] [default: ./environment.yml if it exists, else the local cloud]"
    )]
    pub environment: Option<PathBuf>,
    /// Format of results; with json, events go to standard error as JSON lines
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text, global = true)]
    pub output: Output,
    /// Print results, warnings and errors only
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

/// The processes of the local cloud's HTTP proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProxyRole {
    /// Holds sockets and starts the other one.
    Guard,
    /// Serves requests.
    Carry,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Check manifests and report every error at once
    #[command(override_usage = "i2kit check [OPTIONS] <MANIFEST | -f FILE | -k DIR>...")]
    Check(CheckArgs),
    /// Show the steps that deploy would take, and why
    #[command(override_usage = "i2kit plan [OPTIONS] <MANIFEST | -f FILE | -k DIR>...")]
    Plan(PlanArgs),
    /// Show the differences that deploy would make, line by line; exit code 10 when there are any
    #[command(override_usage = "i2kit diff [OPTIONS] <MANIFEST | -f FILE | -k DIR>...")]
    Diff(DiffArgs),
    /// Build the machine image of every pod
    #[command(override_usage = "i2kit build [OPTIONS] <MANIFEST | -f FILE | -k DIR>...")]
    Build(BuildArgs),
    /// Build the images that changed, roll them out, wait until all groups are healthy
    #[command(override_usage = "i2kit deploy [OPTIONS] <MANIFEST | -f FILE | -k DIR>...")]
    Deploy(DeployArgs),
    /// Deploy in the foreground, stream the logs, destroy everything on Ctrl-C
    #[command(override_usage = "i2kit preview [OPTIONS] <MANIFEST | -f FILE | -k DIR>...")]
    Preview(Manifests),
    /// Show groups, instances and balancers
    Status(StatusArgs),
    /// List events of groups and instances, oldest first
    Events(EventsArgs),
    /// Show what the replicas of a replicated group say, move the lead, or recover a group that lost its majority
    Replicas(ReplicasArgs),
    /// Show the processor and memory use of instances
    Top(TopArgs),
    /// Serve a page for a browser on this computer: groups, rollouts, instances, traffic, events, logs
    Dashboard(DashboardArgs),
    /// Print the output of a group's containers
    Logs(LogsArgs),
    /// Run a command in a container and exit with its code
    Exec(ExecArgs),
    /// Copy files and folders to or from a container
    Cp(CpArgs),
    /// Follow the serial console of an instance
    Console(ConsoleArgs),
    /// List the revisions of a group
    History(GroupArgs),
    /// Roll a group back to an earlier revision
    Rollback(RollbackArgs),
    /// Replace all instances of a group by equal ones, a few at a time
    Restart(RestartArgs),
    /// Run a Job, or a CronJob's Job, now, and wait for its end
    Run(RunArgs),
    /// Set the number of instances of a group
    Scale(ScaleArgs),
    /// Wait for rollouts that an earlier command started
    Wait(WaitArgs),
    /// Check what a deployment needs, on this computer and in its cloud
    Preflight(PreflightArgs),
    /// Print the smallest IAM policy that the environment needs
    IamPolicy(IamPolicyArgs),
    /// Try the environment's account: deploy small things in steps, write a report, delete everything again
    Trial(TrialArgs),
    /// Delete images that no revision uses, and leftovers of interrupted commands
    Gc(GcArgs),
    /// Delete groups and balancers, with their images and Secrets; volumes are kept
    Destroy(DestroyArgs),
    /// List, copy, restore or delete the disks that outlive instances
    Volume {
        /// The verb.
        #[command(subcommand)]
        verb: VolumeVerb,
    },
    /// Create, print, install or remove the authority that signs certificates of the local cloud
    Ca {
        /// The verb.
        #[command(subcommand)]
        verb: CaVerb,
    },
    /// List, verify or prune the local cache of blobs, layers and images
    Cache {
        /// The verb.
        #[command(subcommand)]
        verb: CacheVerb,
    },
    /// Explain the code of a finding
    Explain(ExplainArgs),
    /// Print the JSON Schema of manifests, or a page made from the same tables
    Schema(SchemaArgs),
    /// Print manifests of the short form as Deployments and Services
    #[command(override_usage = "i2kit convert [OPTIONS] <MANIFEST | -f FILE | -k DIR>...")]
    Convert(ConvertArgs),
    /// Print a shell completion script
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Run the local cloud's background process, or have it started with this computer
    LocalCloud {
        /// The verb.
        #[command(subcommand)]
        verb: Option<LocalCloudVerb>,
    },
    /// Hold an environment's network; the local cloud starts it
    #[command(hide = true)]
    LocalNetwork(LocalNetworkArgs),
    /// Become a program in an environment's network; the local cloud starts it
    #[command(hide = true)]
    LocalVm(LocalVmArgs),
    /// Run the processes of the local cloud that carry traffic; the local cloud starts them on demand
    #[command(hide = true)]
    LocalDoor {
        /// The local cloud's folder.
        state: std::path::PathBuf,
        /// The descriptor of the table that an older program leaves to this one.
        #[arg(long)]
        resume: Option<i32>,
    },
    /// Run a process of the local cloud's HTTP proxy; the local cloud starts it on demand
    #[command(hide = true)]
    LocalProxy {
        /// Which of the two.
        role: ProxyRole,
    },
}

/// The namespaces of a network, as paths.
#[derive(Debug, clap::Args)]
pub(super) struct LocalNetworkArgs {
    /// The user namespace
    #[arg(long)]
    pub(super) user: Option<PathBuf>,
    /// The network namespace
    #[arg(long)]
    pub(super) net: Option<PathBuf>,
}

/// A program in a network.
#[derive(Debug, clap::Args)]
pub(super) struct LocalVmArgs {
    #[command(flatten)]
    pub(super) network: LocalNetworkArgs,
    /// A descriptor that the program inherits
    #[arg(long)]
    pub(super) keep: Vec<i32>,
    /// The process that starts it and with which it ends
    #[arg(long)]
    pub(super) bound_to: Option<u32>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(super) program: Vec<String>,
}
