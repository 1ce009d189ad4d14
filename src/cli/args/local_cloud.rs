//! Arguments of verbs about the local cloud's process.

use clap::Subcommand;

/// `local-cloud`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum LocalCloudVerb {
    /// Have systemd start it, with all that is deployed, when this computer starts
    Enable {
        /// Print the unit, install nothing
        #[arg(long)]
        print: bool,
    },
    /// Do not start it with this computer any more; what runs goes on
    Disable,
    /// Show whether it runs, and whether it starts with this computer
    Status,
}
