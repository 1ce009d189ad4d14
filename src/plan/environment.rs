//! The environment of a container: the manifest's variables over the image's, as far as the host knows their values.

use std::collections::BTreeMap;

use i2kit_spec::{EnvValue, EnvVar, expand};

use crate::manifest::api::Container;
use crate::oci::ContainerConfig;

/// The search path of images that set none; the value that container engines use.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The manifest's variables.
#[derive(Debug)]
pub(super) enum Environment {
    /// All are known, each expanded with those written before it.
    Known(BTreeMap<String, String>),
    /// Some are known at boot alone, so that the guest does all expansion.
    Late(Vec<EnvVar>),
}

impl Environment {
    /// The variables of `container`.
    pub(super) fn of(container: &Container) -> Self {
        let mut known = BTreeMap::new();
        for variable in &container.env {
            let value = match &variable.value {
                EnvValue::Written(text) => expand(text, &known),
                EnvValue::Fixed(text) => text.clone(),
                EnvValue::Secret(_) | EnvValue::WholeSecret(_) | EnvValue::Instance(_) => {
                    return Self::Late(container.env.clone());
                }
            };
            known.insert(variable.name.clone(), value);
        }
        Self::Known(known)
    }

    /// `text` with its references expanded, or as it is where the guest does that.
    pub(super) fn expand(&self, text: &str) -> String {
        match self {
            Self::Known(known) => expand(text, known),
            Self::Late(_) => text.to_owned(),
        }
    }

    /// `NAME=VALUE` entries: the image's, with the manifest's known ones over them, in the order in which names first
    /// appear.
    pub(super) fn entries(&self, container: &Container, image: &ContainerConfig) -> Vec<String> {
        let name_of = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
        let mut env: Vec<String> = Vec::new();
        if !image.env.iter().any(|entry| name_of(entry) == "PATH") {
            env.push(DEFAULT_PATH.into());
        }
        env.extend(image.env.iter().cloned());
        let Self::Known(known) = self else { return env };
        for variable in &container.env {
            let Some(value) = known.get(&variable.name) else { continue };
            let entry = format!("{}={value}", variable.name);
            match env.iter_mut().find(|existing| name_of(existing) == variable.name) {
                Some(existing) => *existing = entry,
                None => env.push(entry),
            }
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use i2kit_spec::InstanceField;

    use super::*;

    fn variable(name: &str, value: EnvValue) -> EnvVar {
        EnvVar { name: name.into(), value }
    }

    fn image() -> ContainerConfig {
        ContainerConfig { env: vec!["PATH=/bin".into(), "A=image".into()], ..ContainerConfig::default() }
    }

    #[test]
    fn one_value_of_the_instance_leaves_all_expansion_to_the_guest() {
        let container = Container {
            env: vec![
                variable("A", EnvValue::Written("1".into())),
                variable("IP", EnvValue::Instance(InstanceField::Ip)),
                variable("URL", EnvValue::Written("http://$(IP)/$(A)".into())),
            ],
            ..Container::new("web", "nginx".parse().unwrap())
        };
        let environment = Environment::of(&container);
        assert_eq!(environment.expand("$(A)"), "$(A)");
        assert_eq!(environment.entries(&container, &image()), ["PATH=/bin", "A=image"]);
        let Environment::Late(late) = environment else { panic!("it is known: {environment:?}") };
        assert_eq!(late[2].value, EnvValue::Written("http://$(IP)/$(A)".into()));
    }
}
