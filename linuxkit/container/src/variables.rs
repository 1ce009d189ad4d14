//! The configuration of a container with what is known at boot alone filled in: its environment, and the arguments and
//! mounts that refer to it. Done in the container's own process: the values of Secrets are nobody else's.

use std::collections::BTreeMap;

use i2kit_spec::runtime::Config;
use i2kit_spec::{EnvValue, LateEnvironment, expand};

use crate::error::Error;
use crate::instance::Instance;
use crate::secrets::Secrets;

/// `config` with the values of `late`.
pub(crate) fn fill(
    config: &Config,
    late: &LateEnvironment,
    instance: &Instance,
    secrets: &Secrets,
) -> Result<Config, Error> {
    let variables = variables(late, instance, secrets)?;
    let known: BTreeMap<String, String> = variables.iter().cloned().collect();
    let mut config = config.clone();
    // Of two entries with one name the later one counts.
    config.process.env.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
    if late.expand_args {
        for argument in &mut config.process.args {
            *argument = expand(argument, &known);
        }
    }
    for mount in &mut config.mounts {
        if late.expand_mounts.contains(&mount.destination) {
            mount.source = expand(&mount.source, &known);
        }
    }
    Ok(config)
}

/// The variables in their order, each expanded with those before it.
fn variables(
    late: &LateEnvironment,
    instance: &Instance,
    secrets: &Secrets,
) -> Result<Vec<(String, String)>, Error> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut variables = Vec::new();
    for variable in &late.env {
        let name = &variable.name;
        let found: Vec<(String, String)> = match &variable.value {
            EnvValue::Written(text) => vec![(name.clone(), expand(text, &known))],
            EnvValue::Fixed(text) => vec![(name.clone(), text.clone())],
            EnvValue::Instance(field) => vec![(name.clone(), instance.value(*field))],
            EnvValue::Secret(wanted) => match secrets.key(&wanted.secret, &wanted.key)? {
                Some(value) => vec![(name.clone(), text_of(value, &wanted.secret, &wanted.key)?)],
                None if wanted.optional => vec![],
                None => {
                    return Err(Error::NoSecret {
                        secret: wanted.secret.clone(),
                        key: Some(wanted.key.clone()),
                    });
                }
            },
            EnvValue::WholeSecret(wanted) => match secrets.all(&wanted.secret)? {
                Some(keys) => keys
                    .into_iter()
                    .map(|(key, value)| Ok((format!("{name}{key}"), text_of(value, &wanted.secret, &key)?)))
                    .collect::<Result<_, Error>>()?,
                None if wanted.optional => vec![],
                None => return Err(Error::NoSecret { secret: wanted.secret.clone(), key: None }),
            },
        };
        known.extend(found.iter().cloned());
        variables.extend(found);
    }
    Ok(variables)
}

/// A value as a variable can have it.
fn text_of(value: Vec<u8>, secret: &str, key: &str) -> Result<String, Error> {
    let text = String::from_utf8(value).ok().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| Error::SecretNoText { secret: secret.to_owned(), key: key.to_owned() })
}

#[cfg(test)]
mod tests {
    use i2kit_spec::EnvVar;
    use i2kit_spec::runtime::Mount;

    use super::*;
    use crate::subpath;

    fn config(source: &str) -> Config {
        let mut config = crate::example::config();
        config.mounts = vec![Mount {
            destination: "/x".into(),
            kind: "bind".into(),
            source: source.into(),
            options: vec![],
        }];
        config
    }

    proptest::proptest! {
        /// Whatever a variable is: the source of a mount stays a part of the same volume, which is opened below the volume's
        /// folder and nowhere else.
        #[test]
        fn a_source_with_variables_stays_in_its_volume(
            value in "(/|\\.\\.|\\.|a|\\$\\(A\\)){0,6}|[ -~]{0,12}",
            root in proptest::sample::select(vec!["/volumes", "/pod/volumes"]),
            text in "(/?(a|\\$\\(A\\)|\\$\\$|\\.\\.)){0,4}",
        ) {
            let late = LateEnvironment {
                env: vec![EnvVar { name: "A".into(), value: EnvValue::Fixed(value) }],
                expand_args: false,
                expand_mounts: vec!["/x".into()],
            };
            let written = config(&format!("{root}/data/{text}"));
            let filled = fill(&written, &late, &Instance::default(), &Secrets::default()).unwrap();
            let source = &filled.mounts[0].source;
            proptest::prop_assert!(source.starts_with(&format!("{root}/data/")), "{source}");
            proptest::prop_assert_eq!(subpath::of(source).map(|part| part.volume), Some("data"));
        }
    }
}
