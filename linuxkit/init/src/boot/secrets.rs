//! Receives the values of Secrets from the host and puts them into memory, where `i2kit_container::secrets` finds them.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use i2kit_container::secrets::{FOLDER, is_name};
use i2kit_spec::secrets::{SECRETS_HEADER, SECRETS_PORT, decode_secrets, secrets_length};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::port;
use crate::error::{Doing, Error};

/// How long the host may take to send all of it: it has it ready before the VM starts.
const PATIENCE: Duration = Duration::from_secs(30);

/// Receives the values from the host, where it has a port for them, and writes them to [`FOLDER`]. Called in a process of
/// its own. Without a port there are no values, and containers that need one fail with its name.
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
