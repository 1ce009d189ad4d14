//! Disks that outlive machines, as files: `volumes/ENVIRONMENT/NAMESPACE/NAME.raw`, sparse, with an ext4 file system in it.
//!
//! Raw, so that a file is a disk for every tool, growing it is one call, and a kill leaves no tables of a format half written;
//! copies share their blocks where the host's file system can do that.
//!
//! A file has one writer: whoever opens it takes its lock (`flock`), and a machine's qemu inherits the descriptor that has it,
//! so that the kernel keeps the lock for exactly as long as the process runs. A file gets its name when it is whole. Nothing
//! here reads what a guest wrote.

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use i2kit_spec::Bytes;
use rustix::fs::FlockOperation;

use super::home::{self, Home};
use super::machine::descriptors;
use crate::cloud::CloudError;
use crate::manifest::api::Name;
use crate::oci::Digest;
use crate::plan::fleet::{Snapshot, whole_size};

/// How long a writer that is being ended may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two attempts to take the lock.
const POLL: Duration = Duration::from_millis(20);

/// Names up to this length are those of files.
const MAX_FILE_NAME: usize = 200;

/// A longer name is cut to this length.
const MAX_HEAD: usize = 180;

/// Programs that make file systems; Debian's `PATH` of ordinary users has no `/usr/sbin`.
const MAKERS: [&str; 3] = ["mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"];

/// The file system's features, whatever the host's settings are: those that every guest's kernel knows.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// How the tables of a file of zeros are made: as zeros that are there already, or by versions before 1.47 as ones that
/// the guest's kernel writes.
const TABLES: [&str; 2] = ["assume_storage_prezeroed=1", "lazy_itable_init=1,lazy_journal_init=1"];

/// Held while a file is made or replaced.
static MAKING: Mutex<()> = Mutex::new(());

/// Where the disk `name` of an environment lies.
pub(super) fn path(home: &Home, environment: &str, name: &Name) -> PathBuf {
    home.volumes().join(environment).join(&name.namespace).join(format!("{}.raw", file_name(&name.name)))
}

/// The name of a disk's file, without its extension. A claim's name has up to 253 characters, and a file's 255, extensions
/// included: a longer one is cut, with a digest of the whole behind a character that no claim's name has.
fn file_name(name: &str) -> String {
    if name.len() <= MAX_FILE_NAME {
        return name.to_owned();
    }
    let head: String = name.chars().take(MAX_HEAD).collect();
    format!("{head}~{}", Digest::of(name.as_bytes()).short())
}

/// Where the disk's snapshots lie.
fn snapshots(path: &Path) -> PathBuf {
    path.with_extension("snapshots")
}

/// Where a snapshot lies.
fn snapshot(path: &Path, name: &str) -> PathBuf {
    snapshots(path).join(format!("{name}.raw"))
}

/// The disks that are there, whatever records say: the environment, the name and the size of each. One whose name is cut
/// is found by its claim alone.
pub(super) fn all(home: &Home) -> Vec<(String, Name, Bytes)> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
    };
    let mut found = Vec::new();
    for (environment, folder) in entries(&home.volumes()) {
        for (namespace, folder) in entries(&folder) {
            for (file, path) in entries(&folder) {
                let Some(name) = file.strip_suffix(".raw").filter(|name| !name.contains('~')) else {
                    continue;
                };
                let Ok(looked) = fs::symlink_metadata(&path) else { continue };
                if looked.is_file() {
                    let name = Name { namespace: namespace.clone(), name: name.to_owned() };
                    found.push((environment.clone(), name, Bytes(looked.len())));
                }
            }
        }
    }
    found
}

/// The size of the file of a disk of this size.
fn length(size: Bytes) -> u64 {
    whole_size(size).0
}

/// Room that the disk takes; none when it is not there.
pub(super) fn used(path: &Path) -> Option<Bytes> {
    fs::metadata(path).ok().map(|found| Bytes(found.blocks().saturating_mul(512)))
}

/// What a file is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    /// Where.
    pub(super) path: &'w Path,
    /// Its size at least.
    pub(super) size: Bytes,
    /// The environment variables of the program that makes the file system.
    pub(super) environment: &'w [(OsString, OsString)],
}

/// Makes the disk, unless it is there: then it is as large as it was, and has on it what it had.
pub(super) fn make(wanted: &Wanted<'_>) -> Result<(), CloudError> {
    let Wanted { path, size, environment } = *wanted;
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if fs::exists(path).map_err(CloudError::file("look for", path))? {
        return Ok(());
    }
    let new = path.with_extension("raw.new");
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(CloudError::file("create", folder))?;
    let file = File::create(&new).map_err(CloudError::file("create", &new))?;
    let whole = file
        .set_len(length(size))
        .map_err(CloudError::file("grow", &new))
        .and_then(|()| format(&new, environment))
        .and_then(|()| settle(&file, &new, path));
    if whole.is_err() {
        // It may take room, on a disk that is full.
        let _ = fs::remove_file(&new);
    }
    whole
}

/// Gives a file that is whole its name, for good.
fn settle(file: &File, new: &Path, path: &Path) -> Result<(), CloudError> {
    file.sync_all().map_err(CloudError::file("write", new))?;
    fs::rename(new, path).map_err(CloudError::file("rename", new))?;
    home::flush(path.parent().unwrap_or(path))
}

/// Makes a file system with a journal, by e2fsprogs.
fn format(file: &Path, environment: &[(OsString, OsString)]) -> Result<(), CloudError> {
    let failed = |message: String| CloudError::Program { program: "mkfs.ext4".into(), message };
    let mut said = String::new();
    for tables in TABLES {
        let extended = format!("nodiscard,root_owner=0:0,{tables}");
        let arguments =
            ["-q", "-F", "-b", "4096", "-I", "256", "-m", "0", "-e", "remount-ro", "-O", FEATURES];
        let run = |program: &&str| {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .args(["-E", &extended])
                .arg(file)
                .env_clear()
                .envs(environment.iter().map(|(name, value)| (name, value)))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            let spawned = {
                let _starting = descriptors::starting();
                command.spawn()
            };
            spawned.and_then(Child::wait_with_output).map_or_else(
                |error| if error.kind() == io::ErrorKind::NotFound { None } else { Some(Err(error)) },
                |output| Some(Ok(output)),
            )
        };
        let output = MAKERS.iter().find_map(run).ok_or_else(|| {
            failed("it is not installed, and disks need it; install the package e2fsprogs".into())
        })?;
        let output = output.map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    }
    Err(failed(said))
}

/// Why a disk could not be taken.
enum Taken {
    /// It is this file.
    Alone(File),
    /// Somebody has it.
    Busy,
}

/// Opens the file and takes its lock, unless somebody has it.
fn take(path: &Path) -> Result<Taken, CloudError> {
    loop {
        let opened = File::options().read(true).write(true).open(path);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => CloudError::Refused {
                message: format!(
                    "the disk's file {} is gone: put it back there, or delete the disk with `i2kit volume rm` to begin with an \
                     empty one",
                    path.display()
                ),
            },
            _ => CloudError::file("open", path)(error),
        })?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Taken::Busy),
            Err(errno) => return Err(CloudError::file("lock", path)(errno.into())),
        }
        // It may have been replaced between the two: then this is the lock of a file without a name.
        let of = |found: fs::Metadata| (found.dev(), found.ino());
        let same = file.metadata().and_then(|this| Ok(of(this) == of(fs::metadata(path)?)));
        if same.map_err(CloudError::file("look at", path))? {
            return Ok(Taken::Alone(file));
        }
    }
}

/// The file with its lock, or an error when somebody has it.
fn alone(path: &Path) -> Result<File, CloudError> {
    match take(path)? {
        Taken::Alone(file) => Ok(file),
        Taken::Busy => {
            Err(CloudError::InUse { what: format!("the disk {}", path.display()), user: "a process".into() })
        }
    }
}

/// The disk for a machine: its file, with the lock, as large as it should be. A writer that is being ended is waited for.
pub(super) fn attach(path: &Path, size: Bytes) -> Result<File, CloudError> {
    let given_up = Instant::now() + PATIENCE;
    loop {
        if let Taken::Alone(file) = take(path)? {
            extend(&file, path, size)?;
            return Ok(file);
        }
        if Instant::now() > given_up {
            return Err(CloudError::Refused {
                message: format!("another process has the disk {}", path.display()),
            });
        }
        std::thread::sleep(POLL);
    }
}

fn extend(file: &File, path: &Path, size: Bytes) -> Result<(), CloudError> {
    let has = file.metadata().map_err(CloudError::file("look at", path))?.len();
    if has >= length(size) {
        return Ok(());
    }
    file.set_len(length(size)).map_err(CloudError::file("grow", path))
}

/// Grows the disk, unless a machine has it, whose qemu must grow it: then the size that it is to be grown to. A file that is
/// as large already, whatever the record says, is left as it is: qemu would cut it.
pub(super) fn grow(path: &Path, size: Bytes) -> Result<Option<u64>, CloudError> {
    match take(path)? {
        Taken::Alone(file) => extend(&file, path, size).map(|()| None),
        Taken::Busy => {
            let has = fs::metadata(path).map_err(CloudError::file("look at", path))?.len();
            Ok(Some(length(size)).filter(|wanted| *wanted > has))
        }
    }
}

/// Whether a machine has the disk that is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// One has it, and is paused.
    Stopped,
    /// None has it, and none gets it before the copy is made.
    Absent,
}

/// Copies the disk as it is now.
pub(super) fn copy_to_snapshot(path: &Path, name: &str, writer: Writer) -> Result<(), CloudError> {
    let _held = match writer {
        Writer::Stopped => None,
        Writer::Absent => Some(alone(path)?),
    };
    let target = snapshot(path, name);
    fs::create_dir_all(snapshots(path)).map_err(CloudError::file("create", &snapshots(path)))?;
    replace(path, &target)
}

/// Makes the disk what its snapshot is. Nobody may have it.
pub(super) fn restore(path: &Path, name: &str) -> Result<(), CloudError> {
    let file = alone(path)?;
    let size = file.metadata().map_err(CloudError::file("look at", path))?.len();
    let from = snapshot(path, name);
    let new = path.with_extension("raw.new");
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let whole = copy(&from, &new).and_then(|copy| {
        // It never gets smaller than it was; the guest's file system follows.
        let has = copy.metadata().map_err(CloudError::file("look at", &new))?.len();
        copy.set_len(has.max(size)).map_err(CloudError::file("grow", &new))?;
        settle(&copy, &new, path)
    });
    if whole.is_err() {
        let _ = fs::remove_file(&new);
    }
    whole
}

/// Puts a copy in the place of a file, when it is whole.
fn replace(from: &Path, to: &Path) -> Result<(), CloudError> {
    let new = to.with_extension("raw.new");
    let whole = copy(from, &new).and_then(|file| settle(&file, &new, to));
    if whole.is_err() {
        let _ = fs::remove_file(&new);
    }
    whole
}

/// Whether files beside this one can share their blocks with it, so that a copy takes no time.
pub(super) fn shares_blocks(path: &Path) -> bool {
    let probe = path.with_extension("raw.probe");
    let _ = fs::remove_file(&probe);
    let shares = reflink_copy::reflink(path, &probe).is_ok();
    let _ = fs::remove_file(&probe);
    shares
}

/// Copies a file: by sharing its blocks where the file system can, else its data without its holes.
fn copy(from: &Path, to: &Path) -> Result<File, CloudError> {
    let _ = fs::remove_file(to);
    if reflink_copy::reflink(from, to).is_ok() {
        return File::options().read(true).write(true).open(to).map_err(CloudError::file("open", to));
    }
    let _ = fs::remove_file(to);
    copy_data(from, to)
}

/// Copies a file's data, without its holes, to one that is not there yet.
fn copy_data(from: &Path, to: &Path) -> Result<File, CloudError> {
    let mut source = File::open(from).map_err(CloudError::file("open", from))?;
    let mut target = File::create_new(to).map_err(CloudError::file("create", to))?;
    let length = source.metadata().map_err(CloudError::file("look at", from))?.len();
    target.set_len(length).map_err(CloudError::file("write", to))?;
    let mut at = 0;
    while let Some((start, end)) = next_data(&source, at).map_err(CloudError::file("read", from))? {
        source.seek(SeekFrom::Start(start)).map_err(CloudError::file("read", from))?;
        target.seek(SeekFrom::Start(start)).map_err(CloudError::file("write", to))?;
        let copied = io::copy(&mut (&source).take(end - start), &mut target);
        copied.map_err(CloudError::file("copy", from))?;
        at = end;
    }
    Ok(target)
}

/// The next range from `at` on that has data.
fn next_data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::SeekFrom::{Data, Hole};
    match rustix::fs::seek(file, Data(at)) {
        Ok(start) => Ok(Some((start, rustix::fs::seek(file, Hole(start))?))),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The copies of the disk that are there, oldest first.
pub(super) fn snapshots_of(path: &Path) -> Vec<Snapshot> {
    let entries = fs::read_dir(snapshots(path)).into_iter().flatten().flatten();
    let snapshot = |entry: fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        let (name, found) = (file.strip_suffix(".raw")?, entry.metadata().ok()?);
        let created = u64::try_from(found.mtime()).ok()?;
        Some(Snapshot { name: name.to_owned(), created, size: Bytes(found.len()) })
    };
    let mut all: Vec<Snapshot> = entries.filter_map(snapshot).collect();
    all.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    all
}

/// Removes what a process that was killed left half made.
pub(super) fn sweep(path: &Path) -> io::Result<()> {
    let beside = ["raw.new", "raw.probe"].map(|extension| path.with_extension(extension));
    let copies = fs::read_dir(snapshots(path)).into_iter().flatten().flatten().map(|entry| entry.path());
    let half = copies.filter(|copy| copy.extension().is_some_and(|extension| extension == "new"));
    for file in beside.into_iter().chain(half) {
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Deletes the disk and its snapshots. What is not there is no error.
pub(super) fn remove(path: &Path) -> Result<(), CloudError> {
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let copies = snapshots(path);
    home::gone(&copies, fs::remove_dir_all(&copies))?;
    home::gone(path, fs::remove_file(path))?;
    // Folders that are empty now; those that are not stay.
    for folder in path.ancestors().skip(1).take(3) {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
    // Back after a cut of the power, it would be what the next claim of its name has.
    home::flush_gone(path.parent().unwrap_or(path))
}

/// Deletes a snapshot. One that is not there is no error.
pub(super) fn remove_snapshot(path: &Path, name: &str) -> Result<(), CloudError> {
    let file = snapshot(path, name);
    home::gone(&file, fs::remove_file(&file))?;
    let _ = fs::remove_dir(snapshots(path));
    home::flush_gone(&snapshots(path))
}
