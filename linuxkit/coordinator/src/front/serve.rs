//! The port of the clients: connections are accepted, within bounds, until the coordinator is told to end.

use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::replica::Limits;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::{self, Shared};
use super::framer::Framer;
use super::types::Entry;

/// Connections of clients at one time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;

/// KiB of all requests together that are longer than a connection's own buffer.
const MAX_MEMORY_KIB: u32 = 16 << 10;

/// How long the port rests when the machine has no room for one more connection.
const REST: Duration = Duration::from_millis(50);

/// Serves clients until `drain` is true: then it accepts nobody, ends connections that rest, lets the others have the reply
/// that they wait for, and returns.
pub(crate) async fn serve<E: Entry>(
    listener: TcpListener,
    framer: Framer,
    limits: Limits,
    entry: Arc<E>,
    mut drain: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shared = Arc::new(Shared::new(framer, limits, entry, MAX_MEMORY_KIB));
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let place = async {
            let permit = Arc::clone(&connections).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            // Who could say so is gone: nobody will, and clients are served on.
            Ok(_) = drain.wait_for(|drains| *drains) => break,
            found = place => found,
        };
        match accepted {
            Ok((stream, _)) => {
                let (shared, drain) = (Arc::clone(&shared), drain.clone());
                tasks.spawn(async move {
                    // A client that breaks its connection is no fault here, and there is nobody to tell.
                    let _ = connection::run(stream, &shared, drain).await;
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}
