//! The probe of KVM: whether this host's works, found out by using it.
//!
//! `/dev/kvm` may open and yet hang or crawl (nested virtualisation does that), so a tiny program is run on it, in a
//! process of its own with a time limit. The result is kept until the host boots again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use i2kit_spec::Architecture;
use serde::{Deserialize, Serialize};

use super::confine::Opens;
use super::{platform, process};
use crate::cloud::local::home::Home;
use crate::plan::fleet::Accelerator;

/// The time limit of the probe: it takes a tenth of a second where KVM works, and twenty seconds or for ever where it
/// crawls.
const LIMIT: Duration = Duration::from_millis(1500);

/// Turns of the probe's loop: 10 ms on a processor, half a minute where each turn is a trap.
const TURNS: u32 = 20_000_000;

const CACHE_VERSION: u32 = 1;

/// A result that is kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    version: u32,
    host_boot_id: String,
    accelerator: Accelerator,
}

/// The accelerator for machines on this host. Blocks for the time of a probe when there is no kept result.
pub(crate) fn find(home: &Home) -> Accelerator {
    let path = home.cache.join("accelerator.json");
    let host_boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Cached>(&bytes).ok());
    if let Some(cached) = known
        && cached.version == CACHE_VERSION
        && cached.host_boot_id == host_boot_id
    {
        return cached.accelerator;
    }
    let accelerator = if probe("kvm", "host", &home.environment, LIMIT).unwrap_or(false) {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    };
    let cached = Cached { version: CACHE_VERSION, host_boot_id, accelerator };
    // A result that cannot be kept is probed again next time.
    drop(keep(&path, &cached));
    accelerator
}

fn keep(path: &Path, cached: &Cached) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    let file = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&file, cached)?;
    file.persist(path)?;
    Ok(())
}

/// Whether the probe's program ran to its end within `limit`.
fn probe(
    accelerator: &str,
    processor: &str,
    environment: &[(OsString, OsString)],
    limit: Duration,
) -> io::Result<bool> {
    let folder = tempfile::tempdir()?;
    let firmware = folder.path().join("probe.bin");
    // KVM runs machines of the host's own architecture.
    let platform = platform::of(Architecture::COMPILED);
    let Some(words) = &platform.probe else { return Ok(false) };
    fs::write(&firmware, (words.firmware)(TURNS))?;
    let mut command = Command::new(platform.program);
    command
        .args(["-machine", words.machine, "-accel", accelerator, "-cpu", processor, "-m", "16"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-device", words.exit_device, "-bios"])
        .arg(&firmware)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Confined as a machine is, since that may be what keeps it from KVM.
    let (mut child, _) = process::spawn(command, &Opens::new(folder.path(), folder.path()), &[])?;
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code() == Some(words.exit_code));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    // A process that hangs inside the kernel's KVM may not end at once, and is not waited for.
    let deadline = Instant::now() + Duration::from_secs(1);
    while child.try_wait()?.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_known_answer_is_kept_for_this_boot_only() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(root.path(), root.path(), PathBuf::new());
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let path = root.path().join("accelerator.json");
        let cached =
            |host_boot_id| Cached { version: CACHE_VERSION, host_boot_id, accelerator: Accelerator::Kvm };
        keep(&path, &cached(boot_id)).unwrap();
        assert_eq!(find(&home), Accelerator::Kvm);
        keep(&path, &cached("another boot".into())).unwrap();
        let found = find(&home);
        let kept: Cached = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!((kept.accelerator, kept.host_boot_id.as_str() == "another boot"), (found, false));
    }
}
