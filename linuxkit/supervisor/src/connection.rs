//! A TCP connection with a deadline. It knows no protocol. Requests of probes and hooks are sent over it; clients of the health
//! port do not come here.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use i2kit_sys::clock;

use crate::lookup;

/// A connection on which whatever takes longer than its time limit fails.
#[derive(Debug)]
pub(crate) struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        left.ok_or_else(too_late)
    }
}

fn too_late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer in time")
}

/// The error of a socket whose time limit is over, in words.
fn in_words(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { too_late() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer).map_err(in_words)
    }
}

impl Write for Timed {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer).map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Connects to a name or an address within the time limit, which holds for all that follows on the connection too.
pub(crate) fn connect(host: &str, port: u16, limit: Duration) -> Result<Timed, String> {
    let deadline = clock::after(Instant::now(), limit);
    let wrong = |error: &dyn std::fmt::Display| format!("tcp {host}:{port}: {error}");
    let address = lookup::address(host, deadline).map_err(|error| wrong(&error))?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let stream =
        TcpStream::connect_timeout(&SocketAddr::new(address, port), left).map_err(|error| wrong(&error))?;
    Ok(Timed { stream, deadline })
}
