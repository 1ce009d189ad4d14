//! The QEMU Machine Protocol: JSON lines on a machine's socket. Each command is a connection of its own, since qemu
//! serves one client at a time, and a client that stays would lock out every other.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::cloud::local::socket;

/// The QMP socket, in a machine's folder.
pub(crate) const SOCKET: &str = "qmp.sock";

/// The status of a machine that waits for the state of its devices.
pub(crate) const AWAITING: &str = "inmigrate";

/// The time limit of a command: qemu answers at once unless the host is very busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read.
const ANSWER_BYTES: usize = 1 << 20;

/// Presses the machine's power button. A guest that was told so before goes on as it does.
pub(crate) async fn power_off(folder: &Path) -> io::Result<()> {
    command(folder, json!({ "execute": "system_powerdown" })).await.map(drop)
}

/// Grows the disk of this number that outlives the machine. The guest sees its new size at once.
pub(crate) async fn grow_disk(folder: &Path, number: usize, bytes: u64) -> io::Result<()> {
    let arguments = json!({ "node-name": disk_node(number), "size": bytes });
    command(folder, json!({ "execute": "block_resize", "arguments": arguments })).await.map(drop)
}

/// Has the machine stand still: what it writes is written.
pub(crate) async fn pause(folder: &Path) -> io::Result<()> {
    command(folder, json!({ "execute": "stop" })).await.map(drop)
}

/// Has the machine go on; one that does already is left alone.
pub(crate) async fn resume(folder: &Path) -> io::Result<()> {
    command(folder, json!({ "execute": "cont" })).await.map(drop)
}

/// Whether the machine stands still because somebody [paused](pause) it.
pub(crate) async fn is_paused(folder: &Path) -> io::Result<bool> {
    Ok(status(folder).await? == "paused")
}

/// What the machine does, in qemu's word: `running`, or [`AWAITING`].
pub(crate) async fn status(folder: &Path) -> io::Result<String> {
    let found = command(folder, json!({ "execute": "query-status" })).await?;
    Ok(found["status"].as_str().unwrap_or_default().to_owned())
}

/// Writes the state of the devices of a machine that stands still, without its memory, to the file of this name in its folder. Not
/// by a migration: that has no form without the memory in all versions of qemu.
pub(crate) async fn save_devices(folder: &Path, file: &str) -> io::Result<()> {
    // A machine that is `live` gives its disks away.
    let arguments = json!({ "filename": file, "live": false });
    command(folder, json!({ "execute": "xen-save-devices-state", "arguments": arguments })).await.map(drop)
}

/// qemu's name of the disk of this number that outlives the machine.
pub(crate) fn disk_node(number: usize) -> String {
    format!("kept{number}")
}

/// Runs a command of qemu's human monitor, for what QMP itself has no command. Returns what the monitor prints.
pub(crate) async fn monitor(folder: &Path, line: &str) -> io::Result<String> {
    let request = json!({ "execute": "human-monitor-command", "arguments": { "command-line": line } });
    let answer = command(folder, request).await?;
    Ok(answer.as_str().unwrap_or_default().to_owned())
}

async fn command(folder: &Path, request: Value) -> io::Result<Value> {
    let conversation = async {
        let mut stream = BufReader::new(socket::connect(folder, SOCKET).await?);
        read_message(&mut stream).await?;
        ask(&mut stream, &json!({ "execute": "qmp_capabilities" })).await?;
        ask(&mut stream, &request).await
    };
    tokio::time::timeout(PATIENCE, conversation).await.unwrap_or_else(|_| {
        let reason = format!("qemu has not answered for {} s", PATIENCE.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, reason))
    })
}

async fn ask(stream: &mut BufReader<UnixStream>, request: &Value) -> io::Result<Value> {
    stream.get_mut().write_all(format!("{request}\n").as_bytes()).await?;
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

async fn read_message(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Value> {
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mutations::survive;

    /// Stands in for the qemu of a machine: takes a command for each of `answers`, which it gives, and returns what it was asked
    /// to do.
    pub(crate) async fn stand_in(folder: &Path, answers: &[Value]) -> Vec<String> {
        let listener = socket::listen(folder, SOCKET).unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            let (client, _) = listener.accept().await.unwrap();
            let mut client = BufReader::new(client);
            for said in [&json!({ "QMP": {} }), &json!({ "return": {} }), answer] {
                if said.get("QMP").is_none() {
                    let request = read_message(&mut client).await.unwrap();
                    asked.extend(request["execute"].as_str().map(str::to_owned));
                }
                client.get_mut().write_all(format!("{said}\n").as_bytes()).await.unwrap();
            }
        }
        asked.retain(|command| command != "qmp_capabilities");
        asked
    }

    #[tokio::test]
    async fn events_between_question_and_answer_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let listener = socket::listen(folder.path(), SOCKET).unwrap();
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

    #[test]
    fn whatever_qemu_says_is_read_or_refused() {
        let seeds = [
            "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0}}, \"capabilities\": [\"oob\"]}}\r\n{\"return\": {}}\r\n",
            "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"RESUME\"}\n{\"return\": \"Hub -1\"}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such device\"}}\n",
        ];
        let whole = |bytes: &[u8]| {
            let mut stream = bytes;
            let mut messages = 0;
            // Each message takes a line, so that this ends.
            while futures::executor::block_on(read_message(&mut stream)).is_ok() {
                messages += 1;
            }
            messages
        };
        assert_eq!(seeds.map(|seed| whole(seed.as_bytes())), [2, 2, 1]);
        survive(&seeds.map(Vec::from), 3000, |bytes| {
            assert!(whole(bytes) < bytes.split(|byte| *byte == b'\n').count());
        });
    }

    /// qemu itself may have been taken over: an answer without end is given up.
    #[tokio::test]
    async fn an_answer_of_qemu_without_end_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let listener = socket::listen(folder.path(), SOCKET).unwrap();
        let endless = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut sent = 0_usize;
            while stream.write_all(&vec![b'x'; 64 * 1024]).await.is_ok() {
                sent += 64 * 1024;
            }
            sent
        };
        let (answer, sent) = tokio::join!(monitor(folder.path(), "info usernet"), endless);
        assert!(answer.unwrap_err().to_string().contains("too long"));
        assert!(sent < 16 << 20, "{sent} bytes were read");
    }
}
