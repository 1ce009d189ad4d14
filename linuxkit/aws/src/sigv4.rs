//! Signature version 4 of AWS, for requests whose path is `/` and that have no query: what its JSON services take.

use std::fmt::Write as _;

use ring::{digest, hmac};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// What signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) key_id: String,
    pub(crate) secret: String,
    /// Of credentials that expire.
    pub(crate) token: Option<String>,
}

/// For whom, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
    /// `YYYYMMDDTHHMMSSZ`.
    pub(crate) stamp: &'a str,
}

/// The headers that make a request a signed one: `headers` themselves (lower-case names, `host` among them), the time,
/// the token and the signature.
pub(crate) fn sign(
    credentials: &Credentials,
    scope: Scope<'_>,
    (method, headers, body): (&str, &[(String, String)], &[u8]),
) -> Vec<(String, String)> {
    let mut signed = headers.to_vec();
    signed.push(("x-amz-date".into(), scope.stamp.into()));
    if let Some(token) = &credentials.token {
        signed.push(("x-amz-security-token".into(), token.clone()));
    }
    signed.sort();
    let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(";");
    let mut canonical = format!("{method}\n/\n\n");
    for (name, value) in &signed {
        let _ = writeln!(canonical, "{name}:{}", value.trim());
    }
    let _ = write!(canonical, "\n{names}\n{}", hex(digest::digest(&digest::SHA256, body).as_ref()));
    let date = scope.stamp.get(..8).unwrap_or(scope.stamp);
    let place = format!("{date}/{}/{}/aws4_request", scope.region, scope.service);
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("{ALGORITHM}\n{}\n{place}\n{hash}", scope.stamp);
    let mut key = format!("AWS4{}", credentials.secret).into_bytes();
    for part in [date, scope.region, scope.service, "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hex(&mac(&key, &text));
    let authorization = format!(
        "{ALGORITHM} Credential={}/{place}, SignedHeaders={names}, Signature={signature}",
        credentials.key_id
    );
    signed.push(("authorization".into(), authorization));
    signed
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // The key, the time and the place of the test suite that AWS publishes for signature version 4.
    const SCOPE: Scope<'_> = Scope { region: "us-east-1", service: "service", stamp: "20150830T123600Z" };

    fn credentials() -> Credentials {
        Credentials {
            key_id: "AKIDEXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into(),
            token: None,
        }
    }

    fn signature(method: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let owned: Vec<(String, String)> =
            headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let signed = sign(&credentials(), SCOPE, (method, &owned, body));
        let (_, last) = signed.last().unwrap();
        last.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_published_test_suite() {
        let host = ("host", "example.amazonaws.com");
        // get-vanilla, post-vanilla, post-header-value-case, post-x-www-form-urlencoded.
        assert_eq!(
            signature("GET", &[host], b""),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        assert_eq!(
            signature("POST", &[host], b""),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        assert_eq!(
            signature("POST", &[host, ("my-header1", "VALUE1")], b""),
            "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"
        );
        assert_eq!(
            signature(
                "POST",
                &[host, ("content-type", "application/x-www-form-urlencoded")],
                b"Param1=value1"
            ),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }

    #[test]
    fn a_token_is_signed_too() {
        let credentials = Credentials { token: Some("token".into()), ..credentials() };
        let signed = sign(&credentials, SCOPE, ("POST", &[("host".into(), "x".into())], b""));
        assert!(signed.contains(&("x-amz-security-token".into(), "token".into())));
        assert!(signed.last().unwrap().1.contains("SignedHeaders=host;x-amz-date;x-amz-security-token"));
    }
}
