//! The tree against the tables: every finding of an object in one walk. It knows the form of the tables, not what is
//! in them; what a table cannot hold is a rule.

mod quantity;
pub(super) mod replicated;
mod report;
mod rules;
mod suggest;
mod text;
mod value;
mod walk;

pub(super) use quantity::{Divided, bytes, cpu_millis, divided};
pub(super) use report::{Check, Findings, Reference};
pub(super) use rules::{
    MACHINE_TYPE_LABELS, MACHINE_TYPES, NEVER, ON_DEMAND_BASE, SNAPSHOT, SPOT, ZONE_LABELS, holds,
    machine_types, spot_percent,
};
pub(super) use text::{PortMapping, port_mapping, subscript, variable_references};
pub(super) use value::int_or_percent;
