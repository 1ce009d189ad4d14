//! The qemu command line of a VM, as a pure function.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::Path;

use i2kit_spec::cmdline;
use i2kit_spec::secrets::SECRETS_PORT;

use crate::manifest::api::Protocol;
use crate::plan::fleet::{Accelerator, LaunchSpec};

/// The program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// The QMP socket, in the VM's folder.
pub(crate) const QMP: &str = "qmp.sock";

/// The host's end of the control channel, in the VM's folder.
pub(crate) const CONTROL: &str = "control.sock";

/// What the VM's serial port says, in the VM's folder.
pub(crate) const CONSOLE: &str = "console.log";

/// The guest's address on qemu's user network, and that network's gateway and name server, which asks this machine's.
const GUEST: &str = "10.0.2.15";
const GATEWAY: &str = "10.0.2.2";
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Loopback addresses of this machine that a guest reaches by its gateway: those of balancers and of servers of names.
const SERVICES: &str = "127.76.0.0/14";

/// What a VM is started from.
#[derive(Debug)]
pub(crate) struct Machine<'m> {
    /// Its name.
    pub(crate) id: &'m str,
    /// Size and ports.
    pub(crate) launch: &'m LaunchSpec,
    /// Ports to forward from the host.
    pub(crate) ports: &'m [(u16, Protocol)],
    /// The folder of its image, absolute.
    pub(crate) image: &'m Path,
    /// The image's own kernel command line.
    pub(crate) cmdline: &'m str,
    /// What runs its instructions.
    pub(crate) accelerator: Accelerator,
    /// Whom it asks for names; qemu's own name server when there is none.
    pub(crate) resolver: Option<Ipv4Addr>,
    /// The environment variables that qemu has.
    pub(crate) environment: &'m [(OsString, OsString)],
    /// The descriptors of its scratch disks, which qemu inherits, in the order of their numbers.
    pub(crate) scratch: Vec<RawFd>,
    /// The user that qemu becomes when it has opened its files, by number; it stays who it is without.
    pub(crate) user: Option<u32>,
}

/// The arguments that start `machine` from within its own folder.
pub(crate) fn arguments(machine: &Machine) -> Vec<String> {
    let file = |name: &str| machine.image.join(name).display().to_string();
    let (accelerator, processor) = match machine.accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        // One thread a virtual processor, and a small cache of translated code: 32 MiB hold a whole boot.
        Accelerator::Tcg => ("tcg,thread=multi,tb-size=32", "max"),
    };
    let append = format!(
        "{} {}={} {}={GUEST}/24,{GATEWAY},{} {}={SERVICES}",
        machine.cmdline,
        cmdline::INSTANCE,
        machine.id,
        cmdline::NET,
        machine.resolver.unwrap_or(NAME_SERVER),
        cmdline::SERVICES,
    );
    let arguments: [(&str, String); 20] = [
        ("-name", format!("guest={}", machine.id)),
        ("-machine", "q35,usb=off,vmport=off,hpet=off".to_owned()),
        ("-accel", accelerator.to_owned()),
        ("-cpu", processor.to_owned()),
        ("-m", machine.launch.memory_mib.to_string()),
        ("-smp", machine.launch.vcpus.to_string()),
        // A machine whose processor has no random numbers would wait for its first ones.
        ("-device", "virtio-rng-pci".to_owned()),
        // Nothing but what is named here; a reset, which is how a panic ends, ends the VM.
        ("-nodefaults", String::new()),
        ("-no-user-config", String::new()),
        ("-no-reboot", String::new()),
        ("-display", "none".to_owned()),
        ("-kernel", file(super::images::KERNEL)),
        ("-initrd", file(super::images::INITRD)),
        ("-append", append),
        // The image is read only, so that there is nothing to flush: what outlives a VM is not on its disks.
        (
            "-blockdev",
            format!(
                "driver=vmdk,node-name=disk,read-only=on,file.driver=file,file.filename={}",
                escaped(&file(super::images::DISK))
            ),
        ),
        ("-device", "virtio-blk-pci,drive=disk".to_owned()),
        // Without IPv6, by which a guest would reach this machine's `::1` as `fec0::2`.
        ("-netdev", format!("user,id=net,ipv6=off{}", forwards(machine.ports))),
        ("-device", "virtio-net-pci,netdev=net,romfile=".to_owned()),
        // Appending, so that the file can be cut while qemu writes to it.
        ("-chardev", format!("file,id=console,path={CONSOLE},append=on")),
        ("-serial", "chardev:console".to_owned()),
    ];
    // The filter that keeps qemu from becoming another user would keep it from becoming the one that it should be.
    let elevate = if machine.user.is_none() { ",elevateprivileges=deny" } else { "" };
    let control = [
        ("-qmp", format!("unix:{QMP},server=on,wait=off")),
        ("-device", "virtio-serial-pci".to_owned()),
        ("-chardev", format!("socket,id=control,path={CONTROL},server=on,wait=off")),
        ("-device", format!("virtserialport,chardev=control,name={}", i2kit_spec::control::PORT)),
        ("-sandbox", format!("on,obsolete=deny,spawn=deny,resourcecontrol=deny{elevate}")),
    ];
    // It gives up its capabilities with its user.
    let user = machine.user.map(|user| ("-runas", format!("{user}:{user}")));
    // Standard input is a file in memory, so that the values have no name that anybody else could open.
    let secrets = [
        ("-chardev", "stdio,id=secrets,signal=off".to_owned()),
        ("-device", format!("virtserialport,chardev=secrets,name={SECRETS_PORT}")),
    ];
    let secrets = secrets.into_iter().filter(|_| !machine.launch.secrets.is_empty());
    let scratch = (0..).zip(&machine.scratch).flat_map(|(number, descriptor)| {
        let serial = i2kit_spec::scratch_serial(number);
        // Nothing on it outlives the VM, so that nothing need be flushed; what the guest frees is freed here, and a full
        // disk of the host is an error in the guest and no reason to stop the VM.
        [
            ("-add-fd", format!("fd={descriptor},set={descriptor}")),
            (
                "-blockdev",
                format!(
                    "driver=raw,node-name=scratch{number},discard=unmap,cache.no-flush=on,file.driver=file,\
                     file.discard=unmap,file.locking=off,file.filename=/dev/fdset/{descriptor}"
                ),
            ),
            (
                "-device",
                format!("virtio-blk-pci,drive=scratch{number},serial={serial},discard=on,rerror=report,werror=report"),
            ),
        ]
    });
    let all = arguments.into_iter().chain(control).chain(user).chain(secrets).chain(scratch);
    all.flat_map(|(name, value)| [name.to_owned(), value]).filter(|argument| !argument.is_empty()).collect()
}

/// A forward of each port from a loopback port that the kernel chooses, so that two VMs never want the same one.
fn forwards(ports: &[(u16, Protocol)]) -> String {
    let one = |(port, protocol): &(u16, Protocol)| format!(",hostfwd={}", forward(*port, *protocol));
    ports.iter().map(one).collect()
}

/// One forward in qemu's words.
pub(crate) fn forward(port: u16, protocol: Protocol) -> String {
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{protocol}:127.0.0.1:0-{GUEST}:{port}")
}

/// A value inside a comma-separated option.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use crate::plan::image::ImageId;

    #[test]
    fn the_command_line_says_everything() {
        let launch = LaunchSpec {
            image: ImageId(Digest::of(b"image")),
            memory_mib: 128,
            vcpus: 2,
            ports: Vec::new(),
            health_port: 10256,
            grace_period_seconds: 30,
            containers: vec!["web".into()],
            secrets: std::collections::BTreeMap::new(),
            scratch_bytes: Vec::new(),
            role: None,
            machine_type: None,
            spot: false,
            mix: None,
        };
        let machine = Machine {
            id: "nginx-1-x7hq2",
            launch: &launch,
            ports: &[(80, Protocol::Tcp), (53, Protocol::Udp), (10256, Protocol::Tcp)],
            image: Path::new("/state/images/a,b"),
            cmdline: "console=ttyS0 quiet",
            accelerator: Accelerator::Tcg,
            resolver: Some(Ipv4Addr::new(127, 78, 3, 4)),
            environment: &[],
            scratch: vec![9],
            user: None,
        };
        insta::assert_snapshot!("qemu", arguments(&machine).join("\n"));
        let other = arguments(&Machine { user: Some(0x7000_0001), ..machine });
        let added = other.iter().filter(|argument| argument.contains("1879048193") || *argument == "-runas");
        assert_eq!(added.collect::<Vec<_>>(), ["-runas", "1879048193:1879048193"]);
        assert!(!other.iter().any(|argument| argument.contains("elevateprivileges")), "{other:?}");
    }
}
