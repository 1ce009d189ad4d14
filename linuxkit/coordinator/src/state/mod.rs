//! The application's containers and their state: they are stopped, started and frozen, and what they keep is captured and put
//! back.

mod application;
mod folder;
mod owner;
mod pod;
#[cfg(test)]
mod tests;

pub(crate) use application::{Application, StateError};
pub(crate) use pod::Pod;
