//! Binding of listeners: to the port that is wanted, or to another one where that is not to be had.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use crate::manifest::api::Protocol;

/// Ports below this one need a privilege.
const FIRST_UNPRIVILEGED: u16 = 1024;

/// Added to a port that cannot be bound: 80 becomes 8080, 443 becomes 8443.
pub(super) const FALLBACK_OFFSET: u16 = 8000;

/// A socket that is bound to a port.
pub(super) enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// Binds `port`; 0 is any free port.
pub(super) fn bind(host: Ipv4Addr, port: u16, protocol: Protocol) -> io::Result<Bound> {
    match protocol {
        Protocol::Tcp => TcpListener::bind((host, port)).map(Bound::Tcp),
        Protocol::Udp => UdpSocket::bind((host, port)).map(Bound::Udp),
    }
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
