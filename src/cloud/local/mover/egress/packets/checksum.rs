//! The Internet checksum (RFC 1071), alone and over the pseudo header of IPv4 (RFC 9293) or IPv6 (RFC 8200).

use std::net::IpAddr;

/// The ones' complement sum of `bytes` as 16-bit words, added to `start` and not yet folded.
fn add(start: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum = words.iter().fold(start, |sum, word| sum + u64::from(u16::from_be_bytes(*word)));
    rest.first().map_or(sum, |last| sum + (u64::from(*last) << 8))
}

/// The complement of a folded sum.
fn finish(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("a folded sum has 16 bits")
}

/// The checksum of `bytes`, for a field that is zero in them; 0 when the field is in them and right.
pub fn internet(bytes: &[u8]) -> u16 {
    finish(add(0, bytes))
}

/// The checksum of a transport's `segment` with its pseudo header; 0 when the segment has it and it is right.
pub fn transport(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let mut sum = u64::from(protocol) + segment.len() as u64;
    for address in [source, destination] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    finish(add(sum, segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_and_an_odd_length() {
        assert_eq!(internet(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(internet(&[1]), !0x0100);
        assert_eq!(internet(&[]), 0xffff);
    }
}
