//! The local cloud as environment files name it: `provider: {type: local}`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use i2kit_spec::Architecture;
use serde::Deserialize;
use serde::de::Error as _;
use serde_json::{Map, Value};

use super::acme;
use super::client::LocalCloud;
use super::home::Home;
use super::machine::{accelerator, platform};
use super::support::SUPPORT;
use crate::cloud::engine::reconcile::MAX_MEMBERS;
use crate::cloud::provider::{Check, Client, Kind, Provider};
use crate::cloud::{Cloud, CloudError};
use crate::manifest::api::{AcmeIssuer, Name};
use crate::manifest::support::Support;
use crate::plan::fleet::{Accelerator, BalancerSpec};
use crate::plan::rollout::GroupSpec;

/// The local cloud in the table of clouds.
pub const KIND: Kind = Kind { support: &SUPPORT, read };

/// Its settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Local {
    /// The CA that gives certificates to public hosts of Ingresses.
    acme: Option<AcmeIssuer>,
}

/// The form of `acme`, for who wrote something else.
const ACME_FORM: &str = "write `acme: {}` for Let's Encrypt, `acme: {email: ops@example.com}`, or \
    `acme: {directory: \"https://ca.example.com/directory\"}`";

fn read(fields: Map<String, Value>) -> Result<Arc<dyn Provider>, serde_json::Error> {
    if let Some(value) = fields.get("acme") {
        let found = match value {
            Value::Object(_) => {
                serde_json::from_value::<AcmeIssuer>(value.clone()).err().map(|error| error.to_string())
            }
            Value::Null => Some("it has no value".to_owned()),
            other => Some(format!("it is a map, got `{other}`")),
        };
        if let Some(reason) = found {
            return Err(serde_json::Error::custom(format!("acme: {reason}; {ACME_FORM}")));
        }
    }
    let local: Local = serde_json::from_value(fields.into())?;
    if let Some(reason) = local.acme.as_ref().and_then(acme::refusal) {
        return Err(serde_json::Error::custom(format!("acme: {reason}")));
    }
    Ok(Arc::new(local))
}

/// The local cloud's folders and programs, as its client and its own process use them.
pub fn home(client: &Client) -> Home {
    let home = Home::new(&client.state, &client.cache, client.program.clone());
    home.with_environment(client.variables.clone())
}

fn connected(client: &Client) -> LocalCloud {
    let cloud = LocalCloud::new(home(client), &client.environment);
    if client.starts { cloud } else { cloud.without_starts() }
}

#[async_trait]
impl Provider for Local {
    fn support(&self) -> &'static Support {
        &SUPPORT
    }

    fn acme(&self) -> Option<&AcmeIssuer> {
        self.acme.as_ref()
    }

    async fn connect(&self, client: &Client) -> Result<Box<dyn Cloud>, CloudError> {
        Ok(Box::new(connected(client)))
    }

    async fn environments(&self, client: &Client) -> Result<Vec<String>, CloudError> {
        let mut names = connected(client).environments().await?;
        names.push(client.environment.clone());
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn refuse_size(&self, group: &Name, replicas: u32) -> Result<(), CloudError> {
        if replicas <= MAX_MEMBERS {
            return Ok(());
        }
        Err(CloudError::Unsupported {
            what: format!("{group} with {replicas} instances"),
            advice: format!("a group has at most {MAX_MEMBERS}"),
        })
    }

    async fn preflight(
        &self,
        client: &Client,
        _groups: Vec<GroupSpec>,
        _balancers: Vec<BalancerSpec>,
    ) -> Result<Vec<Check>, CloudError> {
        let platform = platform::of(Architecture::COMPILED);
        let qemu = program(client, platform.program);
        let mut checks = vec![match &qemu {
            Some(path) => Check::new("qemu", Some(true), path.display().to_string()),
            None => Check::new(
                "qemu",
                Some(false),
                format!(
                    "there is no {} on the PATH: install the package {}",
                    platform.program, platform.package
                ),
            ),
        }];
        if qemu.is_some() {
            let home = home(client);
            let found = tokio::task::spawn_blocking(move || accelerator::find(&home)).await;
            checks.push(match found {
                Ok(Accelerator::Kvm) => Check::new("accelerator", Some(true), "KVM"),
                Ok(Accelerator::Tcg) => {
                    let finding =
                        "emulation, about ten times slower than KVM, which does not work for this user here";
                    Check::new("accelerator", Some(true), finding)
                }
                Err(error) => Check::new("accelerator", None, error.to_string()),
            });
        }
        checks.push(Check::new("account", Some(true), "the local cloud needs none, and has no quotas"));
        Ok(checks)
    }
}

/// The file of a program that is on the PATH which machines get.
fn program(client: &Client, name: &str) -> Option<PathBuf> {
    let path = client.variables.iter().find(|(variable, _)| variable == "PATH").map(|(_, path)| path)?;
    std::env::split_paths(path).map(|folder| folder.join(name)).find(|file| {
        let mode = file.metadata().map(|data| if data.is_file() { data.permissions().mode() } else { 0 });
        mode.is_ok_and(|mode| mode & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_host_without_qemu_fails_the_check() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client {
            environment: "test".into(),
            state: folder.path().join("state"),
            cache: folder.path().join("cache"),
            program: folder.path().join("i2kit"),
            variables: vec![("PATH".into(), folder.path().into())],
            holder: "ann".into(),
            events: crate::report::Events::none(),
            starts: true,
        };
        let checks = Local { acme: None }.preflight(&client, vec![], vec![]).await.unwrap();
        let qemu = checks.iter().find(|check| check.name == "qemu").unwrap();
        assert_eq!(qemu.ok, Some(false), "{checks:?}");
        assert!(qemu.finding.contains("install the package qemu-system"), "{}", qemu.finding);
        let name = platform::of(Architecture::COMPILED).program;
        std::fs::write(folder.path().join(name), "").unwrap();
        assert_eq!(program(&client, name), None, "it is no program");
    }

    #[test]
    fn a_size_that_no_group_can_have_is_refused() {
        let name = Name { namespace: "default".into(), name: "web".into() };
        assert_eq!(Local { acme: None }.refuse_size(&name, MAX_MEMBERS), Ok(()));
        let error = Local { acme: None }.refuse_size(&name, MAX_MEMBERS + 1).unwrap_err().to_string();
        assert!(error.contains("web with 1001 instances") && error.contains("at most 1000"), "{error}");
        assert!(!error.contains("run the command again"), "{error}");
    }

    #[test]
    fn a_ca_that_is_named_in_another_form_is_told_the_right_one() {
        let read = |json: Value| read(Map::from_iter([("acme".to_owned(), json)]));
        for (json, words) in [
            (Value::Null, "it has no value"),
            (json!(true), "it is a map, got `true`"),
            (json!("letsencrypt"), "it is a map, got `\"letsencrypt\"`"),
            (json!([{}]), "it is a map, got `[{}]`"),
            (json!({"email": 5}), "invalid type: integer `5`"),
            (json!({"mail": "a@b"}), "unknown field `mail`"),
        ] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(&format!("acme: {words}")), "{error}");
            assert!(error.contains("`acme: {}` for Let's Encrypt") && error.contains("{email: "), "{error}");
        }
        assert!(read(json!({})).is_ok() && read(json!({"email": "ops@example.com"})).is_ok());
    }
}
