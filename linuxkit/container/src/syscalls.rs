//! The system calls of each architecture: their names by their numbers, and the number by which the kernel knows the
//! architecture itself. All are of the kernel's interface and never change.

use i2kit_spec::Architecture;

/// The system calls of an architecture.
#[derive(Debug)]
pub(crate) struct Calls {
    /// The kernel's number of the architecture (`AUDIT_ARCH_…`), by which a filter knows whose numbers it reads.
    pub(crate) audit: u32,
    /// Runs of numbers without a gap: the first number, and the names in one text, to which the compiler adds no pointers.
    runs: &'static [(u32, &'static str)],
}

/// The calls of an architecture.
pub(crate) const fn of(architecture: Architecture) -> &'static Calls {
    match architecture {
        Architecture::Amd64 => &AMD64,
        Architecture::Arm64 => &ARM64,
    }
}

impl Calls {
    /// The number of a call; none where the architecture has no such call.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.runs.iter().find_map(|(first, names)| {
            let place = names.split(' ').position(|known| known == name)?;
            Some(first + u32::try_from(place).ok()?)
        })
    }

    /// The name of a call.
    #[cfg(test)]
    pub(crate) fn name(&self, number: u32) -> Option<&'static str> {
        self.runs.iter().find_map(|(first, names)| {
            names.split(' ').nth(usize::try_from(number.checked_sub(*first)?).ok()?)
        })
    }
}

/// The number of the last call that is known here, on every architecture: `mseal` of Linux 6.10.
pub(crate) const LAST: u32 = 462;

/// Calls that came after Linux 5.0 have one number on all architectures.
const COMMON: (u32, &str) = (
    424,
    "pidfd_send_signal io_uring_setup io_uring_enter io_uring_register open_tree move_mount fsopen \
     fsconfig fsmount fspick pidfd_open clone3 close_range openat2 pidfd_getfd faccessat2 process_madvise \
     epoll_pwait2 mount_setattr quotactl_fd landlock_create_ruleset landlock_add_rule \
     landlock_restrict_self memfd_secret process_mrelease futex_waitv set_mempolicy_home_node cachestat \
     fchmodat2 map_shadow_stack futex_wake futex_wait futex_requeue statmount listmount lsm_get_self_attr \
     lsm_set_self_attr lsm_list_modules mseal",
);

const AMD64: Calls = Calls {
    audit: 0xc000_003e,
    runs: &[
        (
            0,
            "read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction \
             rt_sigprocmask rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield \
             mremap msync mincore madvise shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer \
             getpid sendfile socket connect accept sendto recvfrom sendmsg recvmsg shutdown bind listen \
             getsockname getpeername socketpair setsockopt getsockopt clone fork vfork execve exit wait4 kill \
             uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync fdatasync truncate \
             ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink readlink chmod \
             fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo times ptrace getuid syslog \
             getgid setuid setgid geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups \
             setgroups setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset \
             rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod uselib \
             personality ustat statfs fstatfs sysfs getpriority setpriority sched_setparam sched_getparam \
             sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min \
             sched_rr_get_interval mlock munlock mlockall munlockall vhangup modify_ldt pivot_root _sysctl prctl \
             arch_prctl adjtimex setrlimit chroot sync acct settimeofday mount umount2 swapon swapoff reboot \
             sethostname setdomainname iopl ioperm create_module init_module delete_module get_kernel_syms \
             query_module quotactl nfsservctl getpmsg putpmsg afs_syscall tuxcall security gettid readahead \
             setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr \
             removexattr lremovexattr fremovexattr tkill time futex sched_setaffinity sched_getaffinity \
             set_thread_area io_setup io_destroy io_getevents io_submit io_cancel get_thread_area lookup_dcookie \
             epoll_create epoll_ctl_old epoll_wait_old remap_file_pages getdents64 set_tid_address \
             restart_syscall semtimedop fadvise64 timer_create timer_settime timer_gettime timer_getoverrun \
             timer_delete clock_settime clock_gettime clock_getres clock_nanosleep exit_group epoll_wait \
             epoll_ctl tgkill utimes vserver mbind set_mempolicy get_mempolicy mq_open mq_unlink mq_timedsend \
             mq_timedreceive mq_notify mq_getsetattr kexec_load waitid add_key request_key keyctl ioprio_set \
             ioprio_get inotify_init inotify_add_watch inotify_rm_watch migrate_pages openat mkdirat mknodat \
             fchownat futimesat newfstatat unlinkat renameat linkat symlinkat readlinkat fchmodat faccessat \
             pselect6 ppoll unshare set_robust_list get_robust_list splice tee sync_file_range vmsplice \
             move_pages utimensat epoll_pwait signalfd timerfd_create eventfd fallocate timerfd_settime \
             timerfd_gettime accept4 signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev \
             rt_tgsigqueueinfo perf_event_open recvmmsg fanotify_init fanotify_mark prlimit64 name_to_handle_at \
             open_by_handle_at clock_adjtime syncfs sendmmsg setns getcpu process_vm_readv process_vm_writev kcmp \
             finit_module sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create kexec_file_load \
             bpf execveat userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc \
             pkey_free statx io_pgetevents rseq",
        ),
        COMMON,
    ],
};

/// The kernel's generic table, with what arm64 takes of its choices.
const ARM64: Calls = Calls {
    audit: 0xc000_00b7,
    runs: &[
        (
            0,
            "io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr \
             lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr \
             getcwd lookup_dcookie eventfd2 epoll_create1 epoll_ctl epoll_pwait dup dup3 fcntl \
             inotify_init1 inotify_add_watch inotify_rm_watch ioctl ioprio_set ioprio_get flock mknodat \
             mkdirat unlinkat symlinkat linkat renameat umount2 mount pivot_root nfsservctl statfs \
             fstatfs truncate ftruncate fallocate faccessat chdir fchdir chroot fchmod fchmodat fchownat \
             fchown openat close vhangup pipe2 quotactl getdents64 lseek read write readv writev pread64 \
             pwrite64 preadv pwritev sendfile pselect6 ppoll signalfd4 vmsplice splice tee readlinkat \
             newfstatat fstat sync fsync fdatasync sync_file_range timerfd_create timerfd_settime \
             timerfd_gettime utimensat acct capget capset personality exit exit_group waitid \
             set_tid_address unshare futex set_robust_list get_robust_list nanosleep getitimer setitimer \
             kexec_load init_module delete_module timer_create timer_gettime timer_getoverrun \
             timer_settime timer_delete clock_settime clock_gettime clock_getres clock_nanosleep syslog \
             ptrace sched_setparam sched_setscheduler sched_getscheduler sched_getparam sched_setaffinity \
             sched_getaffinity sched_yield sched_get_priority_max sched_get_priority_min \
             sched_rr_get_interval restart_syscall kill tkill tgkill sigaltstack rt_sigsuspend \
             rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigreturn \
             setpriority getpriority reboot setregid setgid setreuid setuid setresuid getresuid setresgid \
             getresgid setfsuid setfsgid times setpgid getpgid getsid setsid getgroups setgroups uname \
             sethostname setdomainname getrlimit setrlimit getrusage umask prctl getcpu gettimeofday \
             settimeofday adjtimex getpid getppid getuid geteuid getgid getegid gettid sysinfo mq_open \
             mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr msgget msgctl msgrcv msgsnd \
             semget semctl semtimedop semop shmget shmctl shmat shmdt socket socketpair bind listen \
             accept connect getsockname getpeername sendto recvfrom setsockopt getsockopt shutdown \
             sendmsg recvmsg readahead brk munmap mremap add_key request_key keyctl clone execve mmap \
             fadvise64 swapon swapoff mprotect msync mlock munlock mlockall munlockall mincore madvise \
             remap_file_pages mbind get_mempolicy set_mempolicy migrate_pages move_pages \
             rt_tgsigqueueinfo perf_event_open accept4 recvmmsg",
        ),
        (
            260,
            "wait4 prlimit64 fanotify_init fanotify_mark name_to_handle_at open_by_handle_at \
             clock_adjtime syncfs setns sendmmsg process_vm_readv process_vm_writev kcmp finit_module \
             sched_setattr sched_getattr renameat2 seccomp getrandom memfd_create bpf execveat \
             userfaultfd membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc \
             pkey_free statx io_pgetevents rseq kexec_file_load",
        ),
        COMMON,
    ],
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;

    /// Numbers by names, of all calls that a header of the kernel defines by a line that begins with one of `defines`.
    fn header(path: &str, defines: &[&str]) -> BTreeMap<String, u32> {
        let text = fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{path}: {error}; install the package linux-libc-dev"));
        let call = |line: &str| {
            let rest = defines.iter().find_map(|define| line.strip_prefix(define))?;
            let mut words = rest.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        text.lines().filter_map(call).collect()
    }

    macro_rules! of_libc {
        ($($name:ident)*) => { [$((stringify!($name), libc::$name)),*] };
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_numbers_of_amd64_are_those_of_libc_and_of_the_kernel() {
        let of_libc = of_libc![
            SYS_read SYS_write SYS_open SYS_close SYS_stat SYS_fstat SYS_lstat SYS_poll SYS_lseek SYS_mmap
            SYS_mprotect SYS_munmap SYS_brk SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_ioctl
            SYS_pread64 SYS_pwrite64 SYS_readv SYS_writev SYS_access SYS_pipe SYS_select SYS_sched_yield
            SYS_mremap SYS_msync SYS_mincore SYS_madvise SYS_shmget SYS_shmat SYS_shmctl SYS_dup SYS_dup2
            SYS_pause SYS_nanosleep SYS_getitimer SYS_alarm SYS_setitimer SYS_getpid SYS_sendfile SYS_socket
            SYS_connect SYS_accept SYS_sendto SYS_recvfrom SYS_sendmsg SYS_recvmsg SYS_shutdown SYS_bind
            SYS_listen SYS_getsockname SYS_getpeername SYS_socketpair SYS_setsockopt SYS_getsockopt
            SYS_clone SYS_fork SYS_vfork SYS_execve SYS_exit SYS_wait4 SYS_kill SYS_uname SYS_semget
            SYS_semop SYS_semctl SYS_shmdt SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_fcntl SYS_flock
            SYS_fsync SYS_fdatasync SYS_truncate SYS_ftruncate SYS_getdents SYS_getcwd SYS_chdir SYS_fchdir
            SYS_rename SYS_mkdir SYS_rmdir SYS_creat SYS_link SYS_unlink SYS_symlink SYS_readlink SYS_chmod
            SYS_fchmod SYS_chown SYS_fchown SYS_lchown SYS_umask SYS_gettimeofday SYS_getrlimit
            SYS_getrusage SYS_sysinfo SYS_times SYS_ptrace SYS_getuid SYS_syslog SYS_getgid SYS_setuid
            SYS_setgid SYS_geteuid SYS_getegid SYS_setpgid SYS_getppid SYS_getpgrp SYS_setsid SYS_setreuid
            SYS_setregid SYS_getgroups SYS_setgroups SYS_setresuid SYS_getresuid SYS_setresgid SYS_getresgid
            SYS_getpgid SYS_setfsuid SYS_setfsgid SYS_getsid SYS_capget SYS_capset SYS_rt_sigpending
            SYS_rt_sigtimedwait SYS_rt_sigqueueinfo SYS_rt_sigsuspend SYS_sigaltstack SYS_utime SYS_mknod
            SYS_uselib SYS_personality SYS_ustat SYS_statfs SYS_fstatfs SYS_sysfs SYS_getpriority
            SYS_setpriority SYS_sched_setparam SYS_sched_getparam SYS_sched_setscheduler
            SYS_sched_getscheduler SYS_sched_get_priority_max SYS_sched_get_priority_min
            SYS_sched_rr_get_interval SYS_mlock SYS_munlock SYS_mlockall SYS_munlockall SYS_vhangup
            SYS_modify_ldt SYS_pivot_root SYS__sysctl SYS_prctl SYS_arch_prctl SYS_adjtimex SYS_setrlimit
            SYS_chroot SYS_sync SYS_acct SYS_settimeofday SYS_mount SYS_umount2 SYS_swapon SYS_swapoff
            SYS_reboot SYS_sethostname SYS_setdomainname SYS_iopl SYS_ioperm SYS_init_module
            SYS_delete_module SYS_quotactl SYS_nfsservctl SYS_getpmsg SYS_putpmsg SYS_afs_syscall
            SYS_tuxcall SYS_security SYS_gettid SYS_readahead SYS_setxattr SYS_lsetxattr SYS_fsetxattr
            SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
            SYS_removexattr SYS_lremovexattr SYS_fremovexattr SYS_tkill SYS_time SYS_futex
            SYS_sched_setaffinity SYS_sched_getaffinity SYS_set_thread_area SYS_io_setup SYS_io_destroy
            SYS_io_getevents SYS_io_submit SYS_io_cancel SYS_get_thread_area SYS_lookup_dcookie
            SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait_old SYS_remap_file_pages SYS_getdents64
            SYS_set_tid_address SYS_restart_syscall SYS_semtimedop SYS_fadvise64 SYS_timer_create
            SYS_timer_settime SYS_timer_gettime SYS_timer_getoverrun SYS_timer_delete SYS_clock_settime
            SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_exit_group SYS_epoll_wait
            SYS_epoll_ctl SYS_tgkill SYS_utimes SYS_vserver SYS_mbind SYS_set_mempolicy SYS_get_mempolicy
            SYS_mq_open SYS_mq_unlink SYS_mq_timedsend SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
            SYS_kexec_load SYS_waitid SYS_add_key SYS_request_key SYS_keyctl SYS_ioprio_set SYS_ioprio_get
            SYS_inotify_init SYS_inotify_add_watch SYS_inotify_rm_watch SYS_migrate_pages SYS_openat
            SYS_mkdirat SYS_mknodat SYS_fchownat SYS_futimesat SYS_newfstatat SYS_unlinkat SYS_renameat
            SYS_linkat SYS_symlinkat SYS_readlinkat SYS_fchmodat SYS_faccessat SYS_pselect6 SYS_ppoll
            SYS_unshare SYS_set_robust_list SYS_get_robust_list SYS_splice SYS_tee SYS_sync_file_range
            SYS_vmsplice SYS_move_pages SYS_utimensat SYS_epoll_pwait SYS_signalfd SYS_timerfd_create
            SYS_eventfd SYS_fallocate SYS_timerfd_settime SYS_timerfd_gettime SYS_accept4 SYS_signalfd4
            SYS_eventfd2 SYS_epoll_create1 SYS_dup3 SYS_pipe2 SYS_inotify_init1 SYS_preadv SYS_pwritev
            SYS_rt_tgsigqueueinfo SYS_perf_event_open SYS_recvmmsg SYS_fanotify_init SYS_fanotify_mark
            SYS_prlimit64 SYS_name_to_handle_at SYS_open_by_handle_at SYS_clock_adjtime SYS_syncfs
            SYS_sendmmsg SYS_setns SYS_getcpu SYS_process_vm_readv SYS_process_vm_writev SYS_kcmp
            SYS_finit_module SYS_sched_setattr SYS_sched_getattr SYS_renameat2 SYS_seccomp SYS_getrandom
            SYS_memfd_create SYS_kexec_file_load SYS_bpf SYS_execveat SYS_userfaultfd SYS_membarrier
            SYS_mlock2 SYS_copy_file_range SYS_preadv2 SYS_pwritev2 SYS_pkey_mprotect SYS_pkey_alloc
            SYS_pkey_free SYS_statx SYS_rseq SYS_pidfd_send_signal SYS_io_uring_setup SYS_io_uring_enter
            SYS_io_uring_register SYS_open_tree SYS_move_mount SYS_fsopen SYS_fsconfig SYS_fsmount
            SYS_fspick SYS_pidfd_open SYS_clone3 SYS_close_range SYS_openat2 SYS_pidfd_getfd SYS_faccessat2
            SYS_process_madvise SYS_epoll_pwait2 SYS_mount_setattr SYS_quotactl_fd
            SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self SYS_memfd_secret
            SYS_process_mrelease SYS_futex_waitv SYS_set_mempolicy_home_node SYS_fchmodat2 SYS_mseal
        ];
        for (name, expected) in of_libc {
            let name = name.strip_prefix("SYS_").unwrap();
            assert_eq!(AMD64.number(name).map(libc::c_long::from), Some(expected), "{name}");
        }
        let of_kernel = header("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", &["#define __NR_"]);
        assert!(of_kernel.len() > 350, "{}", of_kernel.len());
        // The header may be of a later kernel than the table. No call of old has a number from 335 to 423.
        let known = |number: u32| number < 335 || (424..=LAST).contains(&number);
        for (name, number) in of_kernel.iter().filter(|(_, number)| known(**number)) {
            assert_eq!(AMD64.number(name), Some(*number), "{name}");
        }
    }

    #[test]
    fn the_numbers_of_arm64_are_those_of_the_kernels_generic_table() {
        let mut expected =
            header("/usr/include/asm-generic/unistd.h", &["#define __NR_", "#define __NR3264_"]);
        // Of the table's choices: what programs of 32 bits have, and what arm64 does not choose.
        expected.retain(|name, number| !(403..424).contains(number) && *number <= LAST && name != "syscalls");
        for other in ["sync_file_range2", "arch_specific_syscall"] {
            expected.remove(other);
        }
        let renamed = expected.remove("fstatat").unwrap();
        expected.insert("newfstatat".into(), renamed);
        assert!(expected.len() > 300, "{}", expected.len());
        for (name, number) in &expected {
            assert_eq!(ARM64.number(name), Some(*number), "{name}");
        }
        let newest = expected.values().max().copied().unwrap();
        for number in 0..=newest {
            let name = ARM64.name(number);
            assert_eq!(name.and_then(|name| expected.get(name)).copied(), name.map(|_| number), "{name:?}");
        }
    }

    #[test]
    fn every_number_has_one_name() {
        for calls in [&AMD64, &ARM64] {
            for number in 0..=LAST {
                let Some(name) = calls.name(number) else { continue };
                assert_eq!(calls.number(name), Some(number), "{name}");
            }
            assert_eq!(calls.number("mseal"), Some(LAST));
            assert_eq!(calls.number("socketcall"), None);
            assert_eq!(calls.number(""), None);
        }
        assert_eq!(ARM64.number("open"), None, "arm64 never had it");
        assert_eq!(ARM64.name(244), None, "the numbers that the generic table leaves to architectures");
    }
}
