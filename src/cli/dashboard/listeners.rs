//! The addresses that the dashboard listens on: one port of 127.0.0.1 and, where the host has IPv6, of `::1`. Browsers try both
//! for `localhost`, so that another user's program at one of them would get what is meant for the other.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, anyhow};
use tokio::net::{TcpListener, TcpStream};

/// How many free ports are tried, of which another program may have the one of `::1`.
const TRIES: u32 = 32;

/// Both listeners of one port.
#[derive(Debug)]
pub(super) struct Listeners {
    port: u16,
    ipv4: TcpListener,
    /// None where the host has no `::1`, which nobody else can have then.
    ipv6: Option<TcpListener>,
}

impl Listeners {
    /// The port that is asked for, or a free one.
    ///
    /// # Errors
    /// When a port cannot be had at both addresses.
    pub(super) async fn bind(port: Option<u16>) -> anyhow::Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            let ipv4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port.unwrap_or(0))).await;
            let ipv4 = ipv4.with_context(|| advice(port, Ipv4Addr::LOCALHOST.into()))?;
            let own = ipv4.local_addr().context("cannot read the port")?.port();
            match TcpListener::bind((Ipv6Addr::LOCALHOST, own)).await {
                Ok(ipv6) => return Ok(Self { port: own, ipv4, ipv6: Some(ipv6) }),
                Err(error) if is_absent(&error) => return Ok(Self { port: own, ipv4, ipv6: None }),
                Err(_) if port.is_none() && tries < TRIES => {}
                Err(error) => return Err(anyhow!(error).context(advice(port, Ipv6Addr::LOCALHOST.into()))),
            }
        }
    }

    /// The port.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The next connection at either of them.
    pub(super) async fn accept(&self) -> io::Result<TcpStream> {
        let ipv6 = async {
            match &self.ipv6 {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = self.ipv4.accept() => accepted,
            accepted = ipv6 => accepted,
        }
        .map(|(stream, _)| stream)
    }
}

/// Whether the host has no `::1`.
fn is_absent(error: &io::Error) -> bool {
    let absent = [rustix::io::Errno::ADDRNOTAVAIL, rustix::io::Errno::AFNOSUPPORT];
    absent.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn advice(port: Option<u16>, address: IpAddr) -> String {
    match port {
        Some(port) => {
            format!(
                "cannot listen on port {port} of {address}; give another one with `--port`, or none for a free one"
            )
        }
        None => format!("cannot listen on {address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_is_ours_at_both_addresses() {
        let listeners = Listeners::bind(None).await.unwrap();
        let port = listeners.port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        listeners.accept().await.unwrap();
        let other = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await;
        match &listeners.ipv6 {
            Some(_) => {
                assert_eq!(other.unwrap_err().kind(), io::ErrorKind::AddrInUse);
                TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
                listeners.accept().await.unwrap();
            }
            None => assert!(is_absent(&other.unwrap_err())),
        }
        let error = format!("{:#}", Listeners::bind(Some(port)).await.unwrap_err());
        assert!(error.contains("127.0.0.1; give another one with `--port`"), "{error}");
    }

    #[tokio::test]
    async fn a_port_that_another_has_at_one_of_them_is_refused() {
        let Ok(other) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else {
            // The host has no ::1.
            return assert!(Listeners::bind(None).await.unwrap().ipv6.is_none());
        };
        let port = other.local_addr().unwrap().port();
        // Should somebody have it at 127.0.0.1 too, that is said.
        let error = format!("{:#}", Listeners::bind(Some(port)).await.unwrap_err());
        assert!(error.contains(&format!("port {port} of ")) && error.contains("--port"), "{error}");
    }
}
