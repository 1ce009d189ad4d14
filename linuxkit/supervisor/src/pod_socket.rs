//! The socket on which the coordinator of a replicated pod asks: each connection is one request, and has a thread
//! (`pod_client`). This is the loop's side of it: it gives requests numbers, hands them to PID 1, and hands back what comes of
//! them. A connection that a supervisor leaves behind ends, and the coordinator asks again.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::link::{Link, Pipe, ToInit};
use crate::pod_client::{self, Ask, Reply};
use crate::replica;

/// How many connections there are at once. There is one coordinator, which has one request under way and seldom two.
const MAX_CLIENTS: usize = 8;

/// The socket and the requests under way.
#[derive(Debug, Default)]
pub(crate) struct PodSocket {
    open: Option<Open>,
    /// Where the replies to each request go.
    clients: BTreeMap<u64, Sender<Reply>>,
    next: u64,
    /// Whether the replica has said something of itself since [`Self::take_news`].
    has_news: bool,
}

/// The socket, once there is one.
#[derive(Debug)]
struct Open {
    listener: UnixListener,
    asks: Receiver<Ask>,
    sender: Sender<Ask>,
    /// Readable when a client has asked.
    bell: Link,
    ringer: Link,
}

impl PodSocket {
    /// Takes the socket. Where nothing can ring for it, it is not served, and the coordinator says so.
    pub(crate) fn listen(&mut self, listener: UnixListener) {
        let Ok((bell, ringer)) = Link::pair() else { return };
        let (sender, asks) = channel();
        self.open = Some(Open { listener, asks, sender, bell, ringer: Link::over(ringer) });
    }

    /// The descriptors to wait for.
    pub(crate) fn descriptors(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let Some(open) = &self.open else { return [None, None] };
        let listener = (self.clients.len() < MAX_CLIENTS).then(|| open.listener.as_fd());
        [listener, Some(open.bell.as_fd())]
    }

    /// Accepts who connects, and takes what is asked. Returns what PID 1 is to do.
    pub(crate) fn advance(&mut self) -> Vec<ToInit> {
        let (mut outgoing, mut reports) = (Vec::new(), Vec::new());
        let Some(open) = &self.open else { return outgoing };
        while self.clients.len() < MAX_CLIENTS
            && let Ok((stream, _)) = open.listener.accept()
        {
            let (Ok(ringer), id) = (open.ringer.try_clone(), self.next) else { break };
            self.next += 1;
            let (replies, inbox) = channel();
            let outbox = pod_client::Outbox::new(id, open.sender.clone(), ringer);
            if pod_client::spawn(stream, outbox, inbox).is_ok() {
                self.clients.insert(id, replies);
            }
        }
        while open.bell.receive::<u64>().is_ok() {}
        for ask in open.asks.try_iter() {
            match ask {
                Ask::Order { id, order, containers } => {
                    outgoing.push(ToInit::Order { id, order, containers });
                }
                Ask::Run { id, container, command, env } => {
                    outgoing.push(ToInit::Run { id, container, command, env });
                }
                Ask::Report { id, report } => reports.push((id, report)),
                Ask::Kill { id } => outgoing.push(ToInit::Kill { id }),
                Ask::Gone { id } => drop(self.clients.remove(&id)),
            }
        }
        for (id, report) in reports {
            let noted = replica::note(report);
            self.has_news |= noted.is_ok();
            self.reply(id, Reply::Ordered(noted.err()));
        }
        outgoing
    }

    /// Whether the pod's status may be another one, since this was asked.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Takes what came of an order.
    pub(crate) fn ordered(&mut self, id: u64, failure: Option<String>) {
        self.reply(id, Reply::Ordered(failure));
    }

    /// Takes an end of a program.
    pub(crate) fn piped(&mut self, id: u64, pipe: Pipe, fd: OwnedFd) {
        self.reply(id, Reply::Piped(pipe, fd));
    }

    /// Takes the end of a program's life.
    pub(crate) fn ran(&mut self, id: u64, code: i32) {
        self.reply(id, Reply::Ran(code));
    }

    fn reply(&mut self, id: u64, reply: Reply) {
        if let Some(client) = self.clients.get(&id) {
            // A client that has gone away says so.
            let _ = client.send(reply);
        }
    }
}
