//! HTTP/1.1, as little as AWS's services need: a request on a connection of its own, and the whole answer.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::error::{Error, io};

/// The longest answer: a page of SSM has ten parameters of 8 KiB, a secret 64 KiB.
const MAX_ANSWER: u64 = 4 << 20;

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Endpoint {
    /// `http://HOST[:PORT]` or `https://HOST[:PORT]`, without a path.
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (tls, rest) = match url.split_once("://")? {
            ("https", rest) => (true, rest),
            ("http", rest) => (false, rest),
            _ => return None,
        };
        let rest = rest.trim_end_matches('/');
        let default = if tls { 443 } else { 80 };
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (rest, default),
        };
        let known = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        let good = !host.is_empty() && host.chars().all(known);
        good.then(|| Self { tls, host: host.to_owned(), port })
    }

    /// The header `Host`.
    pub(crate) fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

/// A question.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Besides `Host`, `Content-Length` and `Connection`.
    pub(crate) headers: &'a [(String, String)],
    pub(crate) body: &'a [u8],
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// Trust in the authorities of the web.
pub(crate) fn trust() -> Arc<ClientConfig> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows the protocol's versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Asks, and waits for each step no longer than `limit`.
pub(crate) fn ask(
    endpoint: &Endpoint,
    trust: &Arc<ClientConfig>,
    request: &Request<'_>,
    limit: Duration,
) -> Result<Response, Error> {
    let what = || format!("{} {}", request.method, endpoint.host);
    let stream = connect(endpoint, limit).map_err(io(what()))?;
    let bytes = render(endpoint, request);
    let answer = if endpoint.tls {
        let name = ServerName::try_from(endpoint.host.clone())
            .map_err(|e| Error::Answer { what: what(), reason: e.to_string() })?;
        let session = ClientConnection::new(Arc::clone(trust), name)
            .map_err(|e| Error::Answer { what: what(), reason: e.to_string() })?;
        exchange(StreamOwned::new(session, stream), &bytes)
    } else {
        exchange(stream, &bytes)
    };
    let answer = answer.map_err(io(what()))?;
    parse(&answer)
        .ok_or_else(|| Error::Answer { what: what(), reason: "the answer is no HTTP, or cut off".into() })
}

fn connect(endpoint: &Endpoint, limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn render(endpoint: &Endpoint, request: &Request<'_>) -> Vec<u8> {
    let mut head = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\nconnection: close\r\n",
        request.method,
        request.path,
        endpoint.authority(),
        request.body.len()
    );
    for (name, value) in request.headers {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(value);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(request.body);
    bytes
}

/// Sends, and reads until the other side ends the connection or the answer is whole.
fn exchange(mut stream: impl Read + Write, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut answer = Vec::new();
    let mut part = [0; 8 << 10];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // An end without TLS's own word for it: the answer's length says whether it is whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        if answer.len() as u64 > MAX_ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
        }
        if is_whole(&answer) {
            break;
        }
    }
    Ok(answer)
}

fn is_whole(answer: &[u8]) -> bool {
    let Some((head, body)) = split(answer) else { return false };
    content_length(head).is_some_and(|length| body.len() >= length)
}

fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let at = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&answer[..at]).ok()?, &answer[at + 4..]))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn content_length(head: &str) -> Option<usize> {
    header(head, "content-length")?.parse().ok()
}

/// Any bytes: an answer, or nothing.
pub(crate) fn parse(answer: &[u8]) -> Option<Response> {
    let (head, body) = split(answer)?;
    let first = head.lines().next()?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1))?.parse().ok()?;
    let body = if header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        unchunk(body)?
    } else if let Some(length) = content_length(head) {
        body.get(..length)?.to_vec()
    } else {
        body.to_vec()
    };
    Some(Response { status, body })
}

fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        body = &body[end + 2..];
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(body.get(..size)?);
        body = body.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_are_read_in_all_three_forms() {
        let of = |text: &str| parse(text.as_bytes()).unwrap();
        let hello = Response { status: 200, body: b"hello".to_vec() };
        assert_eq!(of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), hello);
        assert_eq!(of("HTTP/1.0 200 OK\r\n\r\nhello"), hello);
        let chunked =
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\n\r\n";
        assert_eq!(of(chunked), hello);
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello"), None);
        assert_eq!(parse(b"SSH-2.0\r\n\r\n"), None);
    }

    #[test]
    fn endpoints_are_addresses_without_a_path() {
        let endpoint = Endpoint::parse("https://logs.eu-west-1.amazonaws.com/").unwrap();
        assert_eq!((endpoint.port, endpoint.authority()), (443, "logs.eu-west-1.amazonaws.com".into()));
        assert_eq!(Endpoint::parse("http://10.0.2.2:5000").unwrap().authority(), "10.0.2.2:5000");
        for bad in ["ftp://x", "http://", "http://a b", "http://x:y", "http://x/y"] {
            assert_eq!(Endpoint::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let chunked = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &bytes[..]].concat();
            let _ = parse(&chunked);
        }
    }
}
