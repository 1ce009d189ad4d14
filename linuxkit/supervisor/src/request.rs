//! Requests of probes and hooks to a container over the network: HTTP with and without TLS, gRPC's health protocol, or a
//! mere connection. They block up to their time limit; each has a thread of its own.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Duration;

use crate::connection::connect;
use crate::grpc::Check;
use crate::tls;

/// How much of an answer is read to find its status.
const STATUS_BYTES: usize = 512;

/// A request over HTTP.
#[derive(Debug)]
pub(crate) struct Get<'a> {
    pub(crate) tls: bool,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// With its query.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(String, String)],
}

/// Connects, and no more. Fails with the reason in words.
pub(crate) fn tcp(host: &str, port: u16, limit: Duration) -> Result<(), String> {
    connect(host, port, limit).map(drop)
}

/// Sends a GET request; a status of 200 to 399 is success, whatever follows it.
pub(crate) fn http(get: &Get<'_>, limit: Duration) -> Result<(), String> {
    let Get { tls, host, port, path, .. } = *get;
    let stream = connect(host, port, limit)?;
    let wrong = |reason: &dyn std::fmt::Display| {
        format!("{}://{host}:{port}{path}: {reason}", if tls { "https" } else { "http" })
    };
    let status = if tls {
        let stream = tls::over(stream, host).map_err(|error| wrong(&error))?;
        exchange(stream, &request(get))
    } else {
        exchange(stream, &request(get))
    };
    match status.map_err(|error| wrong(&error))? {
        Some(200..=399) => Ok(()),
        Some(status) => Err(wrong(&format!("status {status}"))),
        None => Err(wrong(&"the answer is no HTTP")),
    }
}

/// The request's text.
fn request(Get { host, port, path, headers, .. }: &Get<'_>) -> String {
    let given = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, default) in [
        ("Host", format!("{host}:{port}")),
        ("User-Agent", "kube-probe/i2kit".into()),
        ("Accept", "*/*".into()),
    ] {
        if !given(name) {
            request.extend([name, ": ", &default, "\r\n"]);
        }
    }
    for (name, value) in *headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.push_str("\r\n");
    request
}

/// Sends a request and reads the answer as far as its status; none if it has none.
fn exchange(mut stream: impl Read + Write, request: &str) -> io::Result<Option<u16>> {
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    while answer.len() < STATUS_BYTES && !answer.contains(&b'\n') {
        let mut buffer = [0; STATUS_BYTES];
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(status(&answer))
}

/// The health check of a gRPC server: of a service, or of the server as a whole when the name is empty.
pub(crate) fn grpc(host: &str, port: u16, service: &str, limit: Duration) -> Result<(), String> {
    let mut stream = connect(host, port, limit)?;
    let wrong = |reason: &str| format!("grpc {host}:{port} {service:?}: {reason}");
    let mut check = Check::new(&format!("{host}:{port}"), service);
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(&check.take_output()).map_err(|error| wrong(&error.to_string()))?;
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Err(wrong("the server closed the connection")),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(wrong(&error.to_string())),
        };
        if let Some(answer) = check.receive(&buffer[..length]) {
            return answer.map_err(|reason| wrong(&reason));
        }
    }
}

/// The status in the first line of an answer.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next()?.starts_with("HTTP/").then(|| words.next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;
    use crate::mutations::survive;

    /// A server that gives one client this answer and returns the client's request. With an empty answer it leaves the
    /// connection open for as long as the handle is kept.
    fn server(answer: &'static str) -> (u16, thread::JoinHandle<(String, Option<TcpStream>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 1024];
            while !asked.ends_with(b"\r\n\r\n") {
                let length = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..length]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            (String::from_utf8(asked).unwrap(), answer.is_empty().then_some(stream))
        });
        (port, thread)
    }

    /// For what answers, however slow the machine is.
    const PATIENCE: Duration = Duration::from_mins(1);

    fn get(port: u16, limit: Duration) -> Result<(), String> {
        let headers = [("host".into(), "web".into())];
        http(&Get { tls: false, host: "127.0.0.1", port, path: "/up?x=1", headers: &headers }, limit)
    }

    #[test]
    fn statuses_of_success_and_failure() {
        let (port, thread) = server("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n");
        assert_eq!(get(port, PATIENCE), Ok(()));
        let (asked, _) = thread.join().unwrap();
        assert!(asked.starts_with("GET /up?x=1 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("host: web\r\n") && !asked.contains("Host:"), "{asked}");
        let (port, _thread) = server("HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert_eq!(get(port, PATIENCE), Err(format!("http://127.0.0.1:{port}/up?x=1: status 503")));
    }

    #[test]
    fn silence_and_nonsense_are_failures() {
        let (port, _thread) = server("");
        assert!(get(port, Duration::from_millis(200)).unwrap_err().ends_with("no answer in time"));
        let (port, _thread) = server("SSH-2.0-x\r\n");
        assert!(get(port, PATIENCE).unwrap_err().ends_with("the answer is no HTTP"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(tcp("127.0.0.1", closed, PATIENCE).unwrap_err().contains("refused"));
    }

    /// A server that answers with these bytes and then says no more.
    struct Answering<'a>(&'a [u8]);

    impl Read for Answering<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Answering<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn whatever_a_container_answers_has_a_status_or_none() {
        let seeds = ["HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "HTTP/1.0 200\n", "SSH-2.0-x\r\n"];
        assert_eq!(seeds.map(|seed| status(seed.as_bytes())), [Some(302), Some(200), None]);
        survive(&seeds.map(Vec::from), 4000, |bytes| {
            let start = &bytes[..bytes.len().min(STATUS_BYTES)];
            assert_eq!(exchange(Answering(bytes), "GET / HTTP/1.1\r\n\r\n").unwrap(), status(start));
        });
    }
}
