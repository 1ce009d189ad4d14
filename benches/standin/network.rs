//! The stand-in's interface and what listens behind it: the health port, and whatever port of the pod somebody connects to, over
//! IPv4. The TCP/IP of the guest is smoltcp, in this process: the stand-in opens no device, as qemu would not.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant as Clock};

use i2kit::plan::pod::HEALTH_PORT;
use i2kit_spec::ContainerBoot;
use i2kit_spec::status::{ContainerStatus, PodPhase, PodStatus, Usage, VERSION, wait};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpCidr, IpProtocol, Ipv4Packet, TcpPacket,
};

use super::disk::Disk;
use super::{Machine, inherited, pod};

/// The header of virtio before each frame, as the kernel has it of a new interface. One of zeros asks for nothing.
const HEADER: usize = 10;

/// The longest frame.
const FRAME: usize = 1514;

/// Connections to a port at once: this host makes them one after the other.
const CONNECTIONS: usize = 4;

/// The memory that the pod is said to use.
const MEMORY_BYTES: u64 = 30 << 20;

/// The machine's interface.
struct Tap {
    file: OwnedFd,
    /// Frames that were read from it and not looked at yet.
    frames: VecDeque<Vec<u8>>,
}

impl Tap {
    /// Reads all frames that have come; the ports that they ask for a connection.
    fn take(&mut self) -> Vec<u16> {
        let mut ports = Vec::new();
        loop {
            let mut frame = vec![0; HEADER + FRAME];
            let read = rustix::io::read(&self.file, &mut *frame);
            let Some(length) = read.ok().filter(|length| *length > HEADER) else { return ports };
            frame.truncate(length);
            ports.extend(asked(&frame[HEADER..]));
            self.frames.push_back(frame);
        }
    }
}

/// The port that a frame asks for a connection, where it does.
fn asked(frame: &[u8]) -> Option<u16> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let packet = (frame.ethertype() == EthernetProtocol::Ipv4).then(|| frame.payload())?;
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    let segment = (packet.next_header() == IpProtocol::Tcp).then(|| packet.payload())?;
    let segment = TcpPacket::new_checked(segment).ok()?;
    // Nothing listens at port 0.
    (segment.syn() && !segment.ack()).then(|| segment.dst_port()).filter(|port| *port != 0)
}

/// A frame that came, with its header.
struct Received(Vec<u8>);

/// A frame that goes.
struct Sending<'t>(&'t OwnedFd);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0[HEADER..])
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; HEADER + length];
        let result = write(&mut frame[HEADER..]);
        // One that is lost is sent again.
        let _ = rustix::io::write(self.0, &frame);
        result
    }
}

impl Device for Tap {
    type RxToken<'t> = Received;
    type TxToken<'t> = Sending<'t>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.frames.pop_front()?;
        Some((Received(frame), Sending(&self.file)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&self.file))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

/// Serves until `button` is closed, or for as long as the pod's `run` takes where it ends; whether it was the button.
pub(super) fn serve(machine: &Machine, run: Option<Duration>, button: &UnixStream) -> io::Result<bool> {
    let file = inherited(machine.tap)?;
    rustix::fs::fcntl_setfl(&file, OFlags::NONBLOCK)?;
    let mut tap = Tap { file, frames: VecDeque::new() };
    let mut config = Config::new(EthernetAddress(machine.hardware).into());
    config.random_seed = u64::from(machine.address.to_bits());
    let mut interface = Interface::new(config, &mut tap, Instant::now());
    // smoltcp hears no gateway outside its subnet, hence one that has all addresses: the network answers for those that it has.
    interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(machine.address.into(), 0)).unwrap());
    let disk = machine.disk.map(|descriptor| Disk::new(inherited(descriptor)?)).transpose()?;
    let mut pod = Pod::new(machine, disk);
    let end = run.map(|run| Clock::now() + run);
    while end.is_none_or(|end| Clock::now() < end) {
        for port in tap.take() {
            pod.listen(port);
        }
        interface.poll(Instant::now(), &mut tap, &mut pod.sockets);
        if pod.advance() {
            continue;
        }
        let pause = interface.poll_delay(Instant::now(), &pod.sockets).map(Duration::from);
        let rest = end.map(|end| end.saturating_duration_since(Clock::now()));
        let pause = pause.into_iter().chain(pod.pause()).chain(rest).min();
        let pause = pause.map(|pause| Timespec::try_from(pause).unwrap());
        let mut ready = [PollFd::new(&tap.file, PollFlags::IN), PollFd::new(button, PollFlags::IN)];
        rustix::event::poll(&mut ready, pause.as_ref())?;
        if !ready[1].revents().is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The ports of the pod.
struct Pod {
    sockets: SocketSet<'static>,
    connections: Vec<Served>,
    status: PodStatus,
    /// The status' tag: it never changes.
    tag: String,
    started: Clock,
    disk: Option<Disk>,
}

/// A socket of a port, what its client has asked so far, the path of that once it is whole, and when it is to be answered.
struct Served {
    handle: SocketHandle,
    port: u16,
    request: Vec<u8>,
    path: String,
    due: Option<Clock>,
}

impl Served {
    fn new(handle: SocketHandle, port: u16) -> Self {
        Self { handle, port, request: Vec::new(), path: String::new(), due: None }
    }

    /// Takes what came. Once that is a whole request it is due, as of a guest: after a wait where the client knows the status
    /// with this `tag`.
    fn take(&mut self, socket: &mut Socket<'_>, tag: &str) {
        let mut bytes = [0; 512];
        while let Ok(length) = socket.recv_slice(&mut bytes)
            && length > 0
        {
            self.request.extend_from_slice(&bytes[..length]);
        }
        if self.request.ends_with(b"\r\n\r\n") {
            let request = std::mem::take(&mut self.request);
            let request = String::from_utf8_lossy(&request);
            request.split(' ').nth(1).unwrap_or_default().clone_into(&mut self.path);
            let granted = wait::granted(&request, tag);
            self.due = Some(Clock::now() + Duration::from(granted));
        }
    }
}

impl Pod {
    fn new(machine: &Machine, disk: Option<Disk>) -> Self {
        let usage = Some(Usage { cpu_nanoseconds: 0, working_set_bytes: MEMORY_BYTES });
        let running = |container: &ContainerBoot| ContainerStatus {
            name: container.name.clone(),
            ready: true,
            restarts: 0,
            state: "Running".to_owned(),
            last: None,
            probe: None,
            usage,
        };
        let status = PodStatus {
            version: VERSION,
            boot_id: machine.id.clone(),
            phase: PodPhase::Ready,
            containers: pod::running(&machine.pod).map(running).collect(),
            usage,
            replica: None,
        };
        let tag = status.tag();
        let sockets = SocketSet::new(Vec::new());
        Self { sockets, connections: Vec::new(), status, tag, started: Clock::now(), disk }
    }

    /// Listens at a port from now on.
    fn listen(&mut self, port: u16) {
        if self.connections.iter().all(|served| served.port != port) {
            let sockets = [port; CONNECTIONS].map(|port| self.sockets.add(listening(port)));
            self.connections.extend(sockets.map(|handle| Served::new(handle, port)));
        }
    }

    /// How long until a client is to be answered.
    fn pause(&self) -> Option<Duration> {
        let due = self.connections.iter().filter_map(|served| served.due).min();
        due.map(|due| due.saturating_duration_since(Clock::now()))
    }

    /// Answers what was asked, and makes ports that have served listen again. Whether there is something to send.
    fn advance(&mut self) -> bool {
        let mut has_output = false;
        for number in 0..self.connections.len() {
            let served = &mut self.connections[number];
            let (handle, port) = (served.handle, served.port);
            let socket = self.sockets.get_mut::<Socket<'_>>(handle);
            match socket.state() {
                State::Closed | State::TimeWait => {
                    self.sockets.remove(handle);
                    *served = Served::new(self.sockets.add(listening(port)), port);
                }
                State::CloseWait => {
                    socket.close();
                    served.due = None;
                    has_output = true;
                }
                State::Established => {
                    served.take(socket, &self.tag);
                    if served.due.is_none_or(|due| Clock::now() < due) {
                        continue;
                    }
                    served.due = None;
                    let path = std::mem::take(&mut served.path);
                    let answer = self.answer(port, &path);
                    let socket = self.sockets.get_mut::<Socket<'_>>(handle);
                    socket.send_slice(&answer).unwrap();
                    // As a guest, which keeps connections of status checks.
                    if port != HEALTH_PORT {
                        socket.close();
                    }
                    has_output = true;
                }
                _ => {}
            }
        }
        has_output
    }

    /// The answer of a port to a request for that path.
    fn answer(&mut self, port: u16, path: &str) -> Vec<u8> {
        let (kind, connection, body) = if port == HEALTH_PORT {
            // A hundredth of a processor.
            let used = u64::try_from(self.started.elapsed().as_nanos() / 100).unwrap();
            let container =
                self.status.containers.iter_mut().filter_map(|container| container.usage.as_mut());
            container.chain(self.status.usage.as_mut()).for_each(|usage| usage.cpu_nanoseconds = used);
            ("application/json", "keep-alive", serde_json::to_string(&self.status).unwrap())
        } else {
            let written = self.disk.as_mut().and_then(|disk| disk.answer(path));
            let text = written.as_deref().unwrap_or(&self.status.boot_id);
            ("text/plain", "close", format!("{text}\n"))
        };
        let head =
            format!("Content-Type: {kind}\r\nContent-Length: {}\r\nConnection: {connection}", body.len());
        let tag = format!("{}: {}", wait::TAG, self.tag);
        format!("HTTP/1.1 200 OK\r\n{head}\r\n{tag}\r\n\r\n{body}").into_bytes()
    }
}

/// A socket that waits for a connection to a port.
fn listening(port: u16) -> Socket<'static> {
    let mut socket = Socket::new(SocketBuffer::new(vec![0; 2048]), SocketBuffer::new(vec![0; 4096]));
    socket.set_ack_delay(None);
    socket.listen(port).unwrap();
    socket
}
