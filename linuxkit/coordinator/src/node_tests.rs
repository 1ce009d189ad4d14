//! Groups in one process: what a change of members leaves behind when somebody ends half-way.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixListener;
use std::path::Path;

use bytes::Bytes;
use i2kit_spec::replica::{PodAnswer, ReplicaStatus, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::log::{Entry, EntryId, Members, Payload, Vote};
use crate::member::era::Era;
use crate::order::messages::{Joined, Message as _};
use crate::wire::frame::{Hello, Kind};
use crate::wire::link::Greeter;
use crate::wire::service::{Answer, Service};

/// Against hangs alone.
const PATIENCE: Duration = Duration::from_mins(2);

/// The disks and ports of a group of three, of which each slot has a supervisor and an application.
struct Group {
    folder: tempfile::TempDir,
    peers: Vec<SocketAddr>,
    admins: Vec<SocketAddr>,
    identity: Identity,
}

fn free() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// Answers every request of HTTP with an empty reply.
fn application() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut bytes = [0; 8 << 10];
                while stream.read(&mut bytes).is_ok_and(|len| len > 0) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                }
            });
        }
    });
    port
}

/// Does nothing, and says that it is done.
fn supervisor(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            let _ = BufReader::new(&stream).read_line(&mut line);
            let _ = writeln!(stream, "{}", serde_json::to_string(&PodAnswer::Done).unwrap());
        }
    });
}

impl Group {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["i2kit".into()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(folder.path().join("tls.crt"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("tls.key"), key.serialize_pem()).unwrap();
        let identity = Identity::load(folder.path()).unwrap();
        let addresses = || (0..3).map(|_| free()).collect();
        Self { folder, peers: addresses(), admins: addresses(), identity }
    }

    fn log(&self, slot: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("log-{slot}"))
    }

    /// Gives a slot a log of the replica `id` with these members, one entry after the other.
    async fn write(&self, slot: usize, id: u64, members: &[Members]) {
        let options = Options { segment_bytes: 1 << 20, direct: false };
        let log = Log::open(&self.log(slot), id, options, Arc::new(Metrics::new())).unwrap();
        log.save_vote(Vote { term: 1, node: 1, committed: true }).await.unwrap();
        let entries = (0..).zip(members).map(|(index, members)| {
            let id = if index == 0 { EntryId::default() } else { EntryId { term: 1, leader: 1, index } };
            Entry { id, payload: Payload::Members(members.clone()) }
        });
        let (sender, receiver) = tokio::sync::oneshot::channel();
        log.append(entries.collect(), Box::new(move || sender.send(()).unwrap())).unwrap();
        receiver.await.unwrap();
    }

    /// Starts the replica of a slot. It runs to the end of the test.
    fn start(&self, slot: usize) {
        let socket = self.folder.path().join(format!("pod-{slot}"));
        supervisor(&socket);
        let config = serde_json::json!({
            "group": "shop/db", "members": ["db-0", "db-1", "db-2"], "protocol": "http", "appPort": application(),
            "reads": "linearizable", "depth": 1, "state": {"kind": "memory"}, "integrity": "compare", "containers": ["app"],
            "limits": {"bodyBytes": 1 << 20, "replyBytes": 8 << 20, "deadline": 5000, "logBytes": 1 << 30},
        });
        let place = serde_json::json!({
            "front": free(), "peer": self.peers[slot], "admin": self.admins[slot], "control": free(),
            "peers": self.peers.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            "log": self.log(slot), "identity": self.folder.path(), "state": self.folder.path(), "socket": socket,
        });
        let (config, place) = (config.to_string(), place.to_string());
        let settings = Settings::parse(Some(&config), Some(&format!("db-{slot}")), Some(&place)).unwrap();
        tokio::spawn(async move {
            let ended = run(settings, Timing::new(""), std::future::pending()).await;
            panic!("slot {slot} ended: {ended:?}");
        });
    }

    /// What the leader says of itself, once there is one and `is_so` of it.
    async fn leader(&self, what: &str, is_so: impl Fn(&ReplicaStatus) -> bool) -> ReplicaStatus {
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut last = None;
        loop {
            for admin in &self.admins {
                let Some(status) = status(*admin).await.filter(|status| status.role == Role::Leader) else {
                    continue;
                };
                if is_so(&status) {
                    return status;
                }
                last = Some(status);
            }
            assert!(tokio::time::Instant::now() < until, "no leader {what}: {last:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn status(admin: SocketAddr) -> Option<ReplicaStatus> {
    let mut stream = tokio::net::TcpStream::connect(admin).await.ok()?;
    stream.write_all(b"GET /replicas HTTP/1.1\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

fn members(configs: &[&[u64]], nodes: &[(u64, u32)]) -> Members {
    Members { configs: configs.iter().map(|config| config.to_vec()).collect(), nodes: nodes.to_vec() }
}

fn ids(status: &ReplicaStatus) -> Vec<(u64, bool)> {
    let mut ids: Vec<_> = status.members.iter().map(|member| (member.id, member.voter)).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_change_of_members_whose_leader_died_half_way_is_ended_by_the_next() {
    let group = Group::new();
    // The replica 9 takes the place of 3. The leader wrote that both sets vote, and ended.
    let log = [
        members(&[&[1, 2, 3]], &[(1, 0), (2, 1), (3, 2)]),
        members(&[&[1, 2, 3]], &[(1, 0), (2, 1), (3, 2), (9, 2)]),
        members(&[&[1, 2, 3], &[1, 2, 9]], &[(1, 0), (2, 1), (3, 2), (9, 2)]),
    ];
    for (slot, id) in [1, 2, 9].into_iter().enumerate() {
        group.write(slot, id, &log).await;
        group.start(slot);
    }
    let wanted = [(1, true), (2, true), (9, true)];
    group.leader("with the new members alone", |status| ids(status) == wanted).await;
}

/// A replica of slot 2 that only says who it is.
struct Joiner(u64);

fn joiner(id: u64) -> Hello {
    Hello { group: "shop/db".into(), id, slot: 2, empty: true, era: Era::default() }
}

impl Greeter for Joiner {
    fn hello(&self) -> Hello {
        joiner(self.0)
    }

    fn meets(&self, _: &Hello) -> std::io::Result<()> {
        Ok(())
    }
}

impl Service for Joiner {
    fn notice(&self, _: &Hello, _: Kind, _: Bytes) {}

    fn call(&self, _: Arc<Hello>, _: Kind, _: Bytes) -> Answer {
        Box::pin(async { None })
    }
}

/// The machine of such a replica, with a runtime of its own: its connections end with it.
struct Machine {
    ends: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Machine {
    fn start(group: &Group, id: u64) -> Self {
        let (address, identity) = (group.peers[2], group.identity.clone());
        let (sender, ends) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind(address).await.unwrap();
                tokio::select! {
                    () = service::serve(listener, identity, Arc::new(Joiner(id))) => {}
                    _ = ends => {}
                }
            });
        });
        Self { ends: Some(sender), thread: Some(thread) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.ends.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Asks the leader in `slot` to take the replica `id` in.
async fn ask(group: &Group, slot: u32, id: u64) -> Joined {
    let address = group.peers[slot as usize].to_string();
    let link = Link::start(address, &group.identity, Arc::new(Joiner(id)));
    while link.connected().is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = link.call(Kind::Join, (id, 2_u64).encode(), PATIENCE).await.unwrap();
    Joined::decode(answer).unwrap()
}

#[tokio::test]
async fn a_replica_that_vanishes_while_it_joins_keeps_nobody_out() {
    let group = Group::new();
    let log = [members(&[&[1, 2, 3]], &[(1, 0), (2, 1), (3, 2)])];
    for (slot, id) in [1, 2].into_iter().enumerate() {
        group.write(slot, id, &log).await;
        group.start(slot);
    }
    let machine = Machine::start(&group, 50);
    let leader = group.leader("of the two", |_| true).await.slot;
    let has = |status: &ReplicaStatus, id| status.members.iter().any(|member| member.id == id);
    let first = async {
        let refused = ask(&group, leader, 50).await;
        assert!(matches!(&refused, Joined::Refused(why) if why.contains("is gone")), "{refused:?}");
    };
    let change = async {
        group.leader("that takes it in", |status| has(status, 50)).await;
        // Its machine is replaced, with an empty disk.
        drop(machine);
        Machine::start(&group, 60)
    };
    let (_second, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(change, first) }).await.unwrap();
    let wanted = [(1, true), (2, true), (3, true)];
    group.leader("without the one that is gone", |status| ids(status) == wanted).await;
    let second = async {
        let answer = ask(&group, leader, 60).await;
        panic!("it gets no log, and is waited for: {answer:?}");
    };
    tokio::select! {
        () = second => {},
        _ = group.leader("that takes the next in", |status| has(status, 60)) => {},
    }
}
