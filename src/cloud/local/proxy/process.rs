//! The proxy's two processes: `i2kit local-proxy guard` and `i2kit local-proxy carry`, each with the link to the other as
//! its standard input. Each starts the other one anew when that ends; the guardian is started by whoever begins, and
//! starts the first carrier itself.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::control::{self, SOCKET};
use super::link::{self, Word};
use super::server::{Server, Sockets};
use super::wanted::{Call, Report, Wanted};
use crate::cloud::CloudError;
use crate::cloud::local::home::Home;
use crate::cloud::local::machine::descriptors;
use crate::cloud::local::mover::confine;
use crate::cloud::local::socket;
use crate::cloud::local::wire::Hello;

/// The hidden verb.
const VERB: &str = "local-proxy";
const GUARD: &str = "guard";
const CARRY: &str = "carry";

/// Names of what is kept beside listeners.
const CONTROL: &str = "control";
const STATE: &str = "state";

/// Descriptors that clients do not get: listeners twice, connections to machines that are kept, and the process's own.
const RESERVE: usize = 512;

/// Clients at a time, at most. Each may hold a connection to a machine, and about a mebibyte of a body.
const CLIENTS: usize = 4096;

/// The time that requests under way get when another program takes over.
const LEAVING: Duration = Duration::from_secs(30);

/// A carrier that ends within this time was started in vain: the next one is started after a pause.
const PROVEN: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How often the carrier looks whether its socket is still in its place.
const LOOK: Duration = Duration::from_secs(1);

/// Starts `program` as one of the two, with everything that is kept; returns the link to it.
fn start(
    home: &Home,
    program: &Path,
    role: &str,
    kept: &BTreeMap<String, OwnedFd>,
) -> io::Result<(Child, OwnedFd)> {
    let (ours, theirs) = link::pair()?;
    let log = File::options().create(true).append(true).open(home.log())?;
    let child = Command::new(program)
        .args([VERB, role])
        .env_clear()
        .envs(home.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()?;
    link::send_all(ours.as_fd(), kept)?;
    Ok((child, ours))
}

/// Starts a proxy that serves nothing yet. It outlives this process.
pub(crate) fn begin(home: &Home) -> io::Result<()> {
    descriptors::close_on_exec();
    let (mut child, link) = start(home, &home.executable, GUARD, &BTreeMap::new())?;
    // The guardian finds no carrier at the other end, and starts one.
    drop(link);
    // It is not this process's to wait for, unless it ends first.
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// What both do first.
fn detach() -> io::Result<OwnedFd> {
    // Away from the terminal, and from a signal to the process group of who started it. It fails in a leader.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    descriptors::close_on_exec();
    descriptors::raise_limit();
    io::stdin().as_fd().try_clone_to_owned()
}

/// Is the guardian until a carrier ends the proxy.
pub fn guard(home: &Home) -> Result<(), CloudError> {
    confine::writes(&home.state);
    keep_watch(home).map_err(CloudError::file("guard the HTTP proxy in", &home.state))
}

fn keep_watch(home: &Home) -> io::Result<()> {
    let mut link = detach()?;
    let mut kept = BTreeMap::new();
    let mut children: Vec<Child> = Vec::new();
    let (mut started, mut pause) = (Instant::now(), FIRST_PAUSE);
    let mut is_first = true;
    loop {
        let word = link::receive(link.as_fd());
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        match word {
            Ok(Some(Word::Keep(name, descriptor))) => drop(kept.insert(name, descriptor)),
            Ok(Some(Word::Forget(name))) => drop(kept.remove(&name)),
            Ok(Some(Word::All)) => {}
            Ok(Some(Word::End)) => return Ok(()),
            Ok(Some(Word::Leave) | None) | Err(_) => {
                // Without its folder there is nothing to serve.
                if !home.state.exists() {
                    return Ok(());
                }
                if is_first || started.elapsed() > PROVEN {
                    pause = FIRST_PAUSE;
                } else {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                (is_first, started) = (false, Instant::now());
                if let Ok((child, next)) = start(home, &home.executable, CARRY, &kept) {
                    children.push(child);
                    link = next;
                }
            }
        }
    }
}

/// The carrier's end of the link, and what it keeps.
#[derive(Debug)]
struct Kept {
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    link: OwnedFd,
    kept: BTreeMap<String, OwnedFd>,
}

impl Kept {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a descriptor here and at the guardian. One that is gone learns of it when it is started anew.
    fn hold(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut inside = self.inside();
        inside.kept.insert(name.to_owned(), descriptor.try_clone_to_owned()?);
        drop(link::send(inside.link.as_fd(), &format!("keep {name}"), Some(descriptor)));
        Ok(())
    }

    fn held(&self, name: &str) -> Option<OwnedFd> {
        self.inside().kept.get(name)?.try_clone().ok()
    }

    fn release(&self, name: &str) {
        let mut inside = self.inside();
        inside.kept.remove(name);
        drop(link::send(inside.link.as_fd(), &format!("forget {name}"), None));
    }

    /// Tells the guardian.
    fn say(&self, line: &str) {
        drop(link::send(self.inside().link.as_fd(), line, None));
    }

    /// Starts another guardian, of `program`, in the place of this one.
    fn replace_guardian(&self, home: &Home, program: &Path) -> io::Result<OwnedFd> {
        let mut inside = self.inside();
        let (mut child, link) = start(home, program, GUARD, &inside.kept)?;
        std::thread::spawn(move || child.wait());
        Ok(std::mem::replace(&mut inside.link, link))
    }
}

impl Sockets for Kept {
    fn take(&self, name: &str) -> Option<TcpListener> {
        self.held(name).map(TcpListener::from)
    }

    fn keep(&self, name: &str, listener: &TcpListener) {
        drop(self.hold(name, listener.as_fd()));
    }

    fn forget(&self, name: &str) {
        self.release(name);
    }
}

/// Is the carrier until it is told to end, or its folder is gone.
pub fn carry(home: &Home) -> Result<(), CloudError> {
    let failed = CloudError::file("serve HTTP for", &home.state);
    // Before there are other threads, which would not be confined.
    confine::writes(&home.state);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Err(failed(error)),
    };
    let served = runtime.block_on(serve(home));
    runtime.shutdown_background();
    served.map_err(failed)
}

async fn serve(home: &Home) -> io::Result<()> {
    let link = detach()?;
    let mut kept = BTreeMap::new();
    loop {
        match link::receive(link.as_fd())? {
            Some(Word::Keep(name, descriptor)) => drop(kept.insert(name, descriptor)),
            Some(Word::All) => break,
            // Nobody started this process to carry.
            Some(Word::End) | None => return Ok(()),
            Some(Word::Forget(_) | Word::Leave) => {}
        }
    }
    let kept = Arc::new(Kept { inside: Mutex::new(Inside { link, kept }) });
    let limit = CLIENTS.min(descriptors::raise_limit().saturating_sub(RESERVE) / 2).max(16);
    let server = Server::new(limit, Arc::clone(&kept) as Arc<dyn Sockets>);
    let mut state = Wanted::default();
    if let Some(memory) = kept.held(STATE) {
        state = read_state(memory).unwrap_or_default();
        server.apply(&state);
    }
    let listener = control_listener(home, &kept)?;
    let carrier = Carrier {
        home: home.clone(),
        kept,
        server,
        state: Mutex::new(state),
        parting: AtomicBool::new(false),
        ending: CancellationToken::new(),
    };
    let carrier = Arc::new(carrier);
    let watching = Arc::clone(&carrier);
    std::thread::spawn(move || watching.watch_guardian());
    let place = tokio::spawn(Arc::clone(&carrier).watch_place());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = carrier.ending.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) if socket::check_peer(&stream).is_ok() => {
                tokio::spawn(Arc::clone(&carrier).converse(stream));
            }
            Ok(_) => {}
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    drop(listener);
    drop(place.await);
    carrier.server.leave(LEAVING).await;
    Ok(())
}

/// The control socket: the one that was kept, or a new one.
fn control_listener(home: &Home, kept: &Kept) -> io::Result<UnixListener> {
    if let Some(control) = kept.held(CONTROL) {
        let listener = std::os::unix::net::UnixListener::from(control);
        listener.set_nonblocking(true)?;
        return UnixListener::from_std(listener);
    }
    let listener = socket::listen(&home.state, SOCKET)?;
    kept.hold(CONTROL, listener.as_fd())?;
    Ok(listener)
}

/// What is served, as a file in memory: keys never lie on a disk for this.
fn write_state(state: &Wanted) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("i2kit-proxy", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(state)?)?;
    Ok(file)
}

fn read_state(memory: OwnedFd) -> io::Result<Wanted> {
    let mut file = File::from(memory);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// The carrier, as its tasks see it.
struct Carrier {
    home: Home,
    kept: Arc<Kept>,
    server: Arc<Server>,
    state: Mutex<Wanted>,
    /// Set before the guardian is told to end: nobody starts another one then.
    parting: AtomicBool,
    ending: CancellationToken,
}

impl Carrier {
    /// Answers one client of the control socket.
    async fn converse(self: Arc<Self>, mut stream: UnixStream) {
        loop {
            let call = tokio::select! {
                call = control::read::<Call>(&mut stream) => call,
                () = self.ending.cancelled() => return,
            };
            let Ok(Some(call)) = call else { return };
            let ends = self.take(call);
            let hello = Hello::of_this_program();
            let report = Report { pid: hello.pid, hello: Some(hello), ..self.server.report() };
            drop(control::write(&mut stream, &report).await);
            if ends {
                self.ending.cancel();
            }
        }
    }

    /// Does what is asked; whether this process ends.
    fn take(&self, call: Call) -> bool {
        match call {
            Call::Report => false,
            Call::Apply(wanted) => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                // Before it is served: a successor serves it, wherever this process is killed.
                if *state != wanted
                    && let Ok(memory) = write_state(&wanted)
                {
                    drop(self.kept.hold(STATE, memory.as_fd()));
                }
                self.server.apply(&wanted);
                *state = wanted;
                false
            }
            Call::Replace(program) => {
                self.parting.store(true, Ordering::Relaxed);
                let replaced = self.kept.replace_guardian(&self.home, &program);
                if let Ok(old) = &replaced {
                    drop(link::send(old.as_fd(), "end", None));
                    self.kept.say("leave");
                }
                // After a failure it goes on as it is, and is asked again.
                self.parting.store(replaced.is_ok(), Ordering::Relaxed);
                replaced.is_ok()
            }
            Call::End => {
                self.part();
                drop(std::fs::remove_file(self.home.state.join(SOCKET)));
                true
            }
        }
    }

    /// Has the guardian end, and nothing start another one. Ports are free at once, also while requests are under way.
    fn part(&self) {
        self.parting.store(true, Ordering::Relaxed);
        self.kept.say("end");
        self.kept.inside().kept.clear();
    }

    /// Starts another guardian whenever it ends.
    fn watch_guardian(&self) {
        loop {
            let Ok(link) = self.kept.inside().link.try_clone() else { return };
            // A guardian says nothing: this returns when it ends.
            while matches!(link::receive(link.as_fd()), Ok(Some(_))) {}
            if self.parting.load(Ordering::Relaxed) {
                return;
            }
            let is_same = |inside: &Inside| {
                let place =
                    |descriptor: BorrowedFd<'_>| rustix::fs::fstat(descriptor).map(|stat| stat.st_ino).ok();
                place(inside.link.as_fd()) == place(link.as_fd())
            };
            let replaced = !is_same(&self.kept.inside());
            if !replaced && self.kept.replace_guardian(&self.home, &self.home.executable).is_err() {
                std::thread::sleep(FIRST_PAUSE);
            }
        }
    }

    /// Ends the proxy when its socket is not in its place any more: the folder was removed, or another proxy is there.
    async fn watch_place(self: Arc<Self>) {
        let path = self.home.state.join(SOCKET);
        let place = || std::fs::symlink_metadata(&path).map(|found| (found.dev(), found.ino())).ok();
        let first = place();
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.ending.cancelled() => return,
            }
            if first.is_none() || place() != first {
                self.part();
                self.ending.cancel();
                return;
            }
        }
    }
}
