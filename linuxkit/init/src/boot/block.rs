//! Finds disk partitions by their GPT name, through the uevent files of `/sys/class/block`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Doing, Error};

/// How long a disk may take to appear. Virtio disks are there when their driver is loaded; `NVMe` disks are probed in
/// the background and take well under a second.
const WAIT: Duration = Duration::from_secs(10);

/// How often the folder is read again meanwhile.
const POLL: Duration = Duration::from_millis(5);

/// The device nodes of the named partitions, in the order of `names`. Waits for those that are not there yet.
pub(crate) fn find(names: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let start = Instant::now();
    loop {
        let seen = partitions(Path::new("/sys/class/block"))?;
        let Some(missing) = names.iter().find(|name| !seen.contains_key(**name)) else {
            return Ok(names.iter().map(|name| Path::new("/dev").join(&seen[*name])).collect());
        };
        if start.elapsed() >= WAIT {
            let seen =
                if seen.is_empty() { "none".into() } else { seen.into_keys().collect::<Vec<_>>().join(", ") };
            return Err(Error::NoPartition { name: (*missing).to_owned(), seconds: WAIT.as_secs(), seen });
        }
        std::thread::sleep(POLL);
    }
}

/// Partition name to device name, for all partitions that have both.
fn partitions(class: &Path) -> Result<BTreeMap<String, String>, Error> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(class).doing(|| format!("list {}", class.display()))?.flatten() {
        // A device may go away between the listing and the reading.
        if let Ok(text) = fs::read_to_string(entry.path().join("uevent"))
            && let Some((name, device)) = partition(&text)
        {
            found.insert(name.to_owned(), device.to_owned());
        }
    }
    Ok(found)
}

/// The partition name and the device name in the text of a uevent file.
fn partition(uevent: &str) -> Option<(&str, &str)> {
    let field = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Some((field("PARTNAME")?, field("DEVNAME")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_has_a_name_and_a_device() {
        let text = "MAJOR=254\nMINOR=1\nDEVNAME=vda1\nDEVTYPE=partition\nDISKSEQ=9\nPARTN=1\nPARTNAME=pod\n";
        assert_eq!(partition(text), Some(("pod", "vda1")));
        assert_eq!(partition("MAJOR=254\nMINOR=0\nDEVNAME=vda\nDEVTYPE=disk\n"), None);
    }
}
