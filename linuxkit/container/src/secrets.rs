//! The values of Secrets, in a file system in memory that no container sees. PID 1 never reads them: a container's process
//! fills in its variables before it becomes the program, and a process of its own fills volumes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error};

/// Where the values lie: a folder a Secret, a file a key.
pub const FOLDER: &str = "/secrets";

/// The Secrets that came at boot.
#[derive(Debug, Clone)]
pub struct Secrets {
    folder: PathBuf,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { folder: FOLDER.into() }
    }
}

impl Secrets {
    /// The value of a key, when there is one.
    pub fn key(&self, secret: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        if !is_name(secret) || !is_name(key) {
            return Ok(None);
        }
        read(&self.folder.join(secret).join(key))
    }

    /// All keys of a Secret with their values, when there is one.
    pub fn all(&self, secret: &str) -> Result<Option<BTreeMap<String, Vec<u8>>>, Error> {
        let folder = self.folder.join(secret);
        if !is_name(secret) || !folder.is_dir() {
            return Ok(None);
        }
        let entries = fs::read_dir(&folder).doing(|| format!("list the Secret {secret}"))?;
        let mut keys = BTreeMap::new();
        for entry in entries {
            let entry = entry.doing(|| format!("list the Secret {secret}"))?;
            if let (Ok(name), Some(value)) = (entry.file_name().into_string(), read(&entry.path())?) {
                keys.insert(name, value);
            }
        }
        Ok(Some(keys))
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| "read a Secret".into()),
    }
}

/// Whether a text can be the name of a file in a folder, and of nothing else.
pub fn is_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(['/', '\0'])
}
