//! The instance metadata service, version 2: what the instance is, its user data, and its role.

use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::user_data::{USER_DATA_VERSION, UserData};
use rustls::ClientConfig;
use serde::Deserialize;

use crate::error::Error;
use crate::http::{self, Endpoint, Request};
use crate::sigv4::Credentials;
use crate::time;

const HOST: &str = "169.254.169.254";
/// The service answers within milliseconds; right after a launch it may take longer to be there.
const LIMIT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 10;
/// How often a tag is looked for that is not there, and the pause between two looks.
const TAG_LOOKS: u32 = 60;
const TAG_PAUSE: Duration = Duration::from_secs(1);
/// How long a token is good; it is asked for anew before.
const TOKEN_SECONDS: u32 = 21_600;
/// Credentials are asked for anew this long before they end. EC2 has new ones five minutes before.
const MARGIN: f64 = 240.0;

/// The metadata service.
#[derive(Debug)]
pub(crate) struct Metadata {
    endpoint: Endpoint,
    trust: Arc<ClientConfig>,
    /// And when it ends, in seconds since 1970.
    token: Option<(String, f64)>,
    role: Option<(Credentials, f64)>,
}

impl Metadata {
    pub(crate) fn new(trust: Arc<ClientConfig>) -> Self {
        let endpoint = Endpoint { tls: false, host: HOST.into(), port: 80 };
        Self { endpoint, trust, token: None, role: None }
    }

    /// The instance's id.
    pub(crate) fn instance(&mut self) -> Result<String, Error> {
        self.required("meta-data/instance-id")
    }

    /// The instance's region.
    pub(crate) fn region(&mut self) -> Result<String, Error> {
        self.required("meta-data/placement/region")
    }

    /// What the names of AWS' services end with where the instance is: parts of AWS that stand alone have names of their own.
    pub(crate) fn domain(&mut self) -> Result<String, Error> {
        let found = self.get("meta-data/services/domain")?;
        Ok(found.map_or_else(|| "amazonaws.com".to_owned(), |text| text.trim().to_owned()))
    }

    /// The value of one of the instance's tags, where its launch template lets it read them. They may be there a little later than
    /// the instance.
    pub(crate) fn tag(&mut self, name: &str) -> Result<String, Error> {
        let path = format!("meta-data/tags/instance/{name}");
        for _ in 1..TAG_LOOKS {
            if self.get(&path)?.is_some_and(|text| !text.trim().is_empty()) {
                break;
            }
            std::thread::sleep(TAG_PAUSE);
        }
        self.required(&path)
    }

    /// The instance's user data, if it has any.
    pub(crate) fn launch(&mut self) -> Result<Option<UserData>, Error> {
        self.get("user-data")?.map(|text| parse_launch(&text)).transpose()
    }

    /// The credentials of the instance's role.
    pub(crate) fn credentials(&mut self) -> Result<Credentials, Error> {
        if let Some((credentials, end)) = &self.role
            && time::now() < end - MARGIN
        {
            return Ok(credentials.clone());
        }
        let folder = "meta-data/iam/security-credentials/";
        let names = self.get(folder)?.ok_or(Error::NoRole)?;
        let name = names.lines().next().filter(|name| !name.is_empty()).ok_or(Error::NoRole)?;
        let text = self.get(&format!("{folder}{name}"))?.ok_or(Error::NoRole)?;
        let (credentials, end) = parse_credentials(&text)?;
        self.role = Some((credentials.clone(), end));
        Ok(credentials)
    }

    fn required(&mut self, path: &str) -> Result<String, Error> {
        let text = self.get(path)?.filter(|text| !text.trim().is_empty());
        text.map(|text| text.trim().to_owned()).ok_or_else(|| Error::Answer {
            what: path.into(),
            reason: "the metadata service has none".into(),
        })
    }

    /// What lies at a path; nothing when there is none.
    fn get(&mut self, path: &str) -> Result<Option<String>, Error> {
        let token = self.token()?;
        let headers = [("x-aws-ec2-metadata-token".to_owned(), token)];
        let path = format!("/latest/{path}");
        let request = Request { method: "GET", path: &path, headers: &headers, body: &[] };
        let answer = self.ask(&request)?;
        match answer.status {
            200 => String::from_utf8(answer.body)
                .map(Some)
                .map_err(|_| Error::Answer { what: path, reason: "it is no text".into() }),
            404 => Ok(None),
            status => Err(Error::Refused { action: format!("GET {path}"), status, reason: String::new() }),
        }
    }

    fn token(&mut self) -> Result<String, Error> {
        if let Some((token, end)) = &self.token
            && time::now() < end - MARGIN
        {
            return Ok(token.clone());
        }
        let header = ("x-aws-ec2-metadata-token-ttl-seconds".to_owned(), TOKEN_SECONDS.to_string());
        let request = Request { method: "PUT", path: "/latest/api/token", headers: &[header], body: &[] };
        let answer = self.ask(&request)?;
        let token = String::from_utf8(answer.body).ok().filter(|token| is_token(token));
        match (answer.status, token) {
            (200, Some(token)) => {
                self.token = Some((token.clone(), time::now() + f64::from(TOKEN_SECONDS)));
                Ok(token)
            }
            (status, _) => {
                let action = "PUT /latest/api/token".into();
                Err(Error::Refused { action, status, reason: "no token for the metadata service".into() })
            }
        }
    }

    /// Asks, more than once when the service is not there or overloaded.
    fn ask(&self, request: &Request<'_>) -> Result<http::Response, Error> {
        let mut wait = Duration::from_millis(50);
        for _ in 1..ATTEMPTS {
            match http::ask(&self.endpoint, &self.trust, request, LIMIT) {
                Ok(answer) if answer.status < 500 && answer.status != 429 => return Ok(answer),
                Ok(_) | Err(_) => std::thread::sleep(wait),
            }
            wait = (wait * 2).min(LIMIT);
        }
        http::ask(&self.endpoint, &self.trust, request, LIMIT)
    }
}

/// It becomes a header of the next requests.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() < 1024 && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn parse_launch(text: &str) -> Result<UserData, Error> {
    let bad = |reason: String| Error::Answer { what: "user data".into(), reason };
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    // The version first: another version may have fields that this guest would call wrong.
    let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if found != u64::from(USER_DATA_VERSION) {
        return Err(Error::Version { found, expected: USER_DATA_VERSION });
    }
    serde_json::from_str(text).map_err(|e| bad(e.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Role {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

fn parse_credentials(text: &str) -> Result<(Credentials, f64), Error> {
    let bad = |reason: String| Error::Answer { what: "credentials of the role".into(), reason };
    let role: Role = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let end = time::parse_rfc3339(&role.expiration)
        .and_then(|end| u32::try_from(end / 1000).ok())
        .ok_or_else(|| bad("their end is no time".into()))?;
    let (key_id, secret, token) = (role.access_key_id, role.secret_access_key, Some(role.token));
    Ok((Credentials { key_id, secret, token }, f64::from(end)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn user_data_of_another_version_is_refused() {
        let least = r#"{"version":1,"environment":"e","namespace":"n","group":"g","revision":1}"#;
        assert_eq!(parse_launch(least).unwrap().group, "g");
        let newer = parse_launch(r#"{"version":2,"novel":1}"#).unwrap_err().to_string();
        assert!(newer.contains("version 2"), "{newer}");
        assert!(parse_launch("#!/bin/sh").is_err());
    }

    #[test]
    fn credentials_have_an_end() {
        let text = r#"{"Code":"Success","AccessKeyId":"A","SecretAccessKey":"S","Token":"T",
            "Expiration":"2015-08-30T12:36:00Z"}"#;
        let (credentials, end) = parse_credentials(text).unwrap();
        assert_eq!((credentials.key_id.as_str(), end), ("A", 1_440_938_160.0));
    }

    proptest! {
        #[test]
        fn any_answer_is_refused_or_read(text in "\\PC{0,100}") {
            let _ = (parse_launch(&text), parse_credentials(&text), is_token(&text));
        }
    }
}
