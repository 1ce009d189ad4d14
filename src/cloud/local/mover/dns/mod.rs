//! Names of Services for the VMs of an environment: a DNS server on a loopback address that the VMs reach.
//!
//! It answers for `SERVICE.NAMESPACE.svc.cluster.local` as a cluster's DNS does, and hands every other question to the
//! name servers of this machine. It is asked over UDP and over TCP, as [RFC 7766] wants it of every server.
//!
//! [RFC 7766]: https://www.rfc-editor.org/rfc/rfc7766

pub mod message;
mod relay;
mod stream;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::message::{Reply, Zone};
use self::relay::Relay;
use crate::cloud::local::log::Log;
use crate::cloud::local::mover::admission::{Gate, Shares};
use crate::cloud::local::supervise::{Tasks, supervise};
use crate::manifest::api::Name;

/// The port that resolvers ask.
const PORT: u16 = 53;

/// The largest question over UDP that anybody sends: the size that EDNS recommends for the largest message.
const QUESTION: usize = 4096;

/// Questions of one environment that wait for other servers at once; further ones are dropped, and asked again by who
/// wants to know.
const RELAYED: usize = 256;

/// The full name of a Service.
pub(crate) fn full_name(service: &Name) -> String {
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
#[derive(Debug)]
pub(crate) struct Names {
    servers: Mutex<BTreeMap<String, Server>>,
    /// Descriptors for the questions of all environments.
    descriptors: Arc<Semaphore>,
    tasks: Arc<Tasks>,
    log: Arc<Log>,
    /// How long a client over TCP may say nothing.
    idle: Duration,
}

#[derive(Debug)]
enum Server {
    Running(Running),
    /// It could not be started.
    Failed {
        /// Why not.
        error: String,
        /// Whether another program has its address.
        taken: bool,
    },
}

/// A server at work.
#[derive(Debug)]
struct Running {
    answers: Arc<Answers>,
    serving: DropGuard,
    tasks: [JoinHandle<()>; 2],
}

impl Running {
    /// Closes its sockets: when this returns, others can be bound to its address.
    async fn close(self) {
        drop(self.serving);
        for task in self.tasks {
            // A task that panicked is gone as well.
            let _ = task.await;
        }
    }
}

/// What answers, whichever way it is asked.
#[derive(Debug)]
struct Answers {
    zone: RwLock<Zone>,
    relay: Relay,
    /// Lets in questions that wait for others.
    relayed: Gate,
    /// Lets in TCP connections.
    connections: Gate,
    /// Ends all connections and questions.
    ended: CancellationToken,
    idle: Duration,
}

impl Answers {
    /// What the zone says to a question.
    fn look_up(&self, question: &[u8]) -> Option<Reply> {
        message::reply(question, &self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Names {
    /// No server yet. Those to come have these shares of descriptors, and say in `log` and `tasks` how they fare.
    pub(crate) fn new(shares: Shares, tasks: Arc<Tasks>, log: Arc<Log>) -> Self {
        let descriptors = Arc::new(Semaphore::new(shares.names));
        Self { servers: Mutex::default(), descriptors, tasks, log, idle: stream::IDLE }
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the VMs of an environment ask, when its server could be started.
    pub(crate) fn server(&self, environment: &str) -> Option<Ipv4Addr> {
        matches!(self.servers().get(environment), Some(Server::Running(_))).then(|| address(environment))
    }

    /// Why an environment has no server, and what to do about it.
    pub(crate) fn failure(&self, environment: &str) -> Option<String> {
        let servers = self.servers();
        let Some(Server::Failed { error, taken }) = servers.get(environment) else { return None };
        let advice = if *taken {
            format!(
                "another program has that address (`ss -lnp 'sport = :{PORT}'` as root names it): end it, or give this \
                 environment another name"
            )
        } else {
            format!(
                "run as root, or let anybody have the port by `sysctl net.ipv4.ip_unprivileged_port_start={PORT}`"
            )
        };
        Some(format!(
            "pods do not find Services by name: {}:{PORT} cannot be served: {error}; {advice}, then start the VMs again",
            address(environment)
        ))
    }

    /// What `status` of the environment should warn of.
    pub(crate) fn warnings(&self, environment: &str) -> Vec<String> {
        let servers = self.servers();
        let Some(Server::Running(running)) = servers.get(environment) else { return Vec::new() };
        let gates = [&running.answers.relayed, &running.answers.connections];
        gates.into_iter().filter_map(Gate::warning).collect()
    }

    /// Makes the servers what is wanted: one for each environment, which knows these names. Those that could not be
    /// started are tried again the next time. Returns the environments whose server failed in another way than before.
    /// Called by one task alone.
    pub(crate) async fn apply(&self, wanted: BTreeMap<String, Zone>) -> Vec<String> {
        for server in self.take_unwanted(&wanted) {
            server.close().await;
        }
        let mut servers = self.servers();
        let mut news = Vec::new();
        for (environment, zone) in wanted {
            let before = match servers.get(&environment) {
                Some(Server::Running(found)) => {
                    *found.answers.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
                    continue;
                }
                Some(Server::Failed { error, .. }) => Some(error.clone()),
                None => None,
            };
            let server = match self.start(&environment, SocketAddr::from((address(&environment), PORT)), zone)
            {
                Ok(running) => Server::Running(running),
                Err(error) => {
                    if before != Some(error.to_string()) {
                        news.push(environment.clone());
                    }
                    Server::Failed {
                        taken: error.kind() == std::io::ErrorKind::AddrInUse,
                        error: error.to_string(),
                    }
                }
            };
            servers.insert(environment, server);
        }
        news
    }

    fn take_unwanted(&self, wanted: &BTreeMap<String, Zone>) -> Vec<Running> {
        let mut servers = self.servers();
        let unwanted: Vec<String> =
            servers.keys().filter(|environment| !wanted.contains_key(*environment)).cloned().collect();
        let taken = unwanted.iter().filter_map(|environment| servers.remove(environment));
        let running = |server| match server {
            Server::Running(running) => Some(running),
            Server::Failed { .. } => None,
        };
        taken.filter_map(running).collect()
    }

    fn start(&self, environment: &str, address: SocketAddr, zone: Zone) -> io::Result<Running> {
        let datagrams = std::net::UdpSocket::bind(address)?;
        let listener = std::net::TcpListener::bind(address)?;
        datagrams.set_nonblocking(true)?;
        listener.set_nonblocking(true)?;
        let datagrams = Arc::new(UdpSocket::from_std(datagrams)?);
        let listener = Arc::new(tokio::net::TcpListener::from_std(listener)?);
        let ended = CancellationToken::new();
        let gate = |kind: &str, otherwise, own| {
            let name = format!("the name server of {environment} ({kind})");
            Gate::new((name, otherwise), own, Arc::clone(&self.descriptors), Arc::clone(&self.log))
        };
        let answers = Arc::new(Answers {
            zone: RwLock::new(zone),
            relay: Relay { settings: PathBuf::from(relay::RESOLV_CONF), port: PORT },
            relayed: gate("other names", "further questions are dropped", RELAYED),
            connections: gate("TCP", "further connections are closed", stream::CONNECTIONS),
            ended: ended.clone(),
            idle: self.idle,
        });
        let (tasks, log) = (&self.tasks, &self.log);
        let name = |transport: &str| format!("name server of {environment} ({transport})");
        let (of_datagrams, of_streams) = (Arc::clone(&answers), Arc::clone(&answers));
        let tasks = [
            tokio::spawn(supervise(
                Arc::clone(tasks),
                Arc::clone(log),
                name("UDP"),
                ended.clone(),
                move || serve(Arc::clone(&datagrams), Arc::clone(&of_datagrams)),
            )),
            tokio::spawn(supervise(
                Arc::clone(tasks),
                Arc::clone(log),
                name("TCP"),
                ended.clone(),
                move || stream::serve(Arc::clone(&listener), Arc::clone(&of_streams)),
            )),
        ];
        Ok(Running { answers, serving: ended.drop_guard(), tasks })
    }
}

/// Answers datagrams until it is dropped.
async fn serve(socket: Arc<UdpSocket>, answers: Arc<Answers>) -> Result<(), Infallible> {
    let mut buffer = vec![0; QUESTION];
    loop {
        // An error tells of an answer that did not arrive; the next question may.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let question = &buffer[..length];
        match answers.look_up(question) {
            None => {}
            Some(Reply::Answer(answer)) => send(&socket, &answer, client).await,
            Some(Reply::Elsewhere) => {
                let Some(room) = answers.relayed.try_enter(1) else { continue };
                let (socket, question, answers) =
                    (Arc::clone(&socket), question.to_vec(), Arc::clone(&answers));
                tokio::spawn(async move {
                    let answer = tokio::select! {
                        answer = answers.relay.ask(&question, relay::Transport::Udp) => answer,
                        () = answers.ended.cancelled() => return,
                    };
                    send(&socket, &message::fitting(&question, answer), client).await;
                    drop(room);
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], client: SocketAddr) {
    // Whoever does not get an answer asks again.
    let _ = socket.send_to(answer, client).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn the_address_is_one_of_ours_and_always_the_same() {
        let found = address("local");
        assert_eq!(found, address("local"));
        assert_ne!(found, address("other"));
        assert_eq!(found.octets()[..2], [127, 78]);
    }

    fn names() -> (tempfile::TempDir, Names) {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(&folder.path().join("log")).unwrap());
        (folder, Names::new(Shares::of(1024), Arc::default(), log))
    }

    #[tokio::test]
    async fn a_server_that_cannot_start_says_once_what_to_do() {
        // Another user than root has the same failure without this.
        let taken = std::net::UdpSocket::bind((address("taken"), PORT));
        let (_folder, names) = names();
        let wanted = || BTreeMap::from([("taken".to_owned(), Zone::new())]);
        assert_eq!(names.apply(wanted()).await, ["taken"]);
        assert_eq!(names.apply(wanted()).await, Vec::<String>::new());
        assert_eq!(names.server("taken"), None);
        let said = names.failure("taken").unwrap();
        assert!(
            said.contains(":53 cannot be served: ")
                && (said.contains("ip_unprivileged_port_start")
                    || said.contains("another program has that address")),
            "{said}"
        );
        drop(taken);
        names.apply(BTreeMap::new()).await;
        assert_eq!(names.failure("taken"), None);
    }

    /// A server on a port that needs no privilege, at an address that no other test has.
    fn start(names: &Names, number: u8, zone: Zone) -> (SocketAddr, Running) {
        let [high, low] = [std::process::id() >> 8, std::process::id()].map(|part| part.to_le_bytes()[0]);
        let address = SocketAddr::from((Ipv4Addr::new(127, number, high, low), 5300));
        (address, names.start("test", address, zone).unwrap())
    }

    fn zone(low: u8) -> Zone {
        Zone::from([("web.default.svc.cluster.local".to_owned(), Ipv4Addr::new(127, 77, 0, low))])
    }

    #[tokio::test]
    async fn a_client_is_answered_with_what_the_zone_is_now() {
        let (_folder, names) = names();
        let (address, running) = start(&names, 94, zone(1));
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(address).await.unwrap();
        let question = message::tests::question("web.default.svc.cluster.local", 1);
        for low in [1, 2] {
            *running.answers.zone.write().unwrap() = zone(low);
            client.send(&question).await.unwrap();
            let mut answer = [0; 512];
            let length = client.recv(&mut answer).await.unwrap();
            assert_eq!(answer[length - 4..length], [127, 77, 0, low]);
        }
    }

    #[tokio::test]
    async fn several_questions_over_one_connection_have_the_answers_of_datagrams() {
        let (_folder, names) = names();
        let (address, running) = start(&names, 95, zone(7));
        let question = message::tests::question("web.default.svc.cluster.local", 1);
        let Some(Reply::Answer(expected)) = message::reply(&question, &zone(7)) else { panic!("no answer") };
        let mut client = TcpStream::connect(address).await.unwrap();
        // Two at once, the second one in two parts.
        let framed = [&[0, u8::try_from(question.len()).unwrap()], question.as_slice()].concat();
        let (start, end) = framed.split_at(20);
        client.write_all(&[&framed, start].concat()).await.unwrap();
        assert_eq!(stream::read(&mut client).await.unwrap(), expected);
        client.write_all(end).await.unwrap();
        assert_eq!(stream::read(&mut client).await.unwrap(), expected);
        // What is no question ends the connection.
        stream::write(&mut client, b"no question").await.unwrap();
        assert!(stream::read(&mut client).await.is_err());

        // A closed server leaves its address to the next one at once, connections or not.
        let _open = TcpStream::connect(address).await.unwrap();
        running.close().await;
        names.start("test", address, zone(8)).unwrap();
    }

    #[tokio::test]
    async fn connections_are_bounded() {
        let (_folder, names) = names();
        let (address, running) = start(&names, 96, zone(7));
        let mut silent = Vec::new();
        for _ in 0..stream::CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut further = TcpStream::connect(address).await.unwrap();
        let ended = further.read(&mut [0; 1]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        let warning = running.answers.connections.warning().unwrap();
        assert!(warning.contains("name server of test (TCP)"), "{warning}");
        let question = message::tests::question("web.default.svc.cluster.local", 1);
        drop(silent);
        // As soon as the server has seen that they are gone.
        loop {
            let mut client = TcpStream::connect(address).await.unwrap();
            let answered = async {
                stream::write(&mut client, &question).await?;
                stream::read(&mut client).await
            };
            if answered.await.is_ok() {
                break;
            }
        }
    }

    #[tokio::test]
    async fn a_silent_connection_is_let_go() {
        let (_folder, mut names) = names();
        names.idle = Duration::from_millis(50);
        let (address, _running) = start(&names, 97, zone(7));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_mins(1), silent.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
