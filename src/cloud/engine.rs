//! The engine of clouds that keep groups themselves: what they remember of an environment, what acts do to it, what
//! follows from what guests report, and what is decided about each group as time passes.
//!
//! Pure: it takes values and gives values. The local cloud stores them in its database and carries the decisions out with
//! qemu; the simulated cloud keeps them in memory.
//!
//! [`environment`] has the records and applies acts, [`disk_record`] a disk's record, [`health`] judges the outcome of a
//! VM's health check, [`reconcile`] decides, [`usage`] measures and [`autoscale`] gives a group its size by that,
//! [`replicas`] has what replicas say of themselves, [`moment`] the two times.

pub mod autoscale;
pub mod disk_record;
pub mod environment;
pub mod health;
pub mod moment;
pub mod reconcile;
pub mod replicas;
pub mod usage;
