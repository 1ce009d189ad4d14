//! Which qemu there is: found out by asking it, once as long as its file stays what it is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::process::spawn_apart;

/// The longest answer that is read.
const ANSWER_BYTES: u64 = 4096;

/// The first version that copies memory from a file which it cannot write.
const READ_ONLY: (u32, u32) = (8, 2);

/// A qemu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// Its version in its own words, and which file it is: another build of one version may save devices in another form.
    pub(crate) text: String,
    /// Whether it can copy memory from a file that it cannot write.
    pub(crate) copies_read_only: bool,
}

/// What was found out, by program.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    known: Mutex<BTreeMap<PathBuf, (String, Version)>>,
}

impl Versions {
    /// The qemu of this name that machines with these environment variables get; nothing where there is none, or one that does not
    /// say what it is. Blocks while it is asked.
    pub(crate) fn find(&self, program: &str, environment: &[(OsString, OsString)]) -> Option<Version> {
        let path = find_program(program, environment)?;
        let data = path.metadata().ok()?;
        let mark = format!("{}:{}:{}.{}", data.ino(), data.len(), data.mtime(), data.mtime_nsec());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((before, version)) = known.get(&path)
            && *before == mark
        {
            return Some(version.clone());
        }
        let mut version = parse(&ask(&path, environment)?)?;
        version.text = format!("{} ({mark})", version.text);
        known.insert(path, (mark, version.clone()));
        Some(version)
    }
}

/// The file of a program that is on the PATH among these variables.
fn find_program(name: &str, environment: &[(OsString, OsString)]) -> Option<PathBuf> {
    let path = environment.iter().find(|(variable, _)| variable == "PATH").map(|(_, path)| path)?;
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| {
        let data = file.metadata();
        data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    })
}

/// What the program says of its version.
fn ask(path: &Path, environment: &[(OsString, OsString)]) -> Option<String> {
    let mut command = Command::new(path);
    command.arg("--version").env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = spawn_apart(&mut command).ok()?;
    let mut text = String::new();
    let read = child.stdout.take()?.take(ANSWER_BYTES).read_to_string(&mut text);
    let ended = child.wait();
    (read.is_ok() && ended.is_ok_and(|status| status.success())).then_some(text)
}

/// Reads `QEMU emulator version 7.2.22 (Debian …)`.
fn parse(text: &str) -> Option<Version> {
    let line = text.lines().next()?;
    let numbers = line.split_once("version ")?.1;
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let found = (number()?, number()?);
    Some(Version { text: line.to_owned(), copies_read_only: found >= READ_ONLY })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::mutations::survive;

    fn program(folder: &Path, text: &str) {
        let path = folder.join("qemu-test");
        let new = folder.join("new");
        fs::write(&new, format!("#!/bin/sh\necho '{text}'\n")).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn a_version_is_asked_for_again_when_the_program_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = std::env::join_paths([folder.path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
        let environment = [("PATH".into(), path)];
        let versions = Versions::default();
        assert_eq!(versions.find("qemu-test", &environment), None);
        // A process that is started just now may have the file open to write still, which the kernel runs only then.
        let find = || {
            let found = (0..500).find_map(|_| {
                std::thread::sleep(Duration::from_millis(10));
                versions.find("qemu-test", &environment)
            });
            found.expect("the program runs")
        };
        program(folder.path(), "QEMU emulator version 7.2.22 (Debian 1:7.2)");
        let first = find();
        assert!(first.text.starts_with("QEMU emulator version 7.2.22 (Debian 1:7.2) ("), "{first:?}");
        assert!(!first.copies_read_only);
        assert_eq!(find(), first);
        program(folder.path(), "QEMU emulator version 10.0.13");
        let second = find();
        assert!(second != first && second.copies_read_only, "{second:?}");
        assert_eq!(versions.find("qemu-test", &[]), None, "without a PATH");
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        let copies = |text: &str| parse(text).map(|version| version.copies_read_only);
        assert_eq!(copies("QEMU emulator version 8.1.9"), Some(false));
        assert_eq!(copies("QEMU emulator version 8.2.0"), Some(true));
        assert_eq!(copies("QEMU emulator version 11.0.50 (v11)"), Some(true));
        assert_eq!(copies("QEMU emulator version x.2"), None);
        assert_eq!(copies(""), None);
    }

    #[test]
    fn whatever_a_program_says_is_a_version_or_none() {
        let seeds = ["QEMU emulator version 7.2.22 (Debian)\nCopyright", "version 4294967296.1"];
        survive(&seeds.map(Vec::from), 2000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            assert!(parse(&text).is_none_or(|version| text.starts_with(&version.text)));
        });
    }
}
