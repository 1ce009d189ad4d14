//! Images from registries, by the distribution specification: mirrors first, then the registry itself.

mod challenge;
mod client;
mod credentials;
mod download;
mod endpoint;
mod failure;
mod pull_secrets;
mod registries;
mod retry;

pub(super) use registries::Registries;
