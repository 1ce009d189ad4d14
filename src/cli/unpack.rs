//! Writing the tar stream of a container to this machine's disk. The container is not trusted: whatever it sends,
//! nothing outside of the target is made, changed or linked to.
//!
//! All names are opened relative to a descriptor of the target's folder and stay beneath it (`openat2`), and no symbolic
//! link is ever made or followed. As kubectl does, links are left out and named.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fstatvfs, futimens, mkdirat,
    openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::erofs::ErofsError;
use crate::erofs::archive::{Archive, Entry, EntryKind, Piece};

/// Longest padding behind the archive's end. `tar` pads to its block, 10 KiB unless `-b` says more; a stream that goes
/// on for longer may have no end.
const MAX_PADDING: u64 = 1 << 20;
/// Bytes of a disk that a copy leaves free: other programs write, too.
const RESERVE: u64 = 256 << 20;
/// Names that are tried for a file that is being written, beside those that a killed run left.
const MAX_TRIES: u32 = 1000;
/// Never out of the folder, and through no link, neither of the container nor of `/proc`.
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Where a copy goes: a folder of the user, and a name in it that may not exist yet.
#[derive(Debug)]
pub struct CopyTarget {
    folder: OwnedFd,
    name: OsString,
    shown: PathBuf,
}

impl CopyTarget {
    /// The place that `to` names for a copy of something called `last`: in it, when it is a folder. `to` is the user's own
    /// path, so its links are followed as `cp` follows them. A missing folder above it is made.
    ///
    /// # Errors
    /// Where `cp` would not write either: a link to a folder, one that leads nowhere, a device.
    pub fn new(to: &Path, last: &str) -> io::Result<Self> {
        let mut shown = if to.is_dir() { to.join(last) } else { to.to_owned() };
        if std::fs::symlink_metadata(&shown).is_ok_and(|found| found.is_symlink()) {
            let Ok(led_to) = shown.canonicalize() else {
                return Err(fault(&shown, "is a link that leads nowhere; remove it or name another target"));
            };
            if led_to.is_dir() {
                return Err(fault(&shown, "is a link to a folder; name that folder, or another target"));
            }
            shown = led_to;
        }
        let Some(name) = shown.file_name() else { return Err(fault(&shown, "does not end with a name")) };
        let parent = shown.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(|error| fault(parent, &error.to_string()))?;
        let folder = File::open(parent).map_err(|error| fault(parent, &error.to_string()))?.into();
        Ok(Self { folder, name: name.to_owned(), shown })
    }
}

/// Writes what is called `name` in the archive, and what is below it, to `target`. What is left out is given to
/// `left_out`, a sentence each.
///
/// # Errors
/// The first entry that is something else than what was asked for, leads elsewhere, is a hard link, or cannot be written:
/// what was written before stays, but no file that is incomplete.
pub fn unpack(
    name: &str,
    target: &CopyTarget,
    from: impl Read,
    left_out: &mut dyn FnMut(String),
) -> io::Result<()> {
    let mut archive = Archive::new(from);
    let mut is_empty = true;
    while let Some(entry) = archive.entry().map_err(of_archive)? {
        is_empty = false;
        let path = Path::new(OsStr::from_bytes(&entry.path)).to_owned();
        let Ok(below) = path.strip_prefix(name) else {
            return Err(io::Error::other(format!(
                "the container sent {}, which was not asked for",
                path.display()
            )));
        };
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(io::Error::other(format!(
                "the container sent {}, which leads elsewhere",
                path.display()
            )));
        }
        let place = Path::new(&target.name).join(below);
        let is_root = below.as_os_str().is_empty();
        let what = match &entry.kind {
            EntryKind::Directory => {
                folder(target, &place, mode(&entry) | Mode::RWXU)?;
                continue;
            }
            EntryKind::File(length) => {
                file(target, &place, &entry, *length, &mut archive)?;
                continue;
            }
            EntryKind::HardLink(_) => {
                return Err(io::Error::other(format!(
                    "{} is a hard link, which cp does not copy",
                    path.display()
                )));
            }
            EntryKind::Symlink(to) => format!("a symbolic link to {}", String::from_utf8_lossy(to)),
            EntryKind::Character(..) | EntryKind::Block(..) => "a device".to_owned(),
            EntryKind::Fifo => "a named pipe".to_owned(),
            EntryKind::Other(flag) => format!("of the unknown type `{flag}`"),
        };
        if is_root {
            return Err(io::Error::other(format!(
                "{} is {what}; cp copies files and folders",
                path.display()
            )));
        }
        left_out(format!(
            "{} is left out, since it is {what}; `i2kit cp NAME:PATH - | tar -x` copies all types",
            path.display()
        ));
    }
    // The padding must be read, or tar in the container waits for ever.
    let padding = io::copy(&mut archive.into_rest().take(MAX_PADDING + 1), &mut io::sink())?;
    if padding > MAX_PADDING {
        return Err(io::Error::other("the container sends more behind the end of its archive"));
    }
    if is_empty {
        return Err(io::Error::other("the container sent an empty archive"));
    }
    Ok(())
}

/// Permissions of an entry, without setuid and its like; the umask takes its part.
fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(u32::from(entry.mode) & 0o777)
}

fn fault(path: &Path, what: &str) -> io::Error {
    io::Error::other(format!("{}: {what}", path.display()))
}

fn of_archive(error: ErofsError) -> io::Error {
    match error {
        ErofsError::Input { source, .. } => source,
        ErofsError::Truncated { .. } => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the container's archive ends in the middle of an entry",
        ),
        ErofsError::Header { offset, reason } => {
            io::Error::other(format!("the container's archive is malformed at byte {offset}: {reason}"))
        }
        error => io::Error::other(error.to_string()),
    }
}

/// An error about a place, in the words of the user and of the system.
fn of_place(target: &CopyTarget, place: &Path, error: Errno) -> io::Error {
    let below: PathBuf = place.components().skip(1).collect();
    let shown = if below.as_os_str().is_empty() { target.shown.clone() } else { target.shown.join(below) };
    match error {
        Errno::LOOP | Errno::XDEV => fault(&shown, "a link is in the way, which is not followed"),
        Errno::NOSPC | Errno::DQUOT => {
            fault(&shown, "no space left on this disk; the file is removed, what was copied before it stays")
        }
        Errno::NOSYS => fault(&shown, "this kernel has no openat2, which came with Linux 5.6"),
        error => fault(&shown, &io::Error::from(error).to_string()),
    }
}

/// Opens the folder at `place`, and makes it and those above it where they are missing.
fn folder(target: &CopyTarget, place: &Path, mode: Mode) -> io::Result<OwnedFd> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(&target.folder, path, flags, Mode::empty(), BENEATH)
    };
    match open(place) {
        Err(Errno::NOENT) => {}
        opened => return opened.map_err(|error| of_place(target, place, error)),
    }
    let (mut above, mut at) = (None::<OwnedFd>, PathBuf::new());
    for part in place.components() {
        at.push(part);
        let mode = if at == place { mode } else { Mode::from_raw_mode(0o777) };
        let parent = above.as_ref().map_or_else(|| target.folder.as_fd(), |above| above.as_fd());
        match mkdirat(parent, part.as_os_str(), mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(of_place(target, &at, error)),
        }
        above = Some(open(&at).map_err(|error| of_place(target, &at, error))?);
    }
    above.ok_or_else(|| fault(place, "no name"))
}

/// Writes a file under a name of its own and gives it its right name when it is whole. A link or a file of that name is
/// replaced, never written through.
fn file(
    target: &CopyTarget,
    place: &Path,
    entry: &Entry,
    length: u64,
    archive: &mut Archive<impl Read>,
) -> io::Result<()> {
    let wrong = |error| of_place(target, place, error);
    let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map(|parent| folder(target, parent, Mode::from_raw_mode(0o777))).transpose()?;
    let parent = parent.as_ref().map_or_else(|| target.folder.as_fd(), |parent| parent.as_fd());
    let name = place.file_name().ok_or_else(|| fault(place, "no name"))?;
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map(|found| FileType::from_raw_mode(found.st_mode))
    {
        Ok(FileType::RegularFile | FileType::Symlink) | Err(Errno::NOENT) => {}
        Ok(FileType::Directory) => return Err(wrong(Errno::ISDIR)),
        Ok(_) => {
            return Err(fault(
                &target.shown,
                "neither a file nor a folder; remove it or name another target",
            ));
        }
        Err(error) => return Err(wrong(error)),
    }
    check_room(parent, archive.stored()).map_err(wrong)?;
    let (mut file, unfinished) = create(parent, mode(entry)).map_err(wrong)?;
    let written = write(&mut file, length, archive).map_err(|error| {
        let errno = error.raw_os_error().map(Errno::from_raw_os_error);
        errno.map_or(error, wrong)
    });
    let done = written.and_then(|()| {
        let time = Timespec { tv_sec: entry.seconds, tv_nsec: i64::from(entry.nanos) };
        // A time that the file system cannot hold is no reason to refuse the file.
        let _ = futimens(&file, &Timestamps { last_access: time, last_modification: time });
        renameat(parent, &unfinished, parent, name).map_err(wrong)
    });
    if done.is_err() {
        let _ = unlinkat(parent, &unfinished, AtFlags::empty());
    }
    done
}

/// Refuses a file that would fill the disk under `folder`, before its first byte. Holes take no room.
fn check_room(folder: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    // A file system that does not report its room reports an error when it is full.
    let Ok(found) = fstatvfs(folder) else { return Ok(()) };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if found.f_blocks == 0 || fits(size, free) { Ok(()) } else { Err(Errno::NOSPC) }
}

/// Whether a disk with `free` bytes takes a file. One that is smaller than the reserve needs no more than itself of it.
fn fits(size: u64, free: u64) -> bool {
    size.saturating_add(RESERVE.min(size)) <= free
}

/// A new file with a name that nothing has yet.
fn create(parent: BorrowedFd<'_>, mode: Mode) -> Result<(File, String), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut last = Errno::EXIST;
    for number in 0..MAX_TRIES {
        let name = format!(".i2kit-cp-{}-{number}", std::process::id());
        match openat2(parent, &name, flags, mode, BENEATH) {
            Ok(file) => return Ok((file.into(), name)),
            Err(Errno::EXIST) => {}
            Err(error) => {
                last = error;
                break;
            }
        }
    }
    Err(last)
}

/// The data of the entry that was read last; holes stay holes.
fn write(file: &mut File, length: u64, archive: &mut Archive<impl Read>) -> io::Result<()> {
    let mut failed = None;
    let outcome = archive.data(&mut |piece| {
        let written = match piece {
            Piece::Bytes(bytes) => file.write_all(bytes),
            Piece::Zeros(zeros) => i64::try_from(zeros)
                .map_err(|_| io::Error::from(Errno::FBIG))
                .and_then(|zeros| file.seek(SeekFrom::Current(zeros)))
                .map(drop),
        };
        written.map_err(|error| {
            let kind = error.kind();
            failed = Some(error);
            ErofsError::Output(kind.into())
        })
    });
    match failed {
        Some(error) => Err(error),
        None => outcome.map_err(of_archive),
    }?;
    file.set_len(length)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use proptest::prelude::*;
    use tar::EntryType;

    use super::*;

    /// A folder with a secret beside the folder `in`, where copies go.
    struct World(tempfile::TempDir);

    impl World {
        fn new() -> Self {
            let world = Self(tempfile::tempdir().unwrap());
            std::fs::create_dir(world.path("in")).unwrap();
            std::fs::create_dir(world.path("outside")).unwrap();
            std::fs::write(world.path("outside/secret"), "secret").unwrap();
            world
        }

        fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn unpack(&self, to: &str, archive: &[u8]) -> io::Result<Vec<String>> {
            let mut left_out = Vec::new();
            let target = CopyTarget::new(&self.path(to), "data")?;
            unpack("data", &target, archive, &mut |what| left_out.push(what))?;
            Ok(left_out)
        }

        /// Nothing but the folder `in` is other than [`World::new`] made it.
        fn assert_untouched(&self) {
            let names = |path: &str| {
                let mut names: Vec<_> = std::fs::read_dir(self.path(path))
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .collect();
                names.sort();
                names
            };
            assert_eq!(names("."), ["in", "outside"]);
            assert_eq!(names("outside"), ["secret"]);
            let secret = std::fs::metadata(self.path("outside/secret")).unwrap();
            assert_eq!((secret.nlink(), secret.len()), (1, 6));
            assert_eq!(std::fs::read(self.path("outside/secret")).unwrap(), b"secret");
        }
    }

    fn entry(kind: EntryType, path: &str, link: &str, data: &[u8]) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o6755);
        header.set_mtime(1_000_000_000);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..path.len()].copy_from_slice(path.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    /// Makes the sum of a header right again.
    fn sign(header: &mut [u8]) {
        header[148..156].fill(b' ');
        let sum: u32 = header[..512].iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn archive(entries: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
        let mut bytes: Vec<u8> = entries
            .iter()
            .flat_map(|(kind, path, link, data)| entry(*kind, path, link, data.as_bytes()))
            .collect();
        bytes.resize(bytes.len() + 10 * 1024, 0);
        bytes
    }

    #[test]
    fn files_and_folders_are_copied_without_their_privileges() {
        let world = World::new();
        let sent = archive(&[
            (EntryType::Directory, "data/", "", ""),
            (EntryType::Regular, "data/deep/file", "", "hi"),
        ]);
        assert!(world.unpack("in/copy", &sent).unwrap().is_empty());
        let found = std::fs::metadata(world.path("in/copy/deep/file")).unwrap();
        assert_eq!(
            (found.len(), found.mtime(), found.permissions().mode() & 0o7700),
            (2, 1_000_000_000, 0o700)
        );
        // Into a folder that exists, and over what was there.
        assert!(world.unpack("in", &archive(&[(EntryType::Regular, "data", "", "one")])).unwrap().is_empty());
        assert!(world.unpack("in", &archive(&[(EntryType::Regular, "data", "", "2")])).unwrap().is_empty());
        assert_eq!(std::fs::read(world.path("in/data")).unwrap(), b"2");
        assert_eq!(std::fs::read_dir(world.path("in")).unwrap().count(), 2, "no unfinished file is left");
        world.assert_untouched();
    }

    #[test]
    fn a_link_that_is_the_root_leads_nowhere() {
        for (kind, link) in [
            (EntryType::Symlink, "../outside"),
            (EntryType::Symlink, "../outside/secret"),
            (EntryType::Link, "../outside/secret"),
            (EntryType::Link, "data"),
            (EntryType::Char, ""),
            (EntryType::Fifo, ""),
        ] {
            for to in ["in", "in/copy", "in/."] {
                let world = World::new();
                let sent = archive(&[
                    (kind, "data", link, ""),
                    (EntryType::Regular, "data/authorized_keys", "", "attacker"),
                    (EntryType::Regular, "data", "", "attacker"),
                ]);
                world.unpack(to, &sent).unwrap_err();
                assert_eq!(std::fs::read_dir(world.path("in")).unwrap().count(), 0, "{kind:?} {link} {to}");
                world.assert_untouched();
            }
        }
    }

    #[test]
    fn links_and_devices_below_are_left_out_and_named() {
        let world = World::new();
        let sent = archive(&[
            (EntryType::Symlink, "data/way", "../../outside", ""),
            (EntryType::Regular, "data/way/out", "", "attacker"),
            (EntryType::Fifo, "data/pipe", "", ""),
            (EntryType::Char, "data/null", "", ""),
        ]);
        let left_out = world.unpack("in", &sent).unwrap();
        assert_eq!(left_out.len(), 3, "{left_out:?}");
        assert!(left_out[0].contains("data/way is left out, since it is a symbolic link to ../../outside"));
        assert_eq!(std::fs::read(world.path("in/data/way/out")).unwrap(), b"attacker");
        assert_eq!(std::fs::read_dir(world.path("in/data")).unwrap().count(), 1);
        world.unpack("in", &archive(&[(EntryType::Link, "data/hard", "data/way/out", "")])).unwrap_err();
        for path in ["data/../../outside/new", "other", "/outside/new", "data/../x", "../data/x"] {
            world.unpack("in", &archive(&[(EntryType::Regular, path, "", "x")])).unwrap_err();
        }
        world.assert_untouched();
    }

    #[test]
    fn links_of_the_user_are_followed_where_the_user_wrote_them_alone() {
        let world = World::new();
        let file = archive(&[(EntryType::Regular, "data", "", "new")]);
        let below = archive(&[(EntryType::Regular, "data/x", "", "new")]);
        std::fs::write(world.path("in/old"), "old").unwrap();
        // The target itself is a link to a file: as with cp, that file is written.
        symlink("old", world.path("in/data")).unwrap();
        world.unpack("in/data", &file).unwrap();
        assert_eq!(std::fs::read(world.path("in/old")).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(world.path("in/data")).unwrap().is_symlink());
        // A link to a folder, or to nothing, at the place of what is copied is nobody's word to go there.
        for link in ["../outside", "nothing"] {
            std::fs::remove_file(world.path("in/data")).unwrap();
            symlink(link, world.path("in/data")).unwrap();
            world.unpack("in", &file).unwrap_err();
            world.unpack("in", &below).unwrap_err();
        }
        // Links below are replaced by files, and never gone through.
        std::fs::remove_file(world.path("in/data")).unwrap();
        std::fs::create_dir(world.path("in/data")).unwrap();
        symlink("../../outside/secret", world.path("in/data/x")).unwrap();
        symlink("../../outside", world.path("in/data/y")).unwrap();
        world.unpack("in", &below).unwrap();
        assert!(std::fs::symlink_metadata(world.path("in/data/x")).unwrap().is_file());
        let error = world.unpack("in", &archive(&[(EntryType::Regular, "data/y/z", "", "")])).unwrap_err();
        assert!(error.to_string().contains("a link is in the way"), "{error}");
        world.assert_untouched();
    }

    #[test]
    fn what_is_cut_or_does_not_end_is_an_error_and_leaves_no_half_file() {
        let world = World::new();
        let whole = archive(&[(EntryType::Regular, "data/x", "", "some text")]);
        world.unpack("in", &whole[..515]).unwrap_err();
        assert_eq!(std::fs::read_dir(world.path("in/data")).unwrap().count(), 0);
        world.unpack("in", &[]).unwrap_err();
        let target = CopyTarget::new(&world.path("in"), "data").unwrap();
        let endless = whole.chain(io::repeat(0));
        let error = unpack("data", &target, endless, &mut drop).unwrap_err();
        assert!(error.to_string().contains("behind the end"), "{error}");
        // A long name without end is not held in memory.
        let mut long = entry(EntryType::GNULongName, "x", "", b"");
        long[124..136].copy_from_slice(b"77777777777\0");
        sign(&mut long);
        let error = unpack("data", &target, long.chain(io::repeat(b'a')), &mut drop).unwrap_err();
        assert!(error.to_string().contains("extended header of"), "{error}");
    }

    #[test]
    fn a_full_disk_is_told_and_the_unfinished_file_removed() {
        let world = World::new();
        let target = CopyTarget::new(&world.path("in"), "data").unwrap();
        let error = of_place(&target, Path::new("data/x"), Errno::NOSPC);
        assert!(error.to_string().ends_with(
            "in/data/x: no space left on this disk; the file is removed, what was copied before it stays"
        ));
        // A size that no file system holds fails as a full disk does: while the data is written.
        let mut archive = Archive::new(&b""[..]);
        let mut file = tempfile::tempfile().unwrap();
        write(&mut file, u64::MAX, &mut archive).unwrap_err();
    }

    #[test]
    fn a_file_that_the_disk_has_no_room_for_is_refused_before_its_first_byte() {
        const GIB: u64 = 1 << 30;
        assert!(fits(GIB, 2 * GIB) && !fits(2 * GIB, 2 * GIB) && fits(1000, 2000) && !fits(1000, 1000));
        let world = World::new();
        let mut huge = entry(EntryType::Regular, "data", "", b"");
        let mut header = tar::Header::new_gnu();
        header.set_size(1 << 62);
        huge[124..136].copy_from_slice(&header.as_bytes()[124..136]);
        sign(&mut huge);
        huge.extend(b"its first bytes, and no more");
        let error = world.unpack("in", &huge).unwrap_err();
        assert!(error.to_string().contains("no space left on this disk"), "{error}");
        assert_eq!(std::fs::read_dir(world.path("in")).unwrap().count(), 0);
        // Of a file with holes the data counts: more than most disks have, and no file system's limit.
        let (offset, length, size) = ("0", "2", (1_u64 << 43).to_string());
        let records: String = [("offset", offset), ("numbytes", length), ("size", &size)]
            .map(|(key, value)| record(&format!("GNU.sparse.{key}={value}")))
            .concat();
        let mut sparse = entry(EntryType::XHeader, "x", "", records.as_bytes());
        sparse.extend(archive(&[(EntryType::Regular, "data", "", "hi")]));
        world.unpack("in", &sparse).unwrap();
        assert_eq!(std::fs::metadata(world.path("in/data")).unwrap().len(), 1 << 43);
        world.assert_untouched();
    }

    /// A record of a PAX header: its length, which counts itself, and its text.
    fn record(text: &str) -> String {
        let length = text.len() + 4;
        assert!((10..100).contains(&length), "two digits");
        format!("{length} {text}\n")
    }

    proptest! {
        /// Any order of entries of any type, with paths and links that mean harm.
        #[test]
        fn nothing_outside_changes(
            entries in prop::collection::vec(
                (
                    prop::sample::select(vec![
                        EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link,
                        EntryType::Fifo, EntryType::Char, EntryType::GNULongName, EntryType::GNULongLink,
                    ]),
                    prop::sample::select(vec![
                        "data", "data/", "data/a", "data/a/b", "data/a/secret", "data/../x", "data/..", "..", "/",
                        "data/a/../../outside/secret", "./data", "data/./a", "data//a",
                    ]),
                    prop::sample::select(vec![
                        "..", ".", "../outside", "../../outside", "outside/secret", "../outside/secret", "data/a",
                        "/proc/self/cwd",
                    ]),
                    prop::sample::select(vec!["", "x", "data/../../outside/secret", "../outside"]),
                ),
                1..8,
            ),
            to in prop::sample::select(vec!["in", "in/data", "in/new", "in/new/deep"]),
        ) {
            let world = World::new();
            let _ = world.unpack(to, &archive(&entries));
            world.assert_untouched();
            let mut folders = vec![world.path("in")];
            while let Some(folder) = folders.pop() {
                for found in std::fs::read_dir(folder).unwrap() {
                    let found = found.unwrap();
                    let kind = found.file_type().unwrap();
                    prop_assert!(kind.is_file() || kind.is_dir(), "{:?}", found.path());
                    if kind.is_dir() { folders.push(found.path()) }
                }
            }
        }
    }
}
