//! The making of an environment's network namespace, in a process of one thread that is there for it: what is set, and which
//! descriptors are opened in it. They are used from outside: a socket stays in the network in which it was opened.
//!
//! Without root the network namespace lies in a user namespace, in which this user is itself alone and has all rights. No
//! name in the file system refers to either: they live by the processes in them and by these descriptors.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

use super::netlink::{Batch, Refusal};
use super::nftables::{Packets, Table};
use super::sys::{self, SocketOption, Virtual};
use super::wanted::{self, GATEWAY, NAMES, Wanted};
use super::{interfaces, netlink, nftables, rules};
use crate::manifest::api::IpFamily;

/// The device by which virtual interfaces are made.
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// Settings of the network, below `/proc/sys/net`: it forwards, takes any source (the rules look at those), redirects
/// nobody, and has ports enough for many short connections. It answers ARP to the machine alone to which the interface
/// leads: the kernel remembers whom it answered, in a table that all networks of the host share.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_local", "1"),
    ("ipv4/conf/all/arp_filter", "1"),
    ("ipv4/ip_local_port_range", "1024 65535"),
    ("ipv4/tcp_tw_reuse", "1"),
];

/// Settings of IPv6: the network forwards, and neither machines nor routers change its addresses, routes and neighbours. Interfaces
/// get no link-local addresses, by which a machine could talk to it without being known.
const SETTINGS6: &[(&str, &str)] = &[
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/autoconf", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
    ("ipv6/conf/all/accept_source_route", "-1"),
];

/// Settings of what the kernel keeps of packets in parts until they are whole, of both families: for 2 s, since all parts come
/// over links of this host, and so many bytes that a machine's share of parts ([`rules::PARTS`]) fills a quarter at most. A
/// kernel that lets nobody but root set them has no such files, and keeps its own 4 MiB.
const PARTS: &[(&str, &str)] = &[
    ("ipv4/ipfrag_time", "2"),
    ("ipv4/ipfrag_high_thresh", "16777216"),
    ("netfilter/nf_conntrack_frag6_timeout", "2"),
    ("netfilter/nf_conntrack_frag6_high_thresh", "16777216"),
];

/// Whether interfaces have no IPv6: those that are there, and those to come. The second one is how others find out whether
/// the network has IPv6. A kernel without IPv6 has no such settings.
const IPV6_IS_OFF: [&str; 2] = ["ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"];

/// `RTMGRP_LINK`: messages about interfaces that come and go.
const LINKS: u32 = 1;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// The namespaces of a network.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Join {
    /// The user namespace: a path below `/proc`. A new one without it, where this user needs one.
    pub(crate) user: Option<PathBuf>,
    /// The network namespace, in that user namespace. A new one without it.
    pub(crate) net: Option<PathBuf>,
}

/// What was opened in a network. All descriptors are closed by `exec`, and work in any namespace.
#[derive(Debug)]
pub(crate) struct Handles {
    /// The user namespace.
    pub(crate) user: OwnedFd,
    /// The network namespace.
    pub(crate) net: OwnedFd,
    /// rtnetlink.
    pub(crate) route: OwnedFd,
    /// netfilter, for nftables.
    pub(crate) rules: OwnedFd,
    /// netfilter, for the table of connections.
    pub(crate) conntrack: OwnedFd,
    /// rtnetlink, told of interfaces that come and go; does not block.
    pub(crate) links: OwnedFd,
    /// The exclusive descriptors; none where another process has them already.
    pub(crate) outside: Option<Outside>,
    /// Whether the network has IPv6.
    pub(crate) has_ipv6: bool,
}

/// The exclusive descriptors, of which a network has one each: `tun0`, the egress listener, the name server's sockets. None of them blocks.
#[derive(Debug)]
pub(crate) struct Outside {
    /// The interface to outside: whole IPv4 packets.
    pub(crate) tun: OwnedFd,
    /// The TCP listener to which connections to outside are given; their local address is where they were to go.
    pub(crate) egress: OwnedFd,
    /// The name server, over UDP.
    pub(crate) names_udp: OwnedFd,
    /// The name server, over TCP.
    pub(crate) names_tcp: OwnedFd,
    /// Sends whole packets, which belong to no connection.
    pub(crate) raw: OwnedFd,
    /// The egress listener of IPv6, where the network has that.
    pub(crate) egress6: Option<OwnedFd>,
}

/// The number of descriptors of [`Handles`] without [`Outside`].
const INSIDE: usize = 6;

/// The number of descriptors of [`Outside`], without that of IPv6.
const OUTSIDE: usize = 5;

/// The largest number of descriptors of a network.
pub(super) const MOST: usize = INSIDE + OUTSIDE + 1;

impl Handles {
    /// The descriptors, in an order that [`Self::from_descriptors`] knows.
    pub(super) fn into_descriptors(self) -> Vec<OwnedFd> {
        let Self { user, net, route, rules, conntrack, links, outside, has_ipv6: _ } = self;
        let mut all = vec![user, net, route, rules, conntrack, links];
        if let Some(Outside { tun, egress, names_udp, names_tcp, raw, egress6 }) = outside {
            all.extend([tun, egress, names_udp, names_tcp, raw]);
            all.extend(egress6);
        }
        all
    }

    /// The same again; nothing for another number of descriptors.
    pub(super) fn from_descriptors(descriptors: Vec<OwnedFd>, has_ipv6: bool) -> Option<Self> {
        let mut all = descriptors;
        let egress6 = if all.len() == MOST { all.pop() } else { None };
        let outside = match all.len() {
            INSIDE => None,
            length if length == INSIDE + OUTSIDE => {
                let [tun, egress, names_udp, names_tcp, raw] =
                    <[OwnedFd; OUTSIDE]>::try_from(all.split_off(INSIDE)).ok()?;
                Some(Outside { tun, egress, names_udp, names_tcp, raw, egress6 })
            }
            _ => return None,
        };
        let [user, net, route, rules, conntrack, links] = <[OwnedFd; INSIDE]>::try_from(all).ok()?;
        Some(Self { user, net, route, rules, conntrack, links, outside, has_ipv6 })
    }
}

/// What failed, and at which step.
#[derive(Debug)]
pub(crate) struct NamespaceError {
    /// The step.
    pub(crate) step: NamespaceStep,
    /// What the kernel answered.
    pub(crate) error: io::Error,
}

/// The steps, as far as advice differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum NamespaceStep {
    /// A new user namespace, and who this user is in it.
    User,
    /// A new network namespace.
    Network,
    /// Joining namespaces that are there.
    Join,
    /// The settings below `/proc/sys/net`.
    Settings,
    /// The device of virtual interfaces.
    Device,
    /// Interfaces, addresses and routes.
    Routes,
    /// The rules.
    Rules,
    /// Sockets.
    Sockets,
}

impl NamespaceStep {
    fn failed(self) -> impl Fn(io::Error) -> NamespaceError {
        move |error| NamespaceError { step: self, error }
    }
}

/// Makes or joins a network, in this process, which has one thread. Afterwards this process is in it.
pub(crate) fn open(join: &Join) -> Result<Handles, NamespaceError> {
    // Before the user namespace is entered, from which other processes are out of reach.
    let net = join.net.as_deref().map(file).transpose().map_err(NamespaceStep::Join.failed())?;
    enter_user(join)?;
    match &net {
        Some(file) => enter(file, LinkNameSpaceType::Network).map_err(NamespaceStep::Join.failed())?,
        None => sys::unshare(false, true).map_err(NamespaceStep::Network.failed())?,
    }
    let settings = SETTINGS.iter().try_for_each(|setting| set(*setting));
    settings.map_err(NamespaceStep::Settings.failed())?;
    let may_have_ipv6 = match &join.net {
        None => prepare_ipv6().map_err(NamespaceStep::Settings.failed())?,
        Some(_) => has_ipv6().map_err(NamespaceStep::Settings.failed())?,
    };
    let route = netlink::open(None, 0).map_err(NamespaceStep::Sockets.failed())?;
    let netfilter = || netlink::open(Some(rustix::net::netlink::NETFILTER), 0);
    let rules = netfilter().map_err(NamespaceStep::Sockets.failed())?;
    let outside = match sys::interface(Path::new(DEVICE), rules::OUTSIDE, Virtual::Packets) {
        Ok(tun) => Some(tun),
        // Whoever has the interface has the sockets as well.
        Err(error) if join.net.is_some() && is(&error, Errno::BUSY) => None,
        Err(error) => return Err(NamespaceStep::Device.failed()(error)),
    };
    let mut has_ipv6 = join.net.is_some() && may_have_ipv6;
    if outside.is_some() {
        set_up_routes(&route, has_ipv6).map_err(NamespaceStep::Routes.failed())?;
    }
    if join.net.is_none() {
        // Before IPv6 is there, so that there is never any without rules.
        write_table(&rules, &rules::table(&Wanted::default(), IpFamily::V4))
            .map_err(NamespaceStep::Rules.failed())?;
        if may_have_ipv6 {
            has_ipv6 = set_up_ipv6(&route, &rules).map_err(NamespaceStep::Rules.failed())?;
        }
    }
    write_limits(&rules, has_ipv6).map_err(NamespaceStep::Rules.failed())?;
    // Behind the rules, with which the kernel begins to put packets together.
    PARTS.iter().try_for_each(|setting| set_if_there(*setting)).map_err(NamespaceStep::Settings.failed())?;
    let opened = || -> io::Result<Handles> {
        let outside = outside.map(|tun| open_outside(tun, has_ipv6)).transpose()?;
        let links = netlink::open(None, LINKS)?;
        rustix::io::ioctl_fionbio(&links, true)?;
        Ok(Handles {
            user: namespace("user")?,
            net: namespace("net")?,
            route,
            rules,
            conntrack: netfilter()?,
            links,
            outside,
            has_ipv6,
        })
    };
    opened().map_err(NamespaceStep::Sockets.failed())
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Opens a namespace of this thread.
fn namespace(kind: &str) -> io::Result<OwnedFd> {
    Ok(fs::File::open(format!("/proc/thread-self/ns/{kind}"))?.into())
}

/// Opens a namespace by its path.
pub(super) fn file(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Enters a namespace.
pub(super) fn enter(file: &OwnedFd, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))?)
}

/// Enters the user namespace of the network, or a new one where this process may not make networks.
pub(super) fn enter_user(join: &Join) -> Result<(), NamespaceError> {
    if let Some(path) = &join.user {
        // The kernel refuses to enter the one that the process is in.
        let own = fs::metadata("/proc/self/ns/user").and_then(|own| Ok((own, fs::metadata(path)?)));
        return match own {
            Ok((own, other)) if (own.dev(), own.ino()) == (other.dev(), other.ino()) => Ok(()),
            Ok(_) => {
                let entered = file(path).and_then(|file| enter(&file, LinkNameSpaceType::User));
                entered.map_err(NamespaceStep::Join.failed())
            }
            Err(error) => Err(NamespaceStep::Join.failed()(error)),
        };
    }
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
    if rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed)) {
        return Ok(());
    }
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let made = sys::unshare(true, false)
        .and_then(|()| fs::write("/proc/self/setgroups", "deny"))
        .and_then(|()| fs::write("/proc/self/uid_map", format!("{user} {user} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{group} {group} 1")));
    made.map_err(NamespaceStep::User.failed())
}

fn set((name, value): (&str, &str)) -> io::Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).map_err(|error| Refusal { purpose: path, error }.into())
}

/// The same of a setting that not every kernel has.
fn set_if_there(setting: (&str, &str)) -> io::Result<()> {
    match set(setting) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Whether the network that this process is in has IPv6.
fn has_ipv6() -> io::Result<bool> {
    let [_, off] = IPV6_IS_OFF;
    match fs::read_to_string(format!("/proc/sys/net/{off}")) {
        Ok(off) => Ok(off.trim() == "0"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Switches IPv6 on or off in the network that this process is in, for all interfaces. Where the kernel has none, it is off.
fn switch_ipv6(on: bool) -> io::Result<()> {
    IPV6_IS_OFF.into_iter().try_for_each(|name| if on { set((name, "0")) } else { set_if_there((name, "1")) })
}

/// Has no interface of a new network have IPv6 yet, and those to come no addresses of their own. Whether this kernel has IPv6.
fn prepare_ipv6() -> io::Result<bool> {
    switch_ipv6(false)?;
    match SETTINGS6.iter().try_for_each(|setting| set(*setting)) {
        Err(error) if passes(&error) => Err(error),
        done => Ok(done.is_ok()),
    }
}

/// Gives a new network IPv6: its rules first. It has none where the kernel lacks something that those need.
///
/// # Errors
/// A want of memory or the like, which is over some other time: machines have IPv6 on all networks of a host or on none.
fn set_up_ipv6(route: &OwnedFd, rules: &OwnedFd) -> io::Result<bool> {
    let rules = write_table(rules, &rules::table(&Wanted::default(), IpFamily::V6));
    let done = rules.and_then(|()| switch_ipv6(true)).and_then(|()| set_up_routes6(route));
    let Err(error) = done else { return Ok(true) };
    switch_ipv6(false)?;
    if passes(&error) { Err(error) } else { Ok(false) }
}

/// Whether an error is one of a moment, which says nothing about what the kernel has.
fn passes(error: &io::Error) -> bool {
    let is_known = matches!(
        error.kind(),
        io::ErrorKind::OutOfMemory
            | io::ErrorKind::StorageFull
            | io::ErrorKind::ResourceBusy
            | io::ErrorKind::TimedOut
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
    );
    // These have no kind of their own.
    let number = netlink::number(error).map(Errno::from_raw_os_error);
    is_known || matches!(number, Some(Errno::NOBUFS | Errno::MFILE | Errno::NFILE))
}

/// The index of the interface to outside.
fn outside_index(route: &OwnedFd) -> io::Result<u32> {
    interfaces::list(route)?.get(rules::OUTSIDE).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn set_up_routes(route: &OwnedFd, has_ipv6: bool) -> io::Result<()> {
    interfaces::request(route, &interfaces::network(outside_index(route)?))?;
    deliver(route, IpFamily::V4)?;
    if has_ipv6 { set_up_routes6(route) } else { Ok(()) }
}

fn set_up_routes6(route: &OwnedFd) -> io::Result<()> {
    interfaces::request(route, &interfaces::network6(outside_index(route)?))?;
    deliver(route, IpFamily::V6)
}

/// Has marked packets delivered here, unless they are already.
fn deliver(route: &OwnedFd, family: IpFamily) -> io::Result<()> {
    match interfaces::request(route, &interfaces::delivery(family)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

/// Replaces the rules of a network by those for what is wanted.
pub(crate) fn write_rules(socket: &OwnedFd, wanted: &Wanted, has_ipv6: bool) -> io::Result<()> {
    let ipv6 = has_ipv6.then_some(IpFamily::V6);
    let families = [Some(IpFamily::V4), ipv6];
    families.into_iter().flatten().try_for_each(|family| write_table(socket, &rules::table(wanted, family)))
}

/// Puts a table in the place of the one at work.
fn write_table(socket: &OwnedFd, table: &Table) -> io::Result<()> {
    write(socket, table.transactions(active(socket, table.packets)?))
}

/// Makes the table of limits, unless it is there: a network that is joined has it, if it was made by a program that has. Its
/// counts stay as long as it does.
pub(super) fn write_limits(socket: &OwnedFd, has_ipv6: bool) -> io::Result<()> {
    let packets = if has_ipv6 { Packets::Both } else { Packets::V4 };
    let limits = rules::limits(rules::TRACKED, packets);
    let mut found = 0;
    netlink::dump(socket, &nftables::list_chains(packets), |_, body| {
        found += usize::from(nftables::is_hooked_in(body, rules::LIMITS));
    })?;
    if found == limits.chains.len() {
        return Ok(());
    }
    write(socket, limits.written(rules::LIMITS, None))
}

/// Makes the table of a machine's interface. A kernel that has no such tables bounds the number of parts of packets alone.
pub(super) fn write_frames(socket: &OwnedFd, machine: Ipv4Addr) -> io::Result<()> {
    let done = write(socket, rules::frames(machine).written(&wanted::tap(machine), None));
    match done.map_err(|error| (netlink::number(&error).map(Errno::from_raw_os_error), error)) {
        Err((Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT), _)) | Ok(()) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

/// Sends transactions, one after the other.
pub(super) fn write(socket: &OwnedFd, transactions: Vec<(Batch, usize)>) -> io::Result<()> {
    for (batch, answered) in transactions {
        netlink::request(socket, &batch, answered)?;
    }
    Ok(())
}

/// The name of the table that is at work for these packets: its chains are hooked.
fn active(socket: &OwnedFd, packets: Packets) -> io::Result<Option<&'static str>> {
    let mut found = None;
    netlink::dump(socket, &nftables::list_chains(packets), |_, body| {
        found = found.or_else(|| nftables::hooked_table(body));
    })?;
    Ok(found)
}

fn open_outside(tun: OwnedFd, has_ipv6: bool) -> io::Result<Outside> {
    rustix::io::ioctl_fionbio(&tun, true)?;
    let egress = socket(SocketType::STREAM, None)?;
    sys::set_option(&egress, SocketOption::Transparent, 1)?;
    listen(&egress, (Ipv4Addr::UNSPECIFIED, rules::PROXY_PORT).into())?;
    let egress6 = has_ipv6.then(egress6).transpose()?;
    let server = SocketAddrV4::new(GATEWAY, NAMES);
    let names_udp = socket(SocketType::DGRAM, None)?;
    rustix::net::bind(&names_udp, &server)?;
    let names_tcp = socket(SocketType::STREAM, None)?;
    listen(&names_tcp, server.into())?;
    let raw = socket(SocketType::RAW, Some(rustix::net::ipproto::RAW))?;
    sys::set_option(&raw, SocketOption::Mark, rules::UNTRACKED.cast_signed())?;
    Ok(Outside { tun, egress, names_udp, names_tcp, raw, egress6 })
}

/// The egress listener of IPv6.
fn egress6() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = rustix::net::socket_with(AddressFamily::INET6, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_ipv6_v6only(&listener, true)?;
    sys::set_option(&listener, SocketOption::Transparent6, 1)?;
    listen(&listener, (Ipv6Addr::UNSPECIFIED, rules::PROXY_PORT).into())?;
    Ok(listener)
}

/// A socket of IPv4 that does not block, in this thread's network.
pub(super) fn socket(kind: SocketType, protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::INET, kind, flags, protocol)?)
}

fn listen(socket: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    rustix::net::sockopt::set_socket_reuseaddr(socket, true)?;
    rustix::net::bind(socket, &address)?;
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_want_of_the_moment_is_told_from_what_the_kernel_has_not() {
        for (errno, expected) in [
            (Errno::NOMEM, true),
            (Errno::NOBUFS, true),
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::BUSY, true),
            (Errno::NOENT, false),
            (Errno::OPNOTSUPP, false),
            (Errno::PERM, false),
        ] {
            let bare = || io::Error::from_raw_os_error(errno.raw_os_error());
            assert_eq!(passes(&bare()), expected, "{errno}");
            // As the kernel's answer to a message comes, and that to a setting.
            let refused = io::Error::from(Refusal { purpose: "chain".into(), error: bare() });
            assert_eq!(passes(&refused), expected, "{refused}");
        }
    }
}
