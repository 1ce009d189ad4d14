//! What ACME keeps, as files that only the user may read, in the local cloud's folder: one a host with its certificate and
//! key, one an account at a CA. Each is written whole.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::{HOSTS, Record};
use crate::cloud::CloudError;
use crate::cloud::local::blocking::blocking;
use crate::cloud::local::home::{self, Home};
use crate::cloud::local::proxy::PrivateKey;
use crate::oci::Digest;

/// The mode of a file that is its owner's alone.
const PRIVATE: u32 = 0o600;

/// The longest file: a chain of certificates, its key and an order are some kilobytes.
const MAX_FILE: u64 = 256 << 10;

/// Hosts that are read: a host may have had another CA before.
const RECORDS: usize = 2 * HOSTS;

/// So many files that are left alone are told of by name.
const TOLD: usize = 10;

/// An account at a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredAccount {
    /// Its key: PKCS #8 in base64.
    pub(super) key: PrivateKey,
    /// Its URL, once the CA has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    /// The address that the CA has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) email: Option<String>,
}

fn records(home: &Home) -> PathBuf {
    home.acme().join("hosts")
}

fn account(home: &Home, directory: &str) -> PathBuf {
    let id = hex::encode(&Digest::of(directory.as_bytes()).as_bytes()[..16]);
    home.acme().join("accounts").join(format!("{id}.json"))
}

fn too_long() -> String {
    format!("it has more than {MAX_FILE} bytes")
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), CloudError> {
    let text = serde_json::to_vec(value).map_err(|error| CloudError::Store { message: error.to_string() })?;
    // It could not be read again.
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(CloudError::file("write", path)(io::Error::new(ErrorKind::FileTooLarge, too_long())));
    }
    let folder = path.parent().unwrap_or(path);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(CloudError::file("create", folder))?;
    blocking(|| home::write_whole(path, &text, PRIVATE))
}

/// A file of ours: no link, no folder, and no longer than one can be.
fn open(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    match metadata.len() {
        _ if !metadata.is_file() => Err(io::Error::other("it is no file")),
        length if length > MAX_FILE => Err(io::Error::new(ErrorKind::FileTooLarge, too_long())),
        _ => Ok(file),
    }
}

/// Why a file is not read.
#[derive(Debug)]
enum Unread {
    /// It cannot be read now: what it holds may be good.
    Now(CloudError),
    /// What it holds is nothing of ours.
    Broken(CloudError),
}

impl From<Unread> for CloudError {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Now(error) | Unread::Broken(error) => error,
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Unread> {
    let mut text = Vec::new();
    let length = open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut text));
    if let Err(error) = length {
        return match error.kind() {
            ErrorKind::NotFound => Ok(None),
            ErrorKind::FileTooLarge => Err(Unread::Broken(CloudError::file("read", path)(error))),
            _ => Err(Unread::Now(CloudError::file("read", path)(error))),
        };
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Unread::Broken(CloudError::File {
            action: "read".into(),
            path: path.to_owned(),
            message: error.to_string(),
        })
    })
}

/// What the folder of hosts has.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// The records, by id.
    pub(super) records: BTreeMap<String, Record>,
    /// What was left alone, and why: the first ones, and how many there are beside them.
    pub(super) told: Vec<String>,
    left_out: usize,
}

impl Loaded {
    fn tell(&mut self, what: impl fmt::Display) {
        if self.told.len() < TOLD {
            self.told.push(what.to_string());
        } else {
            self.left_out += 1;
        }
    }

    /// Takes what has the name of a record.
    fn take(&mut self, id: &str, path: &Path) {
        match read::<Record>(path) {
            Ok(Some(_)) if self.records.len() >= RECORDS => {
                self.tell(format_args!("{} is one of more than {RECORDS} hosts", path.display()));
            }
            Ok(Some(record)) if record.want.id() == id => drop(self.records.insert(id.to_owned(), record)),
            Ok(Some(_)) => self.tell(format_args!("{} is of a host with another name", path.display())),
            Ok(None) => {}
            Err(Unread::Now(error)) => self.tell(error),
            Err(Unread::Broken(error)) => {
                self.tell(format_args!("{error}; it is moved aside when the CA is asked"));
            }
        }
    }
}

/// The id in the name of a record, or of one that was being written when its process ended (see [`home::write_whole`]).
fn id(name: &str) -> Option<(&str, bool)> {
    let name = name.strip_suffix(".json")?;
    let (id, is_new) = match name.strip_prefix(".new-") {
        Some(rest) => {
            let (process, id) = rest.split_once('-')?;
            process.parse::<u32>().ok()?;
            (id, true)
        }
        None => (name, false),
    };
    let is_hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    (id.len() == 32 && id.bytes().all(is_hex)).then_some((id, is_new))
}

/// The records of all hosts. What is no record, or cannot be read, is left alone and told.
pub(super) fn load(home: &Home) -> Result<Loaded, CloudError> {
    let folder = records(home);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::default()),
        entries => entries.map_err(CloudError::file("read", &folder))?,
    };
    let mut loaded = Loaded::default();
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                loaded.tell(CloudError::file("read", &folder)(error));
                break;
            }
        };
        let name = path.file_name().and_then(OsStr::to_str);
        match name.and_then(id) {
            Some((id, false)) => loaded.take(id, &path),
            // A write that was interrupted.
            Some((_, true)) => {
                if let Err(error) = fs::remove_file(&path) {
                    loaded.tell(CloudError::file("remove", &path)(error));
                }
            }
            // What was moved aside for another record.
            None if name.is_some_and(|name| name.ends_with(".json.broken")) => {}
            None => loaded.tell(format_args!("{} is none of its files, and is left alone", path.display())),
        }
    }
    if loaded.left_out > 0 {
        loaded.told.push(format!("{} further files are left alone", loaded.left_out));
    }
    Ok(loaded)
}

/// The record of this id, as it is before another one takes its place. A file that holds none is moved aside (`NAME.broken`);
/// an error is of one that cannot be read now, and is not to be replaced.
pub(super) fn find(home: &Home, id: &str) -> Result<Option<Record>, CloudError> {
    let path = records(home).join(format!("{id}.json"));
    match read::<Record>(&path) {
        Ok(Some(record)) if record.want.id() == id => Ok(Some(record)),
        Ok(None) => Ok(None),
        Err(Unread::Now(error)) => Err(error),
        Ok(Some(_)) | Err(Unread::Broken(_)) => {
            fs::rename(&path, aside(&path)).map_err(CloudError::file("move aside", &path))?;
            Ok(None)
        }
    }
}

/// Writes a record.
pub(super) fn save(home: &Home, record: &Record) -> Result<(), CloudError> {
    write(&records(home).join(format!("{}.json", record.want.id())), record)
}

/// Where a file is kept that holds no record.
fn aside(path: &Path) -> PathBuf {
    path.with_extension("json.broken")
}

/// Removes a record with its certificate and key, and what was moved aside for it.
pub(super) fn forget(home: &Home, id: &str) -> Result<(), CloudError> {
    let path = records(home).join(format!("{id}.json"));
    for path in [aside(&path), path] {
        home::gone(&path, fs::remove_file(&path))?;
    }
    Ok(())
}

/// The account at a CA.
pub(super) fn load_account(home: &Home, directory: &str) -> Result<Option<StoredAccount>, CloudError> {
    read(&account(home, directory)).map_err(|unread| match unread {
        Unread::Broken(CloudError::File { action, path, message }) => {
            let message = format!("{message}; remove it, and another account is made");
            CloudError::File { action, path, message }
        }
        Unread::Now(error) | Unread::Broken(error) => error,
    })
}

/// Writes the account at a CA.
pub(super) fn save_account(home: &Home, directory: &str, stored: &StoredAccount) -> Result<(), CloudError> {
    write(&account(home, directory), stored)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::cloud::local::acme::record::Want;
    use crate::manifest::api::AcmeIssuer;

    #[test]
    fn a_file_that_holds_no_record_is_moved_aside_and_one_that_cannot_be_read_stays() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
        home.create().unwrap();
        let issuer = AcmeIssuer { directory: "https://ca/dir".into(), email: None, ca_bundle: None };
        let mut record = Record::new(Want { host: "a.i2kit.dev".into(), issuer });
        let id = record.want.id();
        let path = records(&home).join(format!("{id}.json"));
        let aside = records(&home).join(format!("{id}.json.broken"));
        assert_eq!(find(&home, &id).unwrap(), None);
        save(&home, &record).unwrap();
        assert_eq!(find(&home, &id).unwrap().as_ref(), Some(&record));
        for text in ["{".to_owned(), " ".repeat(300 << 10)] {
            fs::write(&path, &text).unwrap();
            assert_eq!(find(&home, &id).unwrap(), None);
            assert!(!path.exists());
            assert_eq!(fs::read_to_string(&aside).unwrap(), text);
        }
        // Nothing is written that is not read again.
        save(&home, &record).unwrap();
        let good = record.clone();
        record.want.issuer.ca_bundle = Some("x".repeat(300 << 10));
        let refused = save(&home, &record).unwrap_err().to_string();
        assert!(refused.contains("more than 262144 bytes"), "{refused}");
        assert_eq!(find(&home, &id).unwrap(), Some(good));
        // A link is not followed, nor taken away.
        fs::rename(&path, root.path().join("elsewhere")).unwrap();
        symlink(root.path().join("elsewhere"), &path).unwrap();
        assert!(find(&home, &id).is_err() && path.is_symlink());
    }

    #[test]
    fn what_is_none_of_its_files_is_left_alone_and_hurts_no_host() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::new(&root.path().join("i2kit"), root.path(), PathBuf::new());
        home.create().unwrap();
        let record = |host: &str| {
            let issuer = AcmeIssuer { directory: "https://ca/dir".into(), email: None, ca_bundle: None };
            Record::new(Want { host: host.into(), issuer })
        };
        let (good, other) = (record("a.i2kit.dev"), record("b.i2kit.dev"));
        save(&home, &good).unwrap();
        let folder = records(&home);
        let named = |digit: &str| folder.join(format!("{}.json", digit.repeat(32)));
        // Other names, and what only looks like one that was being written.
        let mut kept = vec![folder.join("notes.txt"), folder.join("x.json"), folder.join(".new-1-x.json")];
        for path in &kept {
            fs::write(path, "{").unwrap();
        }
        kept.push(folder.join("folder"));
        // Names of records: a folder, a link, no file at all, one that is too long, one that is damaged, a copy.
        kept.extend(["0", "1", "2", "3", "4", "5"].map(named));
        for path in &kept[3..=4] {
            fs::create_dir(path).unwrap();
        }
        symlink(folder.join(format!("{}.json", good.want.id())), &kept[5]).unwrap();
        mknodat(CWD, &kept[6], FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        fs::File::create(&kept[7]).unwrap().set_len(1 << 30).unwrap();
        fs::write(&kept[8], "{").unwrap();
        fs::write(&kept[9], serde_json::to_vec(&other).unwrap()).unwrap();
        let interrupted = folder.join(format!(".new-7-{}.json", good.want.id()));
        fs::write(&interrupted, "half").unwrap();
        let loaded = load(&home).unwrap();
        assert_eq!(loaded.records.into_values().collect::<Vec<_>>(), [good]);
        assert_eq!(loaded.told.len(), kept.len(), "{:#?}", loaded.told);
        assert!(kept.iter().all(|path| path.symlink_metadata().is_ok()), "nothing of others is removed");
        assert!(!interrupted.exists());
        // However many there are, few are told of.
        for number in 0..100 {
            fs::write(folder.join(number.to_string()), "").unwrap();
        }
        let told = load(&home).unwrap().told;
        assert!(told.len() == TOLD + 1 && told[TOLD].starts_with("100 further files"), "{told:#?}");
    }
}
