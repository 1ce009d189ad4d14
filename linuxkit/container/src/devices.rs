//! Which devices a container may use: those of container engines, kept by a program of the kernel on its cgroup.
//!
//! A container may make device nodes (`CAP_MKNOD` is among Kubernetes' defaults), and without this one for the disk
//! would show it the layers of every container of the pod.

use std::fs::File;
use std::os::fd::AsFd;

use i2kit_sys::bpf::{BpfInstruction, BpfPlace};

use crate::error::{Doing, Error};

/// Character devices that may be used, by their numbers; all terminals of one kind where there is no minor number. The
/// console (5, 1) is none of them: it is the VM's serial port, on which PID 1 reports the pod's end to the host.
const ALLOWED: [(i32, Option<i32>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// Halves of the first word of `struct bpf_cgroup_dev_ctx`.
const TYPE_BLOCK: i32 = 1;
const ACCESS_MKNOD: i32 = 1;

/// Keeps the container of this cgroup to the devices that it may use.
pub(crate) fn restrict(group: &File) -> Result<(), Error> {
    let program =
        i2kit_sys::load_program(BpfPlace::Device, &program()).doing(|| "load the device filter".into())?;
    i2kit_sys::attach_program(BpfPlace::Device, group.as_fd(), program.as_fd())
        .doing(|| "attach the device filter".into())
}

/// Register 1 holds the context: type and access in one word, then major and minor number.
fn program() -> Vec<BpfInstruction> {
    use BpfInstruction as I;
    let mut out = vec![
        I::load_word(2, 1, 0),
        I::load_word(4, 1, 4),
        I::load_word(5, 1, 8),
        I::copy(3, 2),
        I::and(3, 0xffff),
        I::shift_right(2, 16),
        // Making a node is a matter of the capability; using it is another one.
        I::unless_equal(2, ACCESS_MKNOD, 2),
        I::set(0, 1),
        I::exit(),
        I::unless_equal(3, TYPE_BLOCK, 2),
        I::set(0, 0),
        I::exit(),
    ];
    for (major, minor) in ALLOWED {
        out.push(I::unless_equal(4, major, if minor.is_some() { 3 } else { 2 }));
        out.extend(minor.map(|minor| I::unless_equal(5, minor, 2)));
        out.extend([I::set(0, 1), I::exit()]);
    }
    out.extend([I::set(0, 0), I::exit()]);
    out
}

#[cfg(test)]
mod tests {
    use i2kit_sys::bpf;

    use super::*;

    /// What the program answers, by the meaning of its instructions.
    fn allowed(access: i32, kind: i32, major: i32, minor: i32) -> bool {
        let program = program();
        let mut registers = [0_i32; 6];
        let mut at = 0;
        loop {
            let I { code, registers: pair, offset, value } = program[at];
            let skip = usize::try_from(offset).unwrap_or_default();
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            at += 1;
            match code {
                bpf::BPF_LOAD_WORD => {
                    registers[to] = [access << 16 | kind, major, minor][skip / 4];
                }
                bpf::BPF_COPY => registers[to] = registers[from],
                bpf::BPF_AND => registers[to] &= value,
                bpf::BPF_SHIFT_RIGHT => registers[to] >>= value,
                bpf::BPF_SET => registers[to] = value,
                bpf::BPF_UNLESS_EQUAL => at += if registers[to] == value { 0 } else { skip },
                _ => return registers[0] == 1,
            }
        }
    }

    use BpfInstruction as I;

    #[test]
    fn containers_use_harmless_devices_only() {
        const READ: i32 = 2;
        const WRITE: i32 = 4;
        const CHARACTER: i32 = 2;
        assert!(allowed(READ, CHARACTER, 1, 3) && allowed(READ, CHARACTER, 1, 9));
        assert!(allowed(READ, CHARACTER, 136, 7) && allowed(READ, CHARACTER, 5, 2));
        assert!(!allowed(READ, CHARACTER, 1, 1), "/dev/mem");
        for (name, major, minor) in
            [("console", 5, 1), ("ttyS0", 4, 64), ("tty0", 4, 0), ("hvc0", 229, 0), ("kmsg", 1, 11)]
        {
            assert!(!allowed(READ, CHARACTER, major, minor), "{name}");
            assert!(!allowed(WRITE, CHARACTER, major, minor), "{name}");
        }
        assert!(!allowed(READ, TYPE_BLOCK, 254, 0) && !allowed(READ, TYPE_BLOCK, 1, 3));
        assert!(allowed(ACCESS_MKNOD, TYPE_BLOCK, 254, 0));
    }
}
