//! i2kit deploys immutable infrastructure: it reads Kubernetes manifests, builds one micro-VM image a pod, and rolls
//! the pods out as groups of virtual machines behind native load balancers.
//!
//! The rooms, and what each must not know, are described in `docs/architecture/index.md`; `tests/tidy.rs` holds the table of
//! which room may use which.
//!
//! The rooms, in the order in which to read them:
//!
//! 1. [`manifest`]: text to objects, or to findings. [`text`] keeps text of strangers from acting on terminals.
//! 2. [`oci`] and [`registry`]: images, by digest; what they are, and where they come from.
//! 3. [`plan`]: what a pod becomes, and which acts take a fleet from what is to what should be.
//! 4. [`erofs`], [`disk`] and [`image`]: layers as file systems, disks, and the machine image that an image plan asks for.
//! 5. [`cloud`] and [`rollout`]: what holds the running state, and the carrying out of a plan on it.
//! 6. [`report`] and [`cli`]: what is printed, and the verbs.
//!
//! Facts are gathered at the edge, decisions are made in pure rooms, acts are carried out at the edge again.

pub mod cli;
pub mod cloud;
pub mod disk;
pub mod erofs;
pub mod image;
pub mod manifest;
#[cfg(test)]
#[path = "../tests/support/mutations.rs"]
mod mutations;
pub mod oci;
pub mod plan;
pub mod registry;
pub mod report;
pub mod rollout;
pub mod text;
