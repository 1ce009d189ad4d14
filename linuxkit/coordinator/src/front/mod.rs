//! The clients' side of the coordinator: requests and replies are cut out of streams of bytes, read from writes, and told apart.

mod chunked;
mod connection;
mod framer;
mod http;
mod http_reply;
mod plain;
mod resp;
mod resp_commands;
mod resp_words;
mod serve;
#[cfg(test)]
pub(crate) mod tests;
mod types;

pub(crate) use framer::Framer;
pub(crate) use serve::serve;
#[cfg(test)]
pub(crate) use types::Kind;
pub(crate) use types::{Agreed, Entry, Outcome, Reply, ReplyError, ReplyProgress, Request, Shape};
