//! Names of Services for the VMs of an environment: a DNS server on a loopback address that the VMs reach.
//!
//! It answers for `SERVICE.NAMESPACE.svc.cluster.local` as a cluster's DNS does, and hands every other question to the
//! name server of this machine. It is asked over UDP alone: an answer of its own is a few bytes long, and one of another
//! server that does not fit says so.

pub mod message;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::message::{Reply, Zone};
use crate::manifest::api::Name;

/// The port that resolvers ask.
const PORT: u16 = 53;

/// The largest question or answer over UDP that anybody sends.
const DATAGRAM: usize = 4096;

/// How long a question may wait for another server; resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Questions that wait for other servers at once; further ones are dropped, and asked again by who wants to know.
const RELAYED: usize = 256;

/// Where this machine says who answers its own questions.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The full name of a Service.
pub(super) fn full_name(service: &Name) -> String {
    format!("{}.{}.svc.{}", service.name, service.namespace, message::DOMAIN)
}

/// The address of an environment's server: always the same one, since running VMs know it. It lies outside the
/// addresses of balancers, `127.77.0.0/16`.
fn address(environment: &str) -> Ipv4Addr {
    let digest = crate::oci::Digest::of(environment.as_bytes());
    let bytes = digest.as_bytes();
    // Neither the first nor the last address of the range.
    Ipv4Addr::new(127, 78, bytes[0], bytes[1].clamp(1, 254))
}

/// All servers, by environment.
#[derive(Debug, Default)]
pub(super) struct Names(Mutex<BTreeMap<String, Server>>);

#[derive(Debug)]
enum Server {
    Running(Running),
    /// It could not be started, for this reason.
    Failed(String),
}

/// A server at work.
#[derive(Debug)]
struct Running {
    zone: Arc<RwLock<Zone>>,
    cancel: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Names {
    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Server>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the VMs of an environment ask, when its server could be started.
    pub(super) fn server(&self, environment: &str) -> Option<Ipv4Addr> {
        matches!(self.servers().get(environment), Some(Server::Running(_))).then(|| address(environment))
    }

    /// Why an environment has no server, and what to do about it.
    pub(super) fn failure(&self, environment: &str) -> Option<String> {
        let servers = self.servers();
        let Some(Server::Failed(error)) = servers.get(environment) else { return None };
        Some(format!(
            "pods do not find Services by name: {}:{PORT} cannot be served: {error}; run as root, or let anybody have the \
             port by `sysctl net.ipv4.ip_unprivileged_port_start={PORT}`, then start the VMs again",
            address(environment)
        ))
    }

    /// Makes the servers what is wanted: one for each environment, which knows these names. Those that could not be
    /// started are tried again the next time. Returns the environments whose server failed in another way than before.
    pub(super) fn apply(&self, wanted: BTreeMap<String, Zone>) -> Vec<String> {
        let mut servers = self.servers();
        servers.retain(|environment, _| wanted.contains_key(environment));
        let mut news = Vec::new();
        for (environment, zone) in wanted {
            let before = match servers.get(&environment) {
                Some(Server::Running(found)) => {
                    *found.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
                    continue;
                }
                Some(Server::Failed(error)) => Some(error.clone()),
                None => None,
            };
            let server = match start(SocketAddr::from((address(&environment), PORT)), zone) {
                Ok(running) => Server::Running(running),
                Err(error) => {
                    if before != Some(error.to_string()) {
                        news.push(environment.clone());
                    }
                    Server::Failed(error.to_string())
                }
            };
            servers.insert(environment, server);
        }
        news
    }
}

fn start(address: SocketAddr, zone: Zone) -> io::Result<Running> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    let running = Running { zone: Arc::new(RwLock::new(zone)), cancel: CancellationToken::new() };
    tokio::spawn(serve(socket, Arc::clone(&running.zone), running.cancel.clone()));
    Ok(running)
}

/// Serves until it is cancelled.
async fn serve(socket: UdpSocket, zone: Arc<RwLock<Zone>>, cancel: CancellationToken) {
    let socket = Arc::new(socket);
    let relayed = Arc::new(Semaphore::new(RELAYED));
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = cancel.cancelled() => return,
        };
        // An error tells of an answer that did not arrive; the next question may.
        let Ok((length, client)) = received else { continue };
        let question = &buffer[..length];
        let reply = message::reply(question, &zone.read().unwrap_or_else(PoisonError::into_inner));
        match reply {
            None => {}
            Some(Reply::Answer(answer)) => send(&socket, &answer, client).await,
            Some(Reply::Elsewhere) => {
                let Ok(permit) = Arc::clone(&relayed).try_acquire_owned() else { continue };
                let (socket, question) = (Arc::clone(&socket), question.to_vec());
                tokio::spawn(async move {
                    let answer = match tokio::time::timeout(PATIENCE, relay(&question)).await {
                        Ok(Ok(answer)) => answer,
                        Ok(Err(_)) | Err(_) => message::failure(&question),
                    };
                    send(&socket, &answer, client).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    // Whoever does not get an answer asks again.
    let _ = socket.send_to(answer, client).await;
}

/// What the name server of this machine answers. Its settings are read each time: they change with the networks that a
/// laptop is in.
async fn relay(question: &[u8]) -> io::Result<Vec<u8>> {
    let server = name_server(&fs::read_to_string(RESOLV_CONF)?).ok_or(io::ErrorKind::NotFound)?;
    let any: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        "[::]:0".parse().expect("it is one")
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect((server, PORT)).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        // The same id: not the late answer of an earlier owner of this port.
        if answer[..length].get(..2) == question.get(..2) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

/// The first name server of a `resolv.conf`. The format's page is resolv.conf(5).
fn name_server(text: &str) -> Option<IpAddr> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_one_of_ours_and_always_the_same() {
        let found = address("local");
        assert_eq!(found, address("local"));
        assert_ne!(found, address("other"));
        assert_eq!(found.octets()[..2], [127, 78]);
    }

    #[test]
    fn the_first_name_server_is_asked() {
        let text = "# made by hand\nsearch example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n";
        assert_eq!(name_server(text), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(name_server("nameserver fe80::1%eth0\nnameserver ::1\n"), Some("::1".parse().unwrap()));
        assert_eq!(name_server("search example\n"), None);
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_says_once_what_to_do() {
        // Another user than root has the same failure without this.
        let taken = std::net::UdpSocket::bind((address("taken"), PORT));
        let names = Names::default();
        let wanted = || BTreeMap::from([("taken".to_owned(), Zone::new())]);
        assert_eq!(names.apply(wanted()), ["taken"]);
        assert_eq!(names.apply(wanted()), Vec::<String>::new());
        assert_eq!(names.server("taken"), None);
        let said = names.failure("taken").unwrap();
        assert!(
            said.contains(":53 cannot be served: ") && said.contains("ip_unprivileged_port_start"),
            "{said}"
        );
        drop(taken);
        names.apply(BTreeMap::new());
        assert_eq!(names.failure("taken"), None);
    }

    #[tokio::test]
    async fn a_client_is_answered_with_what_the_zone_is_now() {
        let zone =
            |low| Zone::from([("web.default.svc.cluster.local".to_owned(), Ipv4Addr::new(127, 77, 0, low))]);
        // Any port, since the usual one needs a privilege.
        let listening = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = listening.local_addr().unwrap();
        drop(listening);
        let running = start(address, zone(1)).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(address).await.unwrap();
        let question = message::tests::question("web.default.svc.cluster.local", 1);
        for low in [1, 2] {
            *running.zone.write().unwrap() = zone(low);
            client.send(&question).await.unwrap();
            let mut answer = [0; 512];
            let length = client.recv(&mut answer).await.unwrap();
            assert_eq!(answer[length - 4..length], [127, 77, 0, low]);
        }
    }
}
