//! The carrier, `i2kit local-proxy carry`: it serves what the local cloud gives it over the control socket, hands what it
//! keeps to its guardian, and starts another one when that ends. What it serves outlives it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::MemfdFlags;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::control::{self, SOCKET};
use super::guardian::{PROVEN, TAKING_OVER};
use super::link::{self, Word};
use super::ports::Sockets;
use super::process::{FIRST_PAUSE, GUARD, detach, end, start};
use super::server::Server;
use super::wanted::{Call, Report, Wanted};
use crate::cloud::CloudError;
use crate::cloud::local::home::Home;
use crate::cloud::local::machine::descriptors;
use crate::cloud::local::mover::confine;
use crate::cloud::local::socket;
use crate::cloud::local::wire::Hello;

/// Names of what is kept beside listeners.
const CONTROL: &str = "control";
const STATE: &str = "state";

/// Descriptors that clients do not get: listeners twice, connections to machines that are kept, and the process's own.
const RESERVE: usize = 512;

/// Clients at a time, at most. Each may hold a connection to a machine, and about a mebibyte of a body.
const CLIENTS: usize = 4096;

/// The time that requests under way get when another program takes over.
const LEAVING: Duration = Duration::from_secs(30);

/// How often a carrier that leaves tells its successor what is under way in it.
const TELL: Duration = Duration::from_millis(100);

/// Between two attempts to bind ports that are bound elsewhere to the port that is wanted.
const RETRY: Duration = Duration::from_secs(5);

/// How often the carrier looks whether its socket is still in its place.
const LOOK: Duration = Duration::from_secs(1);

/// The carrier's end of the link, and what it keeps.
#[derive(Debug)]
struct Kept {
    inside: Mutex<Inside>,
}

#[derive(Debug)]
struct Inside {
    link: OwnedFd,
    /// How many links there were before this one.
    number: u64,
    kept: BTreeMap<String, OwnedFd>,
}

impl Inside {
    /// Takes the link to another guardian, and returns the one before.
    fn change(&mut self, link: OwnedFd) -> OwnedFd {
        self.number += 1;
        std::mem::replace(&mut self.link, link)
    }
}

impl Kept {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a descriptor here and at the guardian. One that is gone is given it when it is started anew.
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

    /// Sends a line to the guardian.
    fn send(&self, line: &str) {
        drop(link::send(self.inside().link.as_fd(), line, None));
    }

    /// Starts another guardian in the place of one that ended.
    fn replace_guardian(&self, home: &Home) -> io::Result<()> {
        let mut inside = self.inside();
        let (mut child, link) = start(home, &home.executable, GUARD, &inside.kept)?;
        std::thread::spawn(move || child.wait());
        inside.change(link);
        Ok(())
    }

    /// Has another `program` take over, and waits until it serves. After an error this process and its guardian go on.
    fn hand_over(&self, home: &Home, program: &Path) -> io::Result<()> {
        let mut inside = self.inside();
        let (mut child, link) = start(home, program, GUARD, &inside.kept)?;
        let taken_over = || -> io::Result<()> {
            link::wait_for(link.as_fd(), Some(TAKING_OVER + PROVEN))?;
            link::send(link.as_fd(), "leave", None)?;
            match link::receive(link.as_fd())? {
                Some(Word::Ready) => Ok(()),
                _ => Err(io::Error::other("the other program does not serve")),
            }
        };
        if let Err(error) = taken_over() {
            end(&mut child);
            return Err(error);
        }
        std::thread::spawn(move || child.wait());
        let old = inside.change(link);
        drop(link::send(old.as_fd(), "end", None));
        // The other program has them: a port that it gives up is closed although this process goes on for a while.
        inside.kept.clear();
        Ok(())
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

/// Is the carrier until its end is requested, or its folder is gone.
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
            Some(_) => {}
        }
    }
    let kept = Arc::new(Kept { inside: Mutex::new(Inside { link, number: 0, kept }) });
    let limit = CLIENTS.min(descriptors::raise_limit().saturating_sub(RESERVE) / 2).max(16);
    let server = Server::new(limit, Arc::clone(&kept) as Arc<dyn Sockets>);
    let mut state = Wanted::default();
    if let Some(memory) = kept.held(STATE) {
        match read_state(memory) {
            Ok(read) => state = read,
            // Of a program with another form of it. Who is to take over does not; the local cloud gives it to others.
            Err(_) => kept.send("unready"),
        }
        server.apply(&state);
    }
    let listener = control_listener(home, &kept)?;
    kept.send("ready");
    let carrier = Carrier {
        home: home.clone(),
        kept,
        server,
        state: Mutex::new(state),
        parting: AtomicBool::new(false),
        ending: CancellationToken::new(),
        told: CancellationToken::new(),
        leaving: Mutex::default(),
    };
    let carrier = Arc::new(carrier);
    let watching = Arc::clone(&carrier);
    std::thread::spawn(move || watching.watch_guardian());
    let place = tokio::spawn(Arc::clone(&carrier).watch_place());
    tokio::spawn(Arc::clone(&carrier).move_home());
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
    tokio::select! {
        () = carrier.server.leave(LEAVING) => {}
        () = carrier.tell_successor() => {}
    }
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
    /// Set before the guardian is sent `end`: nobody starts another one then.
    parting: AtomicBool,
    ending: CancellationToken,
    /// Cancelled when a successor knows what is under way here.
    told: CancellationToken,
    /// Requests under way in processes before this one, by their connections.
    leaving: Mutex<BTreeMap<u64, BTreeMap<String, u32>>>,
}

/// What a process before this one told, for as long as its connection lives.
struct Told<'c>(&'c Carrier, u64);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.leaving().remove(&self.1);
    }
}

impl Carrier {
    fn leaving(&self) -> MutexGuard<'_, BTreeMap<u64, BTreeMap<String, u32>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is served, with what is under way in processes before this one.
    fn report(&self) -> Report {
        let hello = Hello::of_this_program();
        let mut report = Report { pid: hello.pid, hello: Some(hello), ..self.server.report() };
        for (machine, requests) in self.leaving().values().flatten() {
            *report.active.entry(machine.clone()).or_default() += requests;
        }
        report
    }

    /// Tells the process that has taken over which requests are under way here, until it is dropped.
    async fn tell_successor(&self) {
        loop {
            if let Ok(mut client) = control::Client::connect(&self.home.state).await {
                while client.call(&Call::Leaving(self.report().active)).await.is_ok() {
                    self.told.cancel();
                    tokio::time::sleep(TELL).await;
                }
            }
            tokio::time::sleep(TELL).await;
        }
    }

    /// Answers one client of the control socket.
    async fn converse(self: Arc<Self>, mut stream: UnixStream) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let told = Told(&self, NEXT.fetch_add(1, Ordering::Relaxed));
        loop {
            let call = tokio::select! {
                call = control::read::<Call>(&mut stream) => call,
                () = self.ending.cancelled() => return,
            };
            let Ok(Some(call)) = call else { return };
            let is_replaced = matches!(call, Call::Replace(_));
            let counts = matches!(call, Call::Count);
            let ends = self.take(call, told.1);
            let mut report = self.report();
            if counts {
                report.counted = self.server.counted();
                report.carried = self.server.carried();
            }
            if ends {
                self.ending.cancel();
                if is_replaced {
                    // Who asked may count on its next report.
                    drop(tokio::time::timeout(PROVEN, self.told.cancelled()).await);
                }
            }
            drop(control::write(&mut stream, &report).await);
        }
    }

    /// Does what is asked by a connection; whether this process ends.
    fn take(&self, call: Call, connection: u64) -> bool {
        match call {
            Call::Report | Call::Count => false,
            Call::Leaving(active) => {
                self.leaving().insert(connection, active);
                false
            }
            Call::Apply(mut wanted) => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                wanted.keep_certificates(&state);
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
                let replaced = tokio::task::block_in_place(|| {
                    // What the other one is handed stays what is served here.
                    let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                    self.kept.hand_over(&self.home, &program)
                });
                // After a failure it goes on as it is.
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
        self.kept.send("end");
        self.kept.inside().kept.clear();
    }

    /// Starts another guardian whenever it ends.
    fn watch_guardian(&self) {
        loop {
            let (link, number) = {
                let inside = self.kept.inside();
                let Ok(link) = inside.link.try_clone() else { return };
                (link, inside.number)
            };
            // A guardian sends nothing: this returns when it ends.
            while matches!(link::receive(link.as_fd()), Ok(Some(_))) {}
            if self.parting.load(Ordering::Relaxed) {
                return;
            }
            let is_same = self.kept.inside().number == number;
            if is_same && self.kept.replace_guardian(&self.home).is_err() {
                std::thread::sleep(FIRST_PAUSE);
            }
        }
    }

    /// Moves listeners to the ports that are wanted, when these are free.
    async fn move_home(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.ending.cancelled() => return,
            }
            // Whoever takes over was handed what is kept: nothing is moved meanwhile.
            let Ok(state) = self.state.try_lock() else { continue };
            if !self.parting.load(Ordering::Relaxed) {
                self.server.move_home(&state);
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
