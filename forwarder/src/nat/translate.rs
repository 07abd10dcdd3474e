//! IP headers of a connection whose sides differ in family (RFC 7915 sections 4.1 and 5.1). What follows them stays, but for
//! ports and transport checksum. IPv4 options and IPv6 extension headers other than the fragment header have no
//! translation: they are left out.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use crate::wire::ipv4::{self, Ipv4, Ipv4Mut};
use crate::wire::ipv6::{self, FRAGMENT_HEADER, Ipv6, Ipv6Mut, Upper};

/// Bytes of the longest header that [`to_v6`] makes.
pub const V6_HEADER: usize = ipv6::HEADER + FRAGMENT_HEADER;
/// A longer IPv4 packet made from an IPv6 one may not be fragmented (RFC 7915 section 5.1): one of 1280 bytes that became 20
/// shorter passes where its sender takes for granted that it does.
const DONT_FRAGMENT_ABOVE: usize = ipv6::MIN_MTU - ipv6::HEADER + ipv4::HEADER;

/// The IPv6 header of an IPv4 packet that came from `src` and goes on to `dst`, one hop further: 40 bytes, or 48 with a
/// fragment header, which has `fragment_id`, when the packet is a fragment.
pub fn to_v6(ip: &Ipv4<'_>, src: Ipv6Addr, dst: Ipv6Addr, fragment_id: u32) -> ArrayVec<u8, V6_HEADER> {
    v6_header(ip, src, dst, ip.ttl().saturating_sub(1), fragment_id)
}

/// [`to_v6`] with a given hop limit.
pub(super) fn v6_header(
    ip: &Ipv4<'_>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    hops: u8,
    fragment_id: u32,
) -> ArrayVec<u8, V6_HEADER> {
    // At most 65,515 bytes, and 8.
    let len = ip.payload_len() as u16;
    let (next, len) = if ip.is_fragment() {
        (ipv6::FRAGMENT, len.saturating_add(FRAGMENT_HEADER as u16))
    } else {
        (ip.protocol(), len)
    };
    let mut fixed = ipv6::header(src, dst, next, hops, len);
    if let Ok(mut header) = Ipv6Mut::new(&mut fixed) {
        header.set_traffic_class(ip.tos());
    }
    let mut header: ArrayVec<u8, V6_HEADER> = fixed.into_iter().collect();
    if ip.is_fragment() {
        let [o0, o1] = (ip.fragment_offset() as u16 | u16::from(ip.more_fragments())).to_be_bytes();
        let [i0, i1, i2, i3] = fragment_id.to_be_bytes();
        header.extend([ip.protocol(), 0, o0, o1, i0, i1, i2, i3]);
    }
    header
}

/// The IPv4 header of an IPv6 packet that came from `src` and goes on to `dst`, one hop further, checksum filled. `upper` is
/// what the packet's [`Ipv6::upper`] returned; the packet behind the header begins at its offset. `id` is the
/// identification. Routers may fragment it further when it has a fragment header or is at most 1260 bytes long.
pub fn to_v4(ip: &Ipv6<'_>, upper: &Upper, src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> [u8; ipv4::HEADER] {
    let ttl = ip.hop_limit().saturating_sub(1);
    v4_header(ip, upper, (src, dst), ttl, id, dont_fragment(ip, upper))
}

/// Does the IPv4 packet have DF set?
pub(super) fn dont_fragment(ip: &Ipv6<'_>, upper: &Upper) -> bool {
    upper.fragment.is_none() && v4_len(ip, upper) > DONT_FRAGMENT_ABOVE
}

/// Bytes of the IPv4 packet.
fn v4_len(ip: &Ipv6<'_>, upper: &Upper) -> usize {
    ipv4::HEADER + ip.total_len().saturating_sub(upper.offset)
}

/// [`to_v4`] with a given TTL and DF flag.
pub(super) fn v4_header(
    ip: &Ipv6<'_>,
    upper: &Upper,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    ttl: u8,
    id: u16,
    dont_fragment: bool,
) -> [u8; ipv4::HEADER] {
    // What is longer than an IPv4 packet can be fits no link either.
    let len = u16::try_from(v4_len(ip, upper)).unwrap_or(u16::MAX);
    let mut bytes = ipv4::header(src, dst, upper.protocol, ttl, 0);
    if let Ok(mut header) = Ipv4Mut::new(&mut bytes) {
        header.set_tos(ip.traffic_class());
        header.set_total_len(len);
        header.set_id(id);
        let (more, offset) = upper.fragment.map_or((false, 0), |f| (f.more, f.offset));
        header.set_fragment(dont_fragment, more, offset);
        header.fill_checksum();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header};
    use proptest::prelude::*;

    use super::*;

    const A4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const B4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

    /// An IPv4 header that announces `payload` bytes.
    fn v4(payload: u16, tos: u8, ttl: u8, id: u16, frag: (bool, bool, u16), options: &[u8]) -> Vec<u8> {
        let mut h = Ipv4Header::new(payload, ttl, IpNumber::UDP, [1, 2, 3, 4], [5, 6, 7, 8]).unwrap();
        h.dscp = etherparse::IpDscp::try_new(tos >> 2).unwrap();
        h.ecn = etherparse::IpEcn::try_new(tos & 3).unwrap();
        h.identification = id;
        (h.dont_fragment, h.more_fragments) = (frag.0, frag.1);
        h.fragment_offset = IpFragOffset::try_new(frag.2).unwrap();
        h.options = options.try_into().unwrap();
        h.set_payload_len(payload.into()).unwrap();
        h.header_checksum = h.calc_header_checksum();
        h.to_bytes().to_vec()
    }

    fn v6(payload: u16, class: u8, hops: u8, next: u8, src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
        Ipv6Header {
            traffic_class: class,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: payload,
            next_header: IpNumber(next),
            hop_limit: hops,
            source: src.octets(),
            destination: dst.octets(),
        }
        .to_bytes()
        .to_vec()
    }

    #[test]
    fn ipv4_becomes_ipv6() {
        let whole = v4(1000, 0xb9, 64, 7, (true, false, 0), &[]);
        let ip = Ipv4::parse_quoted(&whole).unwrap();
        assert_eq!(to_v6(&ip, A6, B6, 9)[..], v6(1000, 0xb9, 63, 17, A6, B6));
        let options = v4(1000, 0, 64, 7, (false, false, 0), &[1, 1, 1, 0]);
        let ip = Ipv4::parse_quoted(&options).unwrap();
        assert_eq!(to_v6(&ip, A6, B6, 9)[..], v6(1000, 0, 63, 17, A6, B6), "options have no translation");
        for (more, offset) in [(true, 0), (true, 185), (false, 8191)] {
            let fragment = v4(1000, 0, 2, 7, (false, more, offset), &[]);
            let ip = Ipv4::parse_quoted(&fragment).unwrap();
            let fragment = Ipv6FragmentHeader {
                next_header: IpNumber::UDP,
                fragment_offset: IpFragOffset::try_new(offset).unwrap(),
                more_fragments: more,
                identification: 0x0102_0304,
            };
            let expected = [&v6(1008, 0, 1, 44, A6, B6)[..], &fragment.to_bytes()].concat();
            assert_eq!(to_v6(&ip, A6, B6, 0x0102_0304)[..], expected);
        }
    }

    #[test]
    fn ipv6_becomes_ipv4() {
        let expected = |payload: u16, df: bool, more: bool, offset: u16| {
            let mut h = v4(payload, 0xb9, 63, 0x0708, (df, more, offset), &[]);
            h[12..16].copy_from_slice(&A4.octets());
            h[16..20].copy_from_slice(&B4.octets());
            Ipv4Mut::new(&mut h).unwrap().fill_checksum();
            h
        };
        for (payload, df) in [(8, false), (1240, false), (1241, true), (1460, true)] {
            let bytes = v6(payload, 0xb9, 64, 17, A6, B6);
            let ip = Ipv6::parse_quoted(&bytes).unwrap();
            assert_eq!(
                to_v4(&ip, &ip.upper().unwrap(), A4, B4, 0x0708)[..],
                expected(payload, df, false, 0),
                "{payload}"
            );
        }
        for (more, offset) in [(false, 0), (true, 0), (true, 180), (false, 8191)] {
            let [o0, o1] = ((offset << 3) | u16::from(more)).to_be_bytes();
            let bytes = [&v6(1448, 0xb9, 64, 44, A6, B6)[..], &[17, 0, o0, o1, 1, 2, 3, 4]].concat();
            let ip = Ipv6::parse_quoted(&bytes).unwrap();
            let header = to_v4(&ip, &ip.upper().unwrap(), A4, B4, 0x0708);
            assert_eq!(header[..], expected(1440, false, more, offset), "{more} {offset}");
        }
        let options = [&v6(108, 0xb9, 64, 60, A6, B6)[..], &[17, 0, 1, 4, 0, 0, 0, 0]].concat();
        let ip = Ipv6::parse_quoted(&options).unwrap();
        let header = to_v4(&ip, &ip.upper().unwrap(), A4, B4, 0x0708);
        assert_eq!(header[..], expected(100, false, false, 0), "options have no translation");
    }

    proptest! {
        #[test]
        fn there_and_back_is_two_hops(
            len in 0u16..=65_000, tos: u8, ttl in 3u8.., id: u16, df: bool, more: bool, offset in 0u16..8192,
        ) {
            let fragment = more || offset != 0;
            let packet = v4(len, tos, ttl, id, (df && !fragment, more, offset), &[]);
            let ip = Ipv4::parse_quoted(&packet).unwrap();
            let there = to_v6(&ip, A6, B6, id.into());
            let ip = Ipv6::parse_quoted(&there).unwrap();
            let back = to_v4(&ip, &ip.upper().unwrap(), [1, 2, 3, 4].into(), [5, 6, 7, 8].into(), id);
            let df = !fragment && len > 1240;
            let expected = v4(len, tos, ttl - 2, id, (df, more, offset), &[]);
            prop_assert_eq!(&back[..], &expected[..]);
        }
    }
}
