//! i2kit deploys immutable infrastructure: it reads Kubernetes manifests, builds one micro-VM image a pod, and rolls
//! the pods out as groups of virtual machines behind native load balancers.
//!
//! The rooms, and what each must not know, are described in `docs/architecture/index.md`; `tests/tidy.rs` holds the table of
//! which room may use which.

pub mod cli;
pub mod cloud;
pub mod disk;
pub mod erofs;
pub mod image;
pub mod manifest;
pub mod oci;
pub mod plan;
pub mod registry;
pub mod report;
pub mod rollout;
pub mod text;
