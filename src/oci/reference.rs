//! Image references as people write them, and their full form.
//!
//! The grammar is that of the `distribution/reference` library: `[registry/]repository[:tag][@digest]`. The first
//! component is a registry when it holds a dot or a colon or is `localhost`; otherwise the registry is `docker.io`
//! and a repository of one component lies below `library/`.

use std::fmt;
use std::str::FromStr;

use super::digest::{Digest, DigestError};

/// The registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";

/// The tag of references that have neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// Longest repository name, registry included, that the distribution specification allows.
const MAX_NAME: usize = 255;

/// A full image reference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Host and port, such as `docker.io` or `127.0.0.1:5000`.
    pub registry: String,
    /// Path below the registry, such as `library/nginx`.
    pub repository: String,
    /// The tag, when one is written.
    pub tag: Option<String>,
    /// The digest, when one is written. It wins over the tag.
    pub digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing is written.
    #[error("an image reference must not be empty")]
    Empty,
    /// The text looks like a template that nobody filled in.
    #[error("`{0}` is not an image reference: it looks like an unfilled placeholder")]
    Placeholder(String),
    /// The repository has characters or a form that registries refuse.
    #[error(
        "`{0}` is not a repository name: lower-case letters, digits and `.`, `_`, `-` between them, parts divided by `/`"
    )]
    Repository(String),
    /// The registry is not a host name.
    #[error("`{0}` is not a registry host")]
    Registry(String),
    /// The tag has characters or a length that registries refuse.
    #[error("`{0}` is not a tag: at most 128 letters, digits, `_`, `.`, `-`, not beginning with `.` or `-`")]
    Tag(String),
    /// What stands behind `@` is not a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// The tag to ask a registry for: the written one, or `latest` when neither tag nor digest is written.
    pub fn tag_or_default(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG),
        }
    }

    /// The same repository pinned to `digest`, its tag kept for people: the written one or the one that was meant.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        let tag = self.tag_or_default().map(str::to_owned);
        Self { tag, digest: Some(digest), ..self.clone() }
    }

    /// Whether both mean the same name in the same registry, their digests left aside.
    pub fn is_same_name(&self, other: &Self) -> bool {
        let tag = |reference: &Self| reference.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned());
        self.registry == other.registry && self.repository == other.repository && tag(self) == tag(other)
    }

    /// Whether a later pull of the same text may give another image: no digest, and no tag or `latest`.
    pub fn is_floating(&self) -> bool {
        self.digest.is_none() && self.tag_or_default() == Some(DEFAULT_TAG)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = self.tag_or_default() {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.contains(['{', '}', '$', '<', '>']) {
            return Err(ReferenceError::Placeholder(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (registry, path) = split_registry(name);
        check_registry(registry)?;
        check_repository(path)?;
        if name.len() > MAX_NAME {
            return Err(ReferenceError::Repository(name.to_owned()));
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

/// Splits `name:tag`; a colon before the last slash belongs to the registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            (if first == "index.docker.io" { DEFAULT_REGISTRY } else { first }, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    let error = || ReferenceError::Registry(registry.to_owned());
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if !registry.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            if !digits || port.parse::<u16>().is_err() {
                return Err(error());
            }
            host
        }
        _ => registry,
    };
    let label_is_good = |label: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        edge(label.bytes().next())
            && edge(label.bytes().last())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let plain = host.split('.').all(label_is_good);
    let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let literal = literal.is_some_and(|address| address.parse::<core::net::Ipv6Addr>().is_ok());
    if !(plain || literal) {
        return Err(error());
    }
    Ok(())
}

fn check_repository(path: &str) -> Result<(), ReferenceError> {
    let is_word = |b: char| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separator_is_good =
        |separator: &str| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
    let part_is_good = |part: &str| {
        part.starts_with(is_word) && part.ends_with(is_word) && part.split(is_word).all(separator_is_good)
    };
    if path.split('/').all(part_is_good) { Ok(()) } else { Err(ReferenceError::Repository(path.to_owned())) }
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let good = (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good { Ok(()) } else { Err(ReferenceError::Tag(tag.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().map_or_else(|e| format!("error: {e}"), |r| r.to_string())
    }

    #[test]
    fn short_forms_become_full() {
        assert_eq!(full("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(full("nginx:1.27"), "docker.io/library/nginx:1.27");
        assert_eq!(full("bitnami/redis"), "docker.io/bitnami/redis:latest");
        assert_eq!(full("localhost/app"), "localhost/app:latest");
        assert_eq!(full("127.0.0.1:5000/a/b:v1"), "127.0.0.1:5000/a/b:v1");
        assert_eq!(full("ghcr.io/x/y"), "ghcr.io/x/y:latest");
        assert_eq!(full("index.docker.io/library/x"), "docker.io/library/x:latest");
    }

    #[test]
    fn a_digest_needs_no_tag() {
        let digest = Digest::of(b"x");
        assert_eq!(full(&format!("a@{digest}")), format!("docker.io/library/a@{digest}"));
        assert_eq!(full(&format!("a:1@{digest}")), format!("docker.io/library/a:1@{digest}"));
    }

    #[test]
    fn pinning_keeps_the_tag_that_was_meant() {
        let digest = Digest::of(b"x");
        let pinned = "nginx".parse::<Reference>().unwrap().with_digest(digest);
        assert_eq!(pinned.to_string(), format!("docker.io/library/nginx:latest@{digest}"));
    }

    #[test]
    fn wrong_references_say_why() {
        for (text, start) in [
            ("", "error: an image reference must not be empty"),
            ("{{ .Values.image }}", "error: `{{ .Values.image }}` is not an image reference: it looks"),
            ("Nginx", "error: `Nginx` is not a repository name"),
            ("a//b", "error: `a//b` is not a repository name"),
            ("a/b._c", "error: `a/b._c` is not a repository name"),
            ("a..b/c", "error: `a..b` is not a registry host"),
            ("a.b:+5/c", "error: `a.b:+5` is not a registry host"),
            ("[::1/a", "error: `[::1` is not a registry host"),
            ("a:-x", "error: `-x` is not a tag"),
            ("a@sha256:deadbeef", "error: digest must be 64 hex digits, got 8"),
            ("a.b:x/c", "error: `a.b:x` is not a registry host"),
        ] {
            assert!(full(text).starts_with(start), "{text}: {}", full(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_reference_or_an_error(text in ".{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let printed = reference.to_string();
                proptest::prop_assert_eq!(printed.parse::<Reference>().map(|r| r.to_string()), Ok(printed));
            }
        }

        #[test]
        fn well_formed_references_survive_printing(
            text in "([a-z0-9]{1,8}(\\.[a-z]{2,5}|:[1-9][0-9]{0,3})/)?[a-z0-9]{1,8}((_|__|-{1,3})[a-z0-9]{1,8}){0,2}(/[a-z0-9]{1,8}){0,2}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?"
        ) {
            let reference: Reference = text.parse().map_err(|e| proptest::test_runner::TestCaseError::fail(format!("{text}: {e}")))?;
            let printed: Reference = reference.to_string().parse().unwrap();
            proptest::prop_assert!(printed.is_same_name(&reference));
            let pinned = reference.with_digest(Digest::of(text.as_bytes()));
            proptest::prop_assert_eq!(pinned.to_string().parse::<Reference>(), Ok(pinned));
        }
    }
}
