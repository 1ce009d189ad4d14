//! The relay of questions to the name servers of this host.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};

use super::{framing, message};

/// The file that names this host's name servers.
pub(super) const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The time limit of a relayed question; resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The number of servers that are asked at most: resolvers ignore further ones as well.
const SERVERS: usize = 3;

/// The largest datagram.
const DATAGRAM: usize = 65_535;

/// How a question came, and so how it is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection: the answer may have any length.
    Tcp,
}

/// Asks this host's name servers.
#[derive(Debug)]
pub(super) struct Relay {
    /// The file that names them, resolv.conf(5). It is read for each question: it changes with the networks that a
    /// laptop is in.
    pub(super) settings: PathBuf,
    /// Their port.
    pub(super) port: u16,
}

impl Relay {
    /// The answer of the first server that has one; "server failure" if none has.
    pub(super) async fn ask(&self, question: &[u8], transport: Transport) -> Vec<u8> {
        let settings = fs::read_to_string(&self.settings).unwrap_or_default();
        let servers = name_servers(&settings);
        let mut last = None;
        for server in &servers {
            // Each has an equal part of the time, so that one that is gone does not use up that of the others.
            let patience = PATIENCE / u32::try_from(servers.len()).unwrap_or(1);
            let server = SocketAddr::new(*server, self.port);
            let Ok(Ok(answer)) = tokio::time::timeout(patience, ask(server, question, transport)).await
            else {
                continue;
            };
            if !message::is_refusal(&answer) {
                return answer;
            }
            last = Some(answer);
        }
        last.unwrap_or_else(|| message::failure(question))
    }
}

async fn ask(server: SocketAddr, question: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    match transport {
        Transport::Udp => ask_by_datagram(server, question).await,
        // Some servers know no TCP; most answers fit into a datagram.
        Transport::Tcp => match ask_by_stream(server, question).await {
            Err(_) => ask_by_datagram(server, question).await,
            answered => answered,
        },
    }
}

async fn ask_by_datagram(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        // The same id: not a late answer to an earlier owner of this port.
        if answer[..length].get(..2) == question.get(..2) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_by_stream(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    framing::write(&mut stream, question).await?;
    let answer = framing::read(&mut stream).await?;
    if answer.get(..2) == question.get(..2) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// The name servers of a `resolv.conf`. The format's page is resolv.conf(5).
fn name_servers(text: &str) -> Vec<IpAddr> {
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.parse().ok());
    lines.take(SERVERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::local::mover::dns::message::example_question;

    #[test]
    fn up_to_three_name_servers_are_asked() {
        let text = "# made by hand\nsearch example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        assert_eq!(
            name_servers(text),
            ["192.0.2.1".parse::<IpAddr>().unwrap(), "192.0.2.2".parse().unwrap()]
        );
        assert_eq!(
            name_servers("nameserver fe80::1%eth0\nnameserver ::1\n"),
            ["::1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(name_servers("search example\n"), Vec::<IpAddr>::new());
        assert_eq!(name_servers(&"nameserver 192.0.2.1\n".repeat(9)).len(), SERVERS);
    }

    /// A server at that address which answers each datagram with `code`, and a marker behind the question.
    async fn server(address: SocketAddr, code: u8, marker: &'static [u8]) {
        let socket = UdpSocket::bind(address).await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                buffer[2] |= 0x80;
                buffer[3] = code;
                socket.send_to(&[&buffer[..length], marker].concat(), client).await.unwrap();
            }
        });
    }

    #[tokio::test]
    async fn the_next_server_is_asked_where_one_is_gone_or_refuses() {
        const PORT: u16 = 5353;
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("resolv.conf");
        let [high, low] = [std::process::id() >> 8, std::process::id()].map(|part| part.to_le_bytes()[0]);
        let at = |number| Ipv4Addr::new(127, number, high, low);
        // Nobody is at the first; the second one refuses; the third one knows.
        let lines = [91, 92, 93].map(|number| format!("nameserver {}\n", at(number)));
        fs::write(&settings, lines.concat()).unwrap();
        server((at(92), PORT).into(), 5, b"").await;
        server((at(93), PORT).into(), 0, b"known").await;
        let relay = Relay { settings, port: PORT };
        for transport in [Transport::Udp, Transport::Tcp] {
            let answer = relay.ask(&example_question("example.com", 1), transport).await;
            assert!(answer.ends_with(b"known"), "{answer:?}");
        }
        fs::write(&relay.settings, &lines[1]).unwrap();
        let answer = relay.ask(&example_question("example.com", 1), Transport::Udp).await;
        assert!(message::is_refusal(&answer), "{answer:?}");
    }
}
