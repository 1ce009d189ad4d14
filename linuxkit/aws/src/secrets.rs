//! Values of Secrets, from Secrets Manager or Parameter Store to files in memory that no container sees.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use i2kit_spec::user_data::{SecretReference, SecretSource};
use serde_json::{Value, json};

use crate::error::{Error, io};
use crate::service::{Client, PARAMETERS, SECRETS};

/// A pod that does not get its secrets does not start, so that it is worth to wait for a service that is overloaded, and for
/// rights that have not arrived everywhere yet.
const ATTEMPTS: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Keys of a Secret and their values.
type Data = BTreeMap<String, Vec<u8>>;

/// Fetches all and writes them below `folder`: a folder a Secret, a file a key.
pub(crate) fn fetch(client: &mut Client, references: &[SecretReference], folder: &Path) -> Result<(), Error> {
    for reference in references {
        let data = with_patience(|| values(client, &reference.source))?;
        write(&folder.join(&reference.name), &data)?;
    }
    Ok(())
}

/// Tries again what may pass.
fn with_patience<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut wait = FIRST_WAIT;
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if error.passes() || error.is_denied() => std::thread::sleep(wait),
            done => return done,
        }
        wait *= 2;
    }
    attempt()
}

fn values(client: &mut Client, source: &SecretSource) -> Result<Data, Error> {
    match source {
        SecretSource::SecretsManager { secret_id } => {
            let answer = client.call(SECRETS, "GetSecretValue", &json!({"SecretId": secret_id}))?;
            members(secret_id, answer.get("SecretString").and_then(Value::as_str).unwrap_or_default())
        }
        SecretSource::Parameters { path } => {
            let mut data = Data::new();
            let mut next = Value::Null;
            loop {
                let mut body = json!({"Path": path, "WithDecryption": true});
                if next.is_string() {
                    body["NextToken"] = next;
                }
                let answer = client.call(PARAMETERS, "GetParametersByPath", &body)?;
                data.append(&mut parameters(path, &answer)?);
                next = answer.get("NextToken").cloned().unwrap_or_default();
                if !next.is_string() {
                    return if data.is_empty() {
                        Err(bad(path, "there are no parameters below it"))
                    } else {
                        Ok(data)
                    };
                }
            }
        }
    }
}

fn bad(what: &str, reason: &str) -> Error {
    Error::Answer { what: what.into(), reason: reason.into() }
}

/// The members of a JSON object. An error does not quote the text, which is secret.
fn members(name: &str, text: &str) -> Result<Data, Error> {
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        return Err(bad(name, "its value is no JSON object of keys and strings"));
    };
    let member = |(key, value): (String, Value)| {
        if !is_key(&key) {
            return Err(bad(name, "a key has other characters than letters, digits, `-`, `_` and `.`"));
        }
        match bytes(value) {
            Some(bytes) => Ok((key, bytes)),
            None => Err(bad(name, &format!("the value of {key} is neither a string nor base64"))),
        }
    };
    object.into_iter().map(member).collect()
}

/// A string, or `{"base64": "…"}` of what is no text.
fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.into_bytes()),
        Value::Object(object) if object.len() == 1 => STANDARD.decode(object.get("base64")?.as_str()?).ok(),
        _ => None,
    }
}

fn parameters(path: &str, answer: &Value) -> Result<Data, Error> {
    let list = answer.get("Parameters").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let parameter = |value: &Value| {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let key = text("Name").and_then(|name| name.strip_prefix(path)?.strip_prefix('/'));
        let key = key.filter(|key| is_key(key)).ok_or_else(|| bad(path, "a parameter's name is no key"))?;
        Ok((key.to_owned(), text("Value").unwrap_or_default().into()))
    };
    list.iter().map(parameter).collect()
}

/// Kubernetes' rule for keys; it also keeps them files of their folder.
fn is_key(key: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !key.is_empty() && key.len() <= 253 && key != "." && key != ".." && key.chars().all(known)
}

fn write(folder: &Path, data: &Data) -> Result<(), Error> {
    let name = folder.file_name().and_then(|name| name.to_str());
    if !name.is_some_and(is_key) {
        return Err(bad("user data", "the name of a secret is none"));
    }
    let at = |path: &Path| io(format!("write {}", path.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
    for (key, value) in data {
        let path = folder.join(key);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        file.write_all(value).map_err(at(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_parameters_become_keys() {
        let data = members("db", r#"{"user":"web","password":"geheim"}"#).unwrap();
        assert_eq!(data["password"], b"geheim");
        assert_eq!(members("db", r#"{"key":{"base64":"/wA="}}"#).unwrap()["key"], [0xff, 0]);
        let answer = json!({"Parameters": [{"Name": "/p/mail/token", "Value": "t"}]});
        assert_eq!(parameters("/p/mail", &answer).unwrap()["token"], b"t");
        assert!(parameters("/p", &answer).is_err());
    }

    #[test]
    fn what_is_refused_is_said_without_the_secret() {
        for text in [
            r#"["geheim"]"#,
            r#"{"password":["geheim"]}"#,
            r#"{"password":{"base64":"geheim!"}}"#,
            r#"{"../geheim":"x"}"#,
            "geheim",
        ] {
            let error = members("db", text).unwrap_err().to_string();
            assert!(!error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn files_are_for_root_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("db");
        write(&secret, &Data::from([("user".into(), b"web".to_vec())])).unwrap();
        let file = secret.join("user");
        assert_eq!(fs::read(&file).unwrap(), b"web");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&folder.path().join(".."), &Data::new()).is_err());
    }
}
