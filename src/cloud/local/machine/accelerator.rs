//! Whether this machine's KVM works, found out by using it.
//!
//! `/dev/kvm` may open and yet hang or crawl (nested virtualisation does that), so a tiny program is run on it, in a
//! process of its own with a time limit. The answer is kept until the machine boots again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{process, qemu};
use crate::cloud::local::home::Home;
use crate::plan::fleet::Accelerator;

/// The whole probe takes a tenth of a second where KVM works, and twenty seconds or for ever where it crawls.
const LIMIT: Duration = Duration::from_millis(1500);

/// Turns of the probe's loop: 10 ms on a processor, half a minute where each turn is a trap.
const TURNS: u32 = 20_000_000;

/// The exit code of qemu when the guest writes 1 to its exit device.
const DONE: i32 = 3;

const CACHE_VERSION: u32 = 1;

/// What is kept of an answer.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    version: u32,
    host_boot_id: String,
    accelerator: Accelerator,
}

/// The accelerator for VMs on this machine. Blocks for the time of a probe when the answer is not known yet.
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
    // An answer that cannot be kept is found out again next time.
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
    fs::write(&firmware, firmware_image())?;
    let mut command = Command::new(qemu::PROGRAM);
    command
        .args(["-machine", "q35", "-accel", accelerator, "-cpu", processor, "-m", "16"])
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
        .args(["-device", "isa-debug-exit", "-bios"])
        .arg(&firmware)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // As a VM is started, since that may be what keeps it from KVM.
    let (mut child, _) = process::spawn(command, folder.path(), folder.path(), &[])?;
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code() == Some(DONE));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    // A process that hangs inside the kernel's KVM may not end at once; it must not hold us up.
    let given_up = Instant::now() + Duration::from_secs(1);
    while child.try_wait()?.is_none() && Instant::now() < given_up {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

/// 64 KiB of firmware: counts down in a register and tells qemu to exit.
fn firmware_image() -> Vec<u8> {
    let mut image = vec![0xf4; 0x1_0000];
    let mut code = vec![0x66, 0xb9];
    code.extend(TURNS.to_le_bytes()); // mov ecx, TURNS
    code.extend([0x66, 0x49]); // dec ecx
    code.extend([0x75, 0xfc]); // jnz back to dec
    code.extend([0xba, 0x01, 0x05]); // mov dx, 0x501: the exit device's port
    code.extend([0xb0, 0x01]); // mov al, 1
    code.extend([0xee, 0xf4]); // out dx, al; hlt
    image[..code.len()].copy_from_slice(&code);
    // The processor starts 16 bytes before the end: jump to the first byte.
    image[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    image
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
