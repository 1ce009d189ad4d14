//! qemu's user-mode network: each machine has a network of its own inside its qemu process.
//!
//! - From outside, a port of the machine is reached by a forward: qemu listens on a loopback port of this host.
//! - From inside, the gateway passes connections to this host's loopback addresses on, hence to balancers and name
//!   servers. The guest has a route for them ([`cmdline::SERVICES`]).

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use i2kit_spec::cmdline;

use super::addresses::REACHABLE;
use super::attachment::{Forward, GuestPort};
use crate::cloud::local::machine::qemu::NetworkDevice;
use crate::cloud::local::machine::qmp;
use crate::manifest::api::Protocol;

/// The machine's address on its network, and that network's gateway and name server, which asks this host's.
const GUEST: &str = "10.0.2.15";
const GATEWAY: &str = "10.0.2.2";
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// The device of a machine that is about to be started: these ports are forwarded, and the guest asks `resolver` for
/// names, or qemu's own name server when there is none.
pub(crate) fn device(ports: &[GuestPort], resolver: Option<Ipv4Addr>) -> NetworkDevice {
    let forward = |port: &GuestPort| format!(",hostfwd={}", rule(*port));
    let forwards: String = ports.iter().map(forward).collect();
    NetworkDevice {
        // Without IPv6, by which a guest would reach this host's `::1` as `fec0::2`.
        netdev: format!("user,id=net,ipv6=off{forwards}"),
        hardware: None,
        inside: None,
        cmdline: format!(
            "{}={GUEST}/24,{GATEWAY},{} {}={REACHABLE}",
            cmdline::NET,
            resolver.unwrap_or(NAME_SERVER),
            cmdline::SERVICES,
        ),
    }
}

/// Where the ports of the machine in `folder` are reached, as its qemu reports.
pub(crate) async fn discover(folder: &Path) -> io::Result<Vec<Forward>> {
    qmp::monitor(folder, "info usernet").await.map(|text| parse(&text))
}

/// Makes a port of a running machine reachable. Returns where its ports are reached then.
pub(crate) async fn open(folder: &Path, port: GuestPort) -> io::Result<Vec<Forward>> {
    // The answer to an earlier request may have been lost.
    let forwards = discover(folder).await?;
    if forwards.iter().any(|forward| (forward.port, forward.protocol) == port) {
        return Ok(forwards);
    }
    let answer = qmp::monitor(folder, &format!("hostfwd_add net {}", rule(port))).await?;
    match answer.trim() {
        "" => discover(folder).await,
        refusal => Err(io::Error::other(refusal.to_owned())),
    }
}

/// A forward in qemu's syntax. Port 0: the kernel chooses a free one, so that two machines never want the same.
fn rule((port, protocol): GuestPort) -> String {
    format!("{}:127.0.0.1:0-{GUEST}:{port}", protocol.word())
}

/// Reads the table of `info usernet`: protocol and state, descriptor, host address and port, guest address and port.
fn parse(text: &str) -> Vec<Forward> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [kind, _, address, port, _, guest_port, ..] = fields[..] else { return None };
        let protocol = match kind {
            "TCP[HOST_FORWARD]" => Protocol::Tcp,
            "UDP[HOST_FORWARD]" => Protocol::Udp,
            _ => return None,
        };
        let address = format!("{address}:{port}").parse().ok()?;
        Some(Forward { port: guest_port.parse().ok()?, protocol, address })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutations::survive;

    const TABLE: &str = "Hub -1 (net):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                         TCP[HOST_FORWARD]  13       127.0.0.1 42973       10.0.2.15    81     0     0\r\n  \
                         TCP[ESTABLISHED]   14       10.0.2.15 40000       10.0.0.1     443    0     0\r\n  \
                         UDP[HOST_FORWARD]   8       127.0.0.1 42539       10.0.2.15    53     0     0\r\n";

    #[test]
    fn a_device_forwards_its_ports_and_names_a_resolver() {
        let ports = [(80, Protocol::Tcp), (53, Protocol::Udp)];
        let with = device(&ports, Some(Ipv4Addr::new(127, 78, 3, 4)));
        assert_eq!(
            with.netdev,
            "user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:0-10.0.2.15:80,hostfwd=udp:127.0.0.1:0-10.0.2.15:53"
        );
        assert_eq!(with.cmdline, "i2kit.net=10.0.2.15/24,10.0.2.2,127.78.3.4 i2kit.services=127.76.0.0/14");
        assert!(device(&[], None).cmdline.starts_with("i2kit.net=10.0.2.15/24,10.0.2.2,10.0.2.3 "));
    }

    #[test]
    fn forwards_are_read_from_the_monitors_table() {
        let forward =
            |port, protocol, address: &str| Forward { port, protocol, address: address.parse().unwrap() };
        assert_eq!(
            parse(TABLE),
            [forward(81, Protocol::Tcp, "127.0.0.1:42973"), forward(53, Protocol::Udp, "127.0.0.1:42539")]
        );
    }

    #[test]
    fn whatever_the_monitor_prints_is_a_table_or_none() {
        survive(&[Vec::from(TABLE)], 3000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let forwards = parse(&text);
            assert!(forwards.len() <= text.matches("[HOST_FORWARD]").count());
        });
    }
}
