//! The local cloud's memory across its own death: SQLite with one JSON document a group, VM, balancer and disk, and one of the
//! newest act of each environment.
//!
//! Everything needed to adopt running VMs is here before the act that it describes: a VM's row exists before its
//! process does. [`Store::save`] takes the whole state and writes what differs from what it wrote last.
//!
//! A save needs no new room on the disk: the rollback journal is kept between saves ([`JOURNAL`]), and the file has
//! free pages in it ([`RESERVE_PAGES`]). So a full disk does not keep the local cloud from deciding, and above all not
//! from being destroyed.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};
use serde::de::DeserializeOwned;

use super::clock::Clock;
use super::home;
use crate::cloud::CloudError;
use crate::cloud::engine::disk_record::DiskRecord;
use crate::cloud::engine::environment::{BalancerRecord, Environment, GroupRecord, InstanceRecord};
use crate::cloud::engine::moment::Steady;
use crate::manifest::api::Name;
use crate::oci::Digest;
use crate::plan::fleet::InstanceId;

/// The version of the tables and of the documents in them. A database of another version is refused.
const SCHEMA_VERSION: i64 = 8;

/// Where the header of a file of SQLite has the version of its user (`user_version`), four bytes, the highest first.
const VERSION_AT: usize = 60;

/// How SQLite locks. Nobody else has a lock on the file while it is open: a reader, such as a backup, would hold up each
/// save, and with it all that waits for the state.
const LOCK: &str = "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT;";

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
        if !is_new {
            known_version(path, version)?;
        }
        connection.execute_batch(JOURNAL).map_err(failed)?;
        connection.execute_batch(LOCK).map_err(failed)?;
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
        // In the order of their kinds: newest acts, balancers, groups, images, and then the VMs of groups that are there already.
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
                DISK => {
                    let record: DiskRecord = parse(&document).map_err(parse_failed)?;
                    found.disks.insert(owner, record);
                }
                ACT => found.latest = Some(parse(&document).map_err(parse_failed)?),
                IMAGE => {
                    found.images.insert(parse(&document).map_err(parse_failed)?);
                }
                _ => {
                    let record: InstanceRecord = parse(&document).map_err(parse_failed)?;
                    let Some(group) = found.groups.get_mut(&owner) else {
                        return Err(lost(&path, &format!("the VM {id} has no group {owner}")));
                    };
                    group.instances.insert(InstanceId(id), record);
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

    /// Closes the file; what is saved from now on is lost.
    #[cfg(test)]
    pub(super) fn close(&mut self) {
        self.connection = Connection::open_in_memory().unwrap();
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
            "BEGIN;
             CREATE TABLE IF NOT EXISTS reserve (page INTEGER PRIMARY KEY, bytes BLOB);
             WITH RECURSIVE pages(page) AS (SELECT 1 UNION ALL SELECT page + 1 FROM pages WHERE page < {RESERVE_PAGES})
             INSERT OR REPLACE INTO reserve SELECT page, zeroblob({PAGE_ROW_BYTES}) FROM pages;
             COMMIT;
             BEGIN;
             UPDATE reserve SET bytes = randomblob({PAGE_ROW_BYTES});
             DROP TABLE reserve;
             COMMIT;"
        ));
        if made.is_err() {
            // Where it failed within a transaction. The table may be there.
            let _ = self.connection.execute_batch("ROLLBACK");
            self.connection.execute_batch("DROP TABLE IF EXISTS reserve")?;
        }
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
            .and_then(|()| std::fs::rename(&new, &self.path).map_err(CloudError::file("rename", &new)))
            .and_then(|()| home::flush(self.path.parent().unwrap_or(&self.path)));
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

/// Refuses a database that another program made.
fn known_version(path: &Path, version: i64) -> Result<(), CloudError> {
    if version == SCHEMA_VERSION {
        return Ok(());
    }
    Err(CloudError::Lost {
        message: format!(
            "{} has version {version}, this program knows version {SCHEMA_VERSION}; destroy the environments with \
             the program that made them, or end their VMs with `{}`",
            path.display(),
            home::DESTROY_LOST
        ),
    })
}

/// Refuses the database at `path` when another program made it. Nothing is locked: the version is read from its place in
/// the file's header, while the process that has the database open goes on. One that is not there, or has no header yet,
/// is not refused.
pub(super) fn check_version(path: &Path) -> Result<(), CloudError> {
    let mut header = [0; VERSION_AT + 4];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut header));
    match (read, header.last_chunk()) {
        (Ok(()), Some(version)) => known_version(path, i64::from(u32::from_be_bytes(*version))),
        _ => Ok(()),
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

/// The newest act of an environment, with its generation.
const ACT: &str = "act";
const BALANCER: &str = "balancer";
const DISK: &str = "disk";
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
    [ACT, BALANCER, DISK, GROUP, IMAGE, INSTANCE].into_iter().find(|known| *known == kind)
}

fn documents(environments: &Environments) -> BTreeMap<Key, String> {
    let mut documents = BTreeMap::new();
    let mut add = |kind, environment: &str, owner: (&str, &str), id: &str, document| {
        let key = (kind, environment.to_owned(), owner.0.to_owned(), owner.1.to_owned(), id.to_owned());
        documents.insert(key, document);
    };
    for (environment, found) in environments {
        if let Some(latest) = &found.latest {
            add(ACT, environment, ("", ""), "", write(latest));
        }
        for (name, balancer) in &found.balancers {
            add(BALANCER, environment, (&name.namespace, &name.name), "", write(balancer));
        }
        for (name, disk) in &found.disks {
            add(DISK, environment, (&name.namespace, &name.name), "", write(disk));
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
