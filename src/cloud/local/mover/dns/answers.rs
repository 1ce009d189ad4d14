//! What answers questions, whichever way they come: the zone, the relay to other servers, and admission.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::message::{self, Reply, Zone};
use super::relay::{self, Relay};
use crate::cloud::local::log::Log;
use crate::cloud::local::mover::admission::Gate;

/// The port of name servers.
pub(super) const PORT: u16 = 53;

/// Questions of one environment that wait for other servers at once; further ones are dropped, and resolvers ask again.
const RELAYED: usize = 256;

/// TCP connections of one server at once; further ones are closed, which resolvers take for "ask again".
pub(super) const CONNECTIONS: usize = 64;

/// What answers for one environment.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) zone: RwLock<Zone>,
    pub(super) relay: Relay,
    /// Admits questions that wait for other servers.
    pub(super) relayed: Gate,
    /// Admits TCP connections.
    pub(super) connections: Gate,
    /// Ends all connections and questions.
    pub(super) ended: CancellationToken,
    /// How long a TCP connection may be silent.
    pub(super) idle: Duration,
}

impl Answers {
    /// Answers from `zone`, with a part of these descriptors.
    pub(super) fn new(
        environment: &str,
        zone: Zone,
        descriptors: &Arc<Semaphore>,
        log: &Arc<Log>,
        idle: Duration,
    ) -> Self {
        let gate = |kind: &str, otherwise, own| {
            let name = format!("the name server of {environment} ({kind})");
            Gate::new((name, otherwise), own, Arc::clone(descriptors), Arc::clone(log))
        };
        Self {
            zone: RwLock::new(zone),
            relay: Relay { settings: PathBuf::from(relay::RESOLV_CONF), port: PORT },
            relayed: gate("other names", "further questions are dropped", RELAYED),
            connections: gate("TCP", "further connections are closed", CONNECTIONS),
            ended: CancellationToken::new(),
            idle,
        }
    }

    /// The answer of the zone.
    pub(super) fn look_up(&self, question: &[u8]) -> Option<Reply> {
        message::reply(question, &self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }
}
