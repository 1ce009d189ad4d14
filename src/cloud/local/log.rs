//! The background process's diary, for when something went wrong that no verb was there to hear of.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;

use super::clock;
use crate::cloud::CloudError;

/// The file is begun anew when it is longer than this.
const LIMIT_BYTES: u64 = 1 << 20;

/// An open diary.
#[derive(Debug)]
pub(super) struct Log(Mutex<File>);

impl Log {
    /// Opens the file, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, CloudError> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(CloudError::file("write", path))?;
        Ok(Self(Mutex::new(file)))
    }

    /// Writes one line. A full disk must not stop VMs from being kept: failures are passed over.
    pub(super) fn say(&self, text: std::fmt::Arguments) {
        let mut file = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if file.metadata().is_ok_and(|metadata| metadata.len() > LIMIT_BYTES) {
            drop(file.set_len(0));
        }
        let now = clock::wall();
        drop(writeln!(file, "{}.{:03} {text}", now / 1000, now % 1000));
    }
}
