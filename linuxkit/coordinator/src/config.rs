//! What the coordinator is told: the group's configuration, its own slot, and where everything is.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use i2kit_spec::replica::{
    ADMIN_PORT, CONTROL_PORT, FRONT_PORT, IDENTITY_FOUNDED, IDENTITY_MOUNT, LOG_MOUNT, PEER_PORT, POD_SOCKET,
    ReplicaConfig, STATE_MOUNT,
};
use serde::Deserialize;

/// Addresses and folders. The defaults are those of the contract; others are for several replicas on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Place {
    /// Where clients are served.
    pub(crate) front: SocketAddr,
    /// Where other replicas are.
    pub(crate) peer: SocketAddr,
    /// Where probes are.
    pub(crate) admin: SocketAddr,
    /// Where what changes the group is asked for.
    pub(crate) control: SocketAddr,
    /// Host and port of each slot, when they do not follow from the group's members.
    pub(crate) peers: Vec<String>,
    /// Folder of log and snapshots.
    pub(crate) log: PathBuf,
    /// Folder of the key pair.
    pub(crate) identity: PathBuf,
    /// Folder of the pod's volumes.
    pub(crate) state: PathBuf,
    /// The supervisor's socket.
    pub(crate) socket: PathBuf,
    /// A file with milliseconds that are added to the machine's clock: a test steps it. None in a pod.
    pub(crate) clock: Option<PathBuf>,
}

impl Default for Place {
    fn default() -> Self {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Self {
            front: any(FRONT_PORT),
            peer: any(PEER_PORT),
            admin: any(ADMIN_PORT),
            control: any(CONTROL_PORT),
            peers: Vec::new(),
            log: LOG_MOUNT.into(),
            identity: IDENTITY_MOUNT.into(),
            state: STATE_MOUNT.into(),
            socket: POD_SOCKET.into(),
            clock: None,
        }
    }
}

/// All that the coordinator is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The group.
    pub(crate) config: ReplicaConfig,
    /// The own slot.
    pub(crate) slot: u32,
    /// Where everything is, with the addresses of all slots.
    pub(crate) place: Place,
    /// Whether the group had a state before, as the host says.
    pub(crate) was_founded: bool,
    /// How often the group was recovered, as far as the host knew when the machine started.
    pub(crate) recoveries: u64,
}

/// Why the coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A variable is missing.
    #[error("the variable {0} is not set: the host sets it for the container of the coordinator")]
    Missing(&'static str),
    /// A variable is not JSON of the contract.
    #[error("the variable {0} cannot be read: {1}; host and guest are of different versions")]
    Json(&'static str, serde_json::Error),
    /// The instance's name has no slot.
    #[error("the instance's name {0:?} does not end with the number of a slot below {1}")]
    Slot(String, usize),
    /// A value that is not allowed.
    #[error("{0}")]
    Value(String),
}

impl Settings {
    /// Reads the variables' values.
    pub(crate) fn parse(
        replica: Option<&str>,
        instance: Option<&str>,
        place: Option<&str>,
    ) -> Result<Self, ConfigError> {
        let variable = i2kit_spec::replica::CONFIG_VARIABLE;
        let replica = replica.ok_or(ConfigError::Missing(variable))?;
        let config: ReplicaConfig =
            serde_json::from_str(replica).map_err(|error| ConfigError::Json(variable, error))?;
        let instance = instance.ok_or(ConfigError::Missing(i2kit_spec::replica::INSTANCE_VARIABLE))?;
        let mut place: Place = match place {
            Some(text) => {
                serde_json::from_str(text).map_err(|error| ConfigError::Json("I2KIT_REPLICA_PLACE", error))?
            }
            None => Place::default(),
        };
        let count = config.members.len();
        if !matches!(count, 1 | 3 | 5 | 7) {
            return Err(ConfigError::Value(format!("a group has 1, 3, 5 or 7 replicas, not {count}")));
        }
        let slot = instance.rsplit_once('-').and_then(|(_, slot)| slot.parse().ok());
        let slot = slot.filter(|slot: &u32| (*slot as usize) < count);
        let slot = slot.ok_or_else(|| ConfigError::Slot(instance.into(), count))?;
        if place.peers.is_empty() {
            place.peers = config.members.iter().map(|host| format!("{host}:{PEER_PORT}")).collect();
        }
        if place.peers.len() != count {
            return Err(ConfigError::Value(format!(
                "there are {count} replicas and {} addresses",
                place.peers.len()
            )));
        }
        config.limits.check().map_err(ConfigError::Value)?;
        let founded = place.identity.join(IDENTITY_FOUNDED);
        let was_founded = founded.exists();
        let recoveries = std::fs::read_to_string(founded).map_or(0, |text| text.trim().parse().unwrap_or(0));
        Ok(Self { config, slot, place, was_founded, recoveries })
    }

    /// How long a request may wait for its order and its execution.
    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_millis(self.config.limits.deadline.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = r#"{"group":"shop/db","members":["db-0.db","db-1.db","db-2.db"],"protocol":"http","appPort":8080,
        "reads":"linearizable","depth":1,"state":{"kind":"memory"},"integrity":"compare","containers":["app"],
        "limits":{"bodyBytes":1048576,"replyBytes":8388608,"deadline":5000,"logBytes":1073741824}}"#;

    #[test]
    fn the_contracts_places_are_the_defaults() {
        let settings = Settings::parse(Some(GROUP), Some("db-2"), None).unwrap();
        assert_eq!(settings.slot, 2);
        assert_eq!(settings.place.peers, ["db-0.db:7311", "db-1.db:7311", "db-2.db:7311"]);
        assert_eq!(settings.place.front.port(), FRONT_PORT);
        assert_eq!(settings.deadline(), Duration::from_secs(5));
    }

    #[test]
    fn the_largest_bounds_that_the_checker_allows_are_taken() {
        use i2kit_spec::replica::{MAX_BODY, MAX_DEADLINE, MAX_REPLY};
        let bounds = [("8388608", MAX_REPLY.0), ("1048576", MAX_BODY.0), ("5000", MAX_DEADLINE.0)];
        let most = bounds.iter().fold(GROUP.to_owned(), |group, (before, most)| {
            group.replace(&format!(":{before},"), &format!(":{most},"))
        });
        let limits = Settings::parse(Some(&most), Some("db-0"), None).unwrap().config.limits;
        assert_eq!(
            (limits.body_bytes, limits.reply_bytes, limits.deadline),
            (MAX_BODY, MAX_REPLY, MAX_DEADLINE)
        );
    }

    #[test]
    fn the_host_says_whether_there_was_a_state_and_how_often_it_was_recovered() {
        let folder = tempfile::tempdir().unwrap();
        let place = serde_json::json!({"identity": folder.path()}).to_string();
        let told = || {
            let settings = Settings::parse(Some(GROUP), Some("db-0"), Some(&place)).unwrap();
            (settings.was_founded, settings.recoveries)
        };
        assert_eq!(told(), (false, 0));
        for (text, recoveries) in [("3", 3), ("0", 0), ("yes", 0), ("", 0)] {
            std::fs::write(folder.path().join(IDENTITY_FOUNDED), text).unwrap();
            assert_eq!(told(), (true, recoveries), "{text}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let parse =
            |group: &str, instance| Settings::parse(Some(group), instance, None).unwrap_err().to_string();
        assert!(Settings::parse(None, None, None).unwrap_err().to_string().contains("I2KIT_REPLICA"));
        assert!(parse(GROUP, None).contains("I2KIT_INSTANCE"));
        assert!(parse(GROUP, Some("db-3")).contains("below 3"));
        assert!(parse(GROUP, Some("db")).contains("slot"));
        assert!(parse("{}", Some("db-0")).contains("different versions"));
        assert!(parse(&GROUP.replace("1048576", "9000000"), Some("db-0")).contains("body="));
        assert!(parse(&GROUP.replace(r#","db-2.db""#, ""), Some("db-0")).contains("1, 3, 5 or 7"));
        let place = r#"{"peers":["a:1"]}"#;
        assert!(Settings::parse(Some(GROUP), Some("db-0"), Some(place)).is_err());
    }
}
