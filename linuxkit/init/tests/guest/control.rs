//! A host's end of the control channel, and tests of what goes over it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use i2kit_spec::control::{Clock, Decoder, End, Ended, HostHello, Logged, Message, Open, PORT, VERSION};

use crate::pod::Pod;
use crate::vm::{PATIENCE, Vm, wanted};

/// A host that keeps what the guest says, and says again what a supervisor may have lost.
#[derive(Debug)]
pub(crate) struct Host {
    stream: UnixStream,
    decoder: Decoder,
    epoch: u64,
    next: u32,
    pub(crate) commands: BTreeMap<u32, Command>,
    /// Lines by container, in their order, without time, stream and tag.
    pub(crate) lines: BTreeMap<String, Vec<String>>,
    /// Time of the last line by container.
    times: BTreeMap<String, String>,
    /// Lines that the guest said were dropped.
    pub(crate) dropped: u64,
    /// How often somebody else began to speak for the guest.
    pub(crate) hellos: u64,
}

/// A command under way, or one that ended.
#[derive(Debug, Default)]
pub(crate) struct Command {
    open: Open,
    pub(crate) output: Vec<u8>,
    pub(crate) error: Vec<u8>,
    input: Vec<u8>,
    eof: bool,
    taken: u64,
    sent: u64,
    pub(crate) ended: Option<Ended>,
}

impl Command {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).replace('\r', "")
    }
}

/// Boots a pod in a VM with a control channel.
pub(crate) fn boot(pod: &Pod, folder: &Path) -> (Vm, Host) {
    boot_with(pod, folder, &[])
}

fn boot_with(pod: &Pod, folder: &Path, more: &[&str]) -> (Vm, Host) {
    let path = folder.join("control");
    let chardev = format!("socket,id=control,path={},server=on,wait=off", path.display());
    let port = format!("virtserialport,chardev=control,name={PORT}");
    let own = ["-chardev", &chardev, "-device", "virtio-serial-pci", "-device", &port];
    let arguments = [&own, more].concat();
    let vm = Vm::boot_with(pod, "i2kit.instance=test-1 i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3", &arguments);
    let host = Host::connect(&path, 1);
    (vm, host)
}

/// Connects to a socket of qemu's, which may not be there yet.
pub(crate) fn connect(path: &Path) -> UnixStream {
    let start = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Host {
    /// Connects as the process `epoch`.
    pub(crate) fn connect(path: &Path, epoch: u64) -> Self {
        let stream = connect(path);
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut host = Self {
            stream,
            decoder: Decoder::default(),
            epoch,
            next: 1,
            commands: BTreeMap::new(),
            lines: BTreeMap::new(),
            times: BTreeMap::new(),
            dropped: 0,
            hellos: 0,
        };
        host.hello(false);
        host
    }

    /// Goes on as another process that knows what this one kept.
    pub(crate) fn reconnect(&mut self, path: &Path) {
        let mut next = Self::connect(path, self.epoch + 1);
        (next.lines, next.times) = (std::mem::take(&mut self.lines), std::mem::take(&mut self.times));
        next.hello(false);
        *self = next;
    }

    fn hello(&mut self, answer: bool) {
        let (epoch, logged) = (self.epoch, self.times.clone());
        self.send(&Message::HostHello(HostHello { version: VERSION, epoch, answer, logged }));
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = vec![];
        message.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// Begins a stream.
    pub(crate) fn open(&mut self, open: Open, input: &[u8]) -> u32 {
        let stream = self.next;
        self.next += 1;
        self.send(&Message::Open { stream, open: open.clone() });
        let command = Command { open, input: input.to_vec(), eof: !input.is_empty(), ..Command::default() };
        self.commands.insert(stream, command);
        self.feed(stream);
        stream
    }

    /// Runs a shell script in a container.
    pub(crate) fn shell(&mut self, container: &str, script: &str) -> u32 {
        let command = ["sh", "-c", script].map(Into::into).into();
        self.open(Open { container: container.into(), command, ..Open::default() }, b"")
    }

    /// Types into a terminal.
    pub(crate) fn types(&mut self, stream: u32, text: &str) {
        self.commands.get_mut(&stream).unwrap().input.extend(text.as_bytes());
        self.feed(stream);
    }

    /// Changes the size of a terminal.
    pub(crate) fn resize(&mut self, stream: u32, rows: u16, columns: u16) {
        self.send(&Message::Resize { stream, rows, columns });
    }

    fn feed(&mut self, stream: u32) {
        let command = self.commands.get_mut(&stream).unwrap();
        let mut messages = vec![];
        let window = i2kit_spec::control::WINDOW as u64;
        while command.sent < command.input.len() as u64 && command.sent < command.taken + window {
            let start = usize::try_from(command.sent).unwrap();
            let room = usize::try_from(command.taken + window - command.sent).unwrap();
            let end = command.input.len().min(start + room.min(Message::DATA));
            let bytes = command.input[start..end].to_vec();
            messages.push(Message::Data { stream, end: End::Input, offset: command.sent, bytes });
            command.sent = end as u64;
        }
        if command.eof && command.sent == command.input.len() as u64 {
            messages.push(Message::Eof { stream, end: End::Input });
        }
        for message in &messages {
            self.send(message);
        }
    }

    /// Hears what the guest says, for a moment.
    pub(crate) fn pump(&mut self) {
        let mut buffer = vec![0; 256 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(length) => self.decoder.push(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        while let Some(message) = self.decoder.next() {
            self.hear(message);
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::GuestHello(hello) => {
                if !hello.answer {
                    self.hellos += 1;
                    self.hello(true);
                }
                let running = self.commands.iter().filter(|(_, command)| command.ended.is_none());
                for stream in running.map(|(stream, _)| *stream).collect::<Vec<_>>() {
                    let known = hello.streams.iter().find(|state| state.stream == stream);
                    let command = self.commands.get_mut(&stream).unwrap();
                    command.sent = known.map_or(0, |state| state.input);
                    command.taken = command.sent;
                    if known.is_none() {
                        let open = command.open.clone();
                        self.send(&Message::Open { stream, open });
                    }
                    self.feed(stream);
                }
            }
            Message::Data { stream, end, offset, bytes } => {
                let Some(command) = self.commands.get_mut(&stream) else { return };
                let kept = if end == End::Error { &mut command.error } else { &mut command.output };
                assert!(offset <= kept.len() as u64, "bytes are missing before {offset}");
                let known = kept.len() - usize::try_from(offset).unwrap();
                kept.extend(bytes.iter().skip(known));
                let taken = kept.len() as u64;
                self.send(&Message::Credit { stream, end, taken });
            }
            Message::Credit { stream, taken, .. } => {
                if let Some(command) = self.commands.get_mut(&stream) {
                    command.taken = command.taken.max(taken);
                    self.feed(stream);
                }
            }
            Message::Ended { stream, ended } => {
                if let Some(command) = self.commands.get_mut(&stream) {
                    assert!(command.ended.is_none() || command.ended == Some(ended.clone()));
                    command.ended = Some(ended);
                }
                self.send(&Message::Close { stream });
            }
            Message::Log { head, lines } => {
                let kept = self.lines.entry(head.container.clone()).or_default();
                let mut count = 0;
                for line in String::from_utf8_lossy(&lines).lines() {
                    count += 1;
                    let mut words = line.splitn(4, ' ');
                    let time = words.next().unwrap();
                    let last = self.times.entry(head.container.clone()).or_default();
                    if time > last.as_str() {
                        time.clone_into(last);
                        kept.push(words.nth(2).unwrap_or_default().to_owned());
                    }
                }
                self.dropped += head.dropped;
                self.send(&Message::Logged(Logged {
                    container: head.container,
                    next: head.first + count,
                    bytes: lines.len() as u64,
                    dropped: head.dropped,
                }));
            }
            Message::Clock(Clock { asked, .. }) => {
                self.send(&Message::Clock(Clock { asked, now: nanoseconds() }));
            }
            _ => {}
        }
    }

    /// Listens until something is so.
    pub(crate) fn until(&mut self, what: &str, mut found: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !found(self) {
            assert!(start.elapsed() < PATIENCE, "waited too long for {what}: {self:#?}");
            self.pump();
        }
    }

    /// The command's end.
    pub(crate) fn ended(&mut self, stream: u32) -> Ended {
        self.until("a command to end", |host| host.commands[&stream].ended.is_some());
        self.commands[&stream].ended.clone().unwrap()
    }
}

/// The host's time since 1970.
#[expect(clippy::disallowed_methods, reason = "the host has a clock")]
fn nanoseconds() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

pub(crate) fn numbers(lines: &[String]) -> Vec<u64> {
    lines.iter().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect()
}

#[test]
fn lines_and_commands_go_over_the_control_channel() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pod = Pod::new()
        .service("web", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done")
        .service("other", "echo to-stdout; echo to-stderr >&2; exec sleep 10000")
        .user("web");
    let (vm, mut host) = boot(&pod, folder.path());
    host.until("lines", |host| host.lines.get("web").is_some_and(|lines| lines.len() > 20));
    host.until("both streams", |host| host.lines.get("other").is_some_and(|lines| lines.len() == 2));
    assert!(!vm.console().contains("web | line 1"), "lines go to the channel, not to the console");

    // Two commands at once, and the lines go on.
    let slow = host.shell("other", "id -un; cat; echo bad >&2; exit 7");
    let first = host.shell("other", "exit 3");
    assert_eq!(host.ended(first).code, 3);
    assert_eq!(host.ended(slow).code, 7);
    assert_eq!(
        (host.commands[&slow].text().as_str(), &host.commands[&slow].error[..]),
        ("web\n", &b"bad\n"[..])
    );
    let open = |command: &[&str]| Open {
        container: "other".into(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        input: true,
        ..Open::default()
    };
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let cat = host.open(open(&["cat"]), &bytes);
    assert_eq!(host.ended(cat), Ended { code: 0, error: None });
    assert!(host.commands[&cat].output == bytes, "what goes in comes out");
    let missing = host.open(open(&["no-such-program"]), b"");
    assert_eq!(host.ended(missing).code, 127);
    let error = String::from_utf8_lossy(&host.commands[&missing].error).into_owned();
    assert_eq!(error, "\"no-such-program\" is not found in PATH=/bin\n");
    let nowhere = host.open(Open { container: "wbe".into(), ..open(&["id"]) }, b"");
    let ended = host.ended(nowhere);
    assert_eq!(ended.error.as_deref(), Some("the pod has no container \"wbe\"; it has web, other"));

    // A new process on the host goes on where the old one was.
    host.reconnect(&folder.path().join("control"));
    let before = host.lines["web"].len();
    host.until("more lines", |host| host.lines["web"].len() > before + 20);
    let numbers = numbers(&host.lines["web"]);
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u64),
        "a line is missing or comes twice: {numbers:?}"
    );
}

#[test]
fn a_command_may_have_a_terminal() {
    if !wanted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pod = Pod::new().service("web", "echo up; exec sleep 10000").user("web");
    let (_vm, mut host) = boot(&pod, folder.path());
    host.until("the container", |host| host.lines.contains_key("web"));
    let open = Open {
        command: vec!["sh".into()],
        terminal: true,
        input: true,
        rows: 30,
        columns: 100,
        ..Open::default()
    };
    let shell = host.open(open, b"");
    host.types(shell, "stty size; tty; echo $TERM\n");
    host.until("the size", |host| host.commands[&shell].text().contains("30 100\n/dev/pts/0\nxterm\n"));
    host.resize(shell, 50, 20);
    host.types(shell, "stty size\n");
    host.until("the new size", |host| host.commands[&shell].text().contains("50 20\n"));
    // Ctrl-C ends what runs, once the shell has left its own line to it.
    host.types(shell, "echo going; sleep 1000\n");
    host.until("the sleep", |host| host.commands[&shell].text().contains("\ngoing\n"));
    host.types(shell, "\u{3}");
    host.types(shell, "echo code $?\n");
    host.until("the interrupt", |host| host.commands[&shell].text().contains("code 130\n"));
    host.types(shell, "exit 5\n");
    assert_eq!(host.ended(shell).code, 5);
}

#[test]
fn the_clock_of_the_machine_follows_the_hosts() {
    if !wanted() {
        return;
    }
    let seconds = |nanoseconds: u64| nanoseconds / 1_000_000_000;
    // Far ahead, and far behind.
    for base in ["2031-05-06T07:08:09", "2021-05-06T07:08:09"] {
        let folder = tempfile::tempdir().unwrap();
        let pod = Pod::new().service("web", "echo up; exec sleep 10000");
        let (_vm, mut host) = boot_with(&pod, folder.path(), &["-rtc", &format!("base={base}")]);
        host.until("the container", |host| host.lines.contains_key("web"));
        let start = Instant::now();
        loop {
            let before = seconds(nanoseconds());
            let date = host.shell("web", "date +%s");
            assert_eq!(host.ended(date).code, 0);
            let guest: u64 = host.commands[&date].text().trim().parse().unwrap();
            // Whole seconds, and half a one that the clock is led by and not set.
            if (before - 1..=seconds(nanoseconds()) + 1).contains(&guest) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "{guest} in the machine at {before}");
        }
    }
}
