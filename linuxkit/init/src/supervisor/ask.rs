//! Asks a container over the network: HTTP, gRPC's health protocol or a mere connection. Blocks up to the time limit, on a thread of its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::grpc::Check;

/// How much of an answer is read to find its status.
const STATUS_BYTES: usize = 512;

/// Connects, and that is all. Says what went wrong.
pub(super) fn tcp(host: &str, port: u16, limit: Duration) -> Result<TcpStream, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("tcp {host}:{port}: {error}");
    let address: SocketAddr = match host.parse() {
        Ok(address) => SocketAddr::new(address, port),
        Err(_) => (host, port)
            .to_socket_addrs()
            .map_err(|error| wrong(&error))?
            .next()
            .ok_or_else(|| wrong(&"no address"))?,
    };
    TcpStream::connect_timeout(&address, limit).map_err(|error| wrong(&error))
}

/// Sends a GET request; a status of 200 to 399 is success, whatever follows it.
pub(super) fn http(
    host: &str,
    port: u16,
    path: &str,
    headers: &[(String, String)],
    limit: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let mut stream = tcp(host, port, limit)?;
    let wrong = |reason: &str| format!("http://{host}:{port}{path}: {reason}");
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
    for (name, value) in headers {
        request.extend([name, ": ", value, "\r\n"]);
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).map_err(|error| wrong(&error.to_string()))?;
    let mut answer = Vec::new();
    while answer.len() < STATUS_BYTES && !answer.contains(&b'\n') {
        let mut buffer = [0; STATUS_BYTES];
        match read_until(&mut stream, &mut buffer, deadline).map_err(|error| wrong(&error))? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    match status(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(wrong(&format!("status {status}"))),
        None => Err(wrong("the answer is no HTTP")),
    }
}

/// Asks a gRPC server whether a service is healthy; an empty name means the server as a whole.
pub(super) fn grpc(host: &str, port: u16, service: &str, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    let mut stream = tcp(host, port, limit)?;
    let wrong = |reason: &str| format!("grpc {host}:{port} {service:?}: {reason}");
    let mut check = Check::new(&format!("{host}:{port}"), service);
    let mut buffer = [0; 4096];
    loop {
        stream.write_all(&check.take_output()).map_err(|error| wrong(&error.to_string()))?;
        let length = read_until(&mut stream, &mut buffer, deadline).map_err(|error| wrong(&error))?;
        if length == 0 {
            return Err(wrong("the server closed the connection"));
        }
        if let Some(answer) = check.receive(&buffer[..length]) {
            return answer.map_err(|reason| wrong(&reason));
        }
    }
}

/// Reads what is there, or waits for it until the deadline. Zero bytes are the end.
fn read_until(stream: &mut TcpStream, buffer: &mut [u8], deadline: Instant) -> Result<usize, String> {
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
        let left = left.ok_or("no answer in time")?;
        stream.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        match stream.read(buffer) {
            Ok(length) => return Ok(length),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(error.to_string()),
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
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that says one thing to one client and tells what it was asked.
    fn server(answer: &'static str) -> (u16, thread::JoinHandle<String>) {
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
            thread::sleep(Duration::from_millis(if answer.is_empty() { 400 } else { 0 }));
            String::from_utf8(asked).unwrap()
        });
        (port, thread)
    }

    const LIMIT: Duration = Duration::from_millis(200);

    fn get(port: u16) -> Result<(), String> {
        http("127.0.0.1", port, "/up?x=1", &[("host".into(), "web".into())], LIMIT)
    }

    #[test]
    fn statuses_of_success_and_failure() {
        let (port, thread) = server("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n");
        assert_eq!(get(port), Ok(()));
        let asked = thread.join().unwrap();
        assert!(asked.starts_with("GET /up?x=1 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("host: web\r\n") && !asked.contains("Host:"), "{asked}");
        let (port, _thread) = server("HTTP/1.1 503 Service Unavailable\r\n\r\n");
        assert_eq!(get(port), Err(format!("http://127.0.0.1:{port}/up?x=1: status 503")));
    }

    #[test]
    fn silence_and_nonsense_are_failures() {
        let (port, _thread) = server("");
        assert!(get(port).unwrap_err().ends_with("no answer in time"));
        let (port, _thread) = server("SSH-2.0-x\r\n");
        assert!(get(port).unwrap_err().ends_with("the answer is no HTTP"));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        assert!(tcp("127.0.0.1", closed, LIMIT).unwrap_err().contains("refused"));
    }
}
