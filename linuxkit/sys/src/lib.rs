//! System calls that no library wraps safely, the one file of the guest with `unsafe` in it; programs for the kernel's BPF
//! machines ([`bpf`]); and the clock since the kernel started ([`clock`]).
//!
//! It owns no policy: what a namespace, a filter or a mount is for is its callers' matter.
//!
//! ```no_run
//! // A process in a PID namespace of its own, which ends with exit code 3.
//! let (pid, _pidfd) = i2kit_sys::fork(libc::CLONE_NEWPID, None, || 3)?;
//! # let _ = pid;
//! # Ok::<(), std::io::Error>(())
//! ```
#![expect(
    unsafe_code,
    reason = "clone3, signalfd, real-time signals, _exit and others have no safe wrapper; each use states why it is sound"
)]

pub mod bpf;
pub mod clock;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::{Pid, Signal};

use crate::bpf::{BpfInstruction, BpfPlace, Instruction};

/// `struct clone_args` of the kernel, as of Linux 5.7.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The signal of this number, if there is one: those with names, and those for programs' own use.
pub fn signal(number: i32) -> Option<Signal> {
    // SAFETY: a Signal holds any number from 1 to 64; those that the C library keeps for itself, 32 and 33, are left
    // out. They are sent to other processes only, never handled here.
    matches!(number, 1..=31 | 34..=64).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

/// `clone3`, as `fork`: runs `child` in a copy of this process that starts in `cgroup`, or in the group of its parent, and
/// in the new namespaces that `flags` names. The copy ends with the exit code that `child` returns. Returns the copy's id
/// in this process's namespace and a pidfd.
///
/// Fails with `EINVAL` where this process has a second thread, whose locks the copy could never take.
pub fn fork(
    flags: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> libc::c_int,
) -> io::Result<(Pid, OwnedFd)> {
    if flags & !NAMESPACES != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    require_single_thread()?;
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()) | CLONE_PIDFD | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: cgroup.map_or(0, |cgroup| u64::from(cgroup.as_raw_fd().cast_unsigned())),
        ..CloneArgs::default()
    };
    // SAFETY: the flags share nothing, neither memory nor descriptors: the child has its own copy of both and of the stack,
    // so that it may go on as after fork. This process has one thread, as was asked just now, so that no lock is held by a
    // thread that the child lacks. `args` and `pidfd` live until the call returns; the kernel writes `pidfd` in the parent
    // before that.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match result {
        0 => exit_child(child()),
        -1 => Err(io::Error::last_os_error()),
        pid => {
            let pid =
                i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the kernel's pids are positive");
            // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
            Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
        }
    }
}

/// The right to make one more process beside this one. A filter of system calls that is installed in between may refuse
/// what [`fork`] takes, but must allow `clone`.
#[derive(Debug)]
pub struct Sibling(());

impl Sibling {
    /// Looks whether this process has a single thread, as [`fork`] does. The caller starts none before [`Self::fork`].
    pub fn prepare() -> io::Result<Self> {
        require_single_thread().map(|()| Self(()))
    }

    /// Runs `child` in a copy of this process whose parent is this process's own parent (`CLONE_PARENT`). The copy ends
    /// with the exit code that `child` returns.
    pub fn fork(self, child: impl FnOnce() -> libc::c_int) -> io::Result<()> {
        let flags = libc::CLONE_PARENT | libc::SIGCHLD;
        // SAFETY: as in `fork`: the copy shares neither memory nor descriptors nor, without a stack of its own, the stack;
        // this process had one thread when it was looked at, and no function of this crate starts another.
        match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
            0 => exit_child(child()),
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Fails unless this process has a single thread.
fn require_single_thread() -> io::Result<()> {
    // SAFETY: nothing is unshared by this: the kernel looks whether memory is shared, and refuses if it is.
    let result = unsafe { libc::unshare(libc::CLONE_VM) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const CLONE_PIDFD: u64 = 0x1000;

/// The flags that [`fork`] takes.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Blocks `signals` for this process and returns a non-blocking descriptor that delivers them.
pub fn signal_fd(signals: &[libc::c_int]) -> io::Result<OwnedFd> {
    // SAFETY: an all-zero sigset_t is valid storage, and sigemptyset gives it its meaning before use.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a live sigset_t in all calls, and the null pointer asks for no old mask.
    let fd = unsafe {
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Blocks no signals any more: a program starts with the mask of the process that becomes it.
pub fn unblock_signals() -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is valid storage, and sigemptyset gives it its meaning before use.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a live sigset_t in both calls, and the null pointer asks for no old mask.
    let result = unsafe {
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the clock gain or lose this many microseconds little by little (`adjtime`).
pub fn lead_clock(microseconds: i64) -> io::Result<()> {
    let delta = libc::timeval { tv_sec: microseconds / 1_000_000, tv_usec: microseconds % 1_000_000 };
    // SAFETY: the kernel reads `delta`, which lives until the call returns; the null pointer asks for no old value.
    let result = unsafe { libc::adjtime(&raw const delta, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the process's own cgroup the root of all that it sees of the cgroup tree.
pub fn enter_new_cgroup_namespace() -> io::Result<()> {
    // SAFETY: only unsharing file descriptors can surprise other code, and this does not.
    Ok(unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWCGROUP) }?)
}

/// Binds a socket to one interface (`SO_BINDTODEVICE`).
pub fn bind_to_device(socket: &impl AsFd, interface: &str) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_bytes())
}

/// Lets a socket count as readable only when this many bytes are there, or its end (`SO_RCVLOWAT`).
pub fn set_low_water(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVLOWAT, &bytes.to_ne_bytes())
}

fn set_option(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the value lives until the call returns, and its length is given with it.
    let result = unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many bytes were ever written to a TCP connection, whether or not they left the machine (`TCP_INFO`).
pub fn bytes_written(socket: &impl AsFd) -> io::Result<u64> {
    // Offsets in the kernel's struct tcp_info, which only ever grows at its end.
    const NOTSENT_BYTES: usize = 144;
    const BYTES_SENT: usize = 200;
    let mut info = [0_u8; 256];
    let mut length = libc::socklen_t::try_from(info.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes into `info`; both live until the call returns.
    let result = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let (Some(unsent), Some(sent)) = (info[NOTSENT_BYTES..].first_chunk(), info[BYTES_SENT..].first_chunk())
    else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    Ok(u64::from(u32::from_ne_bytes(*unsent)) + u64::from_ne_bytes(*sent))
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

/// Filters the system calls of this process and of all that it starts. Needs `CAP_SYS_ADMIN` or `no_new_privs`.
pub fn set_seccomp_filter(filter: &[Instruction]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = Program { length, filter: filter.as_ptr() };
    let mode = libc::c_ulong::from(libc::SECCOMP_MODE_FILTER);
    let unused: libc::c_ulong = 0;
    // SAFETY: `program` and the instructions that it points to live until the call returns, have the kernel's layout,
    // and are only read; the kernel checks the instructions themselves.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, unused, unused) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The first fields of `union bpf_attr` for loading a program.
#[repr(C, align(8))]
struct BpfLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

/// The fields of `union bpf_attr` for attaching a program.
#[repr(C, align(8))]
struct BpfAttach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// Loads a program that decides for cgroups.
pub fn load_program(place: BpfPlace, instructions: &[BpfInstruction]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    let license = c"Apache-2.0";
    let (kind, attach) = place.numbers();
    let attr = BpfLoad {
        kind,
        count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach,
    };
    // SAFETY: the instructions and the licence live until the call returns, and the kernel only reads them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attr, size_of::<BpfLoad>()) };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has such a program decide for a cgroup.
pub fn attach_program(place: BpfPlace, group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const PROG_ATTACH: libc::c_int = 8;
    let attr = BpfAttach {
        target: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: place.numbers().1,
        flags: 0,
    };
    // SAFETY: the kernel reads the attributes, which live until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attr, size_of::<BpfAttach>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has every descriptor from 3 on but the kept ones mean `/dev/null` from now on, so that a process which goes on for long
/// holds nothing open of what its parent has. The numbers stay open and keep their owners: none of them closes what is
/// another one's, and nothing else comes to have a number that somebody believes to own.
///
/// Needs the VM's `/proc` and `/dev`.
pub fn let_go_of_descriptors(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    let kept: Vec<libc::c_int> = kept.iter().chain([&null.as_fd()]).map(AsRawFd::as_raw_fd).collect();
    let names = std::fs::read_dir("/proc/self/fd")?;
    let numbers: Vec<libc::c_int> =
        names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > libc::STDERR_FILENO && !kept.contains(number))
    {
        // The one that listed the others is closed by now.
        // SAFETY: it only asks, and fails for a number that is no descriptor.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            continue;
        }
        // SAFETY: the number is open before and after, so that whoever owns it may go on to use and to close it.
        if unsafe { libc::dup3(null.as_raw_fd(), number, libc::O_CLOEXEC) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    namespace: u64,
}

/// Has a mount that is nowhere yet show its owners as this user namespace maps them (`MOUNT_ATTR_IDMAP`).
pub fn shift_owners(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    const IDMAP: u64 = 0x0010_0000;
    let namespace = u64::from(namespace.as_raw_fd().cast_unsigned());
    set_mount_attributes(
        tree,
        false,
        &MountAttributes { set: IDMAP, namespace, ..MountAttributes::default() },
    )
}

/// `MOUNT_ATTR_RDONLY`.
pub const MOUNT_READ_ONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const MOUNT_NO_SETUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const MOUNT_NO_DEVICES: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const MOUNT_NO_PROGRAMS: u64 = 0x8;

/// Restricts a mount that is nowhere yet, and all that is mounted below it.
pub fn restrict_mounts(tree: BorrowedFd<'_>, restrictions: u64) -> io::Result<()> {
    set_mount_attributes(tree, true, &MountAttributes { set: restrictions, ..MountAttributes::default() })
}

fn set_mount_attributes(
    tree: BorrowedFd<'_>,
    recursive: bool,
    attributes: &MountAttributes,
) -> io::Result<()> {
    let empty = c"";
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path and the attributes live until the call returns, and the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            empty.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends a cloned child at once, without the exit handlers and buffers that belong to its parent.
fn exit_child(code: libc::c_int) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Grows the ext4 file system in which `folder` lies to that many blocks, while it is mounted; nothing when it has them.
pub fn resize_ext4(folder: &impl AsFd, blocks: u64) -> io::Result<()> {
    /// `EXT4_IOC_RESIZE_FS` of the kernel's uapi: `_IOW('f', 16, __u64)`.
    const RESIZE_FS: libc::Ioctl = 0x4008_6610;
    let fd = folder.as_fd().as_raw_fd();
    // SAFETY: the kernel reads eight bytes at the address, which are those of a number that lives until then.
    let result = unsafe { libc::ioctl(fd, RESIZE_FS, &raw const blocks) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct rand_pool_info` of the kernel, with so many bytes.
#[repr(C)]
struct PoolInput<const N: usize> {
    /// How many bits of them count as random.
    bits: libc::c_int,
    bytes: libc::c_int,
    input: [u8; N],
}

/// Mixes bytes that nobody can guess into the kernel's random numbers, all of whose bits count, and has them used at once
/// (`RNDADDENTROPY`, `RNDRESEEDCRNG`): numbers that were drawn before tell nothing of those that are drawn from now on.
/// `device` is `/dev/urandom`.
pub fn reseed<const N: usize>(device: &impl AsFd, seed: [u8; N]) -> io::Result<()> {
    /// `_IOW('R', 0x03, int[2])` and `_IO('R', 0x07)` of the kernel's uapi.
    const ADD_ENTROPY: libc::Ioctl = 0x4008_5203;
    const RESEED: libc::Ioctl = 0x5207;
    let bytes = libc::c_int::try_from(N).map_err(|_| io::ErrorKind::InvalidInput)?;
    let bits = bytes.checked_mul(8).ok_or(io::ErrorKind::InvalidInput)?;
    let input = PoolInput { bits, bytes, input: seed };
    let fd = device.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the two numbers and as many bytes behind them as the second one says, which are there; all of
    // it lives until the call returns.
    if unsafe { libc::ioctl(fd, ADD_ENTROPY, &raw const input) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this request has no argument.
    if unsafe { libc::ioctl(fd, RESEED) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A command of the device mapper's control device. `buffer` holds its structure, with the buffer's whole size in it, and
/// takes the answer.
pub fn device_mapper(control: &impl AsFd, command: u8, buffer: &mut [u8]) -> io::Result<()> {
    // _IOWR(0xfd, command, struct dm_ioctl), which has 312 bytes.
    let request = libc::Ioctl::from(command) | 0xc138_fd00;
    let stated = buffer.get(12..16).and_then(|size| size.first_chunk());
    if stated.is_none_or(|size| u32::from_ne_bytes(*size) as usize != buffer.len()) || buffer.len() < 312 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let fd = control.as_fd().as_raw_fd();
    // SAFETY: the kernel reads and writes at most as many bytes as the structure says, which is the buffer's size; the
    // buffer lives until the call returns.
    let result = unsafe { libc::ioctl(fd, request, buffer.as_mut_ptr()) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_process_with_a_second_thread_is_not_copied() {
        let (end, ended) = channel::<()>();
        let second = std::thread::spawn(move || ended.recv());
        // The copy would end with its exit code, and nobody waits for it here.
        let copied = fork(0, None, || 0).map(drop);
        assert_eq!(copied.unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(Sibling::prepare().unwrap_err().raw_os_error(), Some(libc::EINVAL));
        end.send(()).unwrap();
        second.join().unwrap().unwrap();
    }
}
