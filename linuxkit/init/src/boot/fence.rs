//! Addresses that containers do not reach: what lies behind the host's user network and is not meant for pods.
//!
//! qemu connects for the guest as a process of the host, so that its gateway is the host's loopback, and link-local
//! addresses are those of the host's own network, where clouds have their metadata services. Programs of the kernel on
//! the cgroup of all containers refuse such connections; a container needs no right for a packet filter, and has none to
//! undo this. PID 1 and the supervisor are not in that cgroup.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use i2kit_container::cgroup;
use i2kit_sys::bpf::{BpfInstruction, BpfPlace};

use super::cmdline::{Parameters, Range};
use crate::error::{Doing, Error};

/// Link-local addresses: metadata services of clouds among them.
const LINK_LOCAL: Range = Range { address: Ipv4Addr::new(169, 254, 0, 0), prefix: 16 };

/// What qemu's user network has for the host's own name server, at every port: the address behind the gateway.
const NAME_SERVER_STEP: u32 = 1;

/// `SOCK_STREAM`.
const STREAM: i32 = 1;

/// Offsets in `struct bpf_sock_addr`.
const ADDRESS_V4: i16 = 4;
const ADDRESS_V6: i16 = 8;
const TYPE: i16 = 32;

/// Addresses that are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refused {
    range: Range,
    /// Connections alone: a server answers datagrams of balancers, which come from there.
    streams_only: bool,
}

/// Refuses the containers of this machine what is not meant for them; nothing on networks other than the local cloud's.
pub(crate) fn close(parameters: &Parameters) -> Result<(), Error> {
    let refused = refused(parameters);
    if refused.is_empty() {
        return Ok(());
    }
    let group = cgroup::of_pod()?;
    for place in [BpfPlace::Connect4, BpfPlace::Connect6, BpfPlace::Send4, BpfPlace::Send6] {
        let program = i2kit_sys::load_program(place, &program(place, &refused))
            .doing(|| "load the filter of addresses".into())?;
        i2kit_sys::attach_program(place, group.as_fd(), program.as_fd())
            .doing(|| "attach the filter of addresses".into())?;
    }
    Ok(())
}

fn refused(parameters: &Parameters) -> Vec<Refused> {
    let (Some(network), Some(_)) = (&parameters.network, parameters.services) else { return Vec::new() };
    let host = |address| Range { address, prefix: 32 };
    let mut refused = vec![Refused { range: LINK_LOCAL, streams_only: false }];
    if let Some(gateway) = network.gateway {
        refused.push(Refused { range: host(gateway), streams_only: true });
        let server = Ipv4Addr::from_bits(gateway.to_bits().wrapping_add(NAME_SERVER_STEP));
        if !network.dns.contains(&server) {
            refused.push(Refused { range: host(server), streams_only: false });
        }
    }
    refused
}

/// Register 1 holds the context. Answers 0 for what is refused, else 1.
fn program(place: BpfPlace, refused: &[Refused]) -> Vec<BpfInstruction> {
    use BpfInstruction as I;
    let mut out = vec![I::load_word(6, 1, TYPE)];
    let is_v6 = matches!(place, BpfPlace::Connect6 | BpfPlace::Send6);
    if is_v6 {
        // An IPv4 address in an IPv6 one has 80 bits of zeroes and 16 of ones in front.
        for (word, value) in [(0, 0), (4, 0), (8, i32::from_ne_bytes([0, 0, 0xff, 0xff]))] {
            out.extend([
                I::load_word(2, 1, ADDRESS_V6 + word),
                I::unless_word_equals(2, value, 1),
                // Over the end of the program.
                I::skip(2),
                I::set(0, 1),
                I::exit(),
            ]);
        }
        out.push(I::load_word(2, 1, ADDRESS_V6 + 12));
    } else {
        out.push(I::load_word(2, 1, ADDRESS_V4));
    }
    for Refused { range, streams_only } in refused {
        let mask = u32::MAX.checked_shl(32 - u32::from(range.prefix)).unwrap_or(0);
        // Addresses are in the order of the network.
        let word = |bits: u32| i32::from_ne_bytes(bits.to_be_bytes());
        out.extend([
            I::copy(3, 2),
            I::and(3, word(mask)),
            I::unless_word_equals(3, word(range.address.to_bits()), if *streams_only { 3 } else { 2 }),
        ]);
        out.extend(streams_only.then(|| I::unless_word_equals(6, STREAM, 2)));
        out.extend([I::set(0, 0), I::exit()]);
    }
    out.extend([I::set(0, 1), I::exit()]);
    out
}

#[cfg(test)]
mod tests {
    use i2kit_sys::bpf;

    use super::super::cmdline;
    use super::*;

    const DATAGRAM: i32 = 2;

    fn parameters(dns: &str) -> Parameters {
        let text = format!("i2kit.net=10.0.2.15/24,10.0.2.2,{dns} i2kit.services=127.76.0.0/14");
        cmdline::parse(&text).unwrap()
    }

    /// Whether the program of that place lets an address pass, by the meaning of its instructions.
    fn passes(place: BpfPlace, kind: i32, address: &[u8], refused: &[Refused]) -> bool {
        let program = program(place, refused);
        let mut context = [0_u8; 40];
        let from = if address.len() == 4 { ADDRESS_V4 } else { ADDRESS_V6 };
        let from = usize::try_from(from).unwrap();
        context[from..from + address.len()].copy_from_slice(address);
        context[32..36].copy_from_slice(&kind.to_ne_bytes());
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let BpfInstruction { code, registers: pair, offset, value } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let extended = i64::from(value).cast_unsigned();
            at += 1;
            match code {
                bpf::BPF_LOAD_WORD => {
                    let offset = usize::try_from(offset).unwrap();
                    let word = context[offset..offset + 4].try_into().unwrap();
                    registers[to] = u64::from(u32::from_ne_bytes(word));
                }
                bpf::BPF_COPY => registers[to] = registers[from],
                bpf::BPF_AND => registers[to] &= extended,
                bpf::BPF_SET => registers[to] = extended,
                bpf::BPF_SKIP => at += usize::try_from(offset).unwrap(),
                bpf::BPF_UNLESS_WORD_EQUALS => {
                    let equals = registers[to].to_ne_bytes()[..4] == value.to_ne_bytes();
                    at += if equals { 0 } else { usize::try_from(offset).unwrap() };
                }
                _ => return registers[0] == 1,
            }
        }
    }

    #[test]
    fn the_host_and_its_metadata_service_are_refused_and_services_are_not() {
        let refused = refused(&parameters("127.78.1.2"));
        let mapped = |address: [u8; 4]| [&[0; 10][..], &[0xff; 2], &address].concat();
        for (address, stream, datagram) in [
            ([169, 254, 169, 254], false, false),
            ([169, 254, 0, 1], false, false),
            ([169, 253, 0, 1], true, true),
            ([10, 0, 2, 2], false, true),
            ([10, 0, 2, 3], false, false),
            ([10, 0, 2, 4], true, true),
            ([127, 0, 0, 1], true, true),
            ([127, 77, 200, 201], true, true),
            ([192, 0, 2, 254], true, true),
        ] {
            for (v4, v6) in [(BpfPlace::Connect4, BpfPlace::Connect6), (BpfPlace::Send4, BpfPlace::Send6)] {
                for (kind, expected) in [(STREAM, stream), (DATAGRAM, datagram)] {
                    assert_eq!(passes(v4, kind, &address, &refused), expected, "{address:?} {kind}");
                    assert_eq!(passes(v6, kind, &mapped(address), &refused), expected, "{address:?} {kind}");
                }
            }
        }
        let other = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 169, 254, 169, 254];
        assert!(passes(BpfPlace::Connect6, STREAM, &other, &refused));
    }

    #[test]
    fn only_the_networks_of_the_local_cloud_have_a_fence() {
        assert_eq!(refused(&Parameters::default()), []);
        assert_eq!(refused(&cmdline::parse("i2kit.net=10.0.0.5/24,10.0.0.1,10.0.0.2").unwrap()), []);
        // A machine whose names the host's own server knows reaches that.
        assert_eq!(refused(&parameters("10.0.2.3")).len(), 2);
    }
}
