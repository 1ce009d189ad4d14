//! The language as data: every kind, every field, what it must be, what it means for a virtual machine. Adding a
//! field is adding a line to one of the tables.

mod batch;
mod config;
mod container;
mod field;
mod kinds;
mod meta;
mod pod;
mod policy;
mod service;
mod short;
mod volume;
mod workload;

pub(super) use field::{Choice, Class, Field, Switch, Table, Target, Text, Type};
pub(super) use kinds::{KINDS, Kind, removed_in};
pub(super) use meta::{MACHINE_ANNOTATIONS, POD_ANNOTATIONS};
pub(super) use short::SHORT_FORM;
pub(super) use workload::LIST;
