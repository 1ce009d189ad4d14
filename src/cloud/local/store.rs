//! The local cloud's memory across its own death: SQLite with one JSON document a group, VM and balancer.
//!
//! Everything needed to adopt running VMs is here before the act that it describes: a VM's row exists before its
//! process does. [`Store::save`] takes the whole state and writes what differs from what it wrote last.
//!
//! A save needs no new room on the disk: the rollback journal is kept between saves ([`JOURNAL`]), and the file has
//! free pages in it ([`RESERVE_PAGES`]). So a full disk does not keep the local cloud from deciding, and above all not
//! from being destroyed.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};
use serde::de::DeserializeOwned;

use super::clock::Clock;
use super::home;
use crate::cloud::environment::{BalancerRecord, Environment, GroupRecord, InstanceRecord};
use crate::cloud::{CloudError, Steady};
use crate::manifest::api::Name;
use crate::oci::Digest;

/// The version of the tables and of the documents in them. A database of another version is refused.
const SCHEMA_VERSION: i64 = 2;

/// How SQLite writes. The journal is overwritten in place and never cut or removed, so that it takes no new room. What
/// was saved is on the disk, power cut or not, when [`Store::save`] returns: a deployment that was reported as done is
/// there after the next boot, with its VMs started anew.
const JOURNAL: &str = "PRAGMA journal_mode = PERSIST; PRAGMA journal_size_limit = -1; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;";

/// Free pages that the file has at least, and old pages that the journal has room for: 512 KiB each, some hundred VMs'
/// documents. What is saved while the disk is full fits into them.
const RESERVE_PAGES: i64 = 128;

/// Bytes of a row that fills a page of SQLite's usual 4 KiB.
const PAGE_ROW_BYTES: i64 = 4000;

/// The clock that decides is saved this often where nothing else is: another process goes on with deadlines from there.
const CLOCK_SAVED: Duration = Duration::from_mins(1);

/// All environments by name.
pub(super) type Environments = BTreeMap<String, Environment>;

/// Where a document lies: its table's kind, environment, namespace and name, and for VMs the VM's own name.
type Key = (&'static str, String, String, String, String);

/// The database.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// Device and inode of the file: somebody may remove it while it is open.
    file: Option<(u64, u64)>,
    connection: Connection,
    written: BTreeMap<Key, String>,
    /// When the clock was written last.
    saved: Instant,
    clock: Arc<Clock>,
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// Faults that a test injects around saves.
#[cfg(test)]
#[derive(Clone, Default)]
pub(super) struct Faults(pub(super) Option<std::sync::Arc<Fault>>);

/// Decides whether a fault comes now.
#[cfg(test)]
pub(super) type Fault = dyn Fn(SaveMoment) -> Result<(), CloudError> + Send + Sync;

#[cfg(test)]
impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}

/// When a fault may come.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaveMoment {
    /// Nothing was written yet.
    BeforeSave,
    /// All was written, and nobody knows.
    AfterSave,
}

impl Store {
    /// Opens the database and reads what it holds. Where there is none yet, or an empty file, `may_create` decides
    /// whether that is a beginning or a loss. What is damaged is an error, and is left as it is.
    pub(super) fn open(
        path: &Path,
        may_create: impl Fn() -> Result<(), CloudError>,
    ) -> Result<(Self, Environments), CloudError> {
        if !path.exists() {
            may_create()?;
        }
        let failed = |error| damaged(path, &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        let integer = |pragma: &str| -> Result<i64, CloudError> {
            connection.query_row(pragma, [], |row| row.get(0)).map_err(failed)
        };
        let pages = integer("PRAGMA page_count")?;
        if pages == 0 {
            may_create()?;
        }
        let version = integer("PRAGMA user_version")?;
        let is_new = pages == 0;
        if version != SCHEMA_VERSION && !is_new {
            return Err(CloudError::Lost {
                message: format!(
                    "{} has version {version}, this program knows version {SCHEMA_VERSION}; destroy the environments with \
                     the program that made them, or end their VMs with `{}`",
                    path.display(),
                    home::DESTROY_LOST
                ),
            });
        }
        connection.execute_batch(JOURNAL).map_err(failed)?;
        if is_new {
            create(&connection).map_err(failed)?;
        }
        let sound: String =
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if sound != "ok" {
            return Err(lost(path, &sound));
        }
        let clock = Arc::new(Clock::resumed(clock_of(&connection, path)?)?);
        let mut store = Self {
            path: path.to_owned(),
            file: identity(path),
            connection,
            written: BTreeMap::new(),
            saved: Instant::now(),
            clock,
            #[cfg(test)]
            faults: Faults::default(),
        };
        let environments = store.load()?;
        // Without the reserve only what comes on a full disk is at risk.
        let _ = store.reserve();
        Ok((store, environments))
    }

    /// The clock that decides. It is stored with every save, so that no time in the database is later than it.
    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    fn load(&mut self) -> Result<Environments, CloudError> {
        let path = self.path.clone();
        let failed = |error| damaged(&path, &error);
        let mut environments = Environments::new();
        let mut statement = self
            .connection
            .prepare(
                "SELECT kind, environment, namespace, name, id, document, sum FROM objects ORDER BY kind",
            )
            .map_err(failed)?;
        let rows = statement
            .query_map([], |row| {
                let kind: String = row.get(0)?;
                let key = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
                Ok((kind, key, row.get::<_, String>(5)?, row.get::<_, String>(6)?))
            })
            .map_err(failed)?;
        // In the order of their kinds: balancers, groups, images, and then the VMs of groups that are there already.
        for row in rows {
            let (kind, key, document, written): (String, (String, String, String, String), String, String) =
                row.map_err(failed)?;
            let kind =
                known(&kind).ok_or_else(|| lost(&path, &format!("an object of unknown kind `{kind}`")))?;
            let (environment, namespace, name, id) = key.clone();
            let whole = (kind, key.0, key.1, key.2, key.3);
            if sum(&whole, &document) != written {
                return Err(lost(
                    &path,
                    &format!("the {kind} {environment} {namespace}/{name} {id} was changed"),
                ));
            }
            let parse_failed =
                |error| lost(&path, &format!("the {kind} {namespace}/{name} {id} cannot be read: {error}"));
            let found = environments.entry(environment).or_default();
            let owner = Name { namespace: namespace.clone(), name: name.clone() };
            match kind {
                BALANCER => {
                    let record: BalancerRecord = parse(&document).map_err(parse_failed)?;
                    found.balancers.insert(owner, record);
                }
                GROUP => {
                    let record: GroupRecord = parse(&document).map_err(parse_failed)?;
                    found.groups.insert(owner, record);
                }
                IMAGE => {
                    found.images.insert(parse(&document).map_err(parse_failed)?);
                }
                _ => {
                    let record: InstanceRecord = parse(&document).map_err(parse_failed)?;
                    let Some(group) = found.groups.get_mut(&owner) else {
                        return Err(lost(&path, &format!("the VM {id} has no group {owner}")));
                    };
                    group.instances.insert(id, record);
                }
            }
            self.written.insert(whole, document);
        }
        Ok(environments)
    }

    /// Makes the database hold exactly `environments`. After an error it holds what it held before.
    pub(super) fn save(&mut self, environments: &Environments) -> Result<(), CloudError> {
        let wanted = documents(environments);
        if wanted == self.written && self.saved.elapsed() < CLOCK_SAVED {
            return Ok(());
        }
        #[cfg(test)]
        self.fault(SaveMoment::BeforeSave)?;
        self.write(&wanted).map_err(|error| self.failed(&error))?;
        self.written = wanted;
        self.saved = Instant::now();
        // The pages that this save took are taken anew while there is room.
        let _ = self.reserve();
        #[cfg(test)]
        self.fault(SaveMoment::AfterSave)?;
        Ok(())
    }

    /// Faster, where nobody cuts the power.
    #[cfg(test)]
    pub(super) fn without_sync(&self) {
        self.connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    }

    #[cfg(test)]
    fn fault(&self, moment: SaveMoment) -> Result<(), CloudError> {
        self.faults.0.as_ref().map_or(Ok(()), |fault| fault(moment))
    }

    fn write(&mut self, wanted: &BTreeMap<Key, String>) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        for (key, document) in wanted {
            if self.written.get(key) != Some(document) {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO objects VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                    .execute(params![key.0, key.1, key.2, key.3, key.4, document, sum(key, document)])?;
            }
        }
        for key in self.written.keys().filter(|key| !wanted.contains_key(*key)) {
            transaction
                .prepare_cached(
                    "DELETE FROM objects
                     WHERE kind = ?1 AND environment = ?2 AND namespace = ?3 AND name = ?4 AND id = ?5",
                )?
                .execute(params![key.0, key.1, key.2, key.3, key.4])?;
        }
        transaction.execute("INSERT OR REPLACE INTO clock VALUES (0, ?1)", [write(&self.clock.stored())])?;
        transaction.commit()
    }

    /// Takes room for later saves, unless there is enough: free pages in the file, and a journal of that length.
    fn reserve(&self) -> rusqlite::Result<()> {
        let free: i64 = self.connection.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
        if free >= RESERVE_PAGES / 2 {
            return Ok(());
        }
        let made = self.connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS reserve (page INTEGER PRIMARY KEY, bytes BLOB);
             WITH RECURSIVE pages(page) AS (SELECT 1 UNION ALL SELECT page + 1 FROM pages WHERE page < {RESERVE_PAGES})
             INSERT OR REPLACE INTO reserve SELECT page, zeroblob({PAGE_ROW_BYTES}) FROM pages;
             UPDATE reserve SET bytes = randomblob({PAGE_ROW_BYTES});"
        ));
        self.connection.execute_batch("DROP TABLE IF EXISTS reserve")?;
        made
    }

    /// Whether somebody removed the file, or put another one in its place, while it was open.
    pub(super) fn is_lost(&self) -> bool {
        identity(&self.path) != self.file
    }

    /// Writes the database anew, where the file that was open is gone. It gets its name when it is whole: whoever looks
    /// finds no database, or all of it.
    pub(super) fn restore(&mut self, environments: &Environments) -> Result<(), CloudError> {
        let new = home::beside(&self.path, ".new");
        let journal = |database: &Path| home::beside(database, "-journal");
        let made = remove(&new)
            .and_then(|()| remove(&journal(&new)))
            .and_then(|()| Self::open(&new, || Ok(())))
            .and_then(|(mut made, _)| {
                // The times of what is written are of the clock that goes on.
                made.clock = Arc::clone(&self.clock);
                made.save(environments)
            })
            .and_then(|()| remove(&journal(&new)))
            // What came into its place was put there by somebody who does not know of this process: it is no record of
            // ours, and the old file's journal says nothing about the new file.
            .and_then(|()| remove(&self.path))
            .and_then(|()| remove(&journal(&self.path)))
            .and_then(|()| std::fs::rename(&new, &self.path).map_err(CloudError::file("rename", &new)));
        if let Err(error) = made {
            // It takes room, on a disk that may be full.
            let _ = remove(&new);
            return Err(error);
        }
        let (mut anew, _) = Self::open(&self.path, || Ok(()))?;
        anew.clock = Arc::clone(&self.clock);
        #[cfg(test)]
        {
            anew.faults = self.faults.clone();
        }
        *self = anew;
        Ok(())
    }

    fn failed(&self, error: &rusqlite::Error) -> CloudError {
        let folder = self.path.parent().unwrap_or(&self.path);
        let free = rustix::fs::statvfs(folder)
            .map_or(u64::MAX, |found| found.f_bavail.saturating_mul(found.f_frsize));
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) || free == 0 {
            return CloudError::Store {
                message: format!(
                    "{error}: {free} bytes are free where {} lies. Nothing was changed; make room there and run the \
                     command again",
                    folder.display()
                ),
            };
        }
        CloudError::Store { message: format!("{}: {error}; nothing was changed", self.path.display()) }
    }
}

/// Removes a file that may not be there.
fn remove(path: &Path) -> Result<(), CloudError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CloudError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A database that cannot be opened or read.
fn damaged(path: &Path, error: &rusqlite::Error) -> CloudError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) | None => lost(path, &error.to_string()),
        // Rights, a full disk, an unreadable sector: it may be sound, and opens once that is mended.
        Some(_) => CloudError::Store { message: format!("{}: {error}", path.display()) },
    }
}

/// A database whose content is lost, with the way out.
fn lost(path: &Path, reason: &str) -> CloudError {
    CloudError::Lost {
        message: format!(
            "{} is damaged: {reason}. No VM was ended. Put a good copy of the file there and remove \
             cloud.db-journal beside it, or run `{}`, which ends the VMs and keeps the file aside",
            path.display(),
            home::DESTROY_LOST
        ),
    }
}

/// What shows that a row is as it was written.
fn sum(key: &Key, document: &str) -> String {
    let (kind, environment, namespace, name, id) = key;
    let digest =
        Digest::of(format!("{kind}\0{environment}\0{namespace}\0{name}\0{id}\0{document}").as_bytes());
    hex::encode(&digest.as_bytes()[..8])
}

const BALANCER: &str = "balancer";
const GROUP: &str = "group";
const IMAGE: &str = "image";
/// Sorts behind [`GROUP`].
const INSTANCE: &str = "instance";

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN;
             CREATE TABLE objects (
                 kind TEXT NOT NULL,
                 environment TEXT NOT NULL,
                 namespace TEXT NOT NULL,
                 name TEXT NOT NULL,
                 id TEXT NOT NULL,
                 document TEXT NOT NULL,
                 sum TEXT NOT NULL,
                 PRIMARY KEY (kind, environment, namespace, name, id)
             ) WITHOUT ROWID;
             CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 0), document TEXT NOT NULL);
             PRAGMA user_version = {SCHEMA_VERSION};
             COMMIT;"
    ))
}

fn clock_of(connection: &Connection, path: &Path) -> Result<Option<Steady>, CloudError> {
    let document = connection.query_row("SELECT document FROM clock", [], |row| row.get::<_, String>(0));
    let document = document.optional().map_err(|error| damaged(path, &error))?;
    let parsed = document.map(|document| parse(&document)).transpose();
    parsed.map_err(|error| lost(path, &format!("its clock cannot be read: {error}")))
}

fn known(kind: &str) -> Option<&'static str> {
    [BALANCER, GROUP, IMAGE, INSTANCE].into_iter().find(|known| *known == kind)
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

fn parse<T: DeserializeOwned>(document: &str) -> serde_json::Result<T> {
    serde_json::from_str(document)
}

/// Some environment, for tests.
#[cfg(test)]
pub(super) fn sample() -> Environments {
    tests::environments()
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

    pub(super) fn environments() -> Environments {
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
        let (mut store, empty) = Store::open(&path, || Ok(())).unwrap();
        assert!(empty.is_empty());
        store.save(&state).unwrap();
        drop(store);

        let (mut store, loaded) = Store::open(&path, || Ok(())).unwrap();
        assert_eq!(loaded, state);
        state.values_mut().flat_map(|e| e.groups.values_mut()).for_each(|group| {
            group.instances.remove("web-1-a");
            group.replicas = 9;
        });
        store.save(&state).unwrap();
        drop(store);
        assert_eq!(Store::open(&path, || Ok(())).unwrap().1, state);
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
        let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
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
        let shown = Store::open(&path, || Ok(())).unwrap().0.clock().now().steady;
        assert!((4_000_000..=4_000_000 + crate::cloud::PAUSE_MS).contains(&shown), "{shown}");
    }

    /// One VM more in each group.
    fn grown(state: &Environments, id: &str) -> Environments {
        let mut state = state.clone();
        for group in state.values_mut().flat_map(|environment| environment.groups.values_mut()) {
            group.instances.insert(id.into(), InstanceRecord::new(id.into(), 1, moment(7)));
        }
        state
    }

    #[test]
    fn a_save_needs_no_new_pages_and_one_that_fails_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloud.db");
        let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
        let mut state = environments();
        store.save(&state).unwrap();
        let pages: i64 = store.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        store.connection.execute_batch(&format!("PRAGMA max_page_count = {pages}")).unwrap();
        let mut saved = 0;
        let error = loop {
            let next = grown(&state, &format!("web-1-{saved}"));
            match store.save(&next) {
                Ok(()) => (state, saved) = (next, saved + 1),
                Err(error) => break error.to_string(),
            }
        };
        assert!(saved > 200, "room for {saved} VMs");
        assert!(
            error.contains("bytes are free") && error.contains(&folder.path().display().to_string()),
            "{error}"
        );
        // What was refused is not there, neither now nor after the next save.
        store.save(&Environments::new()).unwrap();
        drop(store);
        assert!(Store::open(&path, || Ok(())).unwrap().1.is_empty());
    }

    #[test]
    fn a_database_that_was_removed_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloud.db");
        let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
        let state = environments();
        store.save(&state).unwrap();
        assert!(!store.is_lost());
        std::fs::remove_file(&path).unwrap();
        assert!(store.is_lost());
        store.restore(&state).unwrap();
        assert!(!store.is_lost());
        store.save(&grown(&state, "web-1-z")).unwrap();
        drop(store);
        assert_eq!(Store::open(&path, || Ok(())).unwrap().1, grown(&state, "web-1-z"));
    }

    #[test]
    fn a_row_that_was_changed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloud.db");
        let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
        store.save(&environments()).unwrap();
        for change in [
            "UPDATE objects SET document = replace(document, '7', '8') WHERE kind = 'group'",
            "UPDATE objects SET id = 'web-1-z' WHERE id = 'web-1-a'",
            "UPDATE objects SET kind = 'other' WHERE kind = 'group'",
        ] {
            store.connection.execute_batch("SAVEPOINT before").unwrap();
            assert!(store.connection.execute(change, []).unwrap() > 0);
            let error = store.load().unwrap_err().to_string();
            assert!(error.contains("is damaged") && error.contains(home::DESTROY_LOST), "{error}");
            store.connection.execute_batch("ROLLBACK TO before; RELEASE before").unwrap();
        }
        store.load().unwrap();
    }

    /// Starts [`on_a_full_disk`] with a small file system of its own.
    #[test]
    fn a_full_disk_can_be_destroyed_on() {
        let folder = tempfile::tempdir().unwrap();
        let program = std::env::current_exe().unwrap();
        let script = format!(
            "mount -t tmpfs -o size=4m small {folder} && exec env {variable}={folder} {program} --exact --ignored {test}",
            folder = folder.path().display(),
            variable = FULL_DISK,
            program = program.display(),
            test = "cloud::local::store::tests::on_a_full_disk",
        );
        let unshare = |arguments: &[&str], script: &str| {
            std::process::Command::new("unshare").args(arguments).args(["sh", "-c", script]).output().unwrap()
        };
        let Some(arguments) = [&["--mount"][..], &["--mount", "--map-root-user"]]
            .into_iter()
            .find(|arguments| unshare(arguments, "exit 0").status.success())
        else {
            #[expect(clippy::print_stderr, reason = "a test that did not run must say so")]
            {
                eprintln!("skipped: this user may not make a mount namespace");
            }
            return;
        };
        let output = unshare(arguments, &script);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
    }

    /// Names the folder of the small file system.
    const FULL_DISK: &str = "I2KIT_TEST_FULL_DISK";

    #[test]
    #[ignore = "started by a_full_disk_can_be_destroyed_on"]
    fn on_a_full_disk() {
        use std::io::Write as _;
        /// So many VMs a decision, so that the test is done soon.
        const MORE: u32 = 25;
        let folder = PathBuf::from(std::env::var_os(FULL_DISK).unwrap());
        let path = folder.join("cloud.db");
        let (mut store, _) = Store::open(&path, || Ok(())).unwrap();
        let state = environments();
        store.save(&state).unwrap();
        let mut filling = std::fs::File::create(folder.join("filling")).unwrap();
        while filling.write_all(&[1; 512]).is_ok() {}
        // Decisions go on, also those of a process that starts now.
        store.save(&grown(&state, "web-1-y")).unwrap();
        drop(store);
        let (mut store, loaded) = Store::open(&path, || Ok(())).unwrap();
        assert_eq!(loaded, grown(&state, "web-1-y"));
        let mut state = state;
        let mut count = 0;
        let error = loop {
            let next =
                (count..count + MORE).fold(state.clone(), |state, n| grown(&state, &format!("web-1-{n}")));
            match store.save(&next) {
                Ok(()) => (state, count) = (next, count + MORE),
                Err(error) => break error.to_string(),
            }
        };
        assert!(count > 50, "room for {count} VMs");
        assert!(
            error.contains(&folder.display().to_string()) && error.contains("0 bytes are free"),
            "{error}"
        );
        store.save(&Environments::new()).unwrap();
        drop(store);
        let (mut store, loaded) = Store::open(&path, || Ok(())).unwrap();
        assert!(loaded.is_empty());
        std::fs::remove_file(folder.join("filling")).unwrap();
        store.save(&state).unwrap();
    }

    #[test]
    fn another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cloud.db");
        drop(Store::open(&path, || Ok(())).unwrap());
        Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        assert!(Store::open(&path, || Ok(())).unwrap_err().to_string().contains("version 99"));
    }
}
