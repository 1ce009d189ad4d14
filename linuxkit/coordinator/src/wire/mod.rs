//! Connections between replicas: frames over mutual TLS 1.3. [`frame`] is the format, [`tls`] the identity, [`link`] the side that
//! asks, [`service`] the side that answers.

pub(crate) mod frame;
pub(crate) mod link;
pub(crate) mod service;
pub(crate) mod tls;

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// A connection breaks when its other end, a machine that is gone, said nothing to what was sent for so long.
const SILENCE: Duration = Duration::from_secs(4);

/// Sets what connections between replicas have in common: nothing is gathered by the kernel, and an end that is gone is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, millis)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE / 2)?;
    sockopt::set_tcp_keepintvl(stream, SILENCE / 4)?;
    Ok(())
}

#[cfg(test)]
mod tests;
