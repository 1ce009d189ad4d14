//! `i2kit cache`: what the local store holds, and making it smaller.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::args::CacheVerb;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::pipeline;
use crate::registry::cache::{self, CacheEntry, PrunePolicy};
use crate::report::{self, Format};

const DAY: Duration = Duration::from_hours(24);

/// Lists or prunes the cache.
///
/// Pruning never hurts what is deployed: a cloud keeps images of its own.
pub(super) fn run(context: &Context, verb: &CacheVerb) -> Result<Exit, Failure> {
    let root = &context.dirs.cache;
    let (entries, done) = match verb {
        CacheVerb::Ls => (cache::list(root).or_exit(Exit::Failure)?, "in the cache"),
        CacheVerb::Prune { all, days, max_size_mib } => {
            let unused_for = if *all { Duration::ZERO } else { DAY.saturating_mul(*days) };
            let policy = PrunePolicy {
                unused_for: Some(unused_for),
                max_bytes: max_size_mib.map(|mib| mib << 20),
                ..PrunePolicy::default()
            };
            (cache::prune(root, &policy).or_exit(Exit::Failure)?, "freed")
        }
    };
    match context.format {
        Format::Json => pipeline::json(&entries),
        Format::Text => report::result(&text(&entries, done)),
    }
    Ok(Exit::Success)
}

fn text(entries: &[CacheEntry], done: &str) -> String {
    let mut out = String::new();
    if !entries.is_empty() {
        let _ = writeln!(out, "{:<10}{:<14}{:>12}  LAST USED", "KIND", "NAME", "SIZE");
    }
    for entry in entries {
        let kind = format!("{:?}", entry.kind).to_lowercase();
        let name: String = entry.name.chars().take(12).collect();
        let used = pipeline::utc(seconds(entry.last_used));
        let _ = writeln!(out, "{kind:<10}{name:<14}{:>12}  {used}", pipeline::size(entry.bytes));
    }
    let total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let _ = writeln!(out, "{} in {} files {done}", pipeline::size(total), entries.len());
    out
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
