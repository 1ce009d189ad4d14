//! A name server at work: its two sockets, and the tasks that serve them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::answers::Answers;
use super::message::Zone;
use super::{datagram, stream};
use crate::cloud::local::log::Log;
use crate::cloud::local::mover::admission::Gate;
use crate::cloud::local::supervise::{Tasks, supervise};

/// A server that answers.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) answers: Arc<Answers>,
    serving: DropGuard,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    /// Binds both sockets and serves them.
    pub(super) fn start(
        environment: &str,
        address: SocketAddr,
        answers: Answers,
        (tasks, log): (&Arc<Tasks>, &Arc<Log>),
    ) -> io::Result<Self> {
        let datagrams = std::net::UdpSocket::bind(address)?;
        let listener = std::net::TcpListener::bind(address)?;
        datagrams.set_nonblocking(true)?;
        listener.set_nonblocking(true)?;
        let datagrams = Arc::new(UdpSocket::from_std(datagrams)?);
        let listener = Arc::new(TcpListener::from_std(listener)?);
        let answers = Arc::new(answers);
        let name = |transport: &str| format!("name server of {environment} ({transport})");
        let of_datagrams = {
            let answers = Arc::clone(&answers);
            move || datagram::serve(Arc::clone(&datagrams), Arc::clone(&answers))
        };
        let of_connections = {
            let answers = Arc::clone(&answers);
            move || stream::serve(Arc::clone(&listener), Arc::clone(&answers))
        };
        let ended = || answers.ended.clone();
        let (tasks, log) = (|| Arc::clone(tasks), || Arc::clone(log));
        let tasks = [
            tokio::spawn(supervise(tasks(), log(), name("UDP"), ended(), of_datagrams)),
            tokio::spawn(supervise(tasks(), log(), name("TCP"), ended(), of_connections)),
        ];
        let serving = answers.ended.clone().drop_guard();
        Ok(Self { answers, serving, tasks })
    }

    /// Replaces the names that it answers itself.
    pub(super) fn set_zone(&self, zone: Zone) {
        *self.answers.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// What `status` warns of.
    pub(super) fn warnings(&self) -> Vec<String> {
        let gates = [&self.answers.relayed, &self.answers.connections];
        gates.into_iter().filter_map(Gate::warning).collect()
    }

    /// Closes its sockets: when this returns, others can be bound to its address.
    pub(super) async fn close(self) {
        drop(self.serving);
        for task in self.tasks {
            // A task that panicked is gone as well.
            let _ = task.await;
        }
    }
}
