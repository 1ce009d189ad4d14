//! Three coordinators as processes on loopback, each with an application and a supervisor that the test is.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use i2kit_spec::replica::{
    CONFIG_VARIABLE, Framing, INSTANCE_VARIABLE, Integrity, Limits, PodAnswer, PodRequest, Reads,
    ReplicaConfig, ReplicaStatus, Role, State,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::application::Application;
use crate::client::{Answer, get, once};
use crate::eventually::eventually;

/// The slots of a group.
pub(crate) const SLOTS: usize = 3;

/// What a group is made with.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) state: State,
    pub(crate) limits: Limits,
    pub(crate) depth: u16,
    pub(crate) reads: Reads,
    pub(crate) integrity: Integrity,
    /// Redis' protocol, or HTTP.
    pub(crate) is_resp: bool,
    /// The port at which a replica reaches another, given the slots of both and the other's own port; nothing for the port itself.
    pub(crate) way: Option<fn(usize, usize, u16) -> u16>,
    /// A folder for the log of slot 0 in place of its own.
    pub(crate) log: Option<PathBuf>,
    /// Whether applications and supervisors are processes of their own, `machine SOCKET PORT` of this program, so that what they
    /// cost can be told from what the clients do.
    pub(crate) is_apart: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            state: State::Memory,
            limits: Limits::default(),
            depth: 32,
            reads: Reads::Linearizable,
            integrity: Integrity::Compare,
            is_resp: false,
            way: None,
            log: None,
            is_apart: false,
        }
    }
}

/// The ports of a replica.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) front: u16,
    pub(crate) peer: u16,
    pub(crate) admin: u16,
    pub(crate) control: u16,
}

/// One machine of the group.
pub(crate) struct Replica {
    pub(crate) slot: usize,
    pub(crate) ports: Ports,
    pub(crate) application: Arc<Application>,
    /// What its supervisor was asked for.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) folder: PathBuf,
    process: Mutex<Option<Child>>,
    /// Application and supervisor, when they are a process of their own.
    pub(crate) machine: Option<Child>,
    environment: Vec<(&'static str, String)>,
}

/// The group.
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Replica>,
    folder: TempDir,
}

/// A port of 127.0.0.1 that nobody has, and that the system gives to nobody by itself: those it gives begin at 32768.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Two runs at one time begin at places of their own.
    let start = u16::try_from(std::process::id() % 18_000).unwrap();
    eventually("free port", || {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    })
}

impl Cluster {
    /// A group that was just founded: all are started, and one leads.
    pub(crate) fn new(options: &Options) -> Self {
        let cluster = Self::prepared(options);
        for replica in &cluster.replicas {
            replica.start();
        }
        for replica in &cluster.replicas {
            replica.wait_until_ready();
        }
        cluster
    }

    /// A group of which nothing runs.
    pub(crate) fn prepared(options: &Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        fs::create_dir(&identity).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(["group".to_owned()]).unwrap().self_signed(&key).unwrap();
        fs::write(identity.join("tls.key"), key.serialize_pem()).unwrap();
        fs::write(identity.join("tls.crt"), certificate.pem()).unwrap();
        let own =
            |_| Ports { front: free_port(), peer: free_port(), admin: free_port(), control: free_port() };
        let ports: Vec<Ports> = (0..SLOTS).map(own).collect();
        let replicas =
            (0..SLOTS).map(|slot| replica(folder.path(), &identity, slot, &ports, options)).collect();
        Self { replicas, folder }
    }

    /// The folder of the group's key pair.
    pub(crate) fn identity(&self) -> PathBuf {
        self.folder.path().join("identity")
    }

    pub(crate) fn fronts(&self) -> Vec<u16> {
        self.replicas.iter().map(|replica| replica.ports.front).collect()
    }

    /// The replica that leads, by its own words and those of all who follow it.
    pub(crate) fn leader(&self) -> &Replica {
        eventually("leader", || {
            let statuses: Vec<ReplicaStatus> = self.replicas.iter().filter_map(Replica::status).collect();
            let highest = statuses.iter().map(|status| status.term).max()?;
            let leader =
                statuses.iter().find(|status| status.role == Role::Leader && status.term == highest)?;
            self.replicas.get(usize::try_from(leader.slot).unwrap())
        })
    }

    /// One of those that follow.
    pub(crate) fn follower(&self) -> &Replica {
        let leader = self.leader().slot;
        &self.replicas[(leader + 1) % SLOTS]
    }

    /// The journal that all replicas have, when all are ready and have executed the same writes.
    pub(crate) fn journal(&self) -> Vec<String> {
        for replica in &self.replicas {
            replica.wait_until_ready();
        }
        let journals = eventually("equally long journal on all replicas", || {
            let journals: Vec<_> =
                self.replicas.iter().map(|replica| replica.application.journal()).collect();
            journals.iter().all(|journal| journal.len() == journals[0].len()).then_some(journals)
        });
        for (slot, journal) in journals.iter().enumerate() {
            let differing = journal.iter().zip(&journals[0]).position(|(line, first)| line != first);
            assert_eq!(differing, None, "slot {slot} executed another write than slot 0 did");
        }
        for replica in &self.replicas {
            assert_eq!(replica.application.went_back(), 0, "agreed time never goes back");
        }
        journals.into_iter().next().unwrap()
    }
}

fn replica(folder: &Path, identity: &Path, slot: usize, ports: &[Ports], options: &Options) -> Replica {
    let folder = folder.join(format!("slot-{slot}"));
    for name in ["log", "state/data"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let data = matches!(options.state, State::Directory { .. }).then(|| folder.join("state/data"));
    let application = Application::new(free_port(), data, options.is_resp);
    let config = ReplicaConfig {
        group: "default/register".to_owned(),
        members: (0..SLOTS).map(|slot| format!("register-{slot}.register.default.svc")).collect(),
        protocol: if options.is_resp { Framing::Resp } else { Framing::Http },
        app_port: application.port,
        reads: options.reads,
        depth: options.depth,
        state: options.state.clone(),
        integrity: options.integrity,
        volatile: Vec::new(),
        containers: vec!["app".to_owned()],
        limits: options.limits.clone(),
        revision: 1,
    };
    let local = |port: u16| format!("127.0.0.1:{port}");
    let own = ports[slot];
    let way = |(other, ports): (usize, &Ports)| match options.way {
        Some(way) if other != slot => local(way(slot, other, ports.peer)),
        _ => local(ports.peer),
    };
    let log = options.log.clone().filter(|_| slot == 0).unwrap_or_else(|| folder.join("log"));
    let place = json!({
        "front": local(own.front),
        "peer": local(own.peer),
        "admin": local(own.admin),
        "control": local(own.control),
        "peers": ports.iter().enumerate().map(way).collect::<Vec<_>>(),
        "log": log,
        "clock": folder.join("clock"),
        "identity": identity,
        "state": folder.join("state"),
        "socket": folder.join("pod.sock"),
    });
    let environment = vec![
        (CONFIG_VARIABLE, serde_json::to_string(&config).unwrap()),
        (INSTANCE_VARIABLE, format!("register-{slot}")),
        ("I2KIT_REPLICA_PLACE", place.to_string()),
    ];
    let asked = Arc::default();
    let socket = folder.join("pod.sock");
    let machine = options.is_apart.then(|| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("machine").arg(&socket).arg(application.port.to_string());
        let machine = command.stdin(Stdio::null()).spawn().unwrap();
        eventually("supervisor", || socket.exists().then_some(()));
        machine
    });
    if machine.is_none() {
        supervise(&socket, &application, &asked);
    }
    Replica { slot, ports: own, application, asked, folder, process: Mutex::new(None), machine, environment }
}

/// Serves the supervisor's socket of one machine.
pub(crate) fn supervise(socket: &Path, application: &Arc<Application>, asked: &Arc<Mutex<Vec<String>>>) {
    let listener = UnixListener::bind(socket).unwrap();
    let (application, asked) = (Arc::clone(application), Arc::clone(asked));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // Who asked may have been killed.
            let _ = obey(&stream.unwrap(), &application, &asked);
        }
    });
}

fn obey(stream: &UnixStream, application: &Arc<Application>, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut line = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut line).ok()?;
    let (what, answer) = match serde_json::from_str(&line).ok()? {
        PodRequest::Stop { .. } => {
            application.kill();
            ("stop", PodAnswer::Done)
        }
        PodRequest::Start { .. } => {
            application.start();
            (if application.writes() > 0 { "start with state" } else { "start" }, PodAnswer::Done)
        }
        PodRequest::Freeze { .. } => {
            application.freeze(true);
            ("freeze", PodAnswer::Done)
        }
        PodRequest::Thaw { .. } => {
            application.freeze(false);
            ("thaw", PodAnswer::Done)
        }
        PodRequest::Run { command, .. } => match command.first().map(String::as_str) {
            Some("dump") => {
                let dump = application.dump();
                receive(&mut reader).ok()?;
                send(stream, dump.as_bytes()).ok()?;
                ("dump", PodAnswer::Exit(0))
            }
            Some("load") => {
                application.load(&String::from_utf8(receive(&mut reader).ok()?).ok()?);
                send(stream, &[]).ok()?;
                ("load", PodAnswer::Exit(0))
            }
            _ => ("run", PodAnswer::Refused("there is no such program".to_owned())),
        },
        // What it says of itself is nothing that it asks for.
        PodRequest::Report { .. } => {
            let mut writer = stream;
            return writer
                .write_all(format!("{}\n", serde_json::to_string(&PodAnswer::Done).unwrap()).as_bytes())
                .ok();
        }
    };
    asked.lock().unwrap().push(what.to_owned());
    let mut writer = stream;
    writer.write_all(format!("{}\n", serde_json::to_string(&answer).unwrap()).as_bytes()).ok()
}

/// Sends the output of a program: frames, and the end of them.
fn send(mut stream: &UnixStream, output: &[u8]) -> std::io::Result<()> {
    for part in output.chunks(64 << 10) {
        stream.write_all(&u32::try_from(part.len()).unwrap().to_be_bytes())?;
        stream.write_all(part)?;
    }
    stream.write_all(&0_u32.to_be_bytes())
}

/// Takes the input of a program up to its end.
fn receive(reader: &mut BufReader<&UnixStream>) -> std::io::Result<Vec<u8>> {
    let mut input = Vec::new();
    loop {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        let length = u64::from(u32::from_be_bytes(length));
        if length == 0 {
            return Ok(input);
        }
        reader.take(length).read_to_end(&mut input)?;
    }
}

impl Replica {
    /// Starts the coordinator, which starts the application.
    pub(crate) fn start(&self) {
        let mut process = self.process();
        assert!(process.is_none(), "slot {} runs already", self.slot);
        let log = fs::File::options().create(true).append(true).open(self.folder.join("errors")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_i2kit-coordinator"));
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        *process = Some(command.spawn().unwrap());
    }

    /// Who failed while it had the lock has said why.
    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the coordinator, and nothing else.
    pub(crate) fn kill(&self) {
        if let Some(mut process) = self.process().take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Ends the machine at once: the coordinator and the application.
    pub(crate) fn lose(&self) {
        self.kill();
        self.application.kill();
    }

    /// Tells the coordinator to end, and waits until it has; whether it ended well.
    pub(crate) fn terminate(&self) -> bool {
        self.signal(Signal::TERM);
        self.process().take().unwrap().wait().unwrap().success()
    }

    /// Sends the coordinator a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid().unwrap()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Whether the coordinator has ended by itself. It can be started again then.
    pub(crate) fn has_ended(&self) -> bool {
        let mut process = self.process();
        let ended = process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_some());
        if ended {
            *process = None;
        }
        ended
    }

    /// Waits until the coordinator ends by itself.
    pub(crate) fn wait_until_ended(&self) {
        eventually(&format!("end of slot {}", self.slot), || self.has_ended().then_some(()));
    }

    /// Gives the slot an empty disk. Nothing of it may run.
    pub(crate) fn replace_disk(&self) {
        let log = self.folder.join("log");
        fs::remove_dir_all(&log).unwrap();
        fs::create_dir(log).unwrap();
    }

    /// Asks the port for what changes the group.
    pub(crate) fn control(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let length = body.len();
        once(
            self.ports.control,
            &format!(
                "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            ),
        )
    }

    /// Steps the machine's clock to so many milliseconds beside the right time.
    pub(crate) fn step_clock(&self, millis: i64) {
        let new = self.folder.join("clock.new");
        fs::write(&new, millis.to_string()).unwrap();
        fs::rename(new, self.folder.join("clock")).unwrap();
    }

    /// The process, for its figures.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Child::id)
    }

    pub(crate) fn admin(&self, path: &str) -> Option<Answer> {
        once(self.ports.admin, &get(path))
    }

    pub(crate) fn status(&self) -> Option<ReplicaStatus> {
        self.pid()?;
        serde_json::from_str(&self.admin("/replicas")?.body).ok()
    }

    pub(crate) fn wait_until_ready(&self) {
        eventually(&format!("readiness of slot {}", self.slot), || {
            self.assert_runs();
            self.admin("/readyz").filter(|answer| answer.status == 200)
        });
    }

    /// Fails when the coordinator ended by itself, and says what it said.
    fn assert_runs(&self) {
        let mut process = self.process();
        let ended = process.as_mut().and_then(|process| process.try_wait().unwrap());
        assert!(ended.is_none(), "slot {} ended ({ended:?}): {}", self.slot, self.errors());
    }

    /// The end of what the coordinator wrote to its standard error.
    pub(crate) fn errors(&self) -> String {
        let text = fs::read_to_string(self.folder.join("errors")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.lose();
        if let Some(machine) = &mut self.machine {
            let _ = machine.kill().and_then(|()| machine.wait());
        }
        if std::thread::panicking() {
            // What it said explains the failure better than anything else.
            let mut out = std::io::stderr();
            let _ = writeln!(out, "slot {}:\n{}", self.slot, self.errors());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
        }
    }
}
