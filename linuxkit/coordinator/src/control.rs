//! The coordinator's port for what changes the group itself: who leads, and the recovery from the loss of a majority. HTTP/1.1, one
//! request a connection, bodies of JSON. It asks nobody who they are: the network of the environment leads to it from the computer that
//! runs the machine alone. Containers of the pod reach it as well. A page in a browser does not, since its `Host` is a name: the name of
//! another may be made to lead here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use i2kit_spec::replica::{LeadRequest, MAX_CONTROL_BODY, RecoverRequest, Refused};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::member::fence::Ending;
use crate::node::Node;
use crate::silent::{Places, Ticket};

/// Connections at one time; for a further one the connection goes that is silent for longest.
const MAX_CONNECTIONS: usize = 8;

/// The longest head of a request, in bytes.
const MAX_HEAD: usize = 8 << 10;

/// How long a request may take to come in.
const ARRIVAL: Duration = Duration::from_secs(1);

/// How long an answer may take, what it tells of included.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    method: String,
    path: String,
    is_json: bool,
    body: Vec<u8>,
}

/// Why nothing was done: a status of HTTP, and the words.
#[derive(Debug)]
pub(crate) struct Denied(pub(crate) u16, pub(crate) Refused);

impl Denied {
    /// With words alone.
    pub(crate) fn new(code: u16, error: impl Into<String>) -> Self {
        Self(code, Refused { error: error.into(), leader: None })
    }
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, node: Arc<Node>) {
    let places = Places::new(MAX_CONNECTIONS);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let node = node.clone();
        let answering = async move |ticket: Ticket| {
            // Who asked is gone, or says nothing: there is nobody to tell.
            let _ = timeout(PATIENCE, exchange(stream, &ticket, &node)).await;
        };
        places.spawn(answering).await;
    }
}

async fn exchange(mut stream: TcpStream, ticket: &Ticket, node: &Node) -> io::Result<()> {
    let asked = timeout(ARRIVAL, request(&mut stream)).await??;
    ticket.spoke();
    let mut ending = None;
    let answer = match &asked {
        Ok(asked) => answer(asked, node, &mut ending).await,
        Err(denied) => Err(Denied::new(denied.0, denied.1)),
    };
    let (code, text) = match answer {
        Ok(text) => (200, text),
        Err(Denied(code, refused)) => (code, serde_json::to_string(&refused)?),
    };
    let written = stream.write_all(&document(code, &text)).await;
    match written {
        Ok(()) => stream.shutdown().await,
        Err(error) => Err(error),
    }
    // Here, or wherever this is given up, a replica that was recovered ends: the answer arrives where it can.
}

async fn answer(asked: &Asked, node: &Node, ending: &mut Option<Ending>) -> Result<String, Denied> {
    let path = asked.path.split('?').next().unwrap_or_default();
    match (asked.method.as_str(), path) {
        ("GET", "/recover") => json(&node.recovery().await),
        ("POST", "/lead" | "/recover") if !asked.is_json => {
            Err(Denied::new(415, "the body is to be JSON, and Content-Type is to say so: application/json"))
        }
        ("POST", "/lead") => json(&node.lead(&parsed::<LeadRequest>(&asked.body)?).await?),
        ("POST", "/recover") => json(&node.recover(&parsed::<RecoverRequest>(&asked.body)?, ending).await?),
        (_, "/lead" | "/recover") => {
            Err(Denied::new(405, "there are POST /lead, GET /recover and POST /recover"))
        }
        _ => Err(Denied::new(404, "there are /lead and /recover")),
    }
}

fn parsed<'b, T: serde::Deserialize<'b>>(body: &'b [u8]) -> Result<T, Denied> {
    serde_json::from_slice(body)
        .map_err(|error| Denied::new(400, format!("the body cannot be read: {error}")))
}

fn json(value: &impl Serialize) -> Result<String, Denied> {
    serde_json::to_string(value).map_err(|error| Denied::new(503, error.to_string()))
}

/// Why bytes are no request.
#[derive(Debug, PartialEq, Eq)]
struct Wrong(u16, &'static str);

/// Reads a request.
async fn request(stream: &mut TcpStream) -> io::Result<Result<Asked, Wrong>> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match parse(&bytes) {
            Ok(Some(asked)) => return Ok(Ok(asked)),
            Err(wrong) => return Ok(Err(wrong)),
            Ok(None) if stream.read_buf(&mut bytes).await? == 0 => {
                return Ok(Err(Wrong(400, "the request is not whole")));
            }
            Ok(None) => {}
        }
    }
}

/// The request that the bytes are; none while it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<Asked>, Wrong> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => return Ok(None),
        _ => return Err(Wrong(400, "this is no request of HTTP/1.1")),
    };
    let named = |name: &str| {
        let of_name = request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        of_name.map(|header| std::str::from_utf8(header.value).unwrap_or_default().trim()).collect::<Vec<_>>()
    };
    if !named("host").iter().all(|host| is_address(host)) {
        return Err(Wrong(421, "Host is to be an address, not a name"));
    }
    if !named("transfer-encoding").is_empty() {
        return Err(Wrong(411, "the body has no Content-Length"));
    }
    let length = match named("content-length").as_slice() {
        [] => Some(0),
        [length] if length.bytes().all(|byte| byte.is_ascii_digit()) => length.parse::<usize>().ok(),
        _ => None,
    };
    let length = length.ok_or(Wrong(400, "Content-Length is no number"))?;
    if length > MAX_CONTROL_BODY {
        return Err(Wrong(413, "the body is too long"));
    }
    let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
    let kind = named("content-type").first().map(|kind| kind.split(';').next().unwrap_or_default().trim());
    let is_json = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    Ok(Some(Asked { method: text(request.method), path: text(request.path), is_json, body: body.to_vec() }))
}

/// Whether a `Host` is an address of IP, with a port or without.
fn is_address(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.parse::<SocketAddr>().is_ok() || bare.parse::<IpAddr>().is_ok()
}

fn document(code: u16, text: &str) -> Vec<u8> {
    let phrase = match code {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        _ => "Service Unavailable",
    };
    let length = text.len();
    format!(
        "HTTP/1.1 {code} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n{text}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::tests::mutations;

    const LEAD: &[u8] = b"POST /lead HTTP/1.1\r\nHost: 10.0.0.1:7313\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{\"group\":\"default/a\",\"slot\":1}";

    #[test]
    fn a_request_is_whole_with_its_body() {
        for len in 0..LEAD.len() - 1 {
            assert_eq!(parse(&LEAD[..len]), Ok(None), "{len}");
        }
        let asked = parse(LEAD).unwrap().unwrap();
        assert_eq!((asked.method.as_str(), asked.path.as_str(), asked.is_json), ("POST", "/lead", true));
        let wanted = LeadRequest { group: "default/a".into(), slot: 1 };
        assert_eq!(parsed::<LeadRequest>(&asked.body).unwrap(), wanted);
        let get = parse(b"GET /recover HTTP/1.1\r\n\r\n").unwrap().unwrap();
        assert!(get.body.is_empty() && !get.is_json);
        for host in ["127.0.0.1", "10.9.0.2:7313", "[fd00::2]:7313", "[::1]"] {
            let text = format!("GET /recover HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert!(parse(text.as_bytes()).unwrap().is_some(), "{host}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let code = |bytes: &[u8]| parse(bytes).unwrap_err().0;
        assert_eq!(code(b"nonsense\r\n\r\n"), 400);
        assert_eq!(code(&[b"GET / HTTP/1.1\r\nA: ".as_slice(), &[b'a'; 9000]].concat()), 400);
        for host in [
            "evil.example",
            "evil.example:7313",
            "localhost",
            "",
            "127.0.0.1.evil.example",
            "10.0.0.1\r\nHost: evil.example",
        ] {
            assert_eq!(
                code(format!("POST /recover HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()),
                421,
                "{host}"
            );
        }
        assert_eq!(code(b"POST / HTTP/1.1\r\nContent-Length: 4097\r\n\r\n"), 413);
        assert_eq!(code(b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), 400);
        assert_eq!(code(b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"), 400);
        assert_eq!(code(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), 411);
        assert!(parsed::<LeadRequest>(b"{\"group\":\"a\",\"slot\":1,\"more\":2}").is_err());
        assert!(parsed::<RecoverRequest>(b"{\"group\":\"a\",\"id\":7}").is_err());
    }

    #[test]
    fn changed_requests_do_no_harm() {
        mutations::survive(&[LEAD.to_vec()], 20_000, |bytes| {
            if let Ok(Some(asked)) = parse(bytes) {
                assert!(asked.body.len() <= MAX_CONTROL_BODY);
                drop((parsed::<LeadRequest>(&asked.body), parsed::<RecoverRequest>(&asked.body)));
            }
        });
    }
}
