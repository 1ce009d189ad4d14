//! UDP: each client has a backend and a socket of its own for as long as it talks.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Counted, Table};

/// A client that is silent for this long is forgotten.
const IDLE: Duration = Duration::from_mins(1);

/// Clients that are remembered at once; further ones are dropped until some fall silent.
const MAX_CLIENTS: usize = 4096;

/// The largest datagram.
const DATAGRAM: usize = 65_535;

struct Session {
    upstream: Arc<UdpSocket>,
    backend: SocketAddr,
    last: Instant,
    cancel: CancellationToken,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Serves until it is cancelled.
pub(super) async fn serve(socket: UdpSocket, table: Arc<Table>, cancel: CancellationToken) {
    let socket = Arc::new(socket);
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(IDLE), if !sessions.is_empty() => {
                sessions.retain(|_, session| session.last.elapsed() < IDLE);
                continue;
            }
        };
        let Ok((length, client)) = received else { continue };
        let order = table.order();
        let stale = sessions
            .get(&client)
            .is_some_and(|session| order.iter().all(|backend| backend.address != session.backend));
        if stale {
            sessions.remove(&client);
        }
        if !sessions.contains_key(&client) {
            if sessions.len() >= MAX_CLIENTS {
                sessions.retain(|_, session| session.last.elapsed() < IDLE);
            }
            let Some(backend) = order.first().filter(|_| sessions.len() < MAX_CLIENTS) else { continue };
            let counted = Counted::new(&backend.connections);
            let Ok(session) = open(Arc::clone(&socket), client, backend.address, counted).await else {
                continue;
            };
            sessions.insert(client, session);
        }
        if let Some(session) = sessions.get_mut(&client) {
            session.last = Instant::now();
            // A datagram may be lost; the client knows.
            drop(session.upstream.send(&buffer[..length]).await);
        }
    }
}

async fn open(
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    backend: SocketAddr,
    counted: Counted,
) -> io::Result<Session> {
    let upstream = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    upstream.connect(backend).await?;
    let cancel = CancellationToken::new();
    let (answers, ended) = (Arc::clone(&upstream), cancel.clone());
    tokio::spawn(async move {
        let _counted = counted;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = tokio::select! {
                received = answers.recv(&mut buffer) => received,
                () = ended.cancelled() => return,
            };
            if let Ok(length) = length {
                drop(socket.send_to(&buffer[..length], client).await);
            }
        }
    });
    Ok(Session { upstream, backend, last: Instant::now(), cancel })
}
