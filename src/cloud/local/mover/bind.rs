//! Binding of listeners: to the port that is wanted, or to another one where that is not to be had.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use super::table::Fd;
use crate::manifest::api::Protocol;

/// Ports below this one need a privilege.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Added to a port that cannot be bound: 80 becomes 8080, 443 becomes 8443.
pub(super) const FALLBACK_OFFSET: u16 = 8000;

/// Connections that wait in the kernel to be accepted. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A socket that is bound, and its port.
pub(super) type Bound = (Fd, u16);

/// Binds `port`; 0 is any free port. The socket does not block.
pub(super) fn bind(host: Ipv4Addr, port: u16, protocol: Protocol) -> io::Result<Bound> {
    let (socket, port): (OwnedFd, u16) = match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind((host, port))?;
            listener.set_nonblocking(true)?;
            rustix::net::listen(&listener, BACKLOG)?;
            // Accepted sockets have it from their listener: small answers must not wait for more.
            rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
            let port = listener.local_addr()?.port();
            (listener.into(), port)
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind((host, port))?;
            socket.set_nonblocking(true)?;
            let port = socket.local_addr()?.port();
            (socket.into(), port)
        }
    };
    Ok((Fd::from_owned(socket), port))
}

/// Binds another port than `port`, whose binding failed with `error`: where this user may not have the port, or another
/// program has it.
pub(super) fn bind_elsewhere(
    host: Ipv4Addr,
    port: u16,
    protocol: Protocol,
    error: io::Error,
) -> io::Result<Bound> {
    if !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::AddrInUse) {
        return Err(error);
    }
    let fallback = if port < FIRST_UNPRIVILEGED { port + FALLBACK_OFFSET } else { 0 };
    bind(host, fallback, protocol).or_else(|_| bind(host, 0, protocol))
}
