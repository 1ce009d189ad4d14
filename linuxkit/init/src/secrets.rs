//! The values of Secrets, in a file system in memory that no container sees. PID 1 never reads them: processes of their own
//! take them from the host and fill volumes, and a container's process fills in its variables before it becomes the program.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use i2kit_spec::secrets::{SECRETS_HEADER, SECRETS_PORT, decode_secrets, secrets_length};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use crate::error::{Doing, Error};
use crate::port;

/// How long the host may take to say all of it: it has it ready before the VM starts.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the values lie: a folder a Secret, a file a key.
const FOLDER: &str = "/secrets";

/// The Secrets that came at boot.
#[derive(Debug, Clone)]
pub(crate) struct Secrets {
    folder: PathBuf,
}

impl Default for Secrets {
    fn default() -> Self {
        Self { folder: FOLDER.into() }
    }
}

/// Takes the values from the host, where it has a port for them, and puts them where containers' starts find them. Called
/// in a process of its own.
/// Without a port nothing is known, and containers that need a value say so.
pub(crate) fn receive() -> Result<(), Error> {
    let Some(port) = port::open(SECRETS_PORT)? else { return Ok(()) };
    let wrong = |reason: String| Error::Secrets { reason };
    let mut header = [0; SECRETS_HEADER];
    read_exactly(&port, &mut header)?;
    let mut body = vec![0; secrets_length(&header).map_err(|error| wrong(error.to_string()))?];
    read_exactly(&port, &mut body)?;
    let values = decode_secrets(&body).map_err(|error| wrong(error.to_string()))?;
    let doing = || "put the Secrets into memory".to_owned();
    fs::create_dir_all(FOLDER).doing(doing)?;
    // Unlike tmpfs, ramfs is never swapped out.
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("ramfs", FOLDER, "ramfs", flags, c"mode=700").doing(doing)?;
    for (secret, keys) in &values {
        let folder = Path::new(FOLDER).join(secret);
        if !is_name(secret) || !keys.keys().all(|key| is_name(key)) {
            return Err(wrong("a name in the message cannot be that of a file".into()));
        }
        fs::create_dir(&folder).doing(doing)?;
        for (key, value) in keys {
            fs::write(folder.join(key), value).doing(doing)?;
        }
    }
    Ok(())
}

/// Fills the buffer from the port, which may have nothing yet.
fn read_exactly(port: &OwnedFd, buffer: &mut [u8]) -> Result<(), Error> {
    let start = Instant::now();
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(port, &mut buffer[filled..]) {
            // The port is there before the host's end of it, which reads as an end.
            Ok(0) | Err(Errno::AGAIN | Errno::INTR) => {
                if start.elapsed() > PATIENCE {
                    let reason = format!("{filled} of {} bytes came", buffer.len());
                    return Err(Error::Secrets { reason });
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(length) => filled += length,
            Err(errno) => return Err(errno).doing(|| "read the Secrets".into()),
        }
    }
    Ok(())
}

impl Secrets {
    /// The value of a key, when there is one.
    pub(crate) fn key(&self, secret: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        if !is_name(secret) || !is_name(key) {
            return Ok(None);
        }
        read(&self.folder.join(secret).join(key))
    }

    /// All keys of a Secret with their values, when there is one.
    pub(crate) fn all(&self, secret: &str) -> Result<Option<BTreeMap<String, Vec<u8>>>, Error> {
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
pub(crate) fn is_name(text: &str) -> bool {
    !matches!(text, "" | "." | "..") && !text.contains(['/', '\0'])
}
