//! A machine: the qemu process and its parts. What it is started from, how it is started, confined, found again and
//! ended, and the protocol that qemu itself speaks.
//!
//! Nothing here knows groups, balancers or the guest: the guest speaks over [`link`](super::link).

pub(crate) mod accelerator;
pub(crate) mod confine;
pub(crate) mod descriptors;
pub(crate) mod images;
pub(crate) mod platform;
pub(crate) mod process;
pub(crate) mod qemu;
pub(crate) mod qemu_version;
pub(crate) mod qmp;
pub(crate) mod secrets;
pub(crate) mod template;
pub(crate) mod template_table;
