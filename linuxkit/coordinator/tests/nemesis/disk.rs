//! A small disk for the log of one replica: a tmpfs that nobody else sees, and that ends with the test.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// The disk.
pub(crate) struct Disk {
    holder: Child,
    folder: TempDir,
}

impl Disk {
    /// One of so many MiB. Mounting one takes the rights of root.
    pub(crate) fn new(mebibytes: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script =
            format!("mount -t tmpfs -o mode=700,size={mebibytes}m small . && echo mounted && exec cat");
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &format!("mkdir disk && cd disk && {script}")]);
        command.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "a disk of its own: it takes root to mount one");
        let disk = Self { holder, folder };
        fs::create_dir(disk.log()).unwrap();
        disk
    }

    /// The disk, by a path that leads there from outside.
    fn path(&self) -> PathBuf {
        let root = Path::new("/proc").join(self.holder.id().to_string()).join("root");
        root.join(self.folder.path().join("disk").strip_prefix("/").unwrap())
    }

    /// The folder for the log.
    pub(crate) fn log(&self) -> PathBuf {
        self.path().join("log")
    }

    /// Fills the disk but for so many KiB.
    pub(crate) fn fill(&self, left: usize) {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        let (part, mut len) = (vec![1; 64 << 10], 0_u64);
        // A write fails when there is no room for any of it.
        while let Ok(written) = file.write(&part) {
            len += written as u64;
        }
        file.set_len(len.saturating_sub(left as u64 * 1024)).unwrap();
    }

    /// Gives the room back.
    pub(crate) fn empty(&self) {
        fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.holder.kill().and_then(|()| self.holder.wait());
    }
}
