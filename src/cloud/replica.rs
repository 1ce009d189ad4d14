//! What a replica of a replicated group is told to do for its group, in the words of its coordinator's contract.

use i2kit_spec::replica::{LeadRequest, Led, RecoverRequest, Recovered, Recovery};
use serde::{Deserialize, Serialize};

/// What a replica is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReplicaOrder {
    /// The leader hands its lead over.
    Lead(LeadRequest),
    /// It says what the group would be after a recovery from it. Nothing changes.
    Examine,
    /// It goes on as the only member of its group.
    Recover(RecoverRequest),
}

/// What came of it, in the order of [`ReplicaOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReplicaAnswer {
    /// Who leads now.
    Led(Led),
    /// What a recovery would do.
    Examined(Recovery),
    /// It begins anew as the leader of a group of one.
    Recovered(Recovered),
}
