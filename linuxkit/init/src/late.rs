//! The configuration of a container with what is known at boot alone filled in: its environment, and the arguments and
//! mounts that refer to it.

use std::collections::BTreeMap;

use i2kit_spec::runtime::Config;
use i2kit_spec::{LateEnvironment, LateValue, expand};

use crate::error::Error;
use crate::facts::Facts;
use crate::secrets::Secrets;

/// `config` with the values of `late`.
pub(crate) fn fill(
    config: &Config,
    late: &LateEnvironment,
    facts: &Facts,
    secrets: &Secrets,
) -> Result<Config, Error> {
    let variables = variables(late, facts, secrets)?;
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
    facts: &Facts,
    secrets: &Secrets,
) -> Result<Vec<(String, String)>, Error> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut variables = Vec::new();
    for variable in &late.env {
        let name = &variable.name;
        let found: Vec<(String, String)> = match &variable.value {
            LateValue::Written(text) => vec![(name.clone(), expand(text, &known))],
            LateValue::Fixed(text) => vec![(name.clone(), text.clone())],
            LateValue::Instance(field) => vec![(name.clone(), facts.value(*field))],
            LateValue::Secret(wanted) => match secrets.key(&wanted.secret, &wanted.key)? {
                Some(value) => vec![(name.clone(), text_of(value, &wanted.secret, &wanted.key)?)],
                None if wanted.optional => vec![],
                None => {
                    return Err(Error::NoSecret {
                        secret: wanted.secret.clone(),
                        key: Some(wanted.key.clone()),
                    });
                }
            },
            LateValue::WholeSecret(wanted) => match secrets.all(&wanted.secret)? {
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
