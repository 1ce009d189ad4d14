//! The sockets of fronts: bound to the port that is wanted or to another one, kept so that they outlive this process.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// Connections that wait in the kernel until they are accepted.
pub(super) const BACKLOG: i32 = 4096;

/// Ports below this one need a privilege.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Added to such a port that cannot be bound: 80 becomes 8080, 443 becomes 8443.
const FALLBACK_OFFSET: u16 = 8000;

/// Where listeners are kept.
pub(crate) trait Sockets: std::fmt::Debug + Send + Sync {
    /// The listener of that name which an earlier process bound.
    fn take(&self, name: &str) -> Option<TcpListener>;
    /// Keeps a listener.
    fn keep(&self, name: &str, listener: &TcpListener);
    /// Closes it everywhere.
    fn forget(&self, name: &str);
}

/// A port that is open and not served yet.
pub(super) struct Opened {
    pub(super) listener: TcpListener,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

const PLAIN: &str = "http";
const TLS: &str = "https";

/// The name among those that are kept of a front's listener with TLS or without.
fn name(front: &str, is_tls: bool) -> String {
    format!("{} {front}", if is_tls { TLS } else { PLAIN })
}

/// Closes a listener of a front.
pub(super) fn close(sockets: &dyn Sockets, front: &str, is_tls: bool) {
    sockets.forget(&name(front, is_tls));
}

/// The listener of a front that was kept, or a new one.
pub(super) fn open(
    sockets: &dyn Sockets,
    front: &str,
    host: Ipv4Addr,
    (is_tls, port): (bool, u16),
) -> io::Result<Opened> {
    let name = name(front, is_tls);
    let is_ours = |kept: &TcpListener| kept.local_addr().is_ok_and(|address| address.ip() == host);
    let listener = if let Some(kept) = sockets.take(&name).filter(is_ours) {
        kept
    } else {
        let bound = bind(host, port)?;
        sockets.keep(&name, &bound);
        bound
    };
    opened(listener, is_tls)
}

/// A new listener of a front at this port and no other, or at any free one for 0. It is kept in the place of the one before.
pub(super) fn open_at(
    sockets: &dyn Sockets,
    front: &str,
    host: Ipv4Addr,
    (is_tls, port): (bool, u16),
) -> io::Result<Opened> {
    let listener = TcpListener::bind((host, port))?;
    rustix::net::listen(&listener, BACKLOG)?;
    let opened = opened(listener, is_tls)?;
    sockets.keep(&name(front, is_tls), &opened.listener);
    Ok(opened)
}

fn opened(listener: TcpListener, is_tls: bool) -> io::Result<Opened> {
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok(Opened { listener, port, is_tls })
}

/// Binds a port, or another one where this user may not have it or another program has it.
fn bind(host: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
    let taken = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::AddrInUse)
    };
    let fallback = if port < FIRST_UNPRIVILEGED { port + FALLBACK_OFFSET } else { 0 };
    let listener = match TcpListener::bind((host, port)) {
        Err(error) if taken(&error) => TcpListener::bind((host, fallback))
            .or_else(|error| if taken(&error) { TcpListener::bind((host, 0)) } else { Err(error) })?,
        bound => bound?,
    };
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}
