//! The folder of a volume as a stream, and back: modes, owners, times of files to the second, symbolic and hard links. Not in
//! it: sockets, which their programs make anew, extended attributes, and times of folders.
//!
//! Where the file system shares blocks between files (XFS, btrfs) the copy is made in no time, and written after the application
//! goes on. Elsewhere the stream itself is written while it stands.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tar::{Archive, Builder, EntryType, Header};

/// Folder in the volume for copies of files; not part of the state.
const COPIES: &str = ".i2kit-capture";

/// Folder in the volume where a restored state is made whole; not part of the state.
const RESTORED: &str = ".i2kit-restore";

/// One thing in the folder.
#[derive(Debug)]
struct Item {
    /// Its path below the folder.
    path: PathBuf,
    metadata: Metadata,
    /// Where its bytes are.
    source: PathBuf,
    /// The path of the same file that stands before it.
    same: Option<PathBuf>,
}

/// What a folder holds, listed while nobody changes it.
#[derive(Debug)]
pub(super) struct Listing {
    folder: PathBuf,
    items: Vec<Item>,
}

impl Listing {
    /// Lists all that is in a folder, parents before their children.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let mut items = Vec::new();
        let mut first: HashMap<(u64, u64), PathBuf> = HashMap::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(below) = folders.pop() {
            for entry in fs::read_dir(folder.join(&below))? {
                let entry = entry?;
                let name = entry.file_name();
                if below.as_os_str().is_empty() && (name == COPIES || name == RESTORED) {
                    continue;
                }
                let (path, metadata) = (below.join(&name), entry.metadata()?);
                if metadata.file_type().is_socket() {
                    continue;
                }
                if metadata.is_dir() {
                    folders.push(path.clone());
                }
                let mut same = None;
                if metadata.is_file() && metadata.nlink() > 1 {
                    let known = first.entry((metadata.dev(), metadata.ino())).or_insert_with(|| path.clone());
                    same = (*known != path).then(|| known.clone());
                }
                items.push(Item { path, metadata, source: entry.path(), same });
            }
        }
        // Folders are visited last in, first out: sorted, each stands before what is in it, and in the same order everywhere. Of
        // files that are one, the first that was found is not always the first then.
        items.sort_by(|a, b| (a.same.is_some(), &a.path).cmp(&(b.same.is_some(), &b.path)));
        Ok(Self { folder: folder.to_owned(), items })
    }

    /// Makes copies of all files that share their blocks, so that the originals may change; false where the file system cannot.
    pub(super) fn copy(&mut self) -> io::Result<bool> {
        let copies = self.folder.join(COPIES);
        remove(&copies)?;
        fs::create_dir(&copies)?;
        for (number, item) in self.items.iter_mut().enumerate() {
            if !item.metadata.is_file() || item.same.is_some() {
                continue;
            }
            let copy = copies.join(number.to_string());
            let file = File::create(&copy)?;
            match rustix::fs::ioctl_ficlone(&file, &File::open(&item.source)?) {
                Ok(()) => item.source = copy,
                // Those mean that this file system, or these two files, cannot share: ioctl_ficlone(2).
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::XDEV | Errno::NOTTY | Errno::NOSYS) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Writes the stream to a file from where it stands.
    pub(super) fn write(&self, output: &File) -> io::Result<()> {
        let mut builder = Builder::new(BufWriter::with_capacity(64 << 10, output));
        for item in &self.items {
            let mut header = Header::new_gnu();
            header.set_metadata(&item.metadata);
            let kind = item.metadata.file_type();
            if let Some(same) = &item.same {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                builder.append_link(&mut header, &item.path, same)?;
            } else if kind.is_symlink() {
                header.set_size(0);
                builder.append_link(&mut header, &item.path, fs::read_link(&item.source)?)?;
            } else if kind.is_file() {
                let file = File::open(&item.source)?;
                let length = item.metadata.len();
                if file.metadata()?.len() != length {
                    let why = format!("{} changed while the application stood", item.path.display());
                    return Err(io::Error::other(why));
                }
                builder.append_data(&mut header, &item.path, file.take(length))?;
            } else if kind.is_dir() {
                header.set_size(0);
                builder.append_data(&mut header, &item.path, io::empty())?;
            } else {
                builder.follow_symlinks(false);
                builder.append_path_with_name(&item.source, &item.path)?;
            }
        }
        builder.into_inner()?.flush()
    }

    /// Takes the copies away.
    pub(super) fn forget(&self) -> io::Result<()> {
        remove(&self.folder.join(COPIES))
    }
}

/// Replaces what a folder holds with a stream that [`Listing::write`] wrote. The stream is read to its end before the old state
/// is touched. After a crash in between, the same call makes it whole.
pub(super) fn replace(folder: &Path, stream: &File) -> io::Result<()> {
    let restored = folder.join(RESTORED);
    remove(&restored)?;
    fs::create_dir(&restored)?;
    let mut archive = Archive::new(BufReader::with_capacity(64 << 10, stream));
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_preserve_ownerships(true);
    archive.unpack(&restored)?;
    empty(folder, RESTORED)?;
    for entry in fs::read_dir(&restored)? {
        let entry = entry?;
        fs::rename(entry.path(), folder.join(entry.file_name()))?;
    }
    fs::remove_dir(&restored)?;
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// Removes all that a folder holds.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    empty(folder, "")?;
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

fn empty(folder: &Path, kept: &str) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() != kept {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or a folder, and is content when there is none.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
