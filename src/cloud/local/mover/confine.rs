//! The confinement of the front door and of the HTTP proxy: they carry strangers' bytes, so they gain no rights by a program,
//! and change no file but those in the local cloud's folder.

use std::path::Path;

use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, path_beneath_rules,
};

/// The newest rules of Landlock that are requested; an older kernel applies those that it knows.
const RULES: ABI = ABI::V6;

/// Restricts this process, and whoever it starts, to writing in `folder`. Returns whether that is enforced: without
/// Landlock it writes where its user may.
pub(crate) fn writes(folder: &Path) -> bool {
    let _ = rustix::thread::set_no_new_privs(true);
    let write = AccessFs::from_write(RULES);
    let devices = ["/dev/null"];
    let restricted = Ruleset::default()
        .handle_access(write)
        .and_then(landlock::Ruleset::create)
        .and_then(|rules| rules.add_rules(path_beneath_rules([folder], write)))
        .and_then(|rules| rules.add_rules(path_beneath_rules(devices, AccessFs::WriteFile)))
        .and_then(landlock::RulesetCreated::restrict_self);
    restricted.is_ok_and(|status| status.ruleset != RulesetStatus::NotEnforced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_folder_is_written() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (in_own, in_other) = (own.path().join("file"), other.path().join("file"));
        let folder = own.path().to_owned();
        // Rules hold for the thread that sets them.
        let written = std::thread::spawn(move || {
            let is_enforced = writes(&folder);
            (is_enforced, [in_own, in_other].map(|path| std::fs::write(path, "x").is_ok()))
        });
        let (is_enforced, written) = written.join().unwrap();
        assert_eq!(written, [true, !is_enforced]);
    }
}
