//! Files as the cache sees them: free space, identity, the time of the last use.

use std::fs::{File, FileTimes};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

/// Free bytes for this user on the disk of `folder`; none when the file system does not report them.
pub(super) fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

/// Whether `file` is what lies at `path`.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(theirs)) => ours.dev() == theirs.dev() && ours.ino() == theirs.ino(),
        _ => false,
    }
}

/// Marks a file or folder as used now. Many systems do not keep the access time.
pub(super) fn touch(path: &Path) -> io::Result<()> {
    File::open(path)?.set_times(FileTimes::new().set_modified(now()))
}

/// The time now, the only clock of this room.
#[expect(clippy::disallowed_methods, reason = "the clock function of this room")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
