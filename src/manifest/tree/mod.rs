//! YAML text as a tree of nodes that know their places. It knows YAML, not Kubernetes.

mod build;
mod fault;
mod indent;
mod limits;
mod node;
mod scalar;
mod stream;
mod syntax;

pub(super) use build::{parse, push_index, push_key};
pub(super) use fault::Fault;
pub(super) use node::{Entry, Node, Notation, Scalar, Span, Value};
pub(super) use scalar::{Resolved, resolve};
