//! Where balancers lead.

use serde::{Deserialize, Serialize};

use crate::manifest::api::Name;

/// A group as the target of a listener or of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetGroup {
    /// The group.
    pub group: Name,
    /// The port of its VMs.
    pub port: u16,
}
