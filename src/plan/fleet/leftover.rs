//! What interrupted runs left in a cloud, and no plan names.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something that an interrupted run left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Leftover {
    /// What it is, in the cloud's word, such as `snapshot`.
    pub kind: String,
    /// What tells it apart.
    pub id: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.id)
    }
}
