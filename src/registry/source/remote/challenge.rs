//! What a registry asks of who wants in (`WWW-Authenticate`), and what its token server hands out. A registry may offer
//! several ways, in one header or in several; tokens are taken before passwords.

use http_auth::parser::ChallengeParser;
use reqwest::header::HeaderValue;
use serde::Deserialize;

/// The ways in that a registry offers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Challenges {
    /// With a token, and who hands it out.
    pub(super) bearer: Option<Bearer>,
    /// With a user's name and password.
    pub(super) basic: bool,
}

/// Where tokens are to be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bearer {
    /// The token server's address.
    pub(super) realm: String,
    /// What the token server calls the registry.
    pub(super) service: Option<String>,
}

/// An answer of a token server; the two names mean the same.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

/// Reads all headers. What is malformed counts as not there.
pub(super) fn read<'h>(headers: impl IntoIterator<Item = &'h HeaderValue>) -> Challenges {
    let mut found = Challenges::default();
    for text in headers.into_iter().filter_map(|header| header.to_str().ok()) {
        for challenge in ChallengeParser::new(text).filter_map(Result::ok) {
            let parameter = |name: &str| {
                let named = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                named.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                found.basic = true;
            } else if challenge.scheme.eq_ignore_ascii_case("bearer")
                && found.bearer.is_none()
                && let Some(realm) = parameter("realm")
            {
                found.bearer = Some(Bearer { realm, service: parameter("service") });
            }
        }
    }
    found
}

/// The token in a token server's answer.
pub(super) fn token(text: &[u8]) -> Option<String> {
    let answer: TokenAnswer = serde_json::from_slice(text).ok()?;
    answer.token.or(answer.access_token).filter(|token| !token.is_empty())
}

/// Whether two hosts, with or without ports, most likely belong to one owner: they are equal, or the last two parts of
/// their names are.
pub(super) fn is_same_domain(one: &str, other: &str) -> bool {
    let name = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name.to_ascii_lowercase(),
        _ => host.to_ascii_lowercase(),
    };
    let (one, other) = (name(one), name(other));
    let is_address = |name: &str| name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    if one == other || is_address(&one) || is_address(&other) {
        return one == other;
    }
    let domain = |name: &str| name.rsplit('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    domain(&one).len() == 2 && domain(&one) == domain(&other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutations::survive;

    fn read_all(headers: &[&'static str]) -> Challenges {
        let headers: Vec<HeaderValue> = headers.iter().map(|text| HeaderValue::from_static(text)).collect();
        read(&headers)
    }

    #[test]
    fn every_way_in_is_found_in_whatever_order() {
        const BASIC: &str = "Basic realm=\"registry\"";
        const BEARER: &str = "Bearer realm=\"https://auth.example/token\",service=\"r\",scope=\"x:y:pull\"";
        const BOTH: &str = "Basic realm=\"registry\", Bearer realm=\"https://auth.example/token\",service=r";
        let bearer =
            || Some(Bearer { realm: "https://auth.example/token".into(), service: Some("r".into()) });
        assert_eq!(read_all(&[BASIC]), Challenges { bearer: None, basic: true });
        assert_eq!(read_all(&[BEARER]), Challenges { bearer: bearer(), basic: false });
        for both in [&[BASIC, BEARER][..], &[BEARER, BASIC], &[BOTH], &["=", BOTH]] {
            assert_eq!(read_all(both), Challenges { bearer: bearer(), basic: true }, "{both:?}");
        }
        for none in [&[][..], &["Bearer service=x"], &["Negotiate"], &["=,=\"", ""]] {
            assert_eq!(read_all(none), Challenges::default(), "{none:?}");
        }
    }

    #[test]
    fn a_token_has_two_names_and_null_is_none() {
        assert_eq!(token(br#"{"token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(token(br#"{"token":null,"access_token":"b"}"#).as_deref(), Some("b"));
        for none in ["{}", r#"{"token":""}"#, r#"{"token":7}"#, "[]", "", "\u{0}"] {
            assert_eq!(token(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn domains_are_compared_by_their_last_two_parts() {
        for (one, other) in [
            ("index.docker.io", "auth.docker.io"),
            ("a.example:5000", "A.example"),
            ("127.0.0.1:1", "127.0.0.1"),
        ] {
            assert!(is_same_domain(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("registry.example", "registry.evil"),
            ("10.0.0.1", "11.0.0.1"),
            ("localhost", "io"),
            ("example.com", "com"),
        ] {
            assert!(!is_same_domain(one, other), "{one} {other}");
        }
    }

    #[test]
    fn changed_challenges_and_tokens_do_no_harm() {
        let seeds = [
            "Basic realm=\"registry\", Bearer realm=\"https://auth.example/token\",service=r",
            "Bearer realm=\"https://auth.example/\\\"token\",service=\"r\",scope=\"x:y:pull\"",
            "{\"token\":null,\"access_token\":\"b\",\"expires_in\":300}",
            "registry.example:5000",
        ];
        survive(&seeds.map(Vec::from), 4000, |bytes| {
            if let Ok(header) = HeaderValue::from_bytes(bytes)
                && let Some(bearer) = read([&header]).bearer
            {
                assert!(bearer.realm.len() <= bytes.len());
            }
            if let Some(token) = token(bytes) {
                assert!((1..=bytes.len()).contains(&token.len()));
            }
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(is_same_domain(&text, "auth.example"), is_same_domain("auth.example", &text));
        });
    }

    proptest::proptest! {
        #[test]
        fn hostile_headers_and_answers_do_no_harm(header in proptest::collection::vec(0x20_u8..0x7f, 0..80), text in ".{0,60}") {
            let header = HeaderValue::from_bytes(&header).unwrap();
            let _ = read([&header]);
            let _ = token(text.as_bytes());
            let _ = is_same_domain(&text, header.to_str().unwrap());
        }
    }
}
