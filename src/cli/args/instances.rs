//! Arguments of verbs about groups and instances that run.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// `status`.
#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    /// Group: NAME or NAMESPACE/NAME [default: all]
    pub name: Option<String>,
    /// Print the traffic of Services in the text format of Prometheus
    #[arg(long)]
    pub metrics: bool,
    /// Print what changes as it does, after what there is
    #[arg(short, long, conflicts_with = "metrics")]
    pub watch: bool,
}

/// `events`.
#[derive(Debug, Args)]
pub(in crate::cli) struct EventsArgs {
    /// Group: NAME or NAMESPACE/NAME [default: all]
    pub name: Option<String>,
}

/// `top`.
#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    /// Group (NAME or NAMESPACE/NAME) or one of its instances (with /INSTANCE) [default: all]
    pub name: Option<String>,
    /// Print the use of each container
    #[arg(long)]
    pub containers: bool,
    /// Order, the highest use first [default: by name]
    #[arg(long, value_enum, value_name = "RESOURCE")]
    pub sort_by: Option<TopOrder>,
    /// Print no header
    #[arg(long)]
    pub no_headers: bool,
}

/// `top --sort-by`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum TopOrder {
    /// Processor use
    Cpu,
    /// Memory
    Memory,
}

/// A verb about one group.
#[derive(Debug, Args)]
pub(in crate::cli) struct GroupArgs {
    /// Group: NAME or NAMESPACE/NAME
    pub name: String,
}

/// `replicas`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReplicasArgs {
    /// Group: NAME or NAMESPACE/NAME
    pub name: String,
    /// Move the lead to the replica of this slot; no command is lost
    #[arg(long, value_name = "SLOT", conflicts_with = "recover")]
    pub lead: Option<u32>,
    /// Go on from the newest log that is left after the loss of a majority: acknowledged writes may be lost
    #[arg(long)]
    pub recover: bool,
    /// Carry `--recover` out; without it, only what would be done is said
    #[arg(long, requires = "recover")]
    pub yes: bool,
}

/// `run`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RunArgs {
    /// Job or CronJob: NAME or NAMESPACE/NAME, with cronjob/ or job/ in front if you like
    pub name: String,
    /// Wait for the end of the run; with `--wait=false` it is only started
    #[arg(long, action = clap::ArgAction::Set, default_value_t = true, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, value_name = "BOOL")]
    pub wait: bool,
}

/// `logs`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags of the command line")]
pub(in crate::cli) struct LogsArgs {
    /// Group (NAME or NAMESPACE/NAME) or one of its instances (with /INSTANCE)
    pub name: String,
    /// Print new lines as they come
    #[arg(short, long)]
    pub follow: bool,
    /// Container [default: all]
    #[arg(short, long)]
    pub container: Option<String>,
    /// Number of last lines of each instance
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Logs of each container's previous run
    #[arg(short, long, conflicts_with = "follow")]
    pub previous: bool,
    /// Lines no older than this, such as 90s, 10m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub since: Option<Duration>,
    /// Print the time of each line
    #[arg(long)]
    pub timestamps: bool,
    /// Print lines unchanged, with control characters
    #[arg(long)]
    pub raw: bool,
}

/// `exec`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ExecArgs {
    /// Group (NAME or NAMESPACE/NAME) or one of its instances (with /INSTANCE: its number, its id, or the last part of
    /// the id) [default instance: the first healthy one]
    pub name: String,
    /// Container [default: the pod's first]
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass standard input to the command
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Allocate a terminal for the command
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Command and its arguments, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `console`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ConsoleArgs {
    /// Group or instance, as for exec
    pub name: String,
    /// Print bytes unchanged, with control characters
    #[arg(long)]
    pub raw: bool,
}

/// `cp`.
#[derive(Debug, Args)]
pub(in crate::cli) struct CpArgs {
    /// Source: a local path, NAME[/INSTANCE]:PATH in a container, or - for a tar stream
    pub from: String,
    /// Target, in the same form
    pub to: String,
    /// Container [default: the pod's first]
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
