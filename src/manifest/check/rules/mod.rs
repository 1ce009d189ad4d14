//! Rules: what no table of fields can hold, such as conditions over several fields; and the table of which object has which.

mod batch;
mod config;
mod container;
mod ingress;
mod isolation;
mod machine;
mod pod;
mod policy;
mod replicated;
mod service;
mod table;
mod workload;

pub(in crate::manifest) use pod::{
    MACHINE_TYPE_LABELS, MACHINE_TYPES, NEVER, ON_DEMAND_BASE, SNAPSHOT, SPOT, ZONE_LABELS, machine_types,
    spot_percent,
};
pub(in crate::manifest) use table::of;
pub(in crate::manifest) use workload::holds;
