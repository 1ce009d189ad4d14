//! What a replica answers other replicas.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use i2kit_spec::replica::Integrity;
use tokio::sync::{oneshot, watch};

use crate::command::Command;
use crate::lock::lock;
use crate::machine::digests::Claim;
use crate::member::fence::Fence;
use crate::node::Node;
use crate::order::handle::ViewRole;
use crate::order::messages::{Message, Part, Surveyed};
use crate::wire::frame::{Hello, Kind};
use crate::wire::link::Greeter;
use crate::wire::service::{Answer, Service};

/// The service of a replica's port for others. It says who the replica is from the beginning, and answers once it runs.
pub(crate) struct Peers {
    pub(crate) fence: Arc<Fence>,
    pub(crate) node: watch::Receiver<Option<Arc<Node>>>,
}

impl Greeter for Peers {
    fn hello(&self) -> Hello {
        self.fence.hello()
    }

    fn meets(&self, other: &Hello) -> io::Result<()> {
        self.fence.meets(other)
    }
}

impl Service for Peers {
    fn notice(&self, from: &Hello, kind: Kind, mut body: Bytes) {
        let Some(node) = self.node.borrow().clone().filter(|node| node.fence.era() == from.era) else {
            return;
        };
        match kind {
            Kind::Forward => {
                if !node.leads() {
                    return;
                }
                while !body.is_empty() {
                    let Ok(command) = Command::decode(&mut body) else { return };
                    node.queue.push(command);
                }
            }
            Kind::Digest => {
                if let Ok(claim) = Claim::decode(body) {
                    node.heard(from.id, claim);
                }
            }
            _ => {}
        }
    }

    fn call(&self, from: Arc<Hello>, kind: Kind, body: Bytes) -> Answer {
        let mut node = self.node.clone();
        Box::pin(async move {
            let node = node.wait_for(Option::is_some).await.ok()?.clone()?;
            // What was said on a connection of before a recovery is of no worth behind it.
            if node.fence.era() != from.era {
                return None;
            }
            match kind {
                Kind::ReadIndex => {
                    let (sender, receiver) = oneshot::channel();
                    node.gate.send(sender).ok()?;
                    let index = receiver.await.ok()?;
                    Some((u64::from(index.is_some()), index.unwrap_or(0)).encode())
                }
                Kind::SnapshotPart => node.take_part(Part::decode(body).ok()?).await,
                Kind::Join => {
                    let (id, slot) = <(u64, u64)>::decode(body).ok()?;
                    // Nobody joins for another.
                    if id != from.id || slot != u64::from(from.slot) {
                        return None;
                    }
                    Some(node.join(id, from.slot).await.encode())
                }
                Kind::Survey => Some(Surveyed { leads: node.leads(), last: node.log.last() }.encode()),
                _ => node.order.answer(kind, body).await,
            }
        })
    }
}

impl Node {
    /// Whether this replica leads, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.order.view().borrow().role == ViewRole::Leader
    }

    /// Another replica has a digest.
    pub(crate) fn heard(&self, id: u64, claim: Claim) {
        // What a replica says that was replaced does not count.
        if self.settings.config.integrity == Integrity::Off
            || self.order.view().borrow().members.slot(id).is_none()
        {
            return;
        }
        let agreed = {
            let mut digests = lock(&self.shared.digests);
            digests.heard(id, claim);
            digests.agreed()
        };
        self.answer_digests();
        self.metrics.compared(claim.index);
        if self.settings.config.integrity == Integrity::Quorum {
            self.shared.waiting.release(agreed);
        }
    }
}
