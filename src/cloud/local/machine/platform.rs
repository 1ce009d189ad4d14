//! What differs between architectures in qemu's words: its program, the machine type, and how the probe of an
//! accelerator is written. One constant an architecture; nothing else here knows one.

/// An architecture in qemu's words.
#[derive(Debug)]
pub(crate) struct Platform {
    pub(crate) program: &'static str,
    /// The package that has it, in Debian's words.
    pub(crate) package: &'static str,
    /// The machine type, without devices that no guest uses. Its first serial port is the console.
    pub(crate) machine: &'static str,
    /// The probe of an accelerator.
    pub(super) probe: Probe,
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

/// The platform of machines on this host: images are built for amd64 alone.
pub(crate) const HOST: Platform = AMD64;

const AMD64: Platform = Platform {
    program: "qemu-system-x86_64",
    package: "qemu-system-x86",
    machine: "q35,usb=off,vmport=off,hpet=off",
    probe: Probe {
        machine: "q35",
        exit_device: "isa-debug-exit",
        // The program writes 1, and qemu exits with twice that and one.
        exit_code: 3,
        firmware: amd64_firmware,
    },
};

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
