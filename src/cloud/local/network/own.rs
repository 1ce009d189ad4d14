//! Networks of environments, as the local cloud has them: made when an environment's first machine is started, found again
//! by a machine that runs in it, and gone with the last machine and the last descriptor.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use i2kit_spec::cmdline;
use rustix::io::Errno;
use tokio::net::TcpStream;

use super::holder::{self, Holder};
use super::namespace::{self, Handles, Join, NamespaceError, Outside};
use super::wanted::{self, GATEWAY, GATEWAY_HARDWARE, GATEWAY6, Wanted};
use super::{advice, conntrack, enter, interfaces};
use crate::cloud::local::log::Log;
use crate::cloud::local::machine::qemu::{Inside, NetworkDevice};
use crate::cloud::local::mover::{Given, GivenOutside};
use crate::manifest::api::Protocol;

/// The networks of all environments.
#[derive(Debug)]
pub(crate) struct Networks {
    log: Arc<Log>,
    start: Start,
    /// Locked for moments only: nobody starts or asks a process meanwhile.
    known: Mutex<BTreeMap<String, Arc<Network>>>,
    /// The lock of each environment whose network is made or found: it is never there twice, and nobody waits for that of
    /// another environment.
    making: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    /// What became of the last attempt to make one.
    tried: Mutex<Option<Tried>>,
}

/// An attempt to make a network.
#[derive(Debug, Clone)]
struct Tried {
    at: Instant,
    /// Why there is none. That of the attempt before, as long as this one is under way.
    refusal: Option<String>,
    /// Whether it has IPv6.
    has_ipv6: bool,
}

/// What was refused is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);

/// How long a machine's process may take to enter its network, and how often that is looked at.
const ENTERING: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// The environment variable by which somebody chooses what network environments get.
const VARIABLE: &str = "I2KIT_LOCAL_NETWORK";

/// Its value for qemu's user network. Without it they get one of their own where this host allows that.
const USER: &str = "user";

/// The network of one environment.
#[derive(Debug)]
pub(crate) struct Network {
    start: Start,
    /// Whether its machines may have addresses of IPv6: as it was when it was made.
    has_ipv6: bool,
    /// Locked while the kernel answers, and not while the holder is asked or another one started.
    open: Mutex<Open>,
    /// Locked while another holder is started: one at a time.
    replacing: Mutex<()>,
    /// The exclusive descriptors, as long as no other process has them.
    outside: Mutex<Option<Outside>>,
    /// The rules that were written last.
    written: Mutex<Option<Wanted>>,
    /// Sockets that the holder opened, connected to nothing yet. Each connection takes one, so that the holder is asked for
    /// few of them.
    spare: Mutex<Vec<OwnedFd>>,
}

/// What belongs together: a holder, and what it opened.
#[derive(Debug)]
struct Open {
    /// Who asks it has it as well, so that it may be replaced meanwhile.
    holder: Arc<Holder>,
    handles: Handles,
}

/// How holders are started.
#[derive(Debug, Clone)]
struct Start {
    /// The program, and its arguments before those of a holder.
    program: PathBuf,
    arguments: Vec<OsString>,
    /// The environment variables of its processes.
    environment: Vec<(OsString, OsString)>,
    /// How long an answer may take.
    patience: Duration,
}

impl Start {
    /// This program, with these environment variables.
    fn new(environment: Vec<(OsString, OsString)>) -> Self {
        let (program, arguments) = (enter::THIS_PROGRAM.into(), Vec::new());
        Self { program, arguments, environment, patience: holder::PATIENCE }
    }

    fn holder(&self, join: &Join) -> Result<(Holder, Handles), NamespaceError> {
        let mut command = Command::new(&self.program);
        command.arg0("i2kit").env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(&self.arguments).current_dir("/").process_group(0);
        holder::start(command, join, self.patience)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The path by which a child of this process opens a descriptor of this process again.
fn path(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), descriptor.as_raw_fd()))
}

impl Networks {
    /// No network yet. Processes that are started have these environment variables.
    pub(in crate::cloud::local) fn new(environment: Vec<(OsString, OsString)>, log: Arc<Log>) -> Self {
        let start = Start::new(environment);
        Self { log, start, known: Mutex::default(), making: Mutex::default(), tried: Mutex::default() }
    }

    /// Why machines of this host have no network of their own, and what to do about it; nothing where they have. Found out
    /// by making one: once, or again some seconds after it was refused.
    pub(crate) fn refused(&self) -> Option<String> {
        let before = {
            let mut tried = locked(&self.tried);
            match &mut *tried {
                Some(last) if last.refusal.is_none() || last.at.elapsed() < AGAIN => {
                    return last.refusal.clone();
                }
                Some(last) => {
                    last.at = Instant::now();
                    last.refusal.clone()
                }
                None => None,
            }
        };
        let made = self.start.holder(&Join::default());
        let has_ipv6 = made.as_ref().is_ok_and(|(_, handles)| handles.has_ipv6);
        let refusal = made.err().map(|failure| advice::advice(&failure, &advice::Host::here()));
        if let Some(advice) = refusal.as_ref().filter(|advice| before.as_ref() != Some(advice)) {
            self.log.write(format_args!("{advice}"));
        }
        *locked(&self.tried) = Some(Tried { at: Instant::now(), refusal: refusal.clone(), has_ipv6 });
        refusal
    }

    /// The same as far as that was found out.
    pub(crate) fn refusal(&self) -> Option<String> {
        locked(&self.tried).as_ref()?.refusal.clone()
    }

    /// Whether the network that was made to find out has IPv6.
    pub(crate) fn have_ipv6(&self) -> bool {
        locked(&self.tried).as_ref().is_some_and(|tried| tried.has_ipv6)
    }

    /// Whether environments should have a network of their own: who started this process did not ask for another one.
    pub(crate) fn are_wanted(&self) -> bool {
        !self.start.environment.iter().any(|(name, value)| name == VARIABLE && value == USER)
    }

    /// The network of an environment, if it is known.
    pub(crate) fn find(&self, environment: &str) -> Option<Arc<Network>> {
        locked(&self.known).get(environment).cloned()
    }

    /// The lock of an environment whose network is made or found.
    fn making(&self, environment: &str) -> Arc<Mutex<()>> {
        Arc::clone(locked(&self.making).entry(environment.to_owned()).or_default())
    }

    /// The network of an environment: the one in which one of the processes `machines` runs, or a new one. Waits while
    /// another caller makes that of the same environment.
    pub(crate) fn get(&self, environment: &str, machines: &[u32]) -> Result<Arc<Network>, String> {
        if let Some(found) = self.find(environment) {
            return Ok(found);
        }
        let making = self.making(environment);
        let _making = locked(&making);
        // Somebody may have made it meanwhile.
        if let Some(found) = self.find(environment) {
            return Ok(found);
        }
        let network = self.open(machines)?;
        locked(&self.known).insert(environment.to_owned(), Arc::clone(&network));
        self.log.write(format_args!("the network of {environment} is there"));
        Ok(network)
    }

    /// A network of no environment, for a machine that never uses its interface: gone with it.
    pub(crate) fn apart(&self) -> Result<Arc<Network>, String> {
        self.open(&[])
    }

    /// Opens the network in which one of these processes runs, or makes a new one.
    fn open(&self, machines: &[u32]) -> Result<Arc<Network>, String> {
        let opened = if let Some(join) = network_of_any(machines) {
            self.start.holder(&join)
        } else {
            // One user namespace for all networks, but for those that are made at the same time.
            let other = locked(&self.known).values().next().cloned();
            let user = other.as_ref().and_then(|network| locked(&network.open).handles.user.try_clone().ok());
            self.start.holder(&Join { user: user.as_ref().map(path), net: None })
        };
        let (holder, mut handles) =
            opened.map_err(|failure| advice::advice(&failure, &advice::Host::here()))?;
        let outside = Mutex::new(handles.outside.take());
        let has_ipv6 = handles.has_ipv6;
        let open = Mutex::new(Open { holder: Arc::new(holder), handles });
        let (replacing, written, spare) = (Mutex::default(), Mutex::default(), Mutex::default());
        let start = self.start.clone();
        Ok(Arc::new(Network { start, has_ipv6, open, replacing, outside, written, spare }))
    }

    /// All networks that are known, by environment.
    pub(crate) fn all(&self) -> Vec<(String, Arc<Network>)> {
        locked(&self.known).iter().map(|(name, network)| (name.clone(), Arc::clone(network))).collect()
    }

    /// Forgets the networks of all other environments.
    pub(crate) fn keep(&self, environments: &BTreeSet<String>) {
        let is_other = |name: &String| !environments.contains(name);
        let gone: Vec<Arc<Network>> = locked(&self.known)
            .extract_if(.., |name, _| is_other(name))
            .map(|(_, network)| network)
            .collect();
        // Its holder is waited for when nobody waits for the lock.
        drop(gone);
        // Whoever has such a lock took it from here, under this one.
        locked(&self.making).retain(|name, making| !is_other(name) || Arc::strong_count(making) > 1);
    }
}

/// The network in which one of these processes runs. One that is being started may not be in it yet.
fn network_of_any(machines: &[u32]) -> Option<Join> {
    let is_there = |machine: &&u32| Path::new(&format!("/proc/{machine}/ns")).exists();
    for _ in 0..ENTERING.as_millis() / POLL.as_millis() {
        let found = machines.iter().find_map(|machine| network_of(*machine));
        if found.is_some() || !machines.iter().any(|machine| is_there(&machine)) {
            return found;
        }
        std::thread::sleep(POLL);
    }
    None
}

/// The network in which a process runs, if it is not this one's.
fn network_of(process: u32) -> Option<Join> {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let [user, net] = ["user", "net"].map(|kind| PathBuf::from(format!("/proc/{process}/ns/{kind}")));
    let is_own = identity(&net)? == identity(Path::new("/proc/self/ns/net"))?;
    (!is_own).then_some(Join { user: Some(user), net: Some(net) })
}

/// What a machine sets its addresses by.
fn boot_parameters(machine: Ipv4Addr, address6: Option<Ipv6Addr>) -> String {
    let ipv4 = format!("{}={machine}/32,{GATEWAY},{GATEWAY}", cmdline::NET);
    let Some(address) = address6 else { return ipv4 };
    let hardware = GATEWAY_HARDWARE.map(|byte| format!("{byte:02x}")).join(":");
    format!("{ipv4} {}={address}/128,{GATEWAY6},{hardware}", cmdline::NET6)
}

impl Network {
    fn holder(&self) -> Arc<Holder> {
        Arc::clone(&locked(&self.open).holder)
    }

    /// Asks the holder; where it is gone or has not answered, another one. Who needs no holder goes on with the network
    /// meanwhile.
    fn ask<T>(&self, question: impl Fn(&Holder) -> io::Result<T>) -> io::Result<T> {
        let holder = self.holder();
        match question(&holder) {
            Err(_) if !holder.is_usable() => {}
            answer => return answer,
        }
        self.replace(&holder)?;
        question(&self.holder())
    }

    /// Starts another holder in the same network in the place of this one, unless somebody has done so; whether it did.
    fn replace(&self, before: &Arc<Holder>) -> io::Result<bool> {
        let _replacing = locked(&self.replacing);
        let (user, net) = {
            let open = locked(&self.open);
            if !Arc::ptr_eq(&open.holder, before) {
                return Ok(false);
            }
            (open.handles.user.try_clone()?, open.handles.net.try_clone()?)
        };
        let opened = self.open_again(&user, &net)?;
        let before = std::mem::replace(&mut *locked(&self.open), opened);
        // Its process is waited for when nobody waits for the lock.
        drop(before);
        Ok(true)
    }

    /// Another holder in the network of these namespaces, and what it opened.
    fn open_again(&self, user: &OwnedFd, net: &OwnedFd) -> io::Result<Open> {
        let join = Join { user: Some(path(user)), net: Some(path(net)) };
        let (holder, mut handles) = self.start.holder(&join).map_err(|failure| failure.error)?;
        if let Some(outside) = handles.outside.take() {
            *locked(&self.outside) = Some(outside);
        }
        Ok(Open { holder: Arc::new(holder), handles })
    }

    /// Starts another holder where this one is gone or has not answered; whether it did. Others go on with the network
    /// meanwhile.
    pub(crate) fn keep_holder(&self) -> io::Result<bool> {
        let holder = self.holder();
        if holder.is_usable() { Ok(false) } else { self.replace(&holder) }
    }

    /// The device of a machine that is about to be started, with its interface in the network. An address of IPv6 that the
    /// network cannot carry is an error.
    pub(crate) fn device(&self, machine: Ipv4Addr, address6: Option<Ipv6Addr>) -> io::Result<NetworkDevice> {
        let tap = self.ask(|holder| holder.tap(machine))?;
        let open = locked(&self.open);
        if address6.is_some() && !self.has_ipv6 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the environment's network has no IPv6"));
        }
        let route = &open.handles.route;
        let index =
            interfaces::list(route)?.get(&wanted::tap(machine)).copied().ok_or(io::ErrorKind::NotFound)?;
        namespace::write_frames(&open.handles.rules, machine)?;
        interfaces::request(route, &interfaces::machine(index, machine, address6))?;
        let (user, net) = (open.handles.user.try_clone()?, open.handles.net.try_clone()?);
        Ok(NetworkDevice {
            netdev: format!("tap,id=net,fd={}", tap.as_raw_fd()),
            hardware: Some(wanted::hardware_address(machine)),
            cmdline: boot_parameters(machine, address6),
            inside: Some(Inside { user, net, tap }),
        })
    }

    /// Whether its machines may have addresses of IPv6.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.has_ipv6
    }

    /// Makes the rules what is wanted, if they are not. `wanted` is asked when nobody else writes any more: of several
    /// callers none writes what was wanted earlier over what is wanted now.
    pub(crate) fn apply(&self, wanted: impl FnOnce() -> Wanted) -> io::Result<()> {
        let mut written = locked(&self.written);
        let wanted = wanted();
        if written.as_ref() == Some(&wanted) {
            return Ok(());
        }
        // One that failed may have been written all the same.
        let before = written.take();
        let open = locked(&self.open);
        namespace::write_rules(&open.handles.rules, &wanted, self.has_ipv6)?;
        let has_datagrams =
            |wanted: &Wanted| wanted.services.iter().any(|service| service.protocol == Protocol::Udp);
        let has_datagrams = has_datagrams(&wanted) || before.as_ref().is_none_or(has_datagrams);
        let refuses = before.is_none_or(|before| before.policies != wanted.policies);
        if has_datagrams || (refuses && !wanted.policies.is_empty()) {
            conntrack::forget(&open.handles.conntrack, &wanted)?;
        }
        *written = Some(wanted);
        Ok(())
    }

    /// Connects to a TCP port in the network.
    pub(crate) async fn connect(self: &Arc<Self>, to: SocketAddrV4) -> io::Result<TcpStream> {
        // While it is locked the holder is asked.
        let spare = self.spare.try_lock().ok().and_then(|mut spare| spare.pop());
        let socket = if let Some(socket) = spare {
            socket
        } else {
            let network = Arc::clone(self);
            let opened = tokio::task::spawn_blocking(move || network.socket());
            opened.await.map_err(io::Error::other)??
        };
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    /// A socket of TCP in the network. Blocks while the holder is asked.
    fn socket(&self) -> io::Result<OwnedFd> {
        let mut spare = locked(&self.spare);
        if spare.is_empty() {
            *spare = self.ask(Holder::sockets)?;
        }
        spare.pop().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The number of open TCP connections of each machine.
    pub(crate) fn connections(&self) -> io::Result<BTreeMap<Ipv4Addr, u32>> {
        conntrack::connections(&locked(&self.open).handles.conntrack)
    }

    /// What the front door is given of this network: the namespaces and the exclusive descriptors. `None` when another
    /// process has those already.
    pub(crate) fn to_give(&self) -> io::Result<Option<Given>> {
        // Without waiting for a holder that is asked.
        if locked(&self.outside).is_none() {
            return Ok(None);
        }
        let open = locked(&self.open);
        let outside = locked(&self.outside);
        let Some(Outside { tun, egress, names_udp, names_tcp, egress6, .. }) = &*outside else {
            return Ok(None);
        };
        let outside = GivenOutside {
            egress6: egress6.as_ref().map(OwnedFd::try_clone).transpose()?,
            tun: tun.try_clone()?,
            egress: egress.try_clone()?,
            names_udp: names_udp.try_clone()?,
            names_tcp: names_tcp.try_clone()?,
        };
        let (user, net) = (open.handles.user.try_clone()?, open.handles.net.try_clone()?);
        Ok(Some(Given { user, net, outside: Some(outside) }))
    }

    /// It was given. The exclusive descriptors must be free when the process that has them ends.
    pub(crate) fn given(&self) {
        *locked(&self.outside) = None;
    }

    /// Opens the exclusive descriptors again, if nobody has them any more.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        self.replace(&self.holder()).map(drop)
    }
}

#[cfg(test)]
mod tests;
