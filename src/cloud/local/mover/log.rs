//! The log of the front door: lines of the local cloud's log, written by whoever has something to say. Its processes have
//! one thread each, and write to one descriptor.

use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::table::Fd;
use crate::cloud::CloudError;
use crate::cloud::local::log;

/// The open log. The local cloud begins the file anew when it is too long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log(Fd);

impl Log {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, CloudError> {
        let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR);
        let file = file.map_err(|error| CloudError::file("write", path)(error.into()))?;
        Ok(Self(Fd::from_owned(file)))
    }

    /// The log that is open already.
    pub(super) fn from_fd(fd: Fd) -> Self {
        Self(fd)
    }

    /// Its descriptor.
    pub(super) fn fd(self) -> Fd {
        self.0
    }

    /// Writes one line. Failures are passed over: a full disk stops no traffic.
    pub(super) fn write(self, text: std::fmt::Arguments) {
        let _ = rustix::io::write(self.0, log::line(&format!("front door: {text}")).as_bytes());
    }
}
