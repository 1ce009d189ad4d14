//! Brings up the loopback and the first network interface, over rtnetlink.

use std::fs;
use std::net::Ipv4Addr;

use super::cmdline::{Parameters, Range, StaticNetwork, StaticNetwork6, hardware};
use super::dhcp;
use crate::error::{Doing, Error};
use crate::netlink::{Message, Socket};

/// rtnetlink's requests and attributes, by their names in the kernel's headers.
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const IFA_FLAGS: u16 = 8;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `IFA_F_NODAD`: nobody is asked whether the address is somebody else's.
const NO_DETECTION: u8 = 2;
const NUD_PERMANENT: u8 = 0x80;
const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// Settings of the network: what containers expect from a container engine, low ports and ping for any user (a pod is alone in
/// its VM, so no port is another's), and timestamps of TCP, over IPv6 too, that all connections count from one start. Linux
/// gives each one another start by chance. A Service and a server's own address are two ways to one server, which may see the
/// same port of this machine twice within TIME-WAIT: it takes the second connection at once only if its timestamp is later.
const SYSCTLS: [(&str, &str); 3] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv4/tcp_timestamps", "2"),
];

/// Settings of an interface whose address of IPv6 is given: no router changes it, and none is asked.
const SETTINGS6: [(&str, &str); 3] = [("accept_ra", "0"), ("autoconf", "0"), ("accept_redirects", "0")];

/// Brings up `lo` and the first interface, with the given set-up or with one that DHCP gives, which then is the set-up.
/// A machine without an interface has none; with a static address that is an error.
pub(crate) fn up(parameters: &mut Parameters) -> Result<(), Error> {
    for (path, value) in SYSCTLS {
        fs::write(path, value).doing(|| format!("write {path}"))?;
    }
    let mut socket = Socket::open(None).doing(|| "open a netlink socket".into())?;
    set_up(&mut socket, "lo")?;
    let name = match first_interface()? {
        Some(name) => name,
        None if parameters.network.is_some() => return Err(Error::NoInterface),
        None => return Ok(()),
    };
    if let Some(hardware) = parameters.hardware
        && hardware_address(&name)? != hardware
    {
        set_hardware_address(&mut socket, &name, hardware)?;
    }
    if parameters.network6.is_some() {
        for (setting, value) in SETTINGS6 {
            let path = format!("/proc/sys/net/ipv6/conf/{name}/{setting}");
            fs::write(&path, value).doing(|| format!("write {path}"))?;
        }
    }
    let index = set_up(&mut socket, &name)?;
    let network = match parameters.network.take() {
        Some(network) => network,
        None => dhcp::configure(&name, hardware_address(&name)?)?,
    };
    configure(&mut socket, &name, index, &network)?;
    if let Some(network) = &parameters.network6 {
        configure6(&mut socket, &name, index, network)?;
    }
    if let (Some(services), Some(gateway)) = (parameters.services, network.gateway) {
        route_services(&mut socket, &name, index, services, gateway)?;
    }
    parameters.network = Some(network);
    Ok(())
}

/// Sends what is for some loopback addresses to the gateway.
fn route_services(
    socket: &mut Socket,
    name: &str,
    index: u32,
    services: Range,
    gateway: Ipv4Addr,
) -> Result<(), Error> {
    // Otherwise the kernel takes packets with such addresses for forged ones, on their way out and back.
    let setting = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
    fs::write(&setting, "1").doing(|| format!("write {setting}"))?;
    // In the table that is looked at first, where the route of all loopback addresses is.
    socket
        .request(route_message(index, RT_TABLE_LOCAL, Some(services), Some(gateway)))
        .doing(|| format!("route to the Services at {}/{}", services.address, services.prefix))?;
    Ok(())
}

fn configure(socket: &mut Socket, name: &str, index: u32, network: &StaticNetwork) -> Result<(), Error> {
    socket
        .request(address_message(index, network))
        .doing(|| format!("set the address {}/{} of {name}", network.address, network.prefix))?;
    if let Some(gateway) = network.gateway {
        // A gateway outside the interface's own network is reached over the link itself, as in many clouds.
        if !same_network(network, gateway) {
            let host = Range { address: gateway, prefix: 32 };
            socket
                .request(route_message(index, RT_TABLE_MAIN, Some(host), None))
                .doing(|| format!("route to {gateway}"))?;
        }
        socket
            .request(route_message(index, RT_TABLE_MAIN, None, Some(gateway)))
            .doing(|| format!("route by {gateway}"))?;
    }
    Ok(())
}

/// Sets the address of IPv6, and the way to its gateway, whose Ethernet address is given too: nobody is asked for it.
fn configure6(socket: &mut Socket, name: &str, index: u32, network: &StaticNetwork6) -> Result<(), Error> {
    let StaticNetwork6 { address, prefix, gateway, hardware } = network;
    let mut message = Message::new(RTM_NEWADDR);
    message.put(&[AF_INET6, *prefix, NO_DETECTION, RT_SCOPE_UNIVERSE]).put(&index.to_ne_bytes());
    message.attribute(IFA_LOCAL, &address.octets()).attribute(IFA_ADDRESS, &address.octets());
    message.attribute(IFA_FLAGS, &u32::from(NO_DETECTION).to_ne_bytes());
    socket.request(message).doing(|| format!("set the address {address}/{prefix} of {name}"))?;
    let mut message = Message::new(RTM_NEWNEIGH);
    // struct ndmsg: family, padding, index, state, flags, type.
    message.put(&[AF_INET6, 0, 0, 0]).put(&index.to_ne_bytes()).put(&[NUD_PERMANENT, 0, 0, RTN_UNICAST]);
    message.attribute(NDA_DST, &gateway.octets()).attribute(NDA_LLADDR, hardware);
    socket.request(message).doing(|| format!("set the neighbour {gateway}"))?;
    let mut message = Message::new(RTM_NEWROUTE);
    message.put(&[
        AF_INET6,
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        RT_SCOPE_UNIVERSE,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]);
    message.attribute(RTA_GATEWAY, &gateway.octets()).attribute(RTA_OIF, &index.to_ne_bytes());
    socket.request(message).doing(|| format!("route by {gateway}"))?;
    Ok(())
}

/// The Ethernet address of an interface.
fn hardware_address(name: &str) -> Result<[u8; 6], Error> {
    let path = format!("/sys/class/net/{name}/address");
    let text = fs::read_to_string(&path).doing(|| format!("read {path}"))?;
    hardware(text.trim()).ok_or(Error::Unknown { what: "hardware address", value: text })
}

fn first_interface() -> Result<Option<String>, Error> {
    let folder = "/sys/class/net";
    let mut names: Vec<(u32, String)> = fs::read_dir(folder)
        .doing(|| format!("list {folder}"))?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name != "lo")
        .filter_map(|name| Some((index_of(&name)?, name)))
        .collect();
    names.sort();
    Ok(names.into_iter().next().map(|(_, name)| name))
}

fn index_of(name: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

/// Gives an interface that is down another Ethernet address. The device learns it too: what comes in for another one is dropped
/// there.
fn set_hardware_address(socket: &mut Socket, name: &str, hardware: [u8; 6]) -> Result<(), Error> {
    let index = index_of(name).ok_or(Error::NoInterface)?;
    let mut message = Message::new(RTM_NEWLINK);
    // struct ifinfomsg, as in `set_up`: no flag is changed.
    message.put(&[0, 0, 0, 0]).put(&index.to_ne_bytes()).put(&[0; 8]);
    message.attribute(IFLA_ADDRESS, &hardware);
    socket.request(message).doing(|| format!("set the Ethernet address of {name}"))?;
    Ok(())
}

fn set_up(socket: &mut Socket, name: &str) -> Result<u32, Error> {
    let index = index_of(name).ok_or(Error::NoInterface)?;
    let mut message = Message::new(RTM_NEWLINK);
    // struct ifinfomsg: family, padding, type, index, flags, mask of the flags to change.
    message
        .put(&[0, 0, 0, 0])
        .put(&index.to_ne_bytes())
        .put(&IFF_UP.to_ne_bytes())
        .put(&IFF_UP.to_ne_bytes());
    socket.request(message).doing(|| format!("bring up {name}"))?;
    Ok(index)
}

fn address_message(index: u32, network: &StaticNetwork) -> Message {
    let mut message = Message::new(RTM_NEWADDR);
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    message.put(&[AF_INET, network.prefix, 0, RT_SCOPE_UNIVERSE]).put(&index.to_ne_bytes());
    message.attribute(IFA_LOCAL, &network.address.octets()).attribute(IFA_ADDRESS, &network.address.octets());
    message
}

/// A route over the interface: to a range or to everything, over the link itself or by a gateway.
fn route_message(index: u32, table: u8, to: Option<Range>, gateway: Option<Ipv4Addr>) -> Message {
    const RTA_DST: u16 = 1;
    let mut message = Message::new(RTM_NEWROUTE);
    let bits = to.map_or(0, |range| range.prefix);
    let scope = if gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK };
    // struct rtmsg: family, destination and source prefix, type of service, table, protocol, scope, type, flags.
    message.put(&[AF_INET, bits, 0, 0, table, RTPROT_STATIC, scope, RTN_UNICAST, 0, 0, 0, 0]);
    if let Some(to) = to {
        message.attribute(RTA_DST, &to.address.octets());
    }
    if let Some(gateway) = gateway {
        message.attribute(RTA_GATEWAY, &gateway.octets());
    }
    message.attribute(RTA_OIF, &index.to_ne_bytes());
    message
}

fn same_network(network: &StaticNetwork, other: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(network.prefix)).unwrap_or(0);
    network.address.to_bits() & mask == other.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> StaticNetwork {
        StaticNetwork {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: None,
            dns: vec![Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(1, 1, 1, 1)],
        }
    }

    #[test]
    fn the_gateway_is_near_or_not() {
        assert!(same_network(&network(), Ipv4Addr::new(10, 0, 2, 2)));
        assert!(!same_network(&network(), Ipv4Addr::new(10, 0, 3, 2)));
        let all = StaticNetwork { prefix: 0, ..network() };
        assert!(same_network(&all, Ipv4Addr::new(8, 8, 8, 8)));
    }
}
