//! Arguments of the verb about the cache.

use clap::Subcommand;

/// `cache`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CacheVerb {
    /// List the entries of the cache
    Ls,
    /// Read all entries and delete those that are damaged; exit code 1 when there were any
    Verify {
        /// Report damaged entries, delete nothing
        #[arg(long)]
        keep: bool,
    },
    /// Delete entries that were not used lately, and leftovers of killed commands; deployed images stay
    Prune {
        /// Delete all entries
        #[arg(long)]
        all: bool,
        /// Keep entries used within this number of days
        #[arg(long, default_value_t = 30, conflicts_with = "all")]
        days: u32,
        /// Shrink the cache to this size in MiB, the longest unused entries first
        #[arg(long, value_name = "MIB")]
        max_size_mib: Option<u64>,
    },
}
