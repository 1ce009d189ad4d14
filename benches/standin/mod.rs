//! A stand-in of qemu: this executable under qemu's name. It takes the command line that the local cloud writes for a
//! machine, and plays one whose pod is ready from its start and listens at every port of TCP: it has no guest, and so takes a few
//! megabytes. A pod that ends, such as one of a Job, ends well after a second. Of the disks that outlive machines it writes
//! records to the first one for who asks; other disks but the image's, and Secrets, are left as they are. A call that is for
//! no machine, such as the probe of KVM, goes on to the qemu that is installed.

mod disk;
mod guest;
mod monitor;
mod network;
mod pod;

use std::fs::{self, File};
use std::io;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use i2kit_spec::{ContainerBoot, ContainerEnd, PodBoot, PodEnd, RestartPolicy, cmdline, console};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// How long a pod that ends runs: the local cloud sees it run before.
const RUN: Duration = Duration::from_secs(1);

/// The name of qemu for this host's architecture.
pub(crate) fn program() -> String {
    format!("qemu-system-{}", std::env::consts::ARCH)
}

/// Whether this process was called by that name.
pub(crate) fn is_called() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.and_then(|name| Some(name.file_name()? == program().as_str())).unwrap_or(false)
}

/// Is a machine until its power button is pressed, or becomes qemu.
pub(crate) fn run() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_machine = values(&arguments, "-qmp").next().is_some();
    assert!(is_machine, "{}: {}", program(), become_qemu(&arguments));
    let machine = Machine::read(&arguments).expect("a pod, and a network of its environment's own");
    machine.run().unwrap();
}

/// Becomes the qemu that is installed; returns only when that fails.
fn become_qemu(arguments: &[String]) -> io::Error {
    let own = fs::canonicalize("/proc/self/exe").unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|folder| folder.join(program()));
    match found.find(|file| file.canonicalize().is_ok_and(|file| file != own)) {
        Some(qemu) => Command::new(qemu).args(arguments).exec(),
        None => io::ErrorKind::NotFound.into(),
    }
}

/// The values of an option.
fn values<'a>(arguments: &'a [String], option: &'a str) -> impl Iterator<Item = &'a str> {
    arguments.windows(2).filter(move |pair| pair[0] == option).map(|pair| pair[1].as_str())
}

/// A field of a value, `key=FIELD`, behind a comma.
fn field<'a>(value: &'a str, key: &str) -> Option<&'a str> {
    value.split(',').find_map(|field| field.strip_prefix(key)?.strip_prefix('='))
}

/// An own copy of a descriptor that this process inherited.
fn inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(&this, descriptor, PidfdGetfdFlags::empty())?)
}

/// What a machine is told by its command line.
struct Machine {
    id: String,
    monitor: String,
    control: String,
    console: String,
    /// The descriptor of its interface, which it inherits.
    tap: RawFd,
    /// That of the first disk that outlives it.
    disk: Option<RawFd>,
    hardware: [u8; 6],
    address: Ipv4Addr,
    /// What its guest would boot.
    pod: PodBoot,
}

impl Machine {
    fn read(arguments: &[String]) -> Option<Self> {
        let chardev = |id: &str| {
            let found = values(arguments, "-chardev").find(|value| field(value, "id") == Some(id));
            Some(field(found?, "path")?.to_owned())
        };
        let mut words = values(arguments, "-append").next()?.to_owned();
        if let Some(port) = chardev("identity") {
            words = guest::identity(&UnixListener::bind(port).ok()?).ok()?;
        }
        let mut words = words.split(' ');
        let net = words.find_map(|word| word.strip_prefix(cmdline::NET)?.strip_prefix('='))?;
        let (address, _) = net.split_once('/')?;
        let hardware = values(arguments, "-device").find_map(|value| field(value, "mac"))?;
        let bytes: Result<Vec<u8>, _> =
            hardware.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
        let node =
            |name| values(arguments, "-blockdev").find(|value| field(value, "node-name") == Some(name));
        let kept = node("kept0").and_then(|node| field(node, "file.filename")?.strip_prefix("/dev/fdset/"));
        Some(Self {
            id: field(values(arguments, "-name").next()?, "guest")?.to_owned(),
            monitor: field(&values(arguments, "-qmp").next()?.replacen(':', "=", 1), "unix")?.to_owned(),
            control: chardev("control")?,
            console: chardev("console")?,
            tap: field(values(arguments, "-netdev").next()?, "fd")?.parse().ok()?,
            disk: kept.map(str::parse).transpose().ok()?,
            hardware: bytes.ok()?.try_into().ok()?,
            address: address.parse().ok()?,
            pod: pod::of(Path::new(field(node("disk")?, "file.filename")?))?,
        })
    }

    fn run(&self) -> io::Result<()> {
        let mut console = File::options().append(true).create(true).open(&self.console)?;
        let (monitor, control) = (UnixListener::bind(&self.monitor)?, UnixListener::bind(&self.control)?);
        let (pressed, button) = UnixStream::pair()?;
        let container = self.pod.services.first().map(|container| container.name.clone()).unwrap_or_default();
        // The button is pressed when the monitor's end of it is closed.
        std::thread::spawn(move || monitor::serve(&monitor, pressed));
        std::thread::spawn(move || guest::serve(&control, &container));
        let run = (self.pod.restart_policy != RestartPolicy::Always).then_some(RUN);
        let is_pressed = network::serve(self, run, &button)?;
        let end = serde_json::to_string(&if is_pressed { PodEnd::default() } else { self.success() })?;
        writeln!(console, "{}{}{end}", console::GUEST_PREFIX, console::END)
    }

    /// The end of a pod whose containers succeeded.
    fn success(&self) -> PodEnd {
        let end = |container: &ContainerBoot| ContainerEnd {
            name: container.name.clone(),
            exit_code: 0,
            reason: "Completed".to_owned(),
            message: String::new(),
            restarts: 0,
        };
        PodEnd {
            succeeded: true,
            containers: pod::running(&self.pod).map(end).collect(),
            ..PodEnd::default()
        }
    }
}
