//! The kernel's capabilities, without the `CAP_` that manifests leave out, by what a container may get of them.

/// What Kubernetes' runtimes let a container keep by default: enough for daemons that bind low ports and drop to
/// another user, nothing that reaches the kernel.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// What a container gets when it asks for it: the machine's wall keeps it in.
pub const OTHER_CAPABILITIES: [&str; 24] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYSLOG",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// What reaches the machine's kernel, and with it what must stay immutable: for privileged containers alone. `SYS_PTRACE` is
/// not among them, because a process that a container can see never has more rights than the container; only where
/// containers share their processes it has to be refused, which is a rule of its own.
pub const BROAD_CAPABILITIES: [&str; 3] = ["SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO"];

/// The stand-in for all capabilities.
pub const ALL_CAPABILITIES: &str = "ALL";
