//! Calls of AWS's JSON services, signed with the instance's role.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde_json::Value;

use crate::error::Error;
use crate::http::{self, Endpoint, Request};
use crate::imds::Metadata;
use crate::sigv4::{self, Scope};
use crate::time;

/// How long a service may take for each step of an answer.
const LIMIT: Duration = Duration::from_secs(15);

/// A service: its name in signatures and addresses, and what its actions are called by; of the query protocol, the version of
/// its interface.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    name: &'static str,
    target: &'static str,
}

/// `CloudWatch` Logs.
pub(crate) const LOGS: Service = Service { name: "logs", target: "Logs_20140328" };
/// Secrets Manager.
pub(crate) const SECRETS: Service = Service { name: "secretsmanager", target: "secretsmanager" };
/// Parameter Store.
pub(crate) const PARAMETERS: Service = Service { name: "ssm", target: "AmazonSSM" };

/// Auto Scaling, which speaks the query protocol.
pub(crate) const AUTO_SCALING: Service = Service { name: "autoscaling", target: "2011-01-01" };

/// What calls services.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) metadata: Metadata,
    pub(crate) trust: Arc<ClientConfig>,
    pub(crate) region: String,
    /// What the names of this part of AWS end with.
    pub(crate) domain: String,
    /// Instead of the region's addresses.
    pub(crate) endpoint: Option<Endpoint>,
}

impl Client {
    /// Calls once.
    pub(crate) fn call(&mut self, service: Service, action: &str, body: &Value) -> Result<Value, Error> {
        let headers = [
            ("content-type".to_owned(), "application/x-amz-json-1.1".to_owned()),
            ("x-amz-target".to_owned(), format!("{}.{action}", service.target)),
        ];
        let answer = self.ask(service, &headers, &body.to_string())?;
        if answer.status != 200 {
            return Err(refused(action, &answer));
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body)
            .map_err(|e| Error::Answer { what: action.into(), reason: e.to_string() })
    }

    /// Calls an action of the query protocol once. What it answers, beside that it was done, is of no interest.
    pub(crate) fn query(
        &mut self,
        service: Service,
        action: &str,
        words: &[(&str, &str)],
    ) -> Result<(), Error> {
        let first = [("Action", action), ("Version", service.target)];
        let pairs = first.iter().chain(words).map(|(name, value)| format!("{name}={}", encoded(value)));
        let headers =
            [("content-type".to_owned(), "application/x-www-form-urlencoded; charset=utf-8".to_owned())];
        let answer = self.ask(service, &headers, &pairs.collect::<Vec<_>>().join("&"))?;
        if answer.status == 200 { Ok(()) } else { Err(refused_in_xml(action, &answer)) }
    }

    /// Sends a signed request.
    fn ask(
        &mut self,
        service: Service,
        headers: &[(String, String)],
        body: &str,
    ) -> Result<http::Response, Error> {
        let endpoint =
            self.endpoint.clone().unwrap_or_else(|| address(service, (&self.region, &self.domain)));
        let mut headers = headers.to_vec();
        headers.push(("host".to_owned(), endpoint.authority()));
        headers.sort();
        let credentials = self.metadata.credentials()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a clock after 1970")]
        let stamp = time::stamp(time::now() as u64);
        let scope = Scope { region: &self.region, service: service.name, stamp: &stamp };
        let mut headers = sigv4::sign(&credentials, scope, ("POST", &headers, body.as_bytes()));
        // The connection writes it itself.
        headers.retain(|(name, _)| name != "host");
        let request = Request { method: "POST", path: "/", headers: &headers, body: body.as_bytes() };
        http::ask(&endpoint, &self.trust, &request, LIMIT)
    }
}

/// A value as forms have it: all but what needs no escape as `%` and two digits.
fn encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

/// The words of a refusal in the query protocol, as in [`refused`].
fn refused_in_xml(action: &str, answer: &http::Response) -> Error {
    let body = String::from_utf8_lossy(&answer.body);
    let text = |name: &str| {
        let (_, rest) = body.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0.trim())
    };
    let message: String = text("Message").unwrap_or_default().chars().take(300).collect();
    let reason = format!("{}: {message}", text("Code").unwrap_or_default());
    Error::Refused { action: action.into(), status: answer.status, reason }
}

fn address(service: Service, (region, domain): (&str, &str)) -> Endpoint {
    Endpoint { tls: true, host: format!("{}.{region}.{domain}", service.name), port: 443 }
}

/// The service's word for it, without what it was asked: an answer may repeat a request.
fn refused(action: &str, answer: &http::Response) -> Error {
    let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = text("__type").rsplit('#').next().unwrap_or_default().to_owned();
    let message = [text("message"), text("Message")].concat();
    let reason = format!("{kind}: {}", message.chars().take(300).collect::<String>());
    Error::Refused { action: action.into(), status: answer.status, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_region() {
        assert_eq!(address(LOGS, ("eu-west-1", "amazonaws.com")).host, "logs.eu-west-1.amazonaws.com");
        assert_eq!(
            address(PARAMETERS, ("cn-north-1", "amazonaws.com.cn")).host,
            "ssm.cn-north-1.amazonaws.com.cn"
        );
    }

    #[test]
    fn forms_and_refusals_of_the_query_protocol() {
        assert_eq!(encoded("i2kit-e_default_a 1:é"), "i2kit-e_default_a%201%3A%C3%A9");
        let refused = |status, body: &str| {
            refused_in_xml("SetDesiredCapacity", &http::Response { status, body: body.as_bytes().to_vec() })
        };
        let error = refused(
            400,
            "<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code>\
             <Message>Group not found</Message></Error></ErrorResponse>",
        );
        assert_eq!(error.to_string(), "SetDesiredCapacity: status 400: ValidationError: Group not found");
        assert!(error.is_invalid() && !error.passes());
        assert!(refused(400, "<Code>Throttling</Code>").passes());
        assert!(refused(403, "<Code>AccessDenied</Code>").is_denied());
        for cut in ["", "<Code>", "<Code>Throt", "</Code><Code>", "<Message>\u{fffd}</Message"] {
            assert!(!refused(400, cut).passes(), "{cut}");
        }
    }

    #[test]
    fn refusals_name_their_kind() {
        let body = br#"{"__type":"com.amazonaws#ThrottlingException","message":"Rate exceeded"}"#.to_vec();
        let error = refused("PutLogEvents", &http::Response { status: 400, body });
        assert_eq!(error.to_string(), "PutLogEvents: status 400: ThrottlingException: Rate exceeded");
        assert!(error.passes());
        let error = refused("GetSecretValue", &http::Response { status: 400, body: b"<html>".to_vec() });
        assert!(!error.passes());
    }
}
