//! Secrets: values that must not be printed by accident.

use std::collections::BTreeMap;
use std::fmt;

use super::meta::Name;

/// `v1` Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// Namespace and name.
    pub name: Name,
    /// Such as `Opaque`.
    pub kind: String,
    /// Values by key; `stringData` has won over `data`.
    pub data: BTreeMap<String, SecretValue>,
}

/// A value that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Vec<u8>);

impl SecretValue {
    /// Takes the value in.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The value, for those who hand it on.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_not_printed() {
        assert_eq!(format!("{:?}", SecretValue::new(b"hunter2".to_vec())), "SecretValue(7 bytes)");
    }
}
