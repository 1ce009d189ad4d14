//! PID 1's side of the program that talks to AWS. It is there where firmware boots the disk, and runs on EC2 alone.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use i2kit_container::oom;
use i2kit_spec::PodEnd;
use i2kit_spec::job::NOTHING_TO_DO;

use super::cmdline;
use crate::error::{Doing, Error};

/// The program, in the initial RAM file system and later in the root.
const PROGRAM: &str = "/i2kit-aws";

/// The file with the machine's vendor, and its content on EC2.
const VENDOR: &str = "/sys/class/dmi/id/sys_vendor";
const EC2: &str = "Amazon EC2";

/// How long the last lines of containers may take to the cloud: the program looks for new ones every second.
const LAST_LINES: Duration = Duration::from_secs(3);

/// Takes the program along into the new root on EC2, and removes it elsewhere.
pub(crate) fn keep(new_root: &str) -> Result<(), Error> {
    let program = Path::new(PROGRAM);
    if !program.exists() {
        return Ok(());
    }
    if is_ec2() {
        let to = format!("{new_root}{PROGRAM}");
        fs::copy(program, &to).doing(|| format!("copy {PROGRAM}"))?;
    }
    fs::remove_file(program).doing(|| format!("remove {PROGRAM}"))
}

/// Whether the program is there and this is EC2.
pub(crate) fn present() -> bool {
    Path::new(PROGRAM).exists() && is_ec2()
}

fn is_ec2() -> bool {
    fs::read_to_string(VENDOR).is_ok_and(|vendor| vendor.trim() == EC2)
}

/// Sets the clock, finds out what a Job's machine does, and fetches the values of Secrets. Returns the instance's id, and the
/// index of one of an Indexed Job.
pub(crate) fn boot() -> Result<(String, Option<u32>), Error> {
    let output = Command::new(PROGRAM)
        .arg("boot")
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .doing(|| format!("run {PROGRAM}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.code() == Some(i32::from(NOTHING_TO_DO)) {
        return Err(Error::NothingToDo);
    }
    if !output.status.success() {
        return Err(Error::Cloud { status: output.status.to_string() });
    }
    let mut lines = text.lines();
    let instance = cmdline::instance(lines.next().unwrap_or_default().trim())?;
    Ok((instance, lines.next().map(|index| cmdline::index(index.trim())).transpose()?))
}

/// Tells the cloud how the pod ended, which it must know of a Job's. `asked` says that it was stopped from outside.
pub(crate) fn tell_end(end: &PodEnd, asked: bool) -> Result<(), Error> {
    if !present() {
        return Ok(());
    }
    let asked = asked.then_some("asked");
    let mut child = Command::new(PROGRAM)
        .arg("end")
        .args(asked)
        .env_clear()
        .stdin(Stdio::piped())
        .spawn()
        .doing(|| format!("run {PROGRAM}"))?;
    if let Some(mut input) = child.stdin.take() {
        let text = serde_json::to_vec(end).unwrap_or_default();
        input.write_all(&text).doing(|| format!("tell {PROGRAM} the end of the pod"))?;
    }
    let status = child.wait().doing(|| format!("wait for {PROGRAM}"))?;
    if status.success() { Ok(()) } else { Err(Error::Untold { status: status.to_string() }) }
}

/// Tells the cloud at once that the pod was asked to stop, which it must know of a Job's: the machine may be gone before the pod is.
/// Nobody waits for it.
pub(crate) fn tell_asked() -> Result<(), Error> {
    if present() {
        let child = Command::new(PROGRAM).arg("asked").env_clear().stdin(Stdio::null()).spawn();
        drop(child.doing(|| format!("run {PROGRAM}"))?);
    }
    Ok(())
}

/// Starts the program that sends the journals. It retries by itself, and PID 1 does not watch it.
pub(crate) fn send_logs() -> Result<(), Error> {
    let child = Command::new(PROGRAM).arg("logs").env_clear().stdin(Stdio::null()).spawn();
    let child = child.doing(|| format!("run {PROGRAM}"))?;
    Ok(oom::set(&child.id().to_string(), oom::GUEST)?)
}

/// Gives the last lines time to be sent before the VM ends.
pub(crate) fn linger() {
    if present() {
        std::thread::sleep(LAST_LINES);
    }
}
