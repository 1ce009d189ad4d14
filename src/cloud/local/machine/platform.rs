//! What differs between architectures in qemu's words: its program, the machine type, and how the probe of an
//! accelerator is written. One constant an architecture; nothing else here knows one.

use i2kit_spec::Architecture;

/// An architecture in qemu's words.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) program: &'static str,
    /// The package that has it, in Debian's words.
    pub(crate) package: &'static str,
    /// The machine type, without devices that no guest uses. Its first serial port is the console.
    pub(crate) machine: &'static str,
    /// The probe of an accelerator; none where no program for it is written, so that KVM is not used.
    pub(super) probe: Option<Probe>,
}

/// A program that is run in place of firmware to find out whether an accelerator works.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) machine: &'static str,
    /// The device by which the program ends qemu.
    pub(super) exit_device: &'static str,
    /// The exit code of qemu then.
    pub(super) exit_code: i32,
    /// The firmware that counts this many turns and ends qemu.
    pub(super) firmware: fn(turns: u32) -> Vec<u8>,
}

/// The platform of machines of an architecture.
pub(crate) const fn of(architecture: Architecture) -> &'static Platform {
    match architecture {
        Architecture::Amd64 => &AMD64,
        Architecture::Arm64 => &ARM64,
    }
}

/// A line that qemu wrote, without the name of its program.
pub(super) fn without_program(line: &str) -> &str {
    let rest = |architecture| line.strip_prefix(of(architecture).program)?.strip_prefix(": ");
    Architecture::ALL.into_iter().find_map(rest).unwrap_or(line)
}

const AMD64: Platform = Platform {
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
    machine: "q35,usb=off,vmport=off,hpet=off",
    probe: Some(Probe {
        machine: "q35",
        exit_device: "isa-debug-exit",
        // The program writes 1, and qemu exits with twice that and one.
        exit_code: 3,
        firmware: amd64_firmware,
    }),
};

const ARM64: Platform =
    Platform { program: "qemu-system-aarch64", package: "qemu-system-arm", machine: "virt", probe: None };

/// 64 KiB of firmware for amd64: counts down in a register and writes to the exit device.
fn amd64_firmware(turns: u32) -> Vec<u8> {
    let mut image = vec![0xf4; 0x1_0000];
    let mut code = vec![0x66, 0xb9];
    code.extend(turns.to_le_bytes()); // mov ecx, turns
    code.extend([0x66, 0x49]); // dec ecx
    code.extend([0x75, 0xfc]); // jnz back to dec
    code.extend([0xba, 0x01, 0x05]); // mov dx, 0x501: the exit device's port
    code.extend([0xb0, 0x01]); // mov al, 1
    code.extend([0xee, 0xf4]); // out dx, al; hlt
    image[..code.len()].copy_from_slice(&code);
    // The processor starts 16 bytes before the end: jump to the first byte.
    image[0xfff0..0xfff3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    image
}
