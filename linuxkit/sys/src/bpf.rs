//! Programs for the kernel's two BPF machines as values: filters of system calls, and programs that decide for a cgroup. The
//! crate's root hands them to the kernel.

/// `struct sock_filter`: an instruction of classic BPF.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The opcode.
    pub code: u16,
    /// Instructions to skip when the comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// The operand.
    pub k: u32,
}

impl Instruction {
    /// An instruction; jumps count from the one after it.
    pub const fn new(code: u16, jump_true: u8, jump_false: u8, k: u32) -> Self {
        Self { code, jump_true, jump_false, k }
    }
}

/// `struct bpf_insn`: an instruction of the kernel's newer machine.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfInstruction {
    /// The opcode.
    pub code: u8,
    /// The written register in the lower half, the read one in the upper.
    pub registers: u8,
    /// Of memory, or of a jump.
    pub offset: i16,
    /// The operand.
    pub value: i32,
}

/// Opcode of [`BpfInstruction::load_word`].
pub const BPF_LOAD_WORD: u8 = 0x61;
/// Opcode of [`BpfInstruction::copy`].
pub const BPF_COPY: u8 = 0xbf;
/// Opcode of [`BpfInstruction::and`].
pub const BPF_AND: u8 = 0x57;
/// Opcode of [`BpfInstruction::shift_right`].
pub const BPF_SHIFT_RIGHT: u8 = 0x77;
/// Opcode of [`BpfInstruction::set`].
pub const BPF_SET: u8 = 0xb7;
/// Opcode of [`BpfInstruction::unless_equal`].
pub const BPF_UNLESS_EQUAL: u8 = 0x55;
/// Opcode of [`BpfInstruction::unless_word_equals`].
pub const BPF_UNLESS_WORD_EQUALS: u8 = 0x56;
/// Opcode of [`BpfInstruction::skip`].
pub const BPF_SKIP: u8 = 0x05;
const BPF_EXIT: u8 = 0x95;

impl BpfInstruction {
    const fn new(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Self {
        Self { code, registers: from << 4 | to, offset, value }
    }

    /// Reads a word of memory at an offset to a register's address.
    pub const fn load_word(to: u8, from: u8, offset: i16) -> Self {
        Self::new(BPF_LOAD_WORD, to, from, offset, 0)
    }

    /// Copies a register.
    pub const fn copy(to: u8, from: u8) -> Self {
        Self::new(BPF_COPY, to, from, 0, 0)
    }

    /// The register's bits that are set in the value too.
    pub const fn and(to: u8, value: i32) -> Self {
        Self::new(BPF_AND, to, 0, 0, value)
    }

    /// Shifts the register's bits to the right, without sign.
    pub const fn shift_right(to: u8, value: i32) -> Self {
        Self::new(BPF_SHIFT_RIGHT, to, 0, 0, value)
    }

    /// Sets the register.
    pub const fn set(to: u8, value: i32) -> Self {
        Self::new(BPF_SET, to, 0, 0, value)
    }

    /// Skips `count` instructions.
    pub const fn skip(count: i16) -> Self {
        Self::new(BPF_SKIP, 0, 0, count, 0)
    }

    /// Skips `skip` instructions unless the register's lower word is `value`.
    pub const fn unless_word_equals(of: u8, value: i32, skip: i16) -> Self {
        Self::new(BPF_UNLESS_WORD_EQUALS, of, 0, skip, value)
    }

    /// Skips `jump` instructions unless the register is `value`.
    pub const fn unless_equal(register: u8, value: i32, jump: i16) -> Self {
        Self::new(BPF_UNLESS_EQUAL, register, 0, jump, value)
    }

    /// Ends the program; register 0 is its verdict.
    pub const fn exit() -> Self {
        Self::new(BPF_EXIT, 0, 0, 0, 0)
    }
}

/// What a program decides about for the processes of a cgroup, by its type and its place in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BpfPlace {
    /// Uses of devices.
    Device,
    /// Connections from IPv4 sockets.
    Connect4,
    /// Connections from IPv6 sockets, which may be to IPv4 addresses.
    Connect6,
    /// Datagrams from IPv4 sockets that are not connected.
    Send4,
    /// Datagrams from IPv6 sockets that are not connected.
    Send6,
}

impl BpfPlace {
    /// The numbers of `enum bpf_prog_type` and `enum bpf_attach_type`.
    pub(crate) const fn numbers(self) -> (u32, u32) {
        const TYPE_CGROUP_DEVICE: u32 = 15;
        const TYPE_CGROUP_SOCK_ADDR: u32 = 18;
        match self {
            Self::Device => (TYPE_CGROUP_DEVICE, 6),
            Self::Connect4 => (TYPE_CGROUP_SOCK_ADDR, 10),
            Self::Connect6 => (TYPE_CGROUP_SOCK_ADDR, 11),
            Self::Send4 => (TYPE_CGROUP_SOCK_ADDR, 14),
            Self::Send6 => (TYPE_CGROUP_SOCK_ADDR, 15),
        }
    }
}
