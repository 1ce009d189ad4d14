//! Files of the log: their names, how they are made ahead of need, and how they are opened past the page cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::fs::OFlags;

/// A segment in the making.
const NEXT: &str = "next.new";

/// The path of the segment whose first group is `number`.
pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:016x}.log"))
}

/// The first groups of the segments of `folder`, in order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|stem| stem.len() == 16);
        numbers.extend(stem.and_then(|stem| u64::from_str_radix(stem, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether nothing was ever written to a segment: it has zeros alone.
pub(super) fn is_unused(folder: &Path, number: u64) -> io::Result<bool> {
    let mut file = File::open(path(folder, number))?;
    let mut part = vec![0; 64 << 10];
    loop {
        match io::Read::read(&mut file, &mut part)? {
            0 => return Ok(true),
            len if part[..len].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

/// Syncs the names of `folder`.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Writes zeros into a file that becomes a segment: a file that grows would cost a journal's commit a write.
fn prepare(folder: &Path, bytes: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(folder.join(NEXT))?;
    let zeros = vec![0; 256 << 10];
    let mut left = bytes;
    while left > 0 {
        let part = zeros.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&zeros[..part])?;
        left -= part as u64;
    }
    file.sync_all()
}

/// Makes segments, the next one while the current one is filled.
#[derive(Debug)]
pub(super) struct Maker {
    folder: PathBuf,
    bytes: u64,
    direct: bool,
    ahead: Option<JoinHandle<io::Result<()>>>,
}

impl Maker {
    /// For segments of `bytes` in `folder`; `direct`: past the page cache where the file system allows it.
    pub(super) fn new(folder: &Path, bytes: u64, direct: bool) -> Self {
        Self { folder: folder.to_owned(), bytes, direct, ahead: None }
    }

    /// Begins with the next one, unless that was done.
    pub(super) fn prepare_ahead(&mut self) -> io::Result<()> {
        if self.ahead.is_none() {
            let (folder, bytes) = (self.folder.clone(), self.bytes);
            let thread = std::thread::Builder::new().name("segment".into());
            self.ahead = Some(thread.spawn(move || prepare(&folder, bytes))?);
        }
        Ok(())
    }

    /// The segment whose first group is `number`, all zeros.
    pub(super) fn make(&mut self, number: u64) -> io::Result<(File, bool)> {
        match self.ahead.take() {
            Some(thread) => {
                thread.join().map_err(|_| io::Error::other("the thread that prepares a segment ended"))??;
            }
            None => prepare(&self.folder, self.bytes)?,
        }
        fs::rename(self.folder.join(NEXT), path(&self.folder, number))?;
        sync_folder(&self.folder)?;
        self.open(number)
    }

    /// Opens a segment for writing, and says whether each write is durable when it returns.
    pub(super) fn open(&self, number: u64) -> io::Result<(File, bool)> {
        let path = path(&self.folder, number);
        if self.direct {
            let flags = i32::try_from((OFlags::DIRECT | OFlags::DSYNC).bits()).unwrap_or(0);
            match OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path) {
                Ok(file) => return Ok((file, true)),
                // The file system has no direct writes.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                Err(error) => return Err(error),
            }
        }
        Ok((OpenOptions::new().read(true).write(true).open(path)?, false))
    }

    /// Zeros what is behind `end`, so that a torn group is not taken for a damaged one later.
    pub(super) fn cut(&self, number: u64, end: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path(&self.folder, number))?;
        let len = file.metadata()?.len();
        let zeros = vec![0; 64 << 10];
        let mut offset = end;
        while offset < len {
            let part = zeros.len().min(usize::try_from(len - offset).unwrap_or(usize::MAX));
            std::os::unix::fs::FileExt::write_all_at(&file, &zeros[..part], offset)?;
            offset += part as u64;
        }
        file.sync_all()
    }
}
