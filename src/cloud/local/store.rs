//! The local cloud's memory across its own death: SQLite with one JSON document a group, VM and balancer.
//!
//! Everything needed to adopt running VMs is here before the act that it describes: a VM's row exists before its
//! process does. [`Store::save`] takes the whole state and writes what differs from what it wrote last.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::de::DeserializeOwned;

use super::clock::Clock;
use crate::cloud::environment::{BalancerRecord, Environment, GroupRecord, InstanceRecord};
use crate::cloud::{CloudError, Steady};
use crate::manifest::api::Name;

/// The version of the tables and of the documents in them. A database of another version is refused.
const SCHEMA_VERSION: i64 = 2;

/// All environments by name.
pub(super) type Environments = BTreeMap<String, Environment>;

/// Where a document lies: its table's kind, environment, namespace and name, and for VMs the VM's own name.
type Key = (&'static str, String, String, String, String);

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    written: BTreeMap<Key, String>,
    clock: Arc<Clock>,
}

impl Store {
    /// Opens or makes the database, and reads what it holds.
    pub(super) fn open(path: &Path) -> Result<(Self, Environments), CloudError> {
        let connection = Connection::open(path).map_err(failed)?;
        // Durable against the death of this process; the loss of power ends the VMs as well.
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;")
            .map_err(failed)?;
        let version: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        match version {
            0 => create(&connection)?,
            SCHEMA_VERSION => {}
            other => {
                return Err(CloudError::Store {
                    message: format!(
                        "{} has version {other}, this program knows version {SCHEMA_VERSION}; destroy the \
                         environments with the program that made them",
                        path.display()
                    ),
                });
            }
        }
        let clock = Arc::new(Clock::resumed(clock_of(&connection)?)?);
        let mut store = Self { connection, written: BTreeMap::new(), clock };
        let environments = store.load()?;
        Ok((store, environments))
    }

    /// The clock that decides. It is stored with every save, so that no time in the database is later than it.
    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    fn load(&mut self) -> Result<Environments, CloudError> {
        let mut environments = Environments::new();
        let mut statement = self
            .connection
            .prepare("SELECT kind, environment, namespace, name, id, document FROM objects ORDER BY kind")
            .map_err(failed)?;
        let rows = statement
            .query_map([], |row| {
                let kind: String = row.get(0)?;
                let key = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
                Ok((kind, key, row.get::<_, String>(5)?))
            })
            .map_err(failed)?;
        // In the order of their kinds: balancers, groups, images, and then the VMs of groups that are there already.
        for row in rows {
            let (kind, key, document): (String, (String, String, String, String), String) =
                row.map_err(failed)?;
            let kind = known(&kind)?;
            let (environment, namespace, name, id) = key.clone();
            let found = environments.entry(environment).or_default();
            let owner = Name { namespace, name };
            match kind {
                BALANCER => drop(found.balancers.insert(owner, parse::<BalancerRecord>(&document)?)),
                GROUP => drop(found.groups.insert(owner, parse::<GroupRecord>(&document)?)),
                IMAGE => drop(found.images.insert(parse(&document)?)),
                _ => {
                    let record: InstanceRecord = parse(&document)?;
                    if let Some(group) = found.groups.get_mut(&owner) {
                        group.instances.insert(id, record);
                    }
                }
            }
            self.written.insert((kind, key.0, key.1, key.2, key.3), document);
        }
        Ok(environments)
    }

    /// Makes the database hold exactly `environments`.
    pub(super) fn save(&mut self, environments: &Environments) -> Result<(), CloudError> {
        let wanted = documents(environments);
        if wanted == self.written {
            return Ok(());
        }
        let transaction = self.connection.transaction().map_err(failed)?;
        for (key, document) in &wanted {
            if self.written.get(key) != Some(document) {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
                    .and_then(|mut insert| {
                        insert.execute(params![key.0, key.1, key.2, key.3, key.4, document])
                    })
                    .map_err(failed)?;
            }
        }
        for key in self.written.keys().filter(|key| !wanted.contains_key(*key)) {
            transaction
                .prepare_cached(
                    "DELETE FROM objects
                     WHERE kind = ?1 AND environment = ?2 AND namespace = ?3 AND name = ?4 AND id = ?5",
                )
                .and_then(|mut delete| delete.execute(params![key.0, key.1, key.2, key.3, key.4]))
                .map_err(failed)?;
        }
        transaction
            .execute("INSERT OR REPLACE INTO clock VALUES (0, ?1)", [write(&self.clock.stored())])
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
        self.written = wanted;
        Ok(())
    }
}

const BALANCER: &str = "balancer";
const GROUP: &str = "group";
const IMAGE: &str = "image";
/// Sorts behind [`GROUP`].
const INSTANCE: &str = "instance";

fn create(connection: &Connection) -> Result<(), CloudError> {
    connection
        .execute_batch(&format!(
            "BEGIN;
             CREATE TABLE objects (
                 kind TEXT NOT NULL,
                 environment TEXT NOT NULL,
                 namespace TEXT NOT NULL,
                 name TEXT NOT NULL,
                 id TEXT NOT NULL,
                 document TEXT NOT NULL,
                 PRIMARY KEY (kind, environment, namespace, name, id)
             ) WITHOUT ROWID;
             CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 0), document TEXT NOT NULL);
             PRAGMA user_version = {SCHEMA_VERSION};
             COMMIT;"
        ))
        .map_err(failed)
}

fn clock_of(connection: &Connection) -> Result<Option<Steady>, CloudError> {
    let document = connection.query_row("SELECT document FROM clock", [], |row| row.get::<_, String>(0));
    document.optional().map_err(failed)?.map(|document| parse(&document)).transpose()
}

fn known(kind: &str) -> Result<&'static str, CloudError> {
    [BALANCER, GROUP, IMAGE, INSTANCE]
        .into_iter()
        .find(|known| *known == kind)
        .ok_or_else(|| CloudError::Store { message: format!("it holds an object of unknown kind `{kind}`") })
}

fn documents(environments: &Environments) -> BTreeMap<Key, String> {
    let mut documents = BTreeMap::new();
    let mut add = |kind, environment: &str, owner: (&str, &str), id: &str, document| {
        let key = (kind, environment.to_owned(), owner.0.to_owned(), owner.1.to_owned(), id.to_owned());
        documents.insert(key, document);
    };
    for (environment, found) in environments {
        for (name, balancer) in &found.balancers {
            add(BALANCER, environment, (&name.namespace, &name.name), "", write(balancer));
        }
        for (name, group) in &found.groups {
            add(GROUP, environment, (&name.namespace, &name.name), "", write(group));
            for (id, instance) in &group.instances {
                add(INSTANCE, environment, (&name.namespace, &name.name), id, write(instance));
            }
        }
        for image in &found.images {
            add(IMAGE, environment, ("", ""), &image.to_string(), write(image));
        }
    }
    documents
}

fn write(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("records have only string keys and finite numbers")
}

fn parse<T: DeserializeOwned>(document: &str) -> Result<T, CloudError> {
    serde_json::from_str(document)
        .map_err(|error| CloudError::Store { message: format!("it holds an unreadable document: {error}") })
}

#[expect(clippy::needless_pass_by_value, reason = "the adapter of map_err")]
fn failed(error: rusqlite::Error) -> CloudError {
    CloudError::Store { message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::reconcile::Memory;
    use crate::cloud::{Moment, NewRevision};
    use crate::manifest::api::{IntOrPercent, Protocol, ServiceType, Strategy};
    use crate::oci::Digest;
    use crate::plan::example;
    use crate::plan::fleet::{
        Accelerator, BalancerSpec, ContainerStatus, GroupSettings, Health, LaunchPort, LaunchSpec, Listener,
        TargetGroup,
    };
    use crate::plan::image::ImageId;

    fn moment(steady: u64) -> Moment {
        Moment { steady, wall: 1_700_000_000_000 + steady }
    }

    fn environments() -> Environments {
        let name = Name { namespace: "default".into(), name: "web".into() };
        let mut environment = Environment::default();
        environment.images.insert(ImageId(Digest::of(b"1")));
        let settings = GroupSettings {
            min_ready_seconds: 1,
            progress_deadline_seconds: 2,
            revision_history_limit: 3,
            labels: BTreeMap::from([("app".into(), "web".into())]),
            ..example::settings(Strategy::Recreate)
        };
        environment.put_group(&name, &settings).unwrap();
        let group = environment.groups.get_mut(&name).unwrap();
        group.memory = Memory { failures: 7, ..Memory::default() };
        group.instances.insert("web-1-a".into(), InstanceRecord::new("web-1-a".into(), 1, moment(5)));
        group.instances.insert("web-1-b".into(), InstanceRecord::new("web-1-b".into(), 1, moment(6)));
        Environments::from([("local".to_owned(), environment)])
    }

    #[test]
    fn what_was_saved_is_loaded_and_what_went_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloud.db");
        let mut state = environments();
        let (mut store, empty) = Store::open(&path).unwrap();
        assert!(empty.is_empty());
        store.save(&state).unwrap();
        drop(store);

        let (mut store, loaded) = Store::open(&path).unwrap();
        assert_eq!(loaded, state);
        state.values_mut().flat_map(|e| e.groups.values_mut()).for_each(|group| {
            group.instances.remove("web-1-a");
            group.replicas = 9;
        });
        store.save(&state).unwrap();
        drop(store);
        assert_eq!(Store::open(&path).unwrap().1, state);
    }

    /// The documents' form belongs to [`SCHEMA_VERSION`]: when this golden changes, so must the version, or a newer
    /// program would take the VMs of an older one for unreadable.
    #[test]
    fn the_documents_are_of_this_version() {
        let mut state = environments();
        let environment = state.get_mut("local").unwrap();
        let name = Name { namespace: "default".into(), name: "web".into() };
        let launch = LaunchSpec {
            ports: vec![LaunchPort { port: 80, protocol: Protocol::Tcp }],
            ..example::launch(ImageId(Digest::of(b"1")))
        };
        environment
            .put_revision(&name, &NewRevision { number: 1, launch, cause: "deploy".into() }, moment(1000))
            .unwrap();
        environment.start_refresh(&name, 1, 2, moment(2000)).unwrap();
        let max_unavailable = IntOrPercent::Percent(25);
        environment.groups.get_mut(&name).unwrap().settings.strategy =
            Strategy::RollingUpdate { max_unavailable, max_surge: IntOrPercent::Int(1) };
        let record = environment.groups.get_mut(&name).unwrap().instances.get_mut("web-1-a").unwrap();
        record.feel(Health::Unhealthy { reason: "late".into() }, 7);
        record.silent_since = Some(6);
        record.accelerator = Some(Accelerator::Tcg);
        record.containers.push(ContainerStatus {
            name: "web".into(),
            ready: true,
            restarts: 1,
            state: "running".into(),
        });
        let target = TargetGroup { group: name.clone(), port: 80 };
        let listener = Listener::new(8080, Protocol::Udp, vec![target]);
        let spec = BalancerSpec::new(name, ServiceType::ClusterIP, vec![listener]);
        environment.put_balancer(&spec, || "127.77.0.1".into());
        let documents: Vec<String> = documents(&state)
            .into_iter()
            .map(|((kind, environment, namespace, name, id), document)| {
                let document: serde_json::Value = serde_json::from_str(&document).unwrap();
                format!("{kind} {environment} {namespace} {name} {id}\n{document:#}")
            })
            .collect();
        insta::assert_snapshot!("documents_of_version_2", documents.join("\n"));
    }

    #[test]
    fn the_clock_is_stored_with_what_it_timed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloud.db");
        let (mut store, _) = Store::open(&path).unwrap();
        let now = store.clock().tick().steady;
        store.save(&environments()).unwrap();
        drop(store);
        // The host was started again since, long after.
        let later = r#"{"bootId":"before","boottimeMs":77,"steadyMs":4000000}"#;
        let connection = Connection::open(&path).unwrap();
        let stored: String =
            connection.query_row("SELECT document FROM clock", [], |row| row.get(0)).unwrap();
        assert!(serde_json::from_str::<Steady>(&stored).unwrap().at(0) >= now);
        connection.execute("UPDATE clock SET document = ?1", [later]).unwrap();
        drop(connection);
        let shown = Store::open(&path).unwrap().0.clock().now().steady;
        assert!((4_000_000..=4_000_000 + crate::cloud::PAUSE_MS).contains(&shown), "{shown}");
    }

    #[test]
    fn another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloud.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(Store::open(&path).unwrap_err().to_string().contains("version 99"));
    }
}
