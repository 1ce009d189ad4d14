//! The power button, with which a host stops a VM. The kernel's ACPI driver announces it in a generic
//! netlink multicast group, so that no input device and no daemon are needed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::error::{Doing, Error};
use crate::netlink::{self, Message, Socket};

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;
const ACPI_GENL_ATTR_EVENT: u16 = 1;

/// `struct genlmsghdr`: command, version, two reserved bytes.
const GENL_HEADER: usize = 4;

/// The device class at the start of the event of a power button.
const POWER_BUTTON: &[u8] = b"button/power";

/// The kernel's own number as a sender; sockets of processes have others.
const KERNEL: u32 = 0;

/// Listens for the power button.
#[derive(Debug)]
pub(crate) struct PowerButton {
    fd: OwnedFd,
}

impl PowerButton {
    /// Joins the kernel's group.
    pub(crate) fn listen() -> Result<Self, Error> {
        let group = group().doing(|| "look up the kernel's acpi_event family".into())?;
        // Groups up to 32 can be joined by bind; the ACPI family's is one of the first few.
        let mask = 1_u32
            .checked_shl(group - 1)
            .ok_or_else(|| Error::Unknown { what: "netlink group", value: group.to_string() })?;
        let doing = || "listen for ACPI events".to_owned();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(GENERIC))
            .doing(doing)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, mask)).doing(doing)?;
        Ok(Self { fd })
    }

    /// Reads the events that are there, and whether the button was pressed.
    pub(crate) fn pressed(&self) -> bool {
        let mut buffer = vec![0; 4096];
        let mut pressed = false;
        while let Ok((length, _, sender)) =
            rustix::net::recvfrom(&self.fd, &mut buffer[..], RecvFlags::empty())
        {
            // A container with the right to administer the network can send to the group, too.
            let is_kernel = sender.is_some_and(|sender| {
                SocketAddrNetlink::try_from(sender).is_ok_and(|sender| sender.pid() == KERNEL)
            });
            pressed |=
                is_kernel && netlink::split(&buffer[..length]).iter().any(|message| is_power_button(message));
        }
        pressed
    }
}

impl AsFd for PowerButton {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn is_power_button(message: &[u8]) -> bool {
    let attributes = netlink::payload(message).get(GENL_HEADER..).unwrap_or_default();
    netlink::find_attribute(attributes, ACPI_GENL_ATTR_EVENT)
        .is_some_and(|event| event.starts_with(POWER_BUTTON))
}

/// The number of the multicast group of ACPI events; the family has one.
fn group() -> io::Result<u32> {
    let mut request = Message::new(GENL_ID_CTRL);
    request.put(&[CTRL_CMD_GETFAMILY, 1, 0, 0]).attribute(CTRL_ATTR_FAMILY_NAME, b"acpi_event\0");
    let answers = Socket::open(Some(GENERIC))?.request(request)?;
    answers.iter().find_map(|answer| group_in(answer)).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn group_in(answer: &[u8]) -> Option<u32> {
    let attributes = netlink::payload(answer).get(GENL_HEADER..)?;
    let groups = netlink::find_attribute(attributes, CTRL_ATTR_MCAST_GROUPS)?;
    // The groups are attributes numbered from one.
    let first = netlink::find_attribute(groups, 1)?;
    let id = netlink::find_attribute(first, CTRL_ATTR_MCAST_GRP_ID)?;
    Some(u32::from_ne_bytes(*id.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(class: &[u8]) -> Vec<u8> {
        let mut message = vec![0; 16 + GENL_HEADER];
        let length = u16::try_from(4 + class.len()).unwrap();
        message.extend([length.to_ne_bytes(), ACPI_GENL_ATTR_EVENT.to_ne_bytes()].concat());
        message.extend(class);
        let length = u32::try_from(message.len()).unwrap();
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message
    }

    #[test]
    fn the_kernel_alone_presses_the_button() {
        // A protocol whose messages any process may send to any other.
        let socket = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let protocol = Some(rustix::net::netlink::USERSOCK);
            let fd =
                rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).unwrap();
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).unwrap();
            fd
        };
        let button = PowerButton { fd: socket() };
        let own = SocketAddrNetlink::try_from(rustix::net::getsockname(&button.fd).unwrap()).unwrap();
        let pressed = event(b"button/power\0\0\0\0LNXPWRBN:00");
        assert!(netlink::split(&pressed).iter().any(|message| is_power_button(message)));
        rustix::net::sendto(socket(), &pressed, rustix::net::SendFlags::empty(), &own).unwrap();
        assert!(!button.pressed());
        let left = rustix::net::recv(&button.fd, &mut [0; 64][..], RecvFlags::empty());
        assert_eq!(left.unwrap_err(), rustix::io::Errno::AGAIN, "the event has arrived and was refused");
    }

    #[test]
    fn other_events_are_no_power_button() {
        assert!(is_power_button(&event(b"button/power\0\0\0\0LNXPWRBN:00")));
        assert!(!is_power_button(&event(b"button/sleep\0\0\0\0")));
        assert!(!is_power_button(&[]));
    }
}
