//! A virtual machine under test: qemu without acceleration, its console in a file, two ports of it on loopback.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use i2kit_spec::{GUEST_INITRD, GUEST_KERNEL, GUEST_VERSION, cmdline};

use crate::disk::Disk;
use crate::pod::{HEALTH_PORT, Pod, SHELL_PORT};

/// How long a test waits for a condition before it fails: the one such limit, and no measure of speed. Machines are
/// emulated, on hosts that do other work too; a test that passes comes nowhere near it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// Where Debian's package has the firmware.
const OVMF: &str = "/usr/share/OVMF";

/// How long the first attempt of a connection may take. Short, because qemu accepts connections before the guest listens
/// and tries to hand them on ever more rarely. A further attempt may take as long as all before it.
const FIRST_ATTEMPT: Duration = Duration::from_secs(3);

/// Whether tests that boot machines are wanted; says so when they are not.
pub(crate) fn wanted() -> bool {
    let wanted = environment("I2KIT_TEST_QEMU").is_some_and(|value| value == "1");
    if !wanted {
        #[expect(clippy::print_stderr, reason = "a test that does nothing must say so")]
        {
            eprintln!("skipped: set I2KIT_TEST_QEMU=1 to boot virtual machines");
        }
    }
    wanted
}

/// Which firmware boots a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Firmware {
    /// It starts whatever it finds.
    Plain,
    /// It starts what is signed with the key of Debian's package ovmf, which its variables hold as PK, KEK and db.
    SecureBoot,
}

/// A running machine; it is killed when dropped.
#[derive(Debug)]
pub(crate) struct Vm {
    folder: tempfile::TempDir,
    qemu: Child,
    health: u16,
    shell: u16,
    /// Whether the shell has answered before.
    shell_listens: bool,
}

/// An answer of the supervisor.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Vm {
    /// Boots a pod.
    pub(crate) fn boot(pod: &Pod) -> Self {
        Self::boot_with(pod, "i2kit.instance=test-1 i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3", &[])
    }

    /// Boots a pod with these parameters on the kernel's command line and these arguments for qemu.
    pub(crate) fn boot_with(pod: &Pod, parameters: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        pod.write_disk(&disk);
        let bundle = bundle();
        let file = |name| bundle.join(name).display().to_string();
        let drive = format!("if=none,id=disk,format=raw,readonly=on,file={}", disk.display());
        let (kernel, initrd) = (file(GUEST_KERNEL), file(GUEST_INITRD));
        let append = format!("{} {parameters}", cmdline::BASE);
        let mut all = vec!["-m", "128", "-kernel", &kernel, "-initrd", &initrd, "-append", &append];
        all.extend(["-drive", &drive, "-device", "virtio-blk-pci,drive=disk"]);
        all.extend(arguments);
        Self::start(folder, &all)
    }

    /// Boots a pod by firmware, as clouds do: from the disk alone, which is this device of qemu's. Its address comes by
    /// DHCP.
    pub(crate) fn boot_by_firmware(pod: &Pod, device: &str) -> Self {
        Self::boot_disk(&Disk::new(pod), device, Firmware::Plain)
    }

    /// Boots a disk by firmware.
    pub(crate) fn boot_disk(disk: &Disk, device: &str, firmware: Firmware) -> Self {
        Self::boot_in(disk, device, firmware, "", &[])
    }

    fn boot_in(disk: &Disk, device: &str, firmware: Firmware, network: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A name of its own: the machine may outlive the value.
        let file = folder.path().join("efi-disk");
        fs::hard_link(disk.path(), &file).unwrap();
        let drive = format!("if=none,id=disk,format={},snapshot=on,file={}", disk.driver(), file.display());
        let variables = folder.path().join("variables").display().to_string();
        let (code, initial) = match firmware {
            Firmware::Plain => ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
            Firmware::SecureBoot => ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.snakeoil.fd"),
        };
        fs::copy(format!("{OVMF}/{initial}"), &variables).expect("ovmf is installed");
        let code = format!("if=pflash,format=raw,unit=0,readonly=on,file={OVMF}/{code}");
        let variables = format!("if=pflash,format=raw,unit=1,file={variables}");
        let device = format!("{device},drive=disk,bootindex=0");
        // The firmware itself holds kernel and initrd twice before the kernel starts.
        let mut all =
            vec!["-m", "256", "-drive", &code, "-drive", &variables, "-drive", &drive, "-device", &device];
        if firmware == Firmware::SecureBoot {
            // Variables that only the firmware can write, from its own mode of the processor.
            all.extend(["-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        all.extend(arguments);
        Self::start_in(folder, network, &all)
    }

    /// Boots a disk as an instance of EC2, in a network in which the host has the address of EC2's time service and this
    /// port of it is the metadata service.
    pub(crate) fn boot_on_ec2(disk: &Disk, metadata: u16) -> Self {
        let network = format!(
            "net=169.254.0.0/16,host=169.254.169.123,dhcpstart=169.254.0.15,\
             guestfwd=tcp:169.254.169.254:80-cmd:socat - TCP:127.0.0.1:{metadata},"
        );
        let smbios = ["-smbios", "type=1,manufacturer=Amazon EC2"];
        Self::boot_in(disk, "nvme,serial=vol0123456789abcdef0", Firmware::Plain, &network, &smbios)
    }

    fn start(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        Self::start_in(folder, "", arguments)
    }

    fn start_in(folder: tempfile::TempDir, network: &str, arguments: &[&str]) -> Self {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let network = format!(
            "user,id=net,{network}hostfwd=tcp:127.0.0.1:0-:{HEALTH_PORT},hostfwd=tcp:127.0.0.1:0-:{SHELL_PORT}"
        );
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-M", "q35", "-nodefaults", "-nographic", "-accel", "tcg", "-cpu", "max", "-no-reboot"])
            .args(["-netdev", &network])
            .args(["-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"])
            .args(["-serial", &format!("file:{}", path("console"))])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp"))])
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-system-x86 is installed");
        let mut vm = Self { folder, qemu, health: 0, shell: 0, shell_listens: false };
        vm.wait("qemu to listen", |vm, _| UnixStream::connect(vm.folder.path().join("qmp")).ok());
        // qemu itself chooses the ports, so that nobody else has them.
        let ports = vm.execute(
            r#"{"execute": "human-monitor-command", "arguments": {"command-line": "info usernet"}}"#,
        );
        [vm.health, vm.shell] = [HEALTH_PORT, SHELL_PORT].map(|port| forwarded(&ports, port));
        vm
    }

    /// Where the supervisor and the shell's port are reached.
    pub(crate) fn ports(&self) -> [u16; 2] {
        [self.health, self.shell]
    }

    /// Waits until `/readyz` answers 200.
    pub(crate) fn ready(&mut self) {
        self.wait("/readyz to answer 200", |vm, limit| {
            vm.try_get("/readyz", limit).filter(|answer| answer.status == 200)
        });
    }

    /// What the supervisor answers, once it answers.
    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.wait("the supervisor to answer", |vm, limit| vm.try_get(path, limit))
    }

    /// Waits until the supervisor answers what is looked for.
    pub(crate) fn wait_answer(&mut self, path: &str, found: impl Fn(&Answer) -> bool) {
        let mut last = None;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            last = self.try_get(path, start.elapsed().max(FIRST_ATTEMPT));
            if last.as_ref().is_some_and(&found) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{path} does not answer what is looked for but {last:?}; the console:\n{}", self.console());
    }

    /// What the supervisor answers to one request, if it answers within `limit`.
    pub(crate) fn try_get(&mut self, path: &str, limit: Duration) -> Option<Answer> {
        let text = talk(self.health, &format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"), limit)?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// What a command says in the pod's `shell` container. It runs once, however long it takes; whether anybody listens
    /// is tried before.
    pub(crate) fn shell(&mut self, command: &str) -> String {
        let run = |port, command: &str, limit| {
            let script = format!("{{ {command}\n}} 2>&1\necho end-of-output\nexit\n");
            Some(talk(port, &script, limit)?.strip_suffix("end-of-output\n")?.to_owned())
        };
        if !self.shell_listens {
            self.wait("the shell to listen", |vm, limit| run(vm.shell, "true", limit));
            self.shell_listens = true;
        }
        run(self.shell, command, PATIENCE)
            .unwrap_or_else(|| panic!("no answer to {command:?}; the console:\n{}", self.console()))
    }

    /// What the console said so far.
    pub(crate) fn console(&self) -> String {
        let bytes = fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Waits until the console says this.
    pub(crate) fn says(&mut self, text: &str) {
        self.wait(&format!("the console to say {text:?}"), |vm, _| vm.console().contains(text).then_some(()));
    }

    /// Waits until the machine ends by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.qemu.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the machine did not end; its console:\n{}", self.console());
    }

    /// Gives qemu a command of its machine protocol.
    pub(crate) fn qmp(&self, command: &str) {
        self.execute(&format!("{{\"execute\": \"{command}\"}}"));
    }

    /// Gives qemu a command with its arguments, as JSON; what it answers.
    pub(crate) fn execute(&self, command: &str) -> String {
        let stream = UnixStream::connect(self.folder.path().join("qmp")).unwrap();
        let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
        let mut answer = String::new();
        for command in ["{\"execute\": \"qmp_capabilities\"}", command] {
            writeln!(&stream, "{command}").unwrap();
            answer = answers
                .by_ref()
                .map(Result::unwrap)
                .find(|line| line.contains("\"return\""))
                .unwrap_or_else(|| panic!("qemu did not answer {command}"));
        }
        answer
    }

    /// Tries until there is an answer. An attempt is told how long it may take.
    fn wait<T>(&mut self, what: &str, mut attempt: impl FnMut(&mut Self, Duration) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = attempt(self, start.elapsed().max(FIRST_ATTEMPT)) {
                return found;
            }
            let ended = self.qemu.try_wait().unwrap();
            assert!(ended.is_none(), "the machine ended before {what}; its console:\n{}", self.console());
            assert!(
                start.elapsed() < PATIENCE,
                "waited too long for {what}; the console:\n{}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Sends a text and reads the answer to its end; nothing when the guest does not listen yet.
fn talk(port: u16, text: &str, limit: Duration) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.write_all(text.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
}

/// The port of this machine that qemu hands on to `port` of the guest, in what it answers to `info usernet`.
fn forwarded(answer: &str, port: u16) -> u16 {
    let rows = answer.split("TCP[HOST_FORWARD]").skip(1);
    // Descriptor, address and port of this machine, address and port of the guest.
    let mut words = rows.map(|row| row.split_whitespace().collect::<Vec<_>>());
    let found = words.find_map(|row| row[2].parse().ok().filter(|_| row[4].parse() == Ok(port)));
    found.unwrap_or_else(|| panic!("port {port} is not forwarded: {answer}"))
}

/// Whether tests repeat what they do as often as a soak test does, see `scripts/soak`.
pub(crate) fn soaks() -> bool {
    environment("I2KIT_SOAK").is_some_and(|value| value == "1")
}

/// The guest bundle, found as i2kit finds it.
pub(crate) fn bundle() -> PathBuf {
    let data = || {
        let data = environment("XDG_DATA_HOME").map(PathBuf::from);
        let data = data.or_else(|| Some(PathBuf::from(environment("HOME")?).join(".local/share")));
        data.unwrap_or_default().join("i2kit/guest").join(GUEST_VERSION)
    };
    let folder = environment("I2KIT_GUEST").map_or_else(data, PathBuf::from);
    assert!(folder.join(GUEST_KERNEL).exists(), "no guest in {}: run scripts/guest", folder.display());
    folder
}

#[expect(clippy::disallowed_methods, reason = "the test runner's settings come by the environment")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
