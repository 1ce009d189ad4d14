//! Decisions, made in pure code that leaves no choice open: which image a pod becomes, how a disk is laid out, which
//! steps take a fleet from what is to what should be. It does not know files, networks, clocks or clouds.

pub mod act;
pub mod cloud_event;
mod container;
pub mod difference;
mod environment;
#[cfg(test)]
pub(crate) mod example;
pub mod fleet;
pub mod image;
pub mod ingress;
pub mod layout;
pub mod linuxkit;
pub mod metrics;
pub mod pod;
pub mod podfs;
mod policy;
mod qos;
pub mod replicated;
pub mod rollout;
pub mod seccomp;
pub mod secret;
mod security;
mod service;
mod size;
pub(crate) mod template;
pub mod volume;
pub mod workload;
