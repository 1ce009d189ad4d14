//! The proxy's control socket: a length of four bytes, the highest first, and a value as JSON, both ways. It is in the
//! local cloud's folder, which is its user's alone, and takes no other user but root; keys pass here and nowhere else.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::wanted::{Call, Report};
use crate::cloud::local::socket;

/// The socket's name.
pub(crate) const SOCKET: &str = "proxy.sock";

/// The longest message: thousands of certificates.
const LONGEST: usize = 64 << 20;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// Reads a value; `None` at the end.
pub(super) async fn read<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => drop(read?),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Writes a value.
pub(super) async fn write<T: Serialize + Sync>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    let json = serde_json::to_vec(value)?;
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= LONGEST);
    let length = length
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the rules are too long to be sent"))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(json);
    stream.write_all(&bytes).await
}

/// A connection to the proxy.
#[derive(Debug)]
pub(crate) struct Client(UnixStream);

impl Client {
    /// Connects to the proxy of a local cloud's folder. An error of the kind `NotFound` or `ConnectionRefused`: there
    /// is none.
    pub(crate) async fn connect(folder: &Path) -> io::Result<Self> {
        let stream = socket::connect(folder, SOCKET).await?;
        socket::check_peer(&stream)?;
        Ok(Self(stream))
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn call(&mut self, call: &Call) -> io::Result<Report> {
        let answer = async {
            write(&mut self.0, call).await?;
            read(&mut self.0).await?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the HTTP proxy does not answer");
        tokio::time::timeout(ANSWER, answer).await.map_err(late)?
    }
}
