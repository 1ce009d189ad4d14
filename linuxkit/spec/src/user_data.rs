//! The user data of a launch template: what a VM in a cloud gets at its launch.
//!
//! The image is the same for every VM of a revision, and so is this; what differs between two VMs comes from the cloud's
//! metadata service (the instance's id, its zone, its role's credentials). On the local cloud the kernel command line
//! ([`crate::cmdline`]) carries what is needed instead.
//!
//! User data is readable by whoever may describe the launch template, so a secret is named here and never contained.

use serde::{Deserialize, Serialize};

/// The version of [`UserData`] that this crate writes and reads. A guest reports any other version and refuses it.
pub const USER_DATA_VERSION: u32 = 1;

/// The most bytes that user data may have, before base64: the limit of launch templates.
pub const MAX_USER_DATA: usize = 16 << 10;

/// The user data of an instance: JSON, as it is (not base64, which the cloud's interface adds and takes away).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UserData {
    /// Always [`USER_DATA_VERSION`].
    pub version: u32,
    /// Name of the environment.
    pub environment: String,
    /// Namespace of the group.
    pub namespace: String,
    /// Name of the group: the workload's `metadata.name`.
    pub group: String,
    /// Number of the group's revision.
    pub revision: u64,
    /// Region of the services that the guest calls; the instance's own when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where the lines of containers go besides the console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logs: Option<LogTarget>,
    /// Where the values of the pod's Secrets are. Each that the pod names must be here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretReference>,
    /// Base address of the cloud's services instead of those of the region: VPC endpoints with names of their own, and
    /// stand-ins in tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Of a Job: what its machines tell the cloud about their ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobTarget>,
    /// What the host wrote for itself; the guest does not look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Where the lines of containers go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogTarget {
    /// The log group, which the host has made. The guest makes a stream a container in it, named
    /// `NAMESPACE/GROUP/INSTANCE/CONTAINER`, with the instance's id.
    pub group: String,
}

impl LogTarget {
    /// The log group of the records of Jobs, beside that of their output: it keeps what it has, and machines of no Job have no
    /// right to it.
    pub fn records(&self) -> String {
        format!("{}/jobs", self.group)
    }
}

/// The groups that the machines of a Job are of. Which one a machine is in, and which record it writes to, is in its tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobTarget {
    /// The name of the group of lane 0; those of others have an underscore and the lane's number behind it.
    pub group: String,
}

impl JobTarget {
    /// The name of a lane's group.
    pub fn lane(&self, lane: u32) -> String {
        match lane {
            0 => self.group.clone(),
            lane => format!("{}_{lane}", self.group),
        }
    }
}

/// Where the data of one Kubernetes Secret is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretReference {
    /// The Secret's `metadata.name`, in the group's own namespace.
    pub name: String,
    /// What holds its keys and values.
    pub source: SecretSource,
}

/// What holds the keys and values of a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum SecretSource {
    /// A secret of Secrets Manager whose value is a JSON object: its members are the Secret's keys, with strings as
    /// values.
    SecretsManager {
        /// Name or ARN of the secret.
        secret_id: String,
    },
    /// Parameters of SSM's Parameter Store, one a key: `PATH/KEY`.
    Parameters {
        /// Their path, with a slash at its start and none at its end.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_reads_back_and_never_changes() {
        let spec = UserData {
            version: USER_DATA_VERSION,
            environment: "production".into(),
            namespace: "default".into(),
            group: "web".into(),
            revision: 7,
            region: Some("eu-west-1".into()),
            logs: Some(LogTarget { group: "/i2kit/production".into() }),
            secrets: vec![
                SecretReference {
                    name: "database".into(),
                    source: SecretSource::SecretsManager { secret_id: "production/database".into() },
                },
                SecretReference {
                    name: "mail".into(),
                    source: SecretSource::Parameters { path: "/production/mail".into() },
                },
            ],
            endpoint: None,
            job: None,
            host: None,
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"version":1,"environment":"production","namespace":"default","group":"web","revision":7,"#,
                r#""region":"eu-west-1","logs":{"group":"/i2kit/production"},"secrets":["#,
                r#"{"name":"database","source":{"secretsManager":{"secretId":"production/database"}}},"#,
                r#"{"name":"mail","source":{"parameters":{"path":"/production/mail"}}}]}"#
            )
        );
        assert_eq!(serde_json::from_str::<UserData>(&text).unwrap(), spec);
    }

    #[test]
    fn a_field_that_a_guest_does_not_know_is_refused() {
        let least = r#"{"version":1,"environment":"e","namespace":"n","group":"g","revision":1}"#;
        assert!(serde_json::from_str::<UserData>(least).is_ok());
        assert!(serde_json::from_str::<UserData>(&least.replace("\"group\"", "\"grupp\"")).is_err());
    }
}
