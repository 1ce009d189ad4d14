//! What all objects share.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Namespace and name: what identifies an object of a kind within an environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    /// The namespace; `default` when the manifest names none.
    pub namespace: String,
    /// The name, an RFC 1123 label.
    pub name: String,
}

impl fmt::Display for Name {
    /// The name alone in the default namespace, `namespace/name` elsewhere.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace == "default" {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// `metadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Namespace and name.
    pub name: Name,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A count, or a share of the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum IntOrPercent {
    /// A number of pods.
    Int(u32),
    /// Percent of the replicas, 0 to 100 for what may be missing and any number for what may be in excess.
    Percent(u32),
}

impl IntOrPercent {
    /// The number of pods, percentages rounded up, as Kubernetes does for `maxSurge`.
    pub fn of_rounded_up(self, replicas: u32) -> u32 {
        match self {
            Self::Int(n) => n,
            Self::Percent(p) => narrow((u64::from(replicas) * u64::from(p)).div_ceil(100)),
        }
    }

    /// The number of pods, percentages rounded down, as Kubernetes does for `maxUnavailable`.
    pub fn of_rounded_down(self, replicas: u32) -> u32 {
        match self {
            Self::Int(n) => n,
            Self::Percent(p) => narrow(u64::from(replicas) * u64::from(p) / 100),
        }
    }
}

impl fmt::Display for IntOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_kubernetes_does() {
        let quarter = IntOrPercent::Percent(25);
        assert_eq!((quarter.of_rounded_up(3), quarter.of_rounded_down(3)), (1, 0));
        assert_eq!((quarter.of_rounded_up(8), quarter.of_rounded_down(8)), (2, 2));
        assert_eq!(IntOrPercent::Int(2).of_rounded_up(1), 2);
    }
}
