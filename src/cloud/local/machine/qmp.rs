//! The QEMU Machine Protocol: JSON lines on a VM's socket. Each question is a connection of its own, since qemu talks
//! to one client at a time and a client that stays would lock out every other.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use super::qemu;
use crate::cloud::local::socket;
use crate::manifest::api::Protocol;

/// qemu answers at once unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const ANSWER_BYTES: usize = 1 << 20;

/// A port of the guest and where the host reaches it.
pub(crate) type Forward = (u16, Protocol, SocketAddr);

/// Presses the VM's power button.
pub(crate) async fn power_off(folder: &Path) -> io::Result<()> {
    command(folder, json!({ "execute": "system_powerdown" })).await.map(drop)
}

/// The forwards from host ports to ports of the guest.
pub(crate) async fn forwards(folder: &Path) -> io::Result<Vec<Forward>> {
    monitor(folder, "info usernet").await.map(|text| parse_forwards(&text))
}

/// Adds the forward of a port that the VM was not started with.
pub(crate) async fn add_forward(folder: &Path, port: u16, protocol: Protocol) -> io::Result<()> {
    let said = monitor(folder, &format!("hostfwd_add net {}", qemu::forward(port, protocol))).await?;
    if said.trim().is_empty() { Ok(()) } else { Err(io::Error::other(said.trim().to_owned())) }
}

/// A command of qemu's human monitor, for what QMP itself has no words.
async fn monitor(folder: &Path, line: &str) -> io::Result<String> {
    let question = json!({ "execute": "human-monitor-command", "arguments": { "command-line": line } });
    let answer = command(folder, question).await?;
    Ok(answer.as_str().unwrap_or_default().to_owned())
}

async fn command(folder: &Path, question: Value) -> io::Result<Value> {
    let conversation = async {
        let mut stream = BufReader::new(socket::connect(folder, qemu::QMP).await?);
        read_message(&mut stream).await?;
        ask(&mut stream, &json!({ "execute": "qmp_capabilities" })).await?;
        ask(&mut stream, &question).await
    };
    tokio::time::timeout(PATIENCE, conversation).await?
}

async fn ask(stream: &mut BufReader<UnixStream>, question: &Value) -> io::Result<Value> {
    stream.get_mut().write_all(format!("{question}\n").as_bytes()).await?;
    loop {
        let mut message = read_message(stream).await?;
        if let Some(answer) = message.get_mut("return") {
            return Ok(answer.take());
        }
        if let Some(error) = message.get("error") {
            return Err(io::Error::other(error["desc"].as_str().unwrap_or("qemu refused").to_owned()));
        }
        // Anything else is an event.
    }
}

async fn read_message(stream: &mut BufReader<UnixStream>) -> io::Result<Value> {
    let mut line = Vec::new();
    loop {
        let available = stream.fill_buf().await?;
        if available.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        line.extend_from_slice(&available[..taken]);
        stream.consume(taken);
        if end.is_some() {
            return serde_json::from_slice(&line).map_err(io::Error::other);
        }
        if line.len() > ANSWER_BYTES {
            return Err(io::Error::other("qemu's answer is too long"));
        }
    }
}

/// Reads the table of `info usernet`: protocol and state, descriptor, host address and port, guest address and port.
fn parse_forwards(text: &str) -> Vec<Forward> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [kind, _, address, port, _, guest_port, ..] = fields[..] else { return None };
        let protocol = match kind {
            "TCP[HOST_FORWARD]" => Protocol::Tcp,
            "UDP[HOST_FORWARD]" => Protocol::Udp,
            _ => return None,
        };
        let address = format!("{address}:{port}").parse().ok()?;
        Some((guest_port.parse().ok()?, protocol, address))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_from_the_monitors_table() {
        let text = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                    TCP[HOST_FORWARD]  13       127.0.0.1 42973       10.0.2.15    81     0     0\r\n  \
                    TCP[ESTABLISHED]   14       10.0.2.15 40000       10.0.0.1     443    0     0\r\n  \
                    UDP[HOST_FORWARD]   8       127.0.0.1 42539       10.0.2.15    53     0     0\r\n";
        assert_eq!(
            parse_forwards(text),
            [
                (81, Protocol::Tcp, "127.0.0.1:42973".parse().unwrap()),
                (53, Protocol::Udp, "127.0.0.1:42539".parse().unwrap()),
            ]
        );
    }

    #[tokio::test]
    async fn events_between_question_and_answer_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let listener = socket::listen(folder.path(), qemu::QMP).unwrap();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            stream.get_mut().write_all(b"{\"QMP\": {}}\n").await.unwrap();
            read_message(&mut stream).await.unwrap();
            stream.get_mut().write_all(b"{\"return\": {}}\n").await.unwrap();
            assert_eq!(read_message(&mut stream).await.unwrap()["execute"], "query-name");
            stream
                .get_mut()
                .write_all(b"{\"event\": \"RESUME\"}\n{\"return\": {\"name\": \"web\"}}\n")
                .await
                .unwrap();
        };
        let question = command(folder.path(), json!({ "execute": "query-name" }));
        let (answer, ()) = tokio::join!(question, server);
        assert_eq!(answer.unwrap()["name"], "web");
    }
}
