//! A computer that a test starts, reboots and cuts off: a machine of qemu with the system that `scripts/images host` makes.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{PATIENCE, Running, eventually, root};

/// The bytes of a cluster of the computer's disk.
const CLUSTER: u32 = 1 << 16;

/// Where its programs may lie, as a file of a disk: more than they take, since what is not written takes no room.
const PROGRAMS_SIZE: &str = "1G";

/// A computer. It is off until it is started, and off when this value is dropped.
pub(super) struct Host {
    /// Where its disks are, its sockets, and what its kernel says.
    folder: PathBuf,
    power: Option<Power>,
}

/// What there is of a computer that is on.
struct Power {
    qemu: Running,
    /// Scripts go in, their ends come out.
    shell: Port,
    /// What its programs tell.
    told: Port,
}

type Port = BufReader<UnixStream>;

impl Host {
    /// A computer with an empty memory, in that folder. It finds `programs` in `/usr/local`.
    pub(super) fn new(folder: &Path, programs: &Path) -> Self {
        let made = root().join("target/test-host");
        assert!(made.join("stamp").is_file(), "there is no host to boot; run scripts/images host");
        fs::write(folder.join("disk"), overlay(&made.join("disk"))).unwrap();
        let mut maker = Command::new("/usr/sbin/mke2fs");
        maker.args(["-q", "-t", "ext4", "-d"]).arg(programs).arg(folder.join("programs")).arg(PROGRAMS_SIZE);
        assert!(maker.stdout(Stdio::null()).status().unwrap().success());
        Self { folder: folder.to_owned(), power: None }
    }

    /// Switches it on, and waits for its shell. The boot's id.
    pub(super) fn start(&mut self) -> String {
        assert!(self.power.is_none(), "it is on");
        for port in ["shell", "told"] {
            let _ = fs::remove_file(self.folder.join(port));
        }
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.current_dir(&self.folder).stdin(Stdio::null()).args(arguments(&self.folder));
        let mut qemu = Running(qemu.spawn().unwrap());
        let [shell, told] = ["shell", "told"].map(|name| {
            let stream = eventually(name, || {
                assert_eq!(qemu.0.try_wait().unwrap(), None, "qemu ended");
                UnixStream::connect(self.folder.join(name)).ok()
            });
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(stream)
        });
        let power = self.power.insert(Power { qemu, shell, told });
        let first = line(&mut power.shell).unwrap();
        first.strip_prefix("boot ").expect("the boot's id").to_owned()
    }

    /// Runs a script of bash to its end: its exit code, and what it printed.
    pub(super) fn attempt(&mut self, script: &str) -> (i32, String) {
        self.send(script).and_then(|()| self.end()).unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Runs a script that succeeds: what it printed.
    pub(super) fn run(&mut self, script: &str) -> String {
        let (code, printed) = self.attempt(script);
        assert_eq!(code, 0, "{script}\n{printed}");
        printed
    }

    /// The next line that a program tells.
    pub(super) fn told(&mut self) -> String {
        line(&mut self.power().told).unwrap()
    }

    /// Shuts it down in order, as a person would, and starts it again: the new boot's id.
    pub(super) fn reboot(&mut self) -> String {
        // The shell ends before it answers.
        self.send("systemctl reboot").unwrap();
        // At a reset qemu ends.
        eventually("end of the shutdown", || self.power().qemu.0.try_wait().unwrap());
        self.power = None;
        self.start()
    }

    /// Cuts it off: what is in its memory is lost, and of its disk's cache. What was told until then and not taken yet.
    pub(super) fn cut(&mut self) -> String {
        let mut power = self.power.take().expect("it is on");
        power.qemu.0.kill().unwrap();
        power.qemu.0.wait().unwrap();
        let mut rest = String::new();
        power.told.read_to_string(&mut rest).unwrap();
        rest
    }

    fn power(&mut self) -> &mut Power {
        self.power.as_mut().expect("it is on")
    }

    fn send(&mut self, script: &str) -> io::Result<()> {
        let sent = format!("{}\n", STANDARD.encode(script));
        self.power().shell.get_mut().write_all(sent.as_bytes())
    }

    /// The end of the script that runs.
    fn end(&mut self) -> io::Result<(i32, String)> {
        let line = line(&mut self.power().shell)?;
        let mut words = line.split(' ');
        let code = words.nth(1).and_then(|code| code.parse().ok());
        let printed = words.next().and_then(|printed| STANDARD.decode(printed).ok());
        let (Some(code), Some(printed)) = (code, printed) else { return Err(io::Error::other(line)) };
        Ok((code, String::from_utf8_lossy(&printed).into_owned()))
    }

    /// What explains a failure: what the local cloud said last, and the kernel.
    fn story(&mut self) -> String {
        let console = fs::read(self.folder.join("console")).unwrap_or_default();
        let console = &console[console.len().saturating_sub(2000)..];
        let script = "systemctl --failed --no-legend; systemctl status --no-pager i2kit-local-cloud; \
                      tail -n 40 .local/state/i2kit/local/cloud.log; i2kit status";
        let _ = self.power().shell.get_mut().set_read_timeout(Some(Duration::from_mins(1)));
        let said = self.send(script).and_then(|()| self.end());
        let said = said.map_or_else(|error| error.to_string(), |(_, printed)| printed);
        format!("{said}\n--- console\n{}", String::from_utf8_lossy(console))
    }
}

impl Drop for Host {
    #[expect(clippy::print_stderr, reason = "what a failed test leaves is shown with its output")]
    fn drop(&mut self) {
        if std::thread::panicking() && self.power.is_some() {
            eprintln!("{}", self.story());
        }
    }
}

/// A line without its end.
fn line(port: &mut Port) -> io::Result<String> {
    let mut line = String::new();
    port.read_line(&mut line)?;
    // One that has no end is half of one: the computer went off.
    line.strip_suffix('\n').map(str::to_owned).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The command line of qemu for the computer in that folder. Its own disk is an `nvme`, whose driver is in the kernel; what it
/// writes is in qemu's and in this computer's memory until it flushes.
fn arguments(folder: &Path) -> Vec<String> {
    let kernel = root().join("target/test-host/kernel");
    let file = |name: &str| folder.join(name).display().to_string();
    let port = |name: &str| {
        [
            "-chardev".to_owned(),
            format!("socket,id={name},path={name},server=on,wait=off"),
            "-device".to_owned(),
            format!("virtserialport,chardev={name},name={name}"),
        ]
    };
    let words = "-machine q35 -accel tcg,thread=multi,tb-size=256 -cpu max -smp 2 -m 1024 -nodefaults -no-user-config \
                 -no-reboot -display none -serial file:console -device virtio-rng-pci -device virtio-serial-pci \
                 -device nvme,drive=disk,serial=disk -device virtio-blk-pci,drive=programs";
    let disk = format!("driver=qcow2,node-name=disk,file.driver=file,file.filename={}", file("disk"));
    let programs = format!(
        "driver=raw,node-name=programs,read-only=on,file.driver=file,file.filename={}",
        file("programs")
    );
    let named = [
        ("-kernel", kernel.display().to_string()),
        ("-append", "root=/dev/nvme0n1 console=ttyS0 quiet panic=-1 no_timer_check".to_owned()),
        ("-blockdev", disk),
        ("-blockdev", programs),
    ];
    let words = words.split_whitespace().map(str::to_owned);
    let named = named.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    // A device needs its drive.
    named.chain(words).chain(port("shell")).chain(port("told")).collect()
}

/// An empty disk over another one, in qcow2 of version 2: header, table of reference counts, their block, and the table that
/// leads to nothing. Where what was written is found, is in qemu's memory until the machine flushes: of a qemu that is killed
/// the rest is lost, as in the cache of a disk. Source: `docs/interop/qcow2.txt` of qemu.
fn overlay(below: &Path) -> Vec<u8> {
    let (cluster, size) = (u64::from(CLUSTER), fs::metadata(below).unwrap().len());
    let tables = u32::try_from(size.div_ceil(cluster * cluster / 8)).unwrap();
    let name = below.as_os_str().as_bytes();
    let length = u32::try_from(name.len()).unwrap();
    // Behind the header: what format the disk below has, no more such fields, its name.
    let behind: u64 = 72 + 16 + 8;
    let header: Vec<u8> = [
        &b"QFI\xfb"[..],
        &2_u32.to_be_bytes(),
        &behind.to_be_bytes(),
        &length.to_be_bytes(),
        &CLUSTER.trailing_zeros().to_be_bytes(),
        &size.to_be_bytes(),
        &0_u32.to_be_bytes(),
        &tables.to_be_bytes(),
        &(3 * cluster).to_be_bytes(),
        &cluster.to_be_bytes(),
        &1_u32.to_be_bytes(),
        &0_u32.to_be_bytes(),
        &0_u64.to_be_bytes(),
        &0xe279_2aca_u32.to_be_bytes(),
        &3_u32.to_be_bytes(),
        b"raw\0\0\0\0\0",
        &0_u64.to_be_bytes(),
        name,
    ]
    .concat();
    let counts = (2 * cluster).to_be_bytes().to_vec();
    let block = [1_u16.to_be_bytes(); 4].concat();
    let mut bytes = Vec::new();
    for part in [header, counts, block, Vec::new()] {
        let end = bytes.len() + usize::try_from(cluster).unwrap();
        bytes.extend(part);
        bytes.resize(end, 0);
    }
    bytes
}
