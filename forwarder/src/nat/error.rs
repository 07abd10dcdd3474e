//! ICMP errors of our own: what the gateway says of a packet that it will not pass on.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ipv4::{self, Ipv4, Ipv4Mut};
use crate::wire::ipv6::{self, Ipv6};
use crate::wire::{PROTO_ICMP, PROTO_ICMPV6, checksum, icmp, icmpv6};

/// What is wrong with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnError {
    /// Its TTL or hop limit ends here.
    TimeExceeded,
    /// The way out takes no packet longer than `mtu` bytes, and this one may not be fragmented.
    TooBig {
        /// Bytes of an IP packet of the sender's family. A sender of IPv6 is told no less than 1280.
        mtu: u16,
    },
}

/// TTL and hop limit.
const TTL: u8 = 64;
/// Precedence "internetwork control" (RFC 1812 section 4.3.2.5).
const TOS: u8 = 0xc0;

/// Writes the IP packet of an error to the source of `packet` and returns its length in bytes. `from` is the gateway's address.
///
/// `packet` begins with its IP header, whose lengths were checked. As much of it is quoted as lies there and fits 576 bytes in
/// all, or 1280 for IPv6; what lies beyond its total length (padding) is not.
///
/// `None`, and `out` is without meaning, when no error may be sent about the packet (RFC 1122 section 3.2.2, RFC 4443 section
/// 2.4 (e)): an ICMP error, or what may be one; a later fragment of IPv4; a source that is no single host; a multicast or
/// broadcast destination. Also when `from` is of the other family, a header is malformed, or `out` too small.
pub fn own_error(kind: OwnError, from: IpAddr, packet: &[u8], out: &mut [u8]) -> Option<usize> {
    match from {
        IpAddr::V4(from) => v4(kind, from, packet, out),
        IpAddr::V6(from) => v6(kind, from, packet, out),
    }
}

fn v4(kind: OwnError, from: Ipv4Addr, packet: &[u8], out: &mut [u8]) -> Option<usize> {
    let ip = Ipv4::parse_quoted(packet).ok()?;
    let (src, dst) = (ip.src(), ip.dst());
    let no_host = src.octets()[0] == 0 || src.is_loopback() || src.is_multicast() || src.octets()[0] >= 240;
    if no_host || dst.is_multicast() || dst.is_broadcast() || ip.fragment_offset() != 0 {
        return None;
    }
    if ip.protocol() == PROTO_ICMP && is_icmp_error(*ip.payload().first()?) {
        return None;
    }
    let (kind, code, mtu) = match kind {
        OwnError::TimeExceeded => (icmp::TIME_EXCEEDED, 0, 0),
        OwnError::TooBig { mtu } => (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, mtu),
    };
    let [m0, m1] = mtu.to_be_bytes();
    let quote = packet.get(..ip.total_len().min(packet.len()))?;
    let quote = quote.get(..ipv4::MIN_MTU - ipv4::HEADER - icmp::HEADER).unwrap_or(quote);
    let len = icmp::HEADER + quote.len();
    let mut header = ipv4::header(from, src, PROTO_ICMP, TTL, len as u16);
    let mut ip = Ipv4Mut::new(&mut header).ok()?;
    ip.set_tos(TOS);
    ip.fill_checksum();
    let message = put(out, &header, &[kind, code, 0, 0, 0, 0, m0, m1], quote)?;
    let sum = checksum::sum(message).finish();
    store(message, icmp::CHECKSUM, sum)?;
    Some(ipv4::HEADER + len)
}

fn v6(kind: OwnError, from: Ipv6Addr, packet: &[u8], out: &mut [u8]) -> Option<usize> {
    let ip = Ipv6::parse_quoted(packet).ok()?;
    let (src, dst) = (ip.src(), ip.dst());
    if src.is_unspecified() || src.is_loopback() || src.is_multicast() || dst.is_multicast() {
        return None;
    }
    let upper = ip.upper().ok()?;
    if upper.protocol == PROTO_ICMPV6 {
        let kind =
            if upper.fragment.is_some_and(|f| f.offset != 0) { None } else { packet.get(upper.offset) };
        // What cannot be told from an error counts as one.
        if *kind? < icmpv6::INFORMATIONAL || *kind? == icmpv6::REDIRECT {
            return None;
        }
    }
    let (kind, mtu) = match kind {
        OwnError::TimeExceeded => (icmpv6::TIME_EXCEEDED, 0),
        OwnError::TooBig { mtu } => (icmpv6::TOO_BIG, mtu.max(ipv6::MIN_MTU as u16)),
    };
    let [m0, m1] = mtu.to_be_bytes();
    let quote = packet.get(..ip.total_len().min(packet.len()))?;
    let quote = quote.get(..ipv6::MIN_MTU - ipv6::HEADER - icmpv6::HEADER).unwrap_or(quote);
    let len = icmpv6::HEADER + quote.len();
    let header = ipv6::header(from, src, PROTO_ICMPV6, TTL, len as u16);
    let message = put(out, &header, &[kind, 0, 0, 0, 0, 0, m0, m1], quote)?;
    let sum = checksum::pseudo_v6(from, src, PROTO_ICMPV6, len as u32).plus(message).finish();
    store(message, icmpv6::CHECKSUM, sum)?;
    Some(ipv6::HEADER + len)
}

/// Types that quote a packet (RFC 1122 section 3.2.2): no error is sent about them.
fn is_icmp_error(kind: u8) -> bool {
    matches!(
        kind,
        icmp::UNREACHABLE
            | icmp::SOURCE_QUENCH
            | icmp::REDIRECT
            | icmp::TIME_EXCEEDED
            | icmp::PARAMETER_PROBLEM
    )
}

/// Writes an IP header and an ICMP message, and returns the message.
fn put<'a>(out: &'a mut [u8], ip: &[u8], icmp: &[u8], quote: &[u8]) -> Option<&'a mut [u8]> {
    let (header, rest) = out.split_at_mut_checked(ip.len())?;
    let message = rest.get_mut(..icmp.len() + quote.len())?;
    let (head, body) = message.split_at_mut_checked(icmp.len())?;
    header.copy_from_slice(ip);
    head.copy_from_slice(icmp);
    body.copy_from_slice(quote);
    Some(message)
}

/// Writes a checksum, a raw word.
fn store(message: &mut [u8], at: usize, sum: u16) -> Option<()> {
    *message.get_mut(at..)?.first_chunk_mut()? = sum.to_ne_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, PacketBuilder};
    use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, icmpv4, icmpv6 as ep6};
    use proptest::prelude::*;

    use super::*;

    const US4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const THEM4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const US6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const THEM6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

    fn packet4(data: usize) -> Vec<u8> {
        let mut p = Vec::new();
        PacketBuilder::ipv4(THEM4.octets(), US4.octets(), 1)
            .udp(4000, 5000)
            .write(&mut p, &vec![7; data])
            .unwrap();
        p
    }

    fn packet6(data: usize) -> Vec<u8> {
        let mut p = Vec::new();
        PacketBuilder::ipv6(THEM6.octets(), US6.octets(), 1)
            .udp(4000, 5000)
            .write(&mut p, &vec![7; data])
            .unwrap();
        p
    }

    #[test]
    fn ipv4_errors_quote_without_padding_and_fit_576_bytes() {
        for (data, quoted) in [(0, 28), (520, 548), (521, 548), (1472, 548)] {
            let mut packet = packet4(data);
            packet.extend([0xee; 20]);
            for (kind, expected) in [
                (
                    OwnError::TimeExceeded,
                    Icmpv4Type::TimeExceeded(icmpv4::TimeExceededCode::TtlExceededInTransit),
                ),
                (
                    OwnError::TooBig { mtu: 1400 },
                    Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::FragmentationNeeded {
                        next_hop_mtu: 1400,
                    }),
                ),
            ] {
                let mut out = [0xaa; 600];
                let n = own_error(kind, US4.into(), &packet, &mut out).unwrap();
                assert_eq!(n, 28 + quoted);
                let ip = Ipv4HeaderSlice::from_slice(&out).unwrap();
                assert_eq!((ip.source_addr(), ip.destination_addr(), ip.ttl()), (US4, THEM4, 64));
                assert_eq!((usize::from(ip.total_len()), out[1], ip.protocol().0), (n, 0xc0, 1));
                assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
                let message = Icmpv4Slice::from_slice(&out[20..n]).unwrap();
                assert_eq!(message.icmp_type(), expected);
                assert_eq!(message.checksum(), expected.calc_checksum(&out[28..n]));
                assert_eq!(out[28..n], packet[..quoted]);
                assert!(out[n..].iter().all(|b| *b == 0xaa));
                assert_eq!(own_error(kind, US4.into(), &packet, &mut out[..n - 1]), None);
            }
        }
    }

    #[test]
    fn ipv6_errors_quote_without_padding_and_fit_1280_bytes() {
        for (data, quoted) in [(0, 48), (1184, 1232), (1185, 1232), (1452, 1232)] {
            let mut packet = packet6(data);
            packet.extend([0xee; 20]);
            for (kind, expected) in [
                (OwnError::TimeExceeded, Icmpv6Type::TimeExceeded(ep6::TimeExceededCode::HopLimitExceeded)),
                (OwnError::TooBig { mtu: 1400 }, Icmpv6Type::PacketTooBig { mtu: 1400 }),
                (OwnError::TooBig { mtu: 1000 }, Icmpv6Type::PacketTooBig { mtu: 1280 }),
            ] {
                let mut out = [0xaa; 1300];
                let n = own_error(kind, US6.into(), &packet, &mut out).unwrap();
                assert_eq!(n, 48 + quoted);
                let ip = Ipv6HeaderSlice::from_slice(&out).unwrap();
                assert_eq!((ip.source_addr(), ip.destination_addr(), ip.hop_limit()), (US6, THEM6, 64));
                assert_eq!((usize::from(ip.payload_length()), ip.next_header().0), (n - 40, 58));
                let message = Icmpv6Slice::from_slice(&out[40..n]).unwrap();
                assert_eq!(message.icmp_type(), expected);
                assert!(message.is_checksum_valid(US6.octets(), THEM6.octets()));
                assert_eq!(out[48..n], packet[..quoted]);
                assert!(out[n..].iter().all(|b| *b == 0xaa));
                assert_eq!(own_error(kind, US6.into(), &packet, &mut out[..n - 1]), None);
            }
        }
    }

    #[test]
    fn some_packets_get_no_error() {
        let said = |from: IpAddr, packet: &[u8]| {
            own_error(OwnError::TimeExceeded, from, packet, &mut [0; 1500]).is_some()
        };
        let with = |packet: &[u8], at: usize, bytes: &[u8]| {
            let mut p = packet.to_vec();
            p[at..at + bytes.len()].copy_from_slice(bytes);
            p
        };
        let p = packet4(100);
        for (expected, at, bytes) in [
            (true, 0, &[][..]),
            (true, 6, &[0x20, 0]),
            (false, 6, &[0x20, 1]),
            (false, 6, &[0, 1]),
            (false, 12, &[0, 0, 0, 0]),
            (false, 12, &[127, 0, 0, 1]),
            (false, 12, &[224, 0, 0, 1]),
            (false, 12, &[240, 0, 0, 1]),
            (false, 12, &[255; 4]),
            (false, 16, &[224, 0, 0, 1]),
            (false, 16, &[255; 4]),
            (false, 0, &[0x65]),
            (false, 0, &[0x44]),
        ] {
            assert_eq!(said(US4.into(), &with(&p, at, bytes)), expected, "{at} {bytes:?}");
        }
        for kind in 0..=255 {
            let error = [3, 4, 5, 11, 12].contains(&kind);
            assert_eq!(said(US4.into(), &with(&with(&p, 9, &[1]), 20, &[kind])), !error, "{kind}");
        }
        assert!(!said(US6.into(), &p));
        let p = packet6(100);
        assert!(said(US6.into(), &p));
        assert!(!said(US4.into(), &p));
        for at in [8, 24] {
            assert!(!said(US6.into(), &with(&p, at, &[0xff, 2])));
        }
        assert!(!said(US6.into(), &with(&p, 8, &[0; 16])));
        for kind in 0..=255 {
            let error = kind < 128 || kind == 137;
            assert_eq!(said(US6.into(), &with(&with(&p, 6, &[58]), 40, &[kind])), !error, "{kind}");
        }
        let later = [17, 0, 0, 8, 0, 0, 0, 1];
        let fragment = with(&with(&p, 6, &[44]), 40, &later);
        assert!(said(US6.into(), &fragment), "path MTU discovery needs it");
        assert!(!said(US6.into(), &with(&fragment, 40, &[58])), "who knows of what");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..120), v6: bool, room in 0usize..200,
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x40 | *first & 0xf };
            }
            let mut out = vec![0; room];
            let from: IpAddr = if v6 { US6.into() } else { US4.into() };
            own_error(OwnError::TooBig { mtu: 1 }, from, &bytes, &mut out);
        }
    }
}
