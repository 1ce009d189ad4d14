//! The system call filter of containers: Kubernetes' `RuntimeDefault`.
//!
//! A container engine's default profile is a list of some 350 calls that are allowed. This one has the same effect and is
//! written the other way round, because the kernel is known: the calls that reach the kernel or the VM as a whole are
//! refused with EPERM unless the container holds the capability that they are for, and calls newer than this list do not
//! exist (ENOSYS), so that programs fall back as on an older kernel. Calls of 32-bit programs do not exist either.

use i2kit_spec::Architecture;
use i2kit_spec::runtime::Capabilities;
use i2kit_sys::bpf::Instruction;

use crate::error::{Doing, Error};
use crate::syscalls::{self, Calls};

/// Calls that need one of these capabilities; none means that nobody may make them. An architecture may lack some.
const GUARDED: [(&[&str], &[&str]); 15] = [
    (
        &["CAP_SYS_ADMIN"],
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "swapoff",
            "swapon",
            "umount2",
            "unshare",
        ],
    ),
    (&["CAP_BPF", "CAP_SYS_ADMIN"], &["bpf"]),
    (&["CAP_PERFMON", "CAP_SYS_ADMIN"], &["perf_event_open"]),
    (&["CAP_DAC_READ_SEARCH"], &["open_by_handle_at"]),
    (&["CAP_SYS_BOOT"], &["kexec_file_load", "kexec_load", "reboot"]),
    (&["CAP_SYS_CHROOT"], &["chroot"]),
    (&["CAP_SYS_MODULE"], &["delete_module", "finit_module", "init_module"]),
    (&["CAP_SYS_NICE"], &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    (&["CAP_SYS_PACCT"], &["acct"]),
    (
        &["CAP_SYS_PTRACE"],
        &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev"],
    ),
    (&["CAP_SYS_RAWIO"], &["ioperm", "iopl"]),
    (&["CAP_SYS_TIME"], &["clock_adjtime", "clock_settime", "settimeofday"]),
    (&["CAP_SYS_TTY_CONFIG"], &["vhangup"]),
    (&["CAP_SYSLOG"], &["syslog"]),
    (
        &[],
        &[
            "add_key",
            "io_uring_enter",
            "io_uring_register",
            "io_uring_setup",
            "keyctl",
            "migrate_pages",
            "move_pages",
            "nfsservctl",
            "request_key",
            "sysfs",
            "uselib",
            "userfaultfd",
            "ustat",
            "_sysctl",
            "lsm_get_self_attr",
            "lsm_set_self_attr",
            "lsm_list_modules",
        ],
    ),
];

/// The namespaces that `clone` must not make without `CAP_SYS_ADMIN`: all of them, as an or of its flags.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

/// Execution domains that programs may ask for: Linux, its 32-bit form, and without address randomisation, and the
/// question which one is set.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// Address families that reach past the container: the VM's host by vsock, and the kernel's crypto code.
const FAMILIES: [u32; 2] = [libc::AF_VSOCK.cast_unsigned(), libc::AF_ALG.cast_unsigned()];

/// Offsets in `struct seccomp_data`.
pub(crate) const NUMBER: u32 = 0;
pub(crate) const ARCH: u32 = 4;
/// The lower half of the first argument.
pub(crate) const FIRST_ARGUMENT: u32 = 16;

/// Instructions of classic BPF.
pub(crate) const LOAD: u16 = 0x20;
pub(crate) const JUMP_EQUAL: u16 = 0x15;
pub(crate) const JUMP_GREATER: u16 = 0x25;
const JUMP_SET: u16 = 0x45;
pub(crate) const RETURN: u16 = 0x06;

pub(crate) const ALLOW: u32 = 0x7fff_0000;
pub(crate) const fn errno(code: libc::c_int) -> u32 {
    0x0005_0000 | code.cast_unsigned()
}

/// Installs the default filter for a container with these capabilities, in the calling process.
pub(crate) fn install_default(capabilities: &Capabilities) -> Result<(), Error> {
    let calls = syscalls::of(Architecture::COMPILED);
    i2kit_sys::set_seccomp_filter(&program(calls, &capabilities.bounding))
        .doing(|| "install the seccomp filter".into())
}

/// The filter's program.
fn program(calls: &Calls, capabilities: &[String]) -> Vec<Instruction> {
    let holds = |name: &&str| capabilities.iter().any(|held| held == name);
    let mut out = prologue(calls, syscalls::LAST).to_vec();
    // Runs `then` for one call, where the architecture has it; the call's number is loaded before and after.
    let mut when = |call: &str, then: &[Instruction]| {
        let Some(number) = calls.number(call) else { return };
        let length = u8::try_from(then.len()).expect("what follows a jump here is a few instructions");
        out.push(Instruction::new(JUMP_EQUAL, 0, length, number));
        out.extend(then);
    };
    for (needed, guarded) in GUARDED {
        if !needed.iter().any(holds) {
            for call in guarded {
                when(call, &[Instruction::new(RETURN, 0, 0, errno(libc::EPERM))]);
            }
        }
    }
    if !holds(&"CAP_SYS_ADMIN") {
        when("clone", &refuse_if(JUMP_SET, &[CLONE_NAMESPACES]));
        // Its flags are in memory, which a filter cannot see; C libraries then fall back to clone.
        when("clone3", &[Instruction::new(RETURN, 0, 0, errno(libc::ENOSYS))]);
    }
    when("socket", &refuse_if(JUMP_EQUAL, &FAMILIES));
    when("personality", &allow_only(&PERSONALITIES));
    out.push(Instruction::new(RETURN, 0, 0, ALLOW));
    out
}

/// What every filter begins with: calls of other architectures, such as those of 32-bit programs, do not exist, nor do
/// those whose number is above `last`, among them the calls of x32, whose numbers have a high bit set. It leaves the call's
/// number loaded.
pub(crate) const fn prologue(calls: &Calls, last: u32) -> [Instruction; 6] {
    [
        Instruction::new(LOAD, 0, 0, ARCH),
        Instruction::new(JUMP_EQUAL, 1, 0, calls.audit),
        Instruction::new(RETURN, 0, 0, errno(libc::ENOSYS)),
        Instruction::new(LOAD, 0, 0, NUMBER),
        Instruction::new(JUMP_GREATER, 0, 1, last),
        Instruction::new(RETURN, 0, 0, errno(libc::ENOSYS)),
    ]
}

/// Refuses the call when its first argument passes one of the tests, else allows it.
fn refuse_if(test: u16, values: &[u32]) -> Vec<Instruction> {
    let mut out = vec![Instruction::new(LOAD, 0, 0, FIRST_ARGUMENT)];
    for value in values {
        out.push(Instruction::new(test, 0, 1, *value));
        out.push(Instruction::new(RETURN, 0, 0, errno(libc::EPERM)));
    }
    out.push(Instruction::new(RETURN, 0, 0, ALLOW));
    out
}

/// Allows the call when its first argument is one of these, else refuses it.
fn allow_only(values: &[u32]) -> Vec<Instruction> {
    let mut out = vec![Instruction::new(LOAD, 0, 0, FIRST_ARGUMENT)];
    for value in values {
        out.push(Instruction::new(JUMP_EQUAL, 0, 1, *value));
        out.push(Instruction::new(RETURN, 0, 0, ALLOW));
    }
    out.push(Instruction::new(RETURN, 0, 0, errno(libc::EPERM)));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by the meaning of the five instructions that it is made of.
    fn run(program: &[Instruction], arch: u32, number: u32, argument: u32) -> u32 {
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let Instruction { code, jump_true, jump_false, k } = program[at];
            at += 1;
            let test = match code {
                LOAD => {
                    accumulator = match k {
                        NUMBER => number,
                        ARCH => arch,
                        _ => argument,
                    };
                    continue;
                }
                RETURN => return k,
                JUMP_EQUAL => accumulator == k,
                JUMP_GREATER => accumulator > k,
                _ => accumulator & k != 0,
            };
            at += usize::from(if test { jump_true } else { jump_false });
        }
    }

    const ALL: [&Calls; 2] = [syscalls::of(Architecture::Amd64), syscalls::of(Architecture::Arm64)];

    fn answer_to(calls: &Calls, capabilities: &[&str], number: u32, argument: u32) -> u32 {
        let capabilities: Vec<String> = capabilities.iter().map(|name| (*name).to_owned()).collect();
        run(&program(calls, &capabilities), calls.audit, number, argument)
    }

    /// The answer to a call, which is the same on all architectures.
    fn answer(capabilities: &[&str], call: &str, argument: u32) -> u32 {
        let [one, other] =
            ALL.map(|calls| answer_to(calls, capabilities, calls.number(call).unwrap(), argument));
        assert_eq!(one, other, "{call}");
        one
    }

    #[test]
    fn every_guarded_call_is_known() {
        for call in GUARDED.iter().flat_map(|(_, calls)| *calls) {
            assert!(ALL[0].number(call).is_some(), "{call}");
        }
        let lacks = |call: &&&str| ALL[1].number(call).is_none();
        let missing: Vec<&&str> = GUARDED.iter().flat_map(|(_, calls)| *calls).filter(lacks).collect();
        assert_eq!(missing, [&"ioperm", &"iopl", &"sysfs", &"uselib", &"ustat", &"_sysctl"]);
    }

    #[test]
    fn ordinary_calls_are_allowed() {
        for call in ["read", "execve", "ptrace", "openat2", "futex_waitv"] {
            assert_eq!(answer(&[], call, 0), ALLOW, "{call}");
        }
        assert_eq!(answer(&[], "clone", 0x0001_1200), ALLOW);
        assert_eq!(answer(&[], "socket", libc::AF_INET6.cast_unsigned()), ALLOW);
        assert_eq!(answer(&[], "personality", 0xffff_ffff), ALLOW);
    }

    #[test]
    fn calls_that_reach_the_machine_are_refused() {
        let refused = errno(libc::EPERM);
        for call in ["mount", "bpf", "keyctl", "reboot", "io_uring_setup"] {
            assert_eq!(answer(&["CAP_NET_ADMIN"], call, 0), refused, "{call}");
        }
        for call in [
            "migrate_pages",
            "move_pages",
            "process_madvise",
            "lsm_get_self_attr",
            "lsm_set_self_attr",
            "lsm_list_modules",
        ] {
            assert_eq!(answer(&["CAP_NET_ADMIN"], call, 0), refused, "{call}");
        }
        assert_eq!(answer(&["CAP_SYS_PTRACE"], "process_madvise", 0), ALLOW);
        assert_eq!(answer(&[], "clone", libc::CLONE_NEWUSER.cast_unsigned()), refused);
        assert_eq!(answer(&[], "socket", libc::AF_VSOCK.cast_unsigned()), refused);
        assert_eq!(answer(&[], "personality", 1), refused);
    }

    #[test]
    fn a_capability_opens_what_it_is_for() {
        assert_eq!(answer(&["CAP_SYS_ADMIN"], "mount", 0), ALLOW);
        assert_eq!(answer(&["CAP_SYS_ADMIN"], "clone3", 0), ALLOW);
        assert_eq!(answer(&["CAP_BPF"], "bpf", 0), ALLOW);
        assert_eq!(answer(&["CAP_SYS_CHROOT"], "chroot", 0), ALLOW);
        assert_eq!(answer(&["CAP_SYS_ADMIN"], "keyctl", 0), errno(libc::EPERM));
    }

    #[test]
    fn what_is_unknown_does_not_exist() {
        let missing = errno(libc::ENOSYS);
        assert_eq!(answer(&[], "clone3", 0), missing);
        for (calls, other) in ALL.into_iter().zip(ALL.into_iter().rev()) {
            assert_eq!(answer_to(calls, &[], 463, 0), missing);
            assert_eq!(answer_to(calls, &[], 0x4000_0000, 0), missing);
            for arch in [0x4000_0003, 0x4000_0028, other.audit] {
                assert_eq!(run(&program(calls, &[]), arch, 4, 0), missing);
            }
        }
    }

    #[test]
    fn the_program_of_amd64_is_what_it_was() {
        let (none, some) = (program(ALL[0], &[]), program(ALL[0], &["CAP_SYS_ADMIN".into()]));
        assert_eq!((sum(&none), sum(&some)), (0x625a_28e0_6c07_21a5, 0x0ef2_8f1e_cc14_d61a));
    }

    /// A sum of a program's bytes in which each place counts (FNV-1a).
    fn sum(program: &[Instruction]) -> u64 {
        let bytes = program.iter().flat_map(|Instruction { code, jump_true, jump_false, k }| {
            let mut bytes = [0; 8];
            bytes[..2].copy_from_slice(&code.to_le_bytes());
            bytes[2..4].copy_from_slice(&[*jump_true, *jump_false]);
            bytes[4..].copy_from_slice(&k.to_le_bytes());
            bytes
        });
        bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn every_jump_stays_inside() {
        let program = program(ALL[0], &[]);
        assert!(program.len() < 4096, "the kernel takes at most 4096 instructions");
        for (at, instruction) in program.iter().enumerate() {
            let furthest = at + 1 + usize::from(instruction.jump_true.max(instruction.jump_false));
            assert!(furthest < program.len() || instruction.code == RETURN, "{at}: {instruction:?}");
        }
    }
}
