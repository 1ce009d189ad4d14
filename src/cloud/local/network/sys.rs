//! System calls of the local cloud that no library wraps safely: the one file of the host's program with `unsafe`.
//!
//! It owns no policy: each function is one call, and states why it is sound. What rustix wraps is called there, not here.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// `IFNAMSIZ`: the bytes of an interface's name with its final zero.
const NAME_BYTES: usize = 16;

/// `TUNSETIFF`: `_IOW('T', 202, int)`. The kernel takes a `struct ifreq` all the same.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// `struct ifreq` as `TUNSETIFF` reads it: 40 bytes on every 64-bit machine.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: libc::c_short,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

/// What a virtual interface carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Virtual {
    /// `IFF_TUN | IFF_NO_PI`: a packet a read, a packet a write.
    Packets,
    /// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`: Ethernet frames behind the header of virtio, as qemu takes them.
    Frames,
}

/// Makes a virtual interface in this thread's network namespace by the device `path` (`/dev/net/tun`). It is gone when the
/// last copy of the descriptor is closed.
///
/// # Errors
/// `InvalidInput` for a name without room for its final zero; else those of `open` and of `TUNSETIFF`: `EBUSY` where
/// another process has an interface of that name.
pub(crate) fn interface(path: &Path, name: &str, carries: Virtual) -> io::Result<OwnedFd> {
    let kind = match carries {
        Virtual::Packets => libc::IFF_TUN,
        Virtual::Frames => libc::IFF_TAP | libc::IFF_VNET_HDR,
    };
    let flags = libc::c_short::try_from(kind | libc::IFF_NO_PI).map_err(io::Error::other)?;
    let mut request = InterfaceRequest { name: [0; NAME_BYTES], flags, rest: [0; 22] };
    if name.len() >= NAME_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let device = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: the descriptor is open; the kernel reads and writes `sizeof(struct ifreq)` bytes at the pointer, which is
    // the size of the request (asserted above), and keeps no reference to it.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(device) }
}

/// Moves this thread into a new user namespace, a new network namespace, or both. A new user namespace is refused
/// (`EINVAL`) where the process has a second thread.
pub(crate) fn unshare(user: bool, network: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::empty();
    flags.set(UnshareFlags::NEWUSER, user);
    flags.set(UnshareFlags::NEWNET, network);
    // SAFETY: unsound is only the unsharing of the table of descriptors, under other threads; neither flag does that.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// An option of a socket that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketOption {
    /// `IP_TRANSPARENT`: the socket may have addresses that are not this host's.
    Transparent,
    /// `IPV6_TRANSPARENT`: the same of IPv6.
    Transparent6,
    /// `SO_MARK`: the mark of packets that the socket sends.
    Mark,
    /// `IP_RECVERR`: the socket keeps ICMP errors about what it sent.
    QueueErrors,
    /// `IPV6_RECVERR`: the same of IPv6.
    QueueErrors6,
}

/// Sets an option of a socket.
pub(crate) fn set_option(socket: impl AsFd, option: SocketOption, value: libc::c_int) -> io::Result<()> {
    let (level, name) = match option {
        SocketOption::Transparent => (libc::SOL_IP, libc::IP_TRANSPARENT),
        SocketOption::Transparent6 => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
        SocketOption::Mark => (libc::SOL_SOCKET, libc::SO_MARK),
        SocketOption::QueueErrors => (libc::SOL_IP, libc::IP_RECVERR),
        SocketOption::QueueErrors6 => (libc::SOL_IPV6, libc::IPV6_RECVERR),
    };
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open; the kernel reads `length` bytes at the pointer, which is the size of the value,
    // and keeps no reference to it.
    let result = unsafe { libc::setsockopt(descriptor, level, name, (&raw const value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

// --- door ---

/// Starts a process that is a copy of this one and shares its table of descriptors: what either opens or closes, both
/// have open or closed, and a descriptor stays open until the last of them ends. Returns its id, and nothing in the new
/// process.
///
/// # Errors
/// `ResourceBusy` where this process has a second thread, whose locks the copy would hold for ever; else those of clone(2).
pub(crate) fn clone_files() -> io::Result<Option<Pid>> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
    let none: libc::c_long = 0;
    // SAFETY: without CLONE_VM the new process has a copy of the memory and goes on on a copy of this stack, as after
    // fork(2). It has one thread, as this process has (checked above), so that no lock in that copy is held.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::try_from(result).ok().and_then(Pid::from_raw))
}

/// Maps `words` numbers of 64 bits of the file in memory `file`, which has to have that many. They are mapped for as long
/// as this process lives, and every process that maps the file sees what the others write.
pub(crate) fn map_shared(file: impl AsFd, words: usize) -> io::Result<&'static [AtomicU64]> {
    let bytes = words * size_of::<u64>();
    let has = rustix::fs::fstat(&file)?.st_size;
    if usize::try_from(has).is_ok_and(|has| has < bytes) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (protection, descriptor) = (libc::PROT_READ | libc::PROT_WRITE, file.as_fd().as_raw_fd());
    // SAFETY: the kernel chooses a free range of addresses, so that no other memory is touched.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, descriptor, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is mapped, readable, writable, aligned to a page, as long as asked for, and never unmapped; the
    // file is as long (checked above) and is sealed against shrinking by whoever made it. Every pattern of bits is a
    // valid number, and all access is atomic, so that writes of other processes are no data race.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), words) })
}

/// The descriptor of that number in the table that the processes of the front door share. One that is not open any more
/// gives `EBADF`, which is an error like any other: no memory depends on it.
pub(crate) fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the number is not -1. That the descriptor is open for as long as it is used is kept by the table that says
    // what each descriptor is for; a number that is stale reaches another file at worst, never memory.
    unsafe { BorrowedFd::borrow_raw(number.max(0)) }
}

/// Closes the descriptor of that number.
pub(crate) fn close(number: RawFd) {
    // SAFETY: as for `borrow`: who closes a descriptor is who the table says has it.
    unsafe { rustix::io::close(number) }
}

/// Ignores SIGPIPE: splice(2) into a connection whose other end is gone is then an error, not the end of this process.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: no code is run for a signal that is ignored.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Blocks SIGTERM, SIGINT and SIGHUP, and gives a descriptor that is readable once one of them came to this process.
pub(crate) fn terminations() -> io::Result<OwnedFd> {
    let mut signals = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` fills the set before anything reads it; the other calls read and write that set alone.
    let descriptor = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(signals.as_mut_ptr(), signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, signals.as_ptr(), std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, signals.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

// --- egress ---

/// An ICMP error about a datagram that a socket had sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct QueuedError {
    /// Its type, of ICMP or `ICMPv6`.
    pub(crate) kind: u8,
    /// Its code.
    pub(crate) code: u8,
    /// Its second word: the MTU, where the datagram was too long.
    pub(crate) info: u32,
    /// Who sent it.
    pub(crate) offender: Option<IpAddr>,
}

/// Lets a datagram socket keep the ICMP errors about what it sent, for [`read_error`].
pub(crate) fn queue_errors(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    set_option(socket, if ipv6 { SocketOption::QueueErrors6 } else { SocketOption::QueueErrors }, 1)
}

/// The next ICMP error of a socket, and the start of the datagram that it is about in `datagram`. `None` for an error
/// that came from no packet: this host's own.
///
/// # Errors
/// `WouldBlock` when there is none.
pub(crate) fn read_error(
    socket: BorrowedFd<'_>,
    datagram: &mut [u8],
) -> io::Result<(usize, Option<QueuedError>)> {
    /// Room for one `sock_extended_err` with the address of its sender, and for other messages; aligned as headers are.
    const CONTROL_BYTES: usize = 256;
    #[repr(C, align(8))]
    struct Control([u8; CONTROL_BYTES]);

    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: datagram.as_mut_ptr().cast(), iov_len: datagram.len() };
    // SAFETY: a message header of zeros is a valid one without buffers.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open; the header's pointers are to `vector`, to `datagram` and to `control`, with their
    // lengths, and all of them outlive the call, which keeps none.
    let read = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    let used = header.msg_controllen.min(CONTROL_BYTES);
    Ok((read.min(datagram.len()), queued_error(&control.0[..used])))
}

/// The ICMP error in control messages (cmsg(3), ip(7), ipv6(7)): each has a header of length, level and type, and the
/// error is a `struct sock_extended_err` followed by the `struct sockaddr` of its sender.
fn queued_error(mut control: &[u8]) -> Option<QueuedError> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    const ERROR: usize = size_of::<libc::sock_extended_err>();
    loop {
        let length = usize::from_ne_bytes(*control.first_chunk()?);
        let level = i32::from_ne_bytes(*control.get(8..)?.first_chunk()?);
        let name = i32::from_ne_bytes(*control.get(12..)?.first_chunk()?);
        let body = control.get(HEADER..length)?;
        if matches!((level, name), (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)) {
            let error = body.first_chunk::<ERROR>()?;
            let [_, _, _, _, origin, kind, code, _, info @ ..] = *error;
            let info = u32::from_ne_bytes(*info.first_chunk()?);
            let icmp = matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6);
            let offender = body.get(ERROR..).and_then(socket_address);
            return icmp.then_some(QueuedError { kind, code, info, offender });
        }
        control = control.get(length.next_multiple_of(8)..)?;
    }
}

/// The address in a `struct sockaddr_in` or `sockaddr_in6`.
fn socket_address(bytes: &[u8]) -> Option<IpAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    match family {
        libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::from(*bytes.get(4..)?.first_chunk::<4>()?))),
        libc::AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(*bytes.get(8..)?.first_chunk::<16>()?))),
        _ => None,
    }
}
