//! Kustomizations, as `-k` has them: made into manifests by a tool of the user's, since they are a language of their own.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use super::bounded::bounded;
use crate::manifest::MAX_BYTES;

/// The names under which a folder's kustomization is found.
const NAMES: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
/// The programs that know the language, each with the arguments in front of the folder, in the order in which they are
/// tried.
const PROGRAMS: [(&str, &str); 2] = [("kubectl", "kustomize"), ("kustomize", "build")];
/// Bytes of the complaints of a program that are shown: the first lines hold the reason.
const MAX_SAID: u64 = 16 << 10;

/// Where the programs are looked for.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// A list of folders in place of this process' own.
    path: Option<OsString>,
}

/// Whether a folder holds a kustomization.
pub(super) fn is_kustomization(folder: &Path) -> bool {
    NAMES.iter().any(|name| folder.join(name).is_file())
}

/// The manifests of a kustomization.
pub(super) fn build(folder: &Path, tools: &Tools) -> anyhow::Result<Vec<u8>> {
    anyhow::ensure!(
        is_kustomization(folder),
        "{} is no folder with a {}",
        folder.display(),
        NAMES.join(", ")
    );
    for (program, verb) in PROGRAMS {
        if let Some(manifests) = run(program, verb, folder, tools)? {
            return Ok(manifests);
        }
    }
    anyhow::bail!(
        "{0} needs `kubectl` or `kustomize` on the PATH, and neither is there; get one from \
         https://kubectl.docs.kubernetes.io/installation/, or run it elsewhere: `kustomize build {0} | i2kit VERB -`",
        folder.display()
    );
}

/// What one program makes of the folder; none when there is no such program.
fn run(program: &str, verb: &str, folder: &Path, tools: &Tools) -> anyhow::Result<Option<Vec<u8>>> {
    let mut command = Command::new(program);
    if let Some(path) = &tools.path {
        command.env("PATH", path);
    }
    // A folder that begins with `-` is none of its options.
    let folder = if folder.is_absolute() { folder.to_owned() } else { Path::new(".").join(folder) };
    command.arg(verb).arg(&folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot start {program}")),
    };
    let stderr = child.stderr.take();
    let complaints = std::thread::spawn(move || {
        let mut complaint = Vec::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.by_ref().take(MAX_SAID).read_to_end(&mut complaint);
            // It must not stand still because nobody reads on.
            let _ = io::copy(&mut stderr, &mut io::sink());
        }
        complaint
    });
    let manifests = child.stdout.take().map(bounded).transpose();
    if !manifests.as_ref().is_ok_and(|manifests| manifests.as_ref().is_some_and(|m| m.len() <= MAX_BYTES)) {
        // The rest of its complaints is not read.
        let _ = child.kill();
    }
    let status = child.wait().with_context(|| format!("cannot wait for {program}"))?;
    let manifests = manifests.with_context(|| format!("cannot read from {program}"))?.unwrap_or_default();
    if manifests.len() > MAX_BYTES {
        anyhow::bail!(
            "`{program} {verb} {}` prints more than {} MiB, which is the most that a file may have",
            folder.display(),
            MAX_BYTES >> 20
        );
    }
    if !status.success() {
        let complaint = complaints.join().unwrap_or_default();
        let complaint = String::from_utf8_lossy(&complaint);
        anyhow::bail!("`{program} {verb} {}` failed ({status}): {}", folder.display(), complaint.trim());
    }
    Ok(Some(manifests))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder of programs that stand in for the real ones, and a kustomization.
    fn stand_ins(programs: &[(&str, &str)]) -> (tempfile::TempDir, Tools) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("base")).unwrap();
        fs::write(folder.path().join("base/kustomization.yaml"), "resources: []\n").unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for (name, script) in programs {
            let file = bin.join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let tools = Tools { path: Some(bin.into_os_string()) };
        (folder, tools)
    }

    fn built(programs: &[(&str, &str)]) -> Result<String, String> {
        let (folder, tools) = stand_ins(programs);
        let built = build(&folder.path().join("base"), &tools);
        let shown = |text: String| text.replace(&folder.path().display().to_string(), "");
        built
            .map(|bytes| shown(String::from_utf8(bytes).unwrap()))
            .map_err(|error| shown(format!("{error:#}")))
    }

    #[test]
    fn kubectl_is_asked_and_kustomize_where_there_is_none() {
        let both = [("kubectl", "echo \"by kubectl: $@\""), ("kustomize", "echo \"by kustomize: $@\"")];
        assert_eq!(built(&both).unwrap(), "by kubectl: kustomize /base\n");
        assert_eq!(built(&both[1..]).unwrap(), "by kustomize: build /base\n");
        let none = built(&[]).unwrap_err();
        assert!(
            none.contains("neither is there") && none.contains("kustomize build /base | i2kit VERB -"),
            "{none}"
        );
    }

    #[test]
    fn what_a_program_complains_is_the_error() {
        let failed = built(&[("kubectl", "echo half; echo 'no such base' >&2; exit 3")]).unwrap_err();
        assert_eq!(failed, "`kubectl kustomize /base` failed (exit status: 3): no such base");
        let (folder, tools) = stand_ins(&[("kubectl", "echo x")]);
        let error = build(folder.path(), &tools).unwrap_err();
        assert!(error.to_string().contains("is no folder with a kustomization.yaml"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_end_to_print_is_ended() {
        let endless = "while :; do echo 01234567890123456789012345678901234567890123456789012345678901234567890123456789; done";
        let failed = built(&[("kubectl", &format!("exec 2>&1; exec /usr/bin/yes {}", "0".repeat(100)))]);
        let error = failed.unwrap_err();
        assert!(error.contains("prints more than 32 MiB"), "{error}");
        // Complaints without end are read to no end, and kept up to a bound.
        let noisy = format!("({endless}) 2>/dev/null | head -c 100000 >&2; exit 1");
        let error = built(&[("kubectl", &format!("PATH=/usr/bin:/bin; {noisy}"))]).unwrap_err();
        assert!(error.len() < 20_000 && error.contains("0123456789"), "{}", error.len());
    }
}
