//! Finds the virtio-serial ports to the host by their names. Not every VM has any: clouds have no such device.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Error};

/// The number of a virtio device that has ports.
const VIRTIO_CONSOLE: &str = "0x0003";

/// How long the device may take to name its ports, after its driver was loaded.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the port of this name, when the VM has a device for it. Reading from it and writing to it never wait.
pub(crate) fn open(name: &str) -> Result<Option<OwnedFd>, Error> {
    if has_device() { promised(name, PATIENCE) } else { Ok(None) }
}

/// Opens the port of this name, which the VM has for certain, as soon as it is there; nothing where it is not within `patience`.
pub(crate) fn promised(name: &str, patience: Duration) -> Result<Option<OwnedFd>, Error> {
    let start = Instant::now();
    loop {
        if let Some(path) = named(name) {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let port = rustix::fs::open(&path, flags, Mode::empty());
            return port.map(Some).doing(|| format!("open {}", path.display()));
        }
        if start.elapsed() > patience {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn entries(folder: &str) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

fn is(file: &Path, text: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|found| found.trim() == text)
}

fn has_device() -> bool {
    entries("/sys/bus/virtio/devices").any(|device| is(&device.join("device"), VIRTIO_CONSOLE))
}

fn named(name: &str) -> Option<PathBuf> {
    let port = entries("/sys/class/virtio-ports").find(|port| is(&port.join("name"), name))?;
    Some(Path::new("/dev").join(port.file_name()?))
}
