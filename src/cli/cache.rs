//! `i2kit cache`: what the local store holds, making it smaller, and looking whether it is what was written.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::args::CacheVerb;
use super::context::Context;
use super::exit::{Exit, Failure, OrExit as _};
use super::output;
use crate::registry::cache::{self, CacheEntry, CacheKind, PrunePolicy};
use crate::registry::{Verified, verify};
use crate::report::{self, Format};

const DAY: Duration = Duration::from_hours(24);

/// Lists, verifies or prunes the cache.
///
/// Pruning never hurts what is deployed: a cloud keeps images of its own.
pub(super) fn run(context: &Context, verb: &CacheVerb) -> Result<Exit, Failure> {
    let root = &context.dirs.cache;
    let (entries, done) = match verb {
        CacheVerb::Ls => (cache::list(root).or_exit(Exit::Failure)?, "in the cache"),
        CacheVerb::Verify { keep } => {
            let verified = verify(root, *keep).or_exit(Exit::Failure)?;
            match context.format {
                Format::Json => output::json(&verified),
                Format::Text => report::result(&verdict(&verified)),
            }
            return Ok(if verified.spoiled.is_empty() { Exit::Success } else { Exit::Failure });
        }
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
        Format::Json => output::json(&entries),
        Format::Text => report::result(&text(&entries, done)),
    }
    Ok(Exit::Success)
}

fn verdict(verified: &Verified) -> String {
    let mut out = String::new();
    for spoiled in &verified.spoiled {
        let done = match (spoiled.removed, spoiled.entry.kind) {
            (false, _) => "left where it is",
            (true, CacheKind::Blob) => "removed; it is fetched again when it is needed",
            (true, _) => "removed; it is made again when it is needed",
        };
        let _ = writeln!(out, "{}: {}; {done}", spoiled.path.display(), spoiled.problem);
    }
    let good = match verified.spoiled.len() {
        0 => "all is what was written".to_owned(),
        count => format!("{count} spoiled"),
    };
    let _ = writeln!(out, "{} in {} entries read: {good}", output::size(verified.bytes), verified.entries);
    out
}

fn text(entries: &[CacheEntry], done: &str) -> String {
    let mut out = String::new();
    if !entries.is_empty() {
        let _ = writeln!(out, "{:<10}{:<14}{:>12}  LAST USED", "KIND", "NAME", "SIZE");
    }
    for entry in entries {
        let kind = format!("{:?}", entry.kind).to_lowercase();
        let name: String = entry.name.chars().take(12).collect();
        let used = output::utc(seconds(entry.last_used));
        let _ = writeln!(out, "{kind:<10}{name:<14}{:>12}  {used}", output::size(entry.bytes));
    }
    let total: u64 = entries.iter().map(|entry| entry.bytes).sum();
    let _ = writeln!(out, "{} in {} files {done}", output::size(total), entries.len());
    out
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::registry::Spoiled;

    #[test]
    fn a_verdict_names_the_file_and_what_became_of_it() {
        let spoiled = |kind, removed| Spoiled {
            entry: CacheEntry {
                kind,
                name: "0".repeat(64),
                path: PathBuf::from("/c/x"),
                bytes: 1 << 20,
                last_used: UNIX_EPOCH,
            },
            path: PathBuf::from("/c/x"),
            problem: "its record is damaged".to_owned(),
            removed,
        };
        let spoiled = vec![spoiled(CacheKind::Blob, true), spoiled(CacheKind::Image, false)];
        let text = verdict(&Verified { entries: 5, bytes: 3 << 20, spoiled });
        assert!(text.contains("/c/x: its record is damaged; removed; it is fetched again"), "{text}");
        assert!(text.contains("left where it is") && text.ends_with("2 spoiled\n"), "{text}");
        assert!(verdict(&Verified::default()).ends_with("all is what was written\n"));
    }
}
