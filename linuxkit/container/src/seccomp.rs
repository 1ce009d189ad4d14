//! The system call filter of containers: Kubernetes' `RuntimeDefault`.
//!
//! A container engine's default profile is a list of some 350 calls that are allowed. This one has the same effect and is
//! written the other way round, because the kernel is known: the calls that reach the kernel or the VM as a whole are
//! refused with EPERM unless the container holds the capability that they are for, and calls newer than this list do not
//! exist (ENOSYS), so that programs fall back as on an older kernel. Calls of 32-bit programs do not exist either.

use i2kit_spec::runtime::Capabilities;
use i2kit_sys::bpf::Instruction;

use crate::error::{Doing, Error};

/// Calls that need one of these capabilities; none means that nobody may make them.
const GUARDED: [(&[&str], &[libc::c_long]); 15] = [
    (
        &["CAP_SYS_ADMIN"],
        &[
            libc::SYS_fanotify_init,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_lookup_dcookie,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_pivot_root,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_setns,
            libc::SYS_swapoff,
            libc::SYS_swapon,
            libc::SYS_umount2,
            libc::SYS_unshare,
        ],
    ),
    (&["CAP_BPF", "CAP_SYS_ADMIN"], &[libc::SYS_bpf]),
    (&["CAP_PERFMON", "CAP_SYS_ADMIN"], &[libc::SYS_perf_event_open]),
    (&["CAP_DAC_READ_SEARCH"], &[libc::SYS_open_by_handle_at]),
    (&["CAP_SYS_BOOT"], &[libc::SYS_kexec_file_load, libc::SYS_kexec_load, libc::SYS_reboot]),
    (&["CAP_SYS_CHROOT"], &[libc::SYS_chroot]),
    (&["CAP_SYS_MODULE"], &[libc::SYS_delete_module, libc::SYS_finit_module, libc::SYS_init_module]),
    (
        &["CAP_SYS_NICE"],
        &[libc::SYS_get_mempolicy, libc::SYS_mbind, libc::SYS_set_mempolicy, SYS_SET_MEMPOLICY_HOME_NODE],
    ),
    (&["CAP_SYS_PACCT"], &[libc::SYS_acct]),
    (
        &["CAP_SYS_PTRACE"],
        &[
            libc::SYS_kcmp,
            libc::SYS_pidfd_getfd,
            libc::SYS_process_madvise,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
        ],
    ),
    (&["CAP_SYS_RAWIO"], &[libc::SYS_ioperm, libc::SYS_iopl]),
    (&["CAP_SYS_TIME"], &[libc::SYS_clock_adjtime, libc::SYS_clock_settime, libc::SYS_settimeofday]),
    (&["CAP_SYS_TTY_CONFIG"], &[libc::SYS_vhangup]),
    (&["CAP_SYSLOG"], &[libc::SYS_syslog]),
    (
        &[],
        &[
            libc::SYS_add_key,
            libc::SYS_io_uring_enter,
            libc::SYS_io_uring_register,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_migrate_pages,
            libc::SYS_move_pages,
            libc::SYS_nfsservctl,
            libc::SYS_request_key,
            libc::SYS_sysfs,
            libc::SYS_uselib,
            libc::SYS_userfaultfd,
            libc::SYS_ustat,
            libc::SYS__sysctl,
            SYS_LSM_GET_SELF_ATTR,
            SYS_LSM_SET_SELF_ATTR,
            SYS_LSM_LIST_MODULES,
        ],
    ),
];

/// Not yet among libc's constants.
const SYS_SET_MEMPOLICY_HOME_NODE: libc::c_long = 450;
const SYS_LSM_GET_SELF_ATTR: libc::c_long = 459;
const SYS_LSM_SET_SELF_ATTR: libc::c_long = 460;
const SYS_LSM_LIST_MODULES: libc::c_long = 461;

/// The last call that this filter knows: `mseal` of Linux 6.10.
const LAST_CALL: u32 = 462;

/// The namespaces that `clone` must not make without `CAP_SYS_ADMIN`: all of them, as an or of its flags.
const CLONE_NAMESPACES: u32 = 0x7e02_0000;

/// Execution domains that programs may ask for: Linux, its 32-bit form, and without address randomisation, and the
/// question which one is set.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff];

/// Address families that reach past the container: the VM's host by vsock, and the kernel's crypto code.
const FAMILIES: [u32; 2] = [libc::AF_VSOCK.cast_unsigned(), libc::AF_ALG.cast_unsigned()];

pub(crate) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

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
    i2kit_sys::set_seccomp_filter(&program(&capabilities.bounding))
        .doing(|| "install the seccomp filter".into())
}

/// The filter's program.
fn program(capabilities: &[String]) -> Vec<Instruction> {
    let holds = |name: &&str| capabilities.iter().any(|held| held == name);
    let mut out = prologue(LAST_CALL).to_vec();
    for (needed, calls) in GUARDED {
        if !needed.iter().any(holds) {
            for call in calls {
                out.extend(when(*call, &[Instruction::new(RETURN, 0, 0, errno(libc::EPERM))]));
            }
        }
    }
    if !holds(&"CAP_SYS_ADMIN") {
        out.extend(when(libc::SYS_clone, &refuse_if(JUMP_SET, &[CLONE_NAMESPACES])));
        // Its flags are in memory, which a filter cannot see; C libraries then fall back to clone.
        out.extend(when(libc::SYS_clone3, &[Instruction::new(RETURN, 0, 0, errno(libc::ENOSYS))]));
    }
    out.extend(when(libc::SYS_socket, &refuse_if(JUMP_EQUAL, &FAMILIES)));
    out.extend(when(libc::SYS_personality, &allow_only(&PERSONALITIES)));
    out.push(Instruction::new(RETURN, 0, 0, ALLOW));
    out
}

/// What every filter begins with: calls of 32-bit programs do not exist, nor do those whose number is above `last`, among
/// them the calls of x32, whose numbers have a high bit set. It leaves the call's number loaded.
pub(crate) const fn prologue(last: u32) -> [Instruction; 6] {
    [
        Instruction::new(LOAD, 0, 0, ARCH),
        Instruction::new(JUMP_EQUAL, 1, 0, AUDIT_ARCH_X86_64),
        Instruction::new(RETURN, 0, 0, errno(libc::ENOSYS)),
        Instruction::new(LOAD, 0, 0, NUMBER),
        Instruction::new(JUMP_GREATER, 0, 1, last),
        Instruction::new(RETURN, 0, 0, errno(libc::ENOSYS)),
    ]
}

/// Runs `then` for one call; the call's number is loaded before and after.
fn when(call: libc::c_long, then: &[Instruction]) -> Vec<Instruction> {
    let number = u32::try_from(call).expect("numbers of system calls are small");
    let length = u8::try_from(then.len()).expect("what follows a jump here is a few instructions");
    let jump = Instruction::new(JUMP_EQUAL, 0, length, number);
    std::iter::once(jump).chain(then.iter().copied()).collect()
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

    fn answer(capabilities: &[&str], call: libc::c_long, argument: u32) -> u32 {
        let capabilities: Vec<String> = capabilities.iter().map(|name| (*name).to_owned()).collect();
        run(&program(&capabilities), AUDIT_ARCH_X86_64, u32::try_from(call).unwrap(), argument)
    }

    #[test]
    fn ordinary_calls_are_allowed() {
        for call in
            [libc::SYS_read, libc::SYS_execve, libc::SYS_ptrace, libc::SYS_openat2, libc::SYS_futex_waitv]
        {
            assert_eq!(answer(&[], call, 0), ALLOW, "{call}");
        }
        assert_eq!(answer(&[], libc::SYS_clone, 0x0001_1200), ALLOW);
        assert_eq!(answer(&[], libc::SYS_socket, libc::AF_INET6.cast_unsigned()), ALLOW);
        assert_eq!(answer(&[], libc::SYS_personality, 0xffff_ffff), ALLOW);
    }

    #[test]
    fn calls_that_reach_the_machine_are_refused() {
        let refused = errno(libc::EPERM);
        for call in
            [libc::SYS_mount, libc::SYS_bpf, libc::SYS_keyctl, libc::SYS_reboot, libc::SYS_io_uring_setup]
        {
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
            let call = libc::c_long::from(crate::syscalls::number(call).unwrap());
            assert_eq!(answer(&["CAP_NET_ADMIN"], call, 0), refused, "{call}");
        }
        assert_eq!(answer(&["CAP_SYS_PTRACE"], libc::SYS_process_madvise, 0), ALLOW);
        assert_eq!(answer(&[], libc::SYS_clone, libc::CLONE_NEWUSER.cast_unsigned()), refused);
        assert_eq!(answer(&[], libc::SYS_socket, libc::AF_VSOCK.cast_unsigned()), refused);
        assert_eq!(answer(&[], libc::SYS_personality, 1), refused);
    }

    #[test]
    fn a_capability_opens_what_it_is_for() {
        assert_eq!(answer(&["CAP_SYS_ADMIN"], libc::SYS_mount, 0), ALLOW);
        assert_eq!(answer(&["CAP_SYS_ADMIN"], libc::SYS_clone3, 0), ALLOW);
        assert_eq!(answer(&["CAP_BPF"], libc::SYS_bpf, 0), ALLOW);
        assert_eq!(answer(&["CAP_SYS_CHROOT"], libc::SYS_chroot, 0), ALLOW);
        assert_eq!(answer(&["CAP_SYS_ADMIN"], libc::SYS_keyctl, 0), errno(libc::EPERM));
    }

    #[test]
    fn what_is_unknown_does_not_exist() {
        let missing = errno(libc::ENOSYS);
        assert_eq!(answer(&[], 463, 0), missing);
        assert_eq!(answer(&[], 0x4000_0000, 0), missing);
        assert_eq!(answer(&[], libc::SYS_clone3, 0), missing);
        assert_eq!(run(&program(&[]), 0x4000_0003, 4, 0), missing);
    }

    #[test]
    fn every_jump_stays_inside() {
        let program = program(&[]);
        assert!(program.len() < 4096, "the kernel takes at most 4096 instructions");
        for (at, instruction) in program.iter().enumerate() {
            let furthest = at + 1 + usize::from(instruction.jump_true.max(instruction.jump_false));
            assert!(furthest < program.len() || instruction.code == RETURN, "{at}: {instruction:?}");
        }
    }
}
