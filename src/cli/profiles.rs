//! Profiles of system calls: files of a folder that the environment names, read before anything is planned.

use std::collections::BTreeMap;

use anyhow::Context as _;

use super::context::Context;
use super::exit::{Exit, Failure};
use crate::manifest::api::ObjectSet;
use crate::plan::pod;
use crate::plan::seccomp::Profile;

/// The profiles that pods of the set name.
pub(super) fn read(context: &Context, set: &ObjectSet) -> Result<BTreeMap<String, Profile>, Failure> {
    let mut profiles = BTreeMap::new();
    for (group, template) in set.pods() {
        for file in pod::profiles(&template.spec) {
            if !profiles.contains_key(file) {
                let profile = one(context, file)
                    .with_context(|| format!("the seccomp profile `{file}` of {group}"))
                    .map_err(|error| Failure::new(Exit::Environment, error))?;
                profiles.insert(file.to_owned(), profile);
            }
        }
    }
    Ok(profiles)
}

fn one(context: &Context, file: &str) -> anyhow::Result<Profile> {
    let folder =
        context.environment.seccomp_profiles.as_ref().context(
            "no folder of profiles is known: name it as `seccompProfiles` in the environment file",
        )?;
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Profile::parse(&text).with_context(|| path.display().to_string())
}
