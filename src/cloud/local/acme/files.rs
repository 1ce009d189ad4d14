//! What ACME keeps, as files that only the user may read, in the local cloud's folder: one a host with its certificate and
//! key, one an account at a CA. Each is written whole.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::cloud::CloudError;
use crate::cloud::local::home::{self, Home};
use crate::cloud::local::proxy::PrivateKey;
use crate::oci::Digest;

/// The mode of a file that is its owner's alone.
const PRIVATE: u32 = 0o600;

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

fn write(path: &Path, value: &impl Serialize) -> Result<(), CloudError> {
    let folder = path.parent().unwrap_or(path);
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(folder).map_err(CloudError::file("create", folder))?;
    let text = serde_json::to_vec(value).map_err(|error| CloudError::Store { message: error.to_string() })?;
    home::write_whole(path, &text, PRIVATE)?;
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(CloudError::file("write", folder))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, CloudError> {
    let text = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        text => text.map_err(CloudError::file("read", path))?,
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| CloudError::File {
        action: "read".into(),
        path: path.to_owned(),
        message: format!("{error}; remove it, and the CA is asked again"),
    })
}

/// The records of all hosts, by id. Those that cannot be read are beside them, as what is wrong.
pub(super) fn load(home: &Home) -> Result<(BTreeMap<String, Record>, Vec<CloudError>), CloudError> {
    let folder = records(home);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Default::default()),
        entries => entries.map_err(CloudError::file("read", &folder))?,
    };
    let (mut found, mut unreadable) = (BTreeMap::new(), Vec::new());
    for entry in entries {
        let path = entry.map_err(CloudError::file("read", &folder))?.path();
        let is_record = path.extension().is_some_and(|extension| extension == "json")
            && !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !is_record {
            // A write that was interrupted.
            fs::remove_file(&path).map_err(CloudError::file("remove", &path))?;
            continue;
        }
        match read::<Record>(&path) {
            Ok(Some(record)) => drop(found.insert(record.want.id(), record)),
            Ok(None) => {}
            Err(error) => unreadable.push(error),
        }
    }
    Ok((found, unreadable))
}

/// Writes a record.
pub(super) fn save(home: &Home, record: &Record) -> Result<(), CloudError> {
    write(&records(home).join(format!("{}.json", record.want.id())), record)
}

/// Removes a record with its certificate and key.
pub(super) fn forget(home: &Home, id: &str) -> Result<(), CloudError> {
    let path = records(home).join(format!("{id}.json"));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(CloudError::file("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// The account at a CA.
pub(super) fn load_account(home: &Home, directory: &str) -> Result<Option<StoredAccount>, CloudError> {
    read(&account(home, directory))
}

/// Writes the account at a CA.
pub(super) fn save_account(home: &Home, directory: &str, stored: &StoredAccount) -> Result<(), CloudError> {
    write(&account(home, directory), stored)
}
