//! Templates on the disk: a machine that was stopped right before anything made it one of its own, as three files of the cache, from
//! which others of its kind start. Which machines are of a kind, whether a template is what was written, and which one gives way.
//!
//! A template is named by a hash of all that it follows from ([`Kind`]), has no Secret in it, since its machine was given none, and
//! is its user's alone. The file with its memory is mapped by machines that run: its bytes are not read again to be compared, but the
//! kernel tells when a file was changed last, which no program can set.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use i2kit_spec::Bytes;
use serde::{Deserialize, Serialize};

use super::qemu::{self, Grants, Machine, MemoryPlace, NetworkDevice};
use crate::cloud::CloudError;
use crate::cloud::local::clock;
use crate::cloud::local::home::{self, Home, flush};
use crate::oci::Digest;
use crate::plan::fleet::{Accelerator, LaunchSpec};
use crate::plan::image::ImageId;

/// The form of a template and of its record, and what a guest has done when it is made.
const VERSION: u32 = 1;

/// The file with the memory, in a template's folder.
pub(crate) const MEMORY: &str = "ram";

/// The file with the state of the devices.
pub(crate) const DEVICES: &str = "devices";

/// The file that says what a template is; without it there is none.
const RECORD: &str = "template.json";

/// What the name of a template under way begins with. The cache knows it, too.
const NEW: &str = ".new-";

/// How many templates there are at most.
const MOST: usize = 8;

/// A template that was used so lately does not give way.
const SPARED: Duration = Duration::from_mins(10);

/// A template under way that is older is one of a process that was killed: making one takes less. The cache knows that, too.
const ABANDONED: Duration = Duration::from_mins(30);

/// The most bytes that the state of the devices may have: it is some hundred KiB.
const DEVICES_BYTES: u64 = 64 << 20;

/// What must be left of the disk when a template is made, beside its memory.
const SPARE_DISK: u64 = 512 << 20;

/// What must be left of the host's memory while a template is made, beside its own.
const SPARE_MEMORY: u64 = 256 << 20;

/// All that machines of one kind have in common, and so all that a template follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Kind {
    version: u32,
    image: ImageId,
    /// The qemu: what one saves another one may read otherwise.
    qemu: String,
    /// The host's processor, where the machine has it.
    processor: String,
    scratch_bytes: Vec<Bytes>,
    /// A hash of all arguments that qemu gets: memory, processors, devices, the kernel's command line.
    arguments: Digest,
}

/// A machine, as far as its kind follows from it.
#[derive(Debug)]
pub(crate) struct KindFacts<'f> {
    pub(crate) launch: &'f LaunchSpec,
    /// Its image's kernel command line.
    pub(crate) cmdline: &'f str,
    /// Whether it is in its environment's own network.
    pub(crate) own_network: bool,
    pub(crate) accelerator: Accelerator,
    /// The version of its qemu.
    pub(crate) qemu: &'f str,
}

impl Kind {
    /// The kind of a machine; none of one that cannot start from a template: its guest is not told who it is, or what is on a disk of
    /// it was read before the machine that the template was had it.
    pub(crate) fn of(facts: &KindFacts<'_>) -> Option<Self> {
        let KindFacts { launch, cmdline, own_network, accelerator, qemu } = *facts;
        if !qemu::is_told(cmdline) || !launch.disks.is_empty() {
            return None;
        }
        let network = NetworkDevice {
            netdev: if own_network { "tap" } else { "user" }.to_owned(),
            hardware: None,
            inside: None,
            cmdline: String::new(),
        };
        let machine = Machine {
            id: "template",
            name: "",
            index: None,
            launch,
            network: &network,
            image: Path::new("image"),
            cmdline,
            accelerator,
            memory: MemoryPlace::Template(Path::new(MEMORY)),
            environment: &[],
        };
        let scratch = (100..).take(launch.scratch_bytes.len()).collect();
        let arguments = qemu::arguments(&machine, &Grants { scratch, ..Grants::default() });
        Some(Self {
            version: VERSION,
            image: launch.image,
            qemu: qemu.to_owned(),
            processor: if accelerator == Accelerator::Kvm { processor() } else { String::new() },
            scratch_bytes: launch.scratch_bytes.clone(),
            arguments: Digest::of(arguments.join("\0").as_bytes()),
        })
    }

    /// The name of its template.
    pub(crate) fn key(&self) -> Digest {
        Digest::of(serde_json::to_string(self).expect("a kind has only string keys").as_bytes())
    }
}

/// This host's processor and kernel, which a machine sees that runs on them.
fn processor() -> String {
    // Those that tell processors apart, of x86 and of arm.
    const FIELDS: [&str; 8] =
        ["vendor_id", "cpu family", "model", "stepping", "microcode", "flags", "Features", "CPU "];
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let lines = first.lines().filter(|line| FIELDS.iter().any(|field| line.starts_with(field)));
    let lines: Vec<&str> = lines.collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Digest::of(format!("{}\n{kernel}", lines.join("\n")).as_bytes()).to_string()
}

/// What a template is, beside it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    kind: Kind,
    memory: Mark,
    devices: Digest,
}

/// What the kernel tells of a file: it changes with the file's bytes, and nobody can set it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mark {
    bytes: u64,
    inode: u64,
    changed: i64,
    changed_nanoseconds: i64,
}

impl Mark {
    fn of(data: &fs::Metadata) -> Self {
        Self {
            bytes: data.len(),
            inode: data.ino(),
            changed: data.ctime(),
            changed_nanoseconds: data.ctime_nsec(),
        }
    }
}

/// A template that is there.
#[derive(Debug)]
pub(crate) struct Template {
    /// The file with its memory.
    pub(crate) memory: PathBuf,
    /// The state of its devices.
    pub(crate) devices: Vec<u8>,
    /// Which one of its kind it is.
    pub(crate) mark: Digest,
}

/// A template that is there, and is not what was written.
#[derive(Debug)]
pub(crate) struct Damaged {
    /// Which one of its kind it is; nothing where it has no record.
    pub(crate) mark: Option<Digest>,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// The template of this kind, and notes that it is used. Nothing where there is none.
pub(crate) fn find(home: &Home, kind: &Kind) -> Result<Option<Template>, Damaged> {
    let folder = home.template(kind.key());
    let text = match fs::read(folder.join(RECORD)) {
        Err(error) if error.kind() == ErrorKind::NotFound && !folder.exists() => return Ok(None),
        text => text.map_err(|error| Damaged { mark: None, reason: format!("{RECORD}: {error}") })?,
    };
    let mark = Digest::of(&text);
    let (memory, devices) =
        checked(&folder, kind, &text).map_err(|reason| Damaged { mark: Some(mark), reason })?;
    // Which one was used last decides which one gives way, and nothing else.
    let _ = File::open(&folder).and_then(|folder| folder.set_modified(clock::of_files()));
    Ok(Some(Template { memory, devices, mark }))
}

/// The file with the memory, and the state of the devices, of the template in `folder` with this record; why it is not what was
/// written.
fn checked(folder: &Path, kind: &Kind, record: &[u8]) -> Result<(PathBuf, Vec<u8>), String> {
    let record: Record = serde_json::from_slice(record).map_err(|error| format!("{RECORD}: {error}"))?;
    if record.kind != *kind {
        return Err(format!("{RECORD} is that of another kind"));
    }
    let memory = folder.join(MEMORY);
    let data = fs::symlink_metadata(&memory).map_err(|error| format!("{MEMORY}: {error}"))?;
    if !data.is_file() || Mark::of(&data) != record.memory {
        return Err(format!("{MEMORY} is not the file that was written"));
    }
    let path = folder.join(DEVICES);
    let length = fs::metadata(&path).map_err(|error| format!("{DEVICES}: {error}"))?.len();
    let devices = if length <= DEVICES_BYTES { fs::read(&path) } else { Err(ErrorKind::FileTooLarge.into()) };
    let devices = devices.map_err(|error| format!("{DEVICES}: {error}"))?;
    if Digest::of(&devices) != record.devices {
        return Err(format!("{DEVICES} has not the bytes that were written"));
    }
    Ok((memory, devices))
}

/// A folder for a template under way, with an empty file for its memory that is its user's alone. What is in it goes when it is
/// dropped, unless it is [kept](keep).
pub(crate) fn begin(home: &Home) -> Result<tempfile::TempDir, CloudError> {
    let templates = home.templates();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&templates).map_err(CloudError::file("create", &templates))?;
    let folder = tempfile::Builder::new().prefix(NEW).tempdir_in(&templates);
    let folder = folder.map_err(CloudError::file("create a folder in", &templates))?;
    let memory = folder.path().join(MEMORY);
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&memory)
        .map_err(CloudError::file("create", &memory))?;
    Ok(folder)
}

/// Keeps the template in this folder, whose machine has ended, under the name of its kind. One that is there already stays.
pub(crate) fn keep(
    home: &Home,
    kind: &Kind,
    memory_mib: u32,
    folder: tempfile::TempDir,
) -> Result<(), CloudError> {
    let path = |name: &str| folder.path().join(name);
    let files = fs::read_dir(folder.path()).map_err(CloudError::file("read", folder.path()))?;
    for file in files {
        let file = file.map_err(CloudError::file("read", folder.path()))?;
        if file.file_name() != MEMORY && file.file_name() != DEVICES {
            fs::remove_file(file.path()).map_err(CloudError::file("remove", &file.path()))?;
        }
    }
    for file in [MEMORY, DEVICES] {
        // Bytes of a file that a power cut takes away would not change when the file was changed last.
        flush(&path(file))?;
    }
    let data = fs::metadata(path(MEMORY)).map_err(CloudError::file("look at", &path(MEMORY)))?;
    let devices = fs::read(path(DEVICES)).map_err(CloudError::file("read", &path(DEVICES)))?;
    let length = u64::try_from(devices.len()).unwrap_or(u64::MAX);
    if data.len() != u64::from(memory_mib) << 20 || devices.is_empty() || length > DEVICES_BYTES {
        let message = format!("qemu left {} bytes of memory and {length} of devices", data.len());
        return Err(CloudError::Store { message });
    }
    let record = Record { kind: kind.clone(), memory: Mark::of(&data), devices: Digest::of(&devices) };
    let text =
        serde_json::to_string(&record).map_err(|error| CloudError::Store { message: error.to_string() })?;
    home::write_whole(&path(RECORD), text.as_bytes(), 0o600)?;
    let target = home.template(kind.key());
    match fs::rename(folder.path(), &target) {
        Ok(()) => {
            // It has another name now.
            let _ = folder.keep();
            flush(&home.templates())
        }
        // Another process was faster.
        Err(_) if target.join(RECORD).exists() => Ok(()),
        Err(error) => Err(CloudError::file("create", &target)(error)),
    }
}

/// Removes the template of this name. Machines that run keep what they have mapped.
pub(crate) fn remove(home: &Home, key: Digest) -> Result<(), CloudError> {
    let folder = home.template(key);
    // First what makes it one: half of a template must not be taken for one.
    for removed in [fs::remove_file(folder.join(RECORD)), fs::remove_dir_all(&folder)] {
        home::gone(&folder, removed)?;
    }
    Ok(())
}

/// Removes the template of this name that has this mark. Whether it was there: several machines may find fault with one, and another
/// one may have taken its place since. Without a mark what has no record is removed, and was no template.
pub(crate) fn remove_marked(home: &Home, key: Digest, mark: Option<Digest>) -> Result<bool, CloudError> {
    let folder = home.template(key);
    let record = folder.join(RECORD);
    let found = match fs::read(&record) {
        Ok(text) => Some(Digest::of(&text)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(CloudError::file("read", &record)(error)),
    };
    if found != mark {
        return Ok(false);
    }
    let removed = match fs::remove_file(&record) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(CloudError::file("remove", &record)(error)),
    };
    // Whoever has removed the record removes the rest as well.
    if removed || mark.is_none() {
        home::gone(&folder, fs::remove_dir_all(&folder))?;
    }
    Ok(removed)
}

/// The templates that there are, with the time of their last use.
fn all(home: &Home) -> Vec<(SystemTime, Digest)> {
    let entries = fs::read_dir(home.templates()).into_iter().flatten().flatten();
    let template = |entry: fs::DirEntry| {
        let key = format!("sha256:{}", entry.file_name().to_str()?).parse::<Digest>().ok()?;
        Some((entry.metadata().ok()?.modified().ok()?, key))
    };
    entries.filter_map(template).collect()
}

/// Makes room for one more template, so that there are [`MOST`] with it: those that were not used for the longest give way, and are
/// returned. An error, which says why, where all were used lately.
pub(crate) fn make_room(home: &Home, now: SystemTime) -> Result<Vec<Digest>, String> {
    let mut templates = all(home);
    templates.sort();
    let surplus = (templates.len() + 1).saturating_sub(MOST);
    let unused = |used: &SystemTime| now.duration_since(*used).is_ok_and(|age| age >= SPARED);
    let doomed: Vec<Digest> =
        templates.iter().take(surplus).filter(|(used, _)| unused(used)).map(|(_, key)| *key).collect();
    if doomed.len() < surplus {
        return Err(format!("there are {} templates, and all were used lately", templates.len()));
    }
    for key in &doomed {
        remove(home, *key).map_err(|error| error.to_string())?;
    }
    Ok(doomed)
}

/// Removes what processes that were killed have left half made.
pub(crate) fn sweep(home: &Home, now: SystemTime) {
    for entry in fs::read_dir(home.templates()).into_iter().flatten().flatten() {
        let is_new = entry.file_name().to_str().is_some_and(|name| name.starts_with(NEW));
        let changed = entry.metadata().and_then(|data| data.modified());
        let is_old = changed.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > ABANDONED));
        if is_new && is_old {
            // What stays is listed as a leftover, and goes with `cache prune`.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether the host has the disk and the memory for making a template with so much memory; why not otherwise.
pub(crate) fn has_room(home: &Home, memory_mib: u32) -> Result<(), String> {
    let wanted = u64::from(memory_mib) << 20;
    let folder = home.cache.ancestors().find(|folder| folder.exists()).unwrap_or(&home.cache);
    let disk = rustix::fs::statvfs(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < wanted + SPARE_DISK {
        return Err(format!("{} has {} MiB left", folder.display(), free >> 20));
    }
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    match available(&text) {
        Some(free) if free < wanted + SPARE_MEMORY => {
            Err(format!("this host has {} MiB of memory left", free >> 20))
        }
        // One that does not say has as much as is wanted.
        _ => Ok(()),
    }
}

/// The memory that programs can have, in bytes, by the text of `/proc/meminfo`.
fn available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
pub(in crate::cloud::local) mod tests;
