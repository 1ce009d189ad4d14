//! Traces of VMs whose records are lost: their database is gone, empty, damaged, or of another version. They are found by
//! their folders and by the command lines of their processes.

use std::collections::BTreeSet;
use std::fs;

use super::home::{self, Home};
use super::machine::process;
use crate::cloud::CloudError;

/// Names of VMs that run, and of those that only have a folder.
fn traces(home: &Home) -> Result<(BTreeSet<String>, BTreeSet<String>), CloudError> {
    let instances = home.instances();
    let running = process::running(&instances).map_err(CloudError::file("look for VMs of", &instances))?;
    let running: BTreeSet<String> = running.into_iter().map(|(id, _)| id).collect();
    let entries = match fs::read_dir(&instances) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((running, BTreeSet::new())),
        entries => entries.map_err(CloudError::file("read", &instances))?,
    };
    let folders = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok((running, folders.collect()))
}

/// Whether something tells of VMs, or may: what cannot be looked at is an error of whoever opens it next.
pub(super) fn exist(home: &Home) -> bool {
    traces(home).map_or(true, |(running, folders)| !running.is_empty() || !folders.is_empty())
}

/// No VM runs, so that a database without environments is a whole one. Folders alone may be left of a `destroy` that was
/// killed.
pub(super) fn none_runs(home: &Home) -> Result<(), CloudError> {
    if traces(home)?.0.is_empty() { Ok(()) } else { nothing(home) }
}

/// Nothing tells of VMs, so that a database which is not there or is empty is a new one; otherwise its content is lost.
pub(super) fn nothing(home: &Home) -> Result<(), CloudError> {
    let (running, folders) = traces(home)?;
    let all: Vec<&str> = running.union(&folders).map(String::as_str).collect();
    if all.is_empty() {
        return Ok(());
    }
    let run = match running.len() {
        0 => "none of which runs".to_owned(),
        count => format!("{count} of which run{}", if count == 1 { "s" } else { "" }),
    };
    Err(CloudError::Lost {
        message: format!(
            "{} is missing or holds nothing, but there are VMs of it, {run}: {}. No VM was ended. Put a good copy of the file \
             there, or run `{}`, which ends them",
            home.database().display(),
            all.join(", "),
            home::DESTROY_LOST
        ),
    })
}
