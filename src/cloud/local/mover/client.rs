//! The front door as the local cloud's process sees it: started when there is something to carry, adopted when it runs
//! already, replaced when this program is newer, ended with the last environment.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::member::VERB;
use super::processes;
use super::protocol::{DoorAnswer, LENGTH, MAX_MESSAGE, Request, SOCKET, frame};
use super::routes::{Counted, Report, Routes};
use super::table::LAYOUT;
use crate::cloud::local::blocking::blocking;
use crate::cloud::local::home::Home;
use crate::cloud::local::lock::is_stopped;
use crate::cloud::local::log::Log;
use crate::cloud::local::machine::descriptors;
use crate::cloud::local::socket;
use crate::cloud::local::supervise::Tasks;
use crate::cloud::local::wire::Hello;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// How long the processes may take to begin, or to be replaced.
const START: Duration = Duration::from_secs(15);

/// How long after a failure the next attempt comes: the control loop goes on meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// How often a question is asked when the process dies under it.
const ATTEMPTS: u32 = 3;

/// How often an older one is asked to let this program take over: one of its processes may have ended under it.
const UPGRADES: u32 = 2;

/// The wait for routes that are carried already as far as a new machine needs it.
const MOMENT: Duration = Duration::from_millis(200);

/// The wait for a name server: a machine that is started before that has none.
const BEGIN: Duration = Duration::from_secs(5);

/// Between two looks whether a newer program has taken over.
const POLL: Duration = Duration::from_millis(10);

/// The name under which `status` shows that it fails.
const TASK: &str = "front door";

/// The front door's place in the local cloud's process.
#[derive(Debug)]
pub(crate) struct Mover {
    home: Home,
    tasks: Arc<Tasks>,
    log: Arc<Log>,
    report: Mutex<Report>,
    link: tokio::sync::Mutex<Link>,
    /// Whether the last attempt failed.
    fails: AtomicBool,
    /// How long it may take to begin.
    start: Duration,
}

/// The connection to the front door.
#[derive(Debug)]
struct Link {
    stream: Option<UnixStream>,
    /// What it was told last.
    applied: Option<Routes>,
    retry: Instant,
    /// When it is told again what it could not bind as wanted.
    again: Instant,
    /// How often it was asked to let this program take over, and did not.
    refusals: u32,
}

/// A network of an environment: its namespaces, and what was opened in it.
#[derive(Debug)]
pub(crate) struct Given {
    /// The user namespace; the host's own where there is no other.
    pub(crate) user: OwnedFd,
    /// The network namespace.
    pub(crate) net: OwnedFd,
    /// The exclusive descriptors (`tun0`, the egress listener, the name server's sockets); none where the front door has them
    /// already.
    pub(crate) outside: Option<GivenOutside>,
}

/// The sockets of a network that the front door serves.
#[derive(Debug)]
pub(crate) struct GivenOutside {
    /// The interface to outside.
    pub(crate) tun: OwnedFd,
    /// The TCP listener of connections to outside.
    pub(crate) egress: OwnedFd,
    /// The same of IPv6, where the network has that.
    pub(crate) egress6: Option<OwnedFd>,
    /// The name server, over UDP.
    pub(crate) names_udp: OwnedFd,
    /// The name server, over TCP.
    pub(crate) names_tcp: OwnedFd,
}

impl Mover {
    /// The front door of the local cloud in `home`. Nothing is started yet; failures are shown in `tasks` and `log`.
    pub(crate) fn new(home: &Home, tasks: &Arc<Tasks>, log: &Arc<Log>) -> Self {
        let now = Instant::now();
        let link = Link { stream: None, applied: None, retry: now, again: now, refusals: 0 };
        Self {
            home: home.clone(),
            tasks: Arc::clone(tasks),
            log: Arc::clone(log),
            report: Mutex::default(),
            link: tokio::sync::Mutex::new(link),
            fails: AtomicBool::new(false),
            start: START,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `routes` carried from now on, and nothing else. A front door that is not there is started; while that fails,
    /// `status` says so, and it is tried again with a later call. Does nothing while another call goes on. Whether the front
    /// door was told, and has answered.
    pub(crate) async fn apply(&self, routes: Routes) -> bool {
        let Ok(mut link) = self.link.try_lock() else { return false };
        if Instant::now() < link.retry {
            return false;
        }
        let done = self.exchange(&mut link, routes).await;
        self.fails.store(done.is_err(), Ordering::Release);
        self.tasks.tell(&self.log, TASK, done.as_ref().map(drop));
        let Ok(report) = done else {
            // One that is only silent carries what it carried: machines that drain are not ended for that.
            if processes::find(&self.home.state).is_empty() {
                *self.lock() = Report::default();
            }
            link.stream = None;
            link.applied = None;
            link.retry = Instant::now() + RETRY;
            return false;
        };
        *self.lock() = report;
        true
    }

    /// How long to wait for a call of [`Mover::apply`] with `routes` before going on without its end. One that fails is
    /// not waited for: what decides goes on while nothing answers.
    pub(crate) fn patience(&self, routes: &Routes) -> Duration {
        let report = self.lock();
        match routes.name_servers.keys().all(|name| report.name_servers.contains_key(name)) {
            _ if self.fails.load(Ordering::Acquire) => Duration::ZERO,
            true => MOMENT,
            false => BEGIN,
        }
    }

    /// Whether its processes keep the connection over which they were told what to carry. They end it with their own end.
    pub(crate) fn is_there(&self) -> bool {
        // While the link is locked it is told something.
        let Ok(link) = self.link.try_lock() else { return false };
        link.stream.as_ref().is_some_and(|stream| {
            let looked = rustix::net::recv(stream, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            matches!(looked, Err(Errno::AGAIN))
        })
    }

    /// What was carried at the last call of [`Mover::apply`].
    pub(crate) fn report(&self) -> Report {
        self.lock().clone()
    }

    /// What was counted at each listener; nothing where the front door does not answer.
    pub(crate) async fn traffic(&self) -> Counted {
        let Ok(mut stream) = socket::connect(&self.home.state, SOCKET).await else {
            return Counted::default();
        };
        if socket::check_peer(&stream).is_err() {
            return Counted::default();
        }
        match ask(&mut stream, &Request::Traffic).await {
            Ok(DoorAnswer::Traffic(counted)) => counted,
            _ => Counted::default(),
        }
    }

    /// Has the front door carry in a network too: connections of routes with an address inside, and questions of name
    /// servers inside. Once for each network; for another network of the same environment again. Called when the front
    /// door runs, and again when a report does not name the environment.
    ///
    /// # Errors
    /// It does not run, or has no place for one more.
    pub(crate) async fn give(&self, environment: &str, given: &Given) -> Result<(), String> {
        let Given { user, net, outside } = given;
        let mut descriptors = vec![user.as_fd(), net.as_fd()];
        if let Some(GivenOutside { tun, egress, egress6, names_udp, names_tcp }) = outside {
            descriptors
                .extend([tun, egress, names_udp, names_tcp].into_iter().chain(egress6).map(AsFd::as_fd));
        }
        let request = Request::Give { environment: environment.to_owned() };
        let asked = async {
            let mut stream = socket::connect(&self.home.state, SOCKET).await?;
            socket::check_peer(&stream)?;
            stream.writable().await?;
            let mut space = [const { std::mem::MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(7))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
            let framed = frame(&request);
            let sent = rustix::net::sendmsg(
                &stream,
                &[io::IoSlice::new(&framed)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )?;
            stream.write_all(&framed[sent..]).await?;
            timeout(ANSWER, answer(&mut stream)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        match asked.await {
            Ok(DoorAnswer::Done) => Ok(()),
            Ok(DoorAnswer::Refused(reason)) => Err(reason),
            Ok(other) => Err(format!("it answers a network with {other:?}")),
            Err(error) => Err(self.silent(&error)),
        }
    }

    /// Ends the front door, whatever it carries.
    ///
    /// # Errors
    /// Its processes do not end.
    pub(crate) async fn end(&self) -> Result<(), String> {
        let mut link = self.link.lock().await;
        link.stream = None;
        link.applied = None;
        end(&self.home).await
    }

    async fn exchange(&self, link: &mut Link, routes: Routes) -> Result<Report, String> {
        let mut attempt = 1;
        loop {
            if link.stream.is_none() {
                let is_needed = !routes.is_empty() || link.applied.is_some();
                match self.connect(link, is_needed).await? {
                    Some(stream) => link.stream = Some(stream),
                    None => return Ok(Report::default()),
                }
            }
            let Some(stream) = &mut link.stream else { continue };
            // A port that this user may not have is tried again now and then, not with every call.
            let is_tried = Instant::now() < link.again || is_whole(&routes, &self.lock());
            let is_carried = link.applied.as_ref() == Some(&routes) && is_tried;
            let request = if is_carried { Request::Report } else { Request::Apply(routes.clone()) };
            match ask(stream, &request).await {
                Ok(DoorAnswer::Report(report)) => {
                    if !is_carried {
                        link.again = Instant::now() + RETRY;
                    }
                    link.applied = Some(routes);
                    return Ok(report);
                }
                Ok(other) => return Err(format!("it answers a request for routes with {other:?}")),
                Err(error) if attempt < ATTEMPTS && error.kind() != io::ErrorKind::TimedOut => {
                    link.stream = None;
                    attempt += 1;
                }
                Err(error) => return Err(self.silent(&error)),
            }
        }
    }

    fn silent(&self, error: &io::Error) -> String {
        let stopped = processes::find(&self.home.state).into_iter().find(|pid| is_stopped(*pid));
        match stopped {
            Some(pid) => format!("its process {pid} is stopped; `kill -CONT {pid}` lets it go on"),
            None => format!("it does not answer: {error}"),
        }
    }

    /// Connects, and starts it where it does not run and `is_needed`.
    async fn connect(&self, link: &mut Link, is_needed: bool) -> Result<Option<UnixStream>, String> {
        let given_up = Instant::now() + self.start;
        let mut has_started = false;
        loop {
            match socket::connect(&self.home.state, SOCKET).await {
                Ok(mut stream) => {
                    socket::check_peer(&stream).map_err(|error| error.to_string())?;
                    match ask(&mut stream, &Request::Hello).await {
                        Ok(DoorAnswer::Hello(running)) => {
                            if link.refusals >= UPGRADES || !running.is_older_than(&Hello::of_this_program())
                            {
                                return Ok(Some(stream));
                            }
                            self.replace(link, stream).await?;
                        }
                        Ok(other) => return Err(format!("it answers a greeting with {other:?}")),
                        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                            return Err(self.silent(&error));
                        }
                        Err(error) if Instant::now() > given_up => return Err(self.silent(&error)),
                        // It has just ended.
                        Err(_) => tokio::time::sleep(POLL).await,
                    }
                }
                // Its queue is full: it is there.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(self.silent(&error)),
                Err(_) if !is_needed => return Ok(None),
                Err(error) if Instant::now() > given_up => return Err(self.silent(&error)),
                Err(_) if has_started => tokio::time::sleep(POLL).await,
                Err(_) => {
                    start(&self.home).await?;
                    has_started = true;
                }
            }
        }
    }

    /// Has this program take over from an older one. A front door whose table this program cannot read is ended, and the
    /// next attempt starts another one.
    async fn replace(&self, link: &mut Link, mut stream: UnixStream) -> Result<(), String> {
        let request = Request::Upgrade { program: self.home.executable.clone(), layout: LAYOUT };
        match ask(&mut stream, &request).await {
            Ok(DoorAnswer::Done) => {}
            Ok(DoorAnswer::Refused(reason)) => {
                self.log.write(format_args!(
                    "{TASK}: {reason}: it is ended with its connections, and started anew"
                ));
                return end(&self.home).await;
            }
            Ok(other) => return Err(format!("it answers a newer program with {other:?}")),
            Err(error) => return Err(self.silent(&error)),
        }
        let given_up = Instant::now() + START;
        while Instant::now() < given_up {
            if let Ok(mut stream) = socket::connect(&self.home.state, SOCKET).await
                && let Ok(DoorAnswer::Hello(running)) = ask(&mut stream, &Request::Hello).await
            {
                if !running.is_older_than(&Hello::of_this_program()) {
                    return Ok(());
                }
                // It answers nobody while it waits for the newer one: it has given up.
                break;
            }
            tokio::time::sleep(POLL).await;
        }
        self.log.write(format_args!(
            "{TASK}: an older program carries on; cloud.log tells why this one does not"
        ));
        link.refusals += 1;
        Ok(())
    }
}

/// Whether everything of `routes` is carried where it should be; what is not is tried again by the front door when it is
/// told once more.
fn is_whole(routes: &Routes, report: &Report) -> bool {
    let listeners = routes.listeners.keys().all(|id| report.bound.get(id) == Some(&id.port));
    listeners && routes.name_servers.keys().all(|name| report.name_servers.contains_key(name))
}

/// Asks a question. `TimedOut` when there is no answer in time.
async fn ask(stream: &mut UnixStream, request: &Request) -> io::Result<DoorAnswer> {
    let talk = async {
        stream.write_all(&frame(request)).await?;
        answer(stream).await
    };
    timeout(ANSWER, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn answer(stream: &mut UnixStream) -> io::Result<DoorAnswer> {
    let mut length = [0; LENGTH];
    stream.read_exact(&mut length).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}

/// Starts the processes, and returns once they carry.
async fn start(home: &Home) -> Result<(), String> {
    let messages = std::fs::File::options().create(true).append(true).open(home.log());
    let messages = messages.map_err(|error| format!("{}: {error}", home.log().display()))?;
    let mut command = tokio::process::Command::new(&home.executable);
    command
        .arg(VERB)
        .arg(&home.state)
        .env_clear()
        .envs(home.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(messages);
    let refused = |error: io::Error| format!("{} cannot be started: {error}", home.executable.display());
    // Machines that are being started have the lock for a moment each.
    let spawned = blocking(|| {
        let _starting = descriptors::starting();
        descriptors::close_on_exec();
        command.spawn()
    });
    let mut child = spawned.map_err(refused)?;
    match timeout(START, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => {
            Err(format!("it ended at its start with {status}; {} tells why", home.log().display()))
        }
        Ok(Err(error)) => Err(refused(error)),
        Err(_) => Err("it takes too long to start".to_owned()),
    }
}

/// Ends the front door of the local cloud in `home`, whatever it carries.
///
/// # Errors
/// Its processes do not end.
pub(crate) async fn end(home: &Home) -> Result<(), String> {
    let state: &Path = &home.state;
    if let Ok(mut stream) = socket::connect(state, SOCKET).await
        && ask(&mut stream, &Request::Stop).await.is_ok()
        && processes::gone(state).await
    {
        return Ok(());
    }
    if processes::kill(state).await {
        return Ok(());
    }
    let pids: Vec<String> = processes::find(state).iter().map(u32::to_string).collect();
    Err(format!("processes of the front door do not end: {}", pids.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::local::mover::dns::message::Zone;
    use crate::cloud::local::mover::routes::NameServer;

    fn mover(folder: &Path, start: Duration) -> Mover {
        let home = Home::new(folder, folder, "/nonexistent".into());
        home.create().unwrap();
        let log = Arc::new(Log::open(&home.log()).unwrap());
        Mover { start, ..Mover::new(&home, &Arc::default(), &log) }
    }

    fn routes() -> Routes {
        let server = NameServer { address: [127, 0, 0, 1].into(), zone: Zone::default(), inside: false };
        Routes { name_servers: [("local".to_owned(), server)].into(), ..Routes::default() }
    }

    #[tokio::test]
    async fn a_front_door_that_hangs_up_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mover = mover(folder.path(), Duration::from_millis(50));
        let listener = socket::listen(&mover.home.state, SOCKET).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        });
        assert!(!timeout(Duration::from_secs(30), mover.apply(routes())).await.unwrap());
        assert_eq!(mover.patience(&routes()), Duration::ZERO, "it has failed, and is not waited for");
    }

    #[tokio::test]
    async fn one_that_accepts_nobody_is_silent_and_not_absent() {
        let folder = tempfile::tempdir().unwrap();
        let mover = mover(folder.path(), START);
        let listener = socket::bind(&mover.home.state, SOCKET).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = socket::connect(&mover.home.state, SOCKET).await {
            waiting.push(stream);
        }
        let mut link = mover.link.lock().await;
        let reason = mover.exchange(&mut link, routes()).await.unwrap_err();
        assert!(reason.contains("does not answer"), "{reason}");
        // Whoever decides meanwhile is not held up.
        let is_told = timeout(Duration::from_secs(1), mover.apply(routes())).await.unwrap();
        assert!(!is_told, "these routes are to be told again");
    }
}
