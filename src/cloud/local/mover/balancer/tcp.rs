//! TCP connections: accepts, connects to a backend, and copies bytes both ways until both sides have ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

use super::service::{Service, Table};
use crate::cloud::local::mover::admission::PER_CONNECTION;

/// A backend on this machine accepts at once or not at all.
const CONNECT: Duration = Duration::from_secs(2);

/// Bytes that are copied at a time: a sixteenth of the system calls that the default of 8 KiB needs.
const BUFFER: usize = 128 * 1024;

/// The pause after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until it is dropped. Connections go on after that, until the service itself ends.
pub(super) async fn serve(listener: Arc<TcpListener>, service: Arc<Service>) -> Result<(), Infallible> {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // One client waits here, the others in the kernel's queue.
        let room = service.gate.enter(PER_CONNECTION).await;
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            tokio::select! {
                () = carry(client, &service.table) => {}
                () = service.ended.cancelled() => {}
            }
            drop(room);
        });
    }
}

async fn carry(mut client: TcpStream, table: &Table) {
    for backend in table.order() {
        let counted = backend.count();
        let Ok(Ok(mut server)) = tokio::time::timeout(CONNECT, TcpStream::connect(backend.address)).await
        else {
            continue;
        };
        // Small answers must not wait for more: both sides are this machine.
        drop(client.set_nodelay(true).and_then(|()| server.set_nodelay(true)));
        // A reset by either side ends both.
        drop(copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await);
        drop(counted);
        return;
    }
    // No healthy backend: dropping the client closes its connection at once.
}
