//! Just enough HTTP to ask a pod for a page.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::eventually;

/// How long one answer may take. Shorter than [`super::PATIENCE`], so that whoever waits for an answer asks again.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Response {
    /// The status code.
    pub(crate) status: u16,
    /// Header lines and body, as they came.
    pub(crate) text: String,
}

/// Asks `address` for `path`, over a connection of its own.
pub(crate) fn get(address: &str, path: &str) -> io::Result<Response> {
    get_with(address, path, "")
}

/// The same, with these header lines, each with its end.
pub(crate) fn get_with(address: &str, path: &str, headers: &str) -> io::Result<Response> {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n"))
}

/// Sends this request as it is, over a connection of its own that the answer ends.
pub(crate) fn ask(address: &str, request: &str) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.map(|status| Response { status, text }).ok_or_else(|| io::Error::other("no HTTP answer"))
}

/// Asks for `/` until the answer is 200 and holds `text`.
pub(crate) fn wait_for_page(address: &str, text: &str) -> Response {
    eventually(&format!("page with `{text}` at {address}"), || {
        get(address, "/").ok().filter(|response| response.status == 200 && response.text.contains(text))
    })
}
