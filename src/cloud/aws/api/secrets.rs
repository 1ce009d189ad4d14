//! The values of Secrets: a secret of Secrets Manager each version, which launch templates name and machines read with their
//! role. Whoever deploys writes values and never reads one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_secretsmanager::operation::create_secret::builders::CreateSecretFluentBuilder;
use aws_sdk_secretsmanager::primitives::Blob;
use aws_sdk_secretsmanager::types::{Filter, FilterNameStringType, SecretListEntry, Tag};
use aws_smithy_types::error::metadata::ProvideErrorMetadata as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::environment::Aws;
use super::error::failed;
use super::launch;
use super::tags::{self, ENVIRONMENT};
use super::wait::{eventually, now};
use crate::cloud::CloudError;
use crate::cloud::aws::plan::name;
use crate::cloud::secret::Key;
use crate::manifest::api::{Name, Secret};
use crate::plan::fleet::{InstanceGroup, LaunchSpec};

/// The longest value that Secrets Manager takes.
const LONGEST: usize = 64 << 10;

/// How long the name of a secret that was deleted may stay taken.
const FREED: Duration = Duration::from_mins(3);

/// How long Secrets Manager may not show a secret that it has just made.
const SHOWN: Duration = Duration::from_mins(1);

/// Values that no revision names may be about to be named: whoever put them needs that long at most.
const SPARED_SECONDS: u64 = 24 * 3600;

/// What kept values there are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    id: String,
    created: u64,
}

impl Kept {
    /// The Secret that it is a version of.
    fn secret(&self) -> &str {
        self.id.rsplit_once('/').map_or(self.id.as_str(), |(secret, _)| secret)
    }
}

impl Aws {
    /// The versions of these values. Without a key in the account yet it is a key that is nowhere.
    pub(super) async fn versions_of(&self, secrets: &[Secret]) -> Result<BTreeMap<Name, String>, CloudError> {
        if secrets.is_empty() {
            return Ok(BTreeMap::new());
        }
        let key = self.key().await?;
        secrets.iter().map(|secret| Ok((secret.name.clone(), key.version(secret)?))).collect()
    }

    /// Keeps a Secret's values under their version; nothing is sent when they are kept already.
    pub(super) async fn put_values(&self, secret: &Secret) -> Result<(), CloudError> {
        let value = object(secret)?;
        let key = self.key().await?;
        self.keep_key(&key).await?;
        let version = key.version(secret)?;
        let id = name::secret(&self.settings.environment, &secret.name, &version);
        let asked = self.clients.secrets.describe_secret().secret_id(&id).send().await;
        match asked {
            Ok(found) if found.deleted_date().is_none() => return Ok(()),
            Err(error) if !is_absent(error.code()) => return Err(failed("DescribeSecret")(error)),
            Ok(_) | Err(_) => {}
        }
        let description = format!("i2kit: values of Secret {}", secret.name);
        self.make(&id, || {
            let create = self.clients.secrets.create_secret().description(&description);
            create.client_request_token(&version).secret_string(&value)
        })
        .await
    }

    /// Names in Secrets Manager of the values that machines of `launch` read, by their Secrets' names.
    pub(super) fn values_of(&self, group: &Name, launch: &LaunchSpec) -> BTreeMap<String, String> {
        let one = |(name, version): (&String, &Option<String>)| {
            let secret = Name { namespace: group.namespace.clone(), name: name.clone() };
            Some((name.clone(), name::secret(&self.settings.environment, &secret, version.as_ref()?)))
        };
        launch.secrets.iter().filter_map(one).collect()
    }

    /// Deletes the values that revisions of `group` name and those of no other group do.
    pub(super) async fn delete_values_of(&self, group: &Name) -> Result<(), CloudError> {
        let own = self.values_named_by(group).await?;
        if own.is_empty() {
            return Ok(());
        }
        let mut kept = BTreeSet::new();
        let others = self.templates(None).await?;
        let others = others.iter().filter_map(|template| tags::named(template.tags()));
        for other in others.filter(|other| other != group && other.namespace == group.namespace) {
            kept.extend(self.values_named_by(&other).await?);
        }
        for id in own.difference(&kept) {
            self.delete_values(id).await?;
        }
        Ok(())
    }

    async fn values_named_by(&self, group: &Name) -> Result<BTreeSet<String>, CloudError> {
        let versions = self.versions(group).await?;
        let revisions = versions.iter().filter_map(launch::revision);
        Ok(revisions.flat_map(|revision| self.values_of(group, &revision.launch).into_values()).collect())
    }

    /// Deletes one version of a Secret's values at once; one that does not exist is no error.
    pub(super) async fn delete_values(&self, id: &str) -> Result<(), CloudError> {
        let gone = self.clients.secrets.delete_secret().secret_id(id);
        match gone.force_delete_without_recovery(true).send().await {
            Err(error) if is_being_deleted(error.code(), error.message()) => Ok(()),
            Err(error) if error.code() == Some("ResourceNotFoundException") => Ok(()),
            other => other.map(drop).map_err(failed("DeleteSecret")),
        }
    }

    /// Deletes all that the environment keeps, and the key.
    pub(super) async fn delete_all_values(&self) -> Result<(), CloudError> {
        for kept in self.kept().await? {
            self.delete_values(&kept.id).await?;
        }
        self.delete_values(&name::secrets_key(&self.settings.environment)).await
    }

    /// Values that no revision of `groups` names: superseded ones at once, others once nobody can be about to name them.
    pub(super) async fn unused_values(&self, groups: &[InstanceGroup]) -> Result<Vec<String>, CloudError> {
        let revisions = groups.iter().flat_map(|group| group.revisions.iter().map(move |r| (group, r)));
        let named: BTreeSet<String> = revisions
            .flat_map(|(group, revision)| self.values_of(&group.name, &revision.launch).into_values())
            .collect();
        Ok(unused(&self.kept().await?, &named, now()))
    }

    /// What the environment keeps. Secrets Manager may be minutes late with what is new.
    async fn kept(&self) -> Result<Vec<Kept>, CloudError> {
        let start = name::secrets(&self.settings.environment);
        let filter = Filter::builder().key(FilterNameStringType::Name).values(&start).build();
        let pages = self.clients.secrets.list_secrets().filters(filter).into_paginator().send();
        let pages: Vec<_> = pages.try_collect().await.map_err(failed("ListSecrets"))?;
        let found = pages.into_iter().flat_map(|page| page.secret_list.unwrap_or_default());
        let ours = |entry: &SecretListEntry| {
            let tag = entry.tags().iter().find(|tag| tag.key() == Some(ENVIRONMENT));
            tag.and_then(Tag::value) == Some(&self.settings.environment)
        };
        let kept = found.filter(ours).filter_map(|entry| {
            let created = entry.created_date.and_then(|date| u64::try_from(date.secs()).ok());
            Some(Kept { id: entry.name?, created: created.unwrap_or_default() })
        });
        // A name may begin in another case: the filter ignores case.
        Ok(kept.filter(|kept| kept.id.starts_with(&start)).collect())
    }

    async fn key(&self) -> Result<Key, CloudError> {
        let key = self.key.get_or_try_init(async || match self.kept_key().await? {
            Some(key) => Ok(key),
            None => Key::random(),
        });
        key.await.cloned()
    }

    async fn kept_key(&self) -> Result<Option<Key>, CloudError> {
        let id = name::secrets_key(&self.settings.environment);
        let found = match self.clients.secrets.get_secret_value().secret_id(&id).send().await {
            Err(error) if is_absent(error.code()) => return Ok(None),
            other => other.map_err(failed("GetSecretValue"))?,
        };
        let bytes = found.secret_binary().map(|blob| blob.as_ref().try_into());
        match bytes {
            Some(Ok(bytes)) => Ok(Some(Key(bytes))),
            _ => Err(CloudError::Refused {
                message: format!("{id} in Secrets Manager is no key of i2kit's; delete it"),
            }),
        }
    }

    /// Keeps the key, unless it is kept; a key that somebody else put meanwhile makes other versions.
    async fn keep_key(&self, key: &Key) -> Result<(), CloudError> {
        if let Some(kept) = self.kept_key().await? {
            return same(&kept, key);
        }
        let id = name::secrets_key(&self.settings.environment);
        self.make(&id, || {
            let create = self.clients.secrets.create_secret();
            let create = create.description("i2kit: what versions of Secrets' values are made with");
            create.secret_binary(Blob::new(key.0))
        })
        .await?;
        // There is one now, ours or that of another run; an answer that there is none is of a moment ago.
        let what = format!("{id} in Secrets Manager, which was just made");
        let kept = eventually(&what, SHOWN, || self.kept_key()).await?;
        same(&kept, key)
    }

    /// Makes a secret, unless there is one of that name.
    async fn make(
        &self,
        id: &str,
        request: impl Fn() -> CreateSecretFluentBuilder,
    ) -> Result<(), CloudError> {
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        eventually(&format!("the name {id}, which was deleted in Secrets Manager"), FREED, || async {
            let made = request()
                .name(id)
                .tags(tag(ENVIRONMENT, &self.settings.environment))
                .tags(tag("Name", &format!("i2kit-{}", self.settings.environment)))
                .send()
                .await;
            match made {
                Err(error) if error.code() == Some("ResourceExistsException") => Ok(Some(())),
                // What was deleted holds its name for a moment.
                Err(error) if is_being_deleted(error.code(), error.message()) => Ok(None),
                other => other.map(|_| Some(())).map_err(failed("CreateSecret")),
            }
        })
        .await
    }
}

/// Refuses a key that is kept and is not the one that versions were made with.
fn same(kept: &Key, key: &Key) -> Result<(), CloudError> {
    if kept == key {
        return Ok(());
    }
    Err(CloudError::Conflict {
        message: "another run has just made the key of this environment's Secrets; run the command again"
            .into(),
    })
}

/// Whether there is no such secret, or none any more.
fn is_absent(code: Option<&str>) -> bool {
    matches!(code, Some("ResourceNotFoundException" | "InvalidRequestException"))
}

fn is_being_deleted(code: Option<&str>, message: Option<&str>) -> bool {
    code == Some("InvalidRequestException") && message.is_some_and(|text| text.contains("deletion"))
}

/// Of what is kept, what nothing needs.
fn unused(kept: &[Kept], named: &BTreeSet<String>, now: u64) -> Vec<String> {
    let is_superseded = |old: &Kept| {
        let mut newer = kept.iter().filter(|new| new.secret() == old.secret() && new.created >= old.created);
        newer.any(|new| named.contains(&new.id))
    };
    let unnamed = kept.iter().filter(|kept| !named.contains(&kept.id));
    let gone = unnamed.filter(|kept| kept.created + SPARED_SECONDS < now || is_superseded(kept));
    gone.map(|kept| kept.id.clone()).collect()
}

/// The value as machines read it: an object of the Secret's keys. What is no text is in base64.
fn object(secret: &Secret) -> Result<String, CloudError> {
    let member = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({"base64": STANDARD.encode(bytes)}),
    };
    let members = secret.data.iter().map(|(key, value)| (key.clone(), member(value.reveal())));
    let text = Value::Object(members.collect::<Map<_, _>>()).to_string();
    if text.len() > LONGEST {
        return Err(CloudError::Unsupported {
            what: format!("Secret {} of {} bytes", secret.name, text.len()),
            advice: format!("Secrets Manager takes {LONGEST}: make several Secrets of it"),
        });
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::api::SecretValue;

    #[test]
    fn what_is_superseded_goes_at_once_and_what_is_new_later() {
        let kept = |id: &str, created| Kept { id: id.into(), created };
        let all = [
            kept("i2kit/e/shop/db/old", 100),
            kept("i2kit/e/shop/db/now", 200),
            kept("i2kit/e/shop/db/next", 300),
            kept("i2kit/e/shop/mail/lost", 100),
        ];
        let named: BTreeSet<String> = ["i2kit/e/shop/db/now".to_owned()].into();
        assert_eq!(unused(&all, &named, 400), ["i2kit/e/shop/db/old"]);
        assert_eq!(
            unused(&all, &named, 250 + SPARED_SECONDS),
            ["i2kit/e/shop/db/old", "i2kit/e/shop/mail/lost"]
        );
        assert_eq!(unused(&all, &BTreeSet::new(), 400), Vec::<String>::new());
    }

    #[test]
    fn a_key_that_another_run_made_is_told() {
        let (ours, other) = (Key::random().unwrap(), Key::random().unwrap());
        assert_eq!(same(&ours, &ours), Ok(()));
        assert!(matches!(same(&other, &ours), Err(CloudError::Conflict { .. })));
    }

    #[test]
    fn values_of_all_bytes_are_told_and_too_long_ones_refused() {
        let secret = |value: Vec<u8>| Secret {
            name: Name { namespace: "shop".into(), name: "db".into() },
            kind: "Opaque".into(),
            data: [("key".to_owned(), SecretValue::new(value))].into(),
        };
        assert_eq!(object(&secret(b"a\"b\n".to_vec())).unwrap(), r#"{"key":"a\"b\n"}"#);
        assert_eq!(object(&secret(vec![0xff, 0])).unwrap(), r#"{"key":{"base64":"/wA="}}"#);
        let error = object(&secret(vec![b'x'; LONGEST])).unwrap_err().to_string();
        assert!(error.contains("Secret shop/db of 65546 bytes") && !error.contains("xx"), "{error}");
    }
}
