//! IPv6 (RFC 8200).

use std::net::Ipv6Addr;

use super::{Sum, WireError, checksum, clamp, first, first_mut};

/// Bytes of the fixed header.
pub const HEADER: usize = 40;

/// Most extension headers followed: more serve no purpose but to cost time.
const MAX_EXTENSIONS: usize = 8;

/// Bytes of a fragment header.
pub const FRAGMENT_HEADER: usize = 8;
/// Next header value of a fragment header.
pub const FRAGMENT: u8 = 44;
/// Least MTU of a link (RFC 8200 section 5).
pub const MIN_MTU: usize = 1280;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

/// Is it the number of an extension header that is followed?
pub fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION)
}

/// A packet whose version and length were checked.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<'a> {
    fixed: &'a [u8; HEADER],
    bytes: &'a [u8],
}

/// What follows the extension headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// Its protocol number.
    pub protocol: u8,
    /// Where it begins, in bytes from the start of the fixed header.
    pub offset: usize,
    /// The fragment header, when one was among them; beyond offset 0 the upper header is not there at all.
    pub fragment: Option<FragmentHeader>,
    /// True when a routing header with segments left was among them: the destination address is not the last one.
    pub source_routed: bool,
}

/// A fragment header (RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentHeader {
    /// Offset of the fragment in bytes.
    pub offset: u16,
    /// True when more fragments follow.
    pub more: bool,
    /// Identification.
    pub id: u32,
    /// Where the fragment header begins, in bytes from the start of the fixed header.
    pub at: usize,
}

impl FragmentHeader {
    /// True when it is a whole packet in spite of its fragment header (RFC 6946).
    pub fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

impl<'a> Ipv6<'a> {
    /// Checks version and payload length. Jumbograms (RFC 2675) are not known: their zero length is taken as it is.
    ///
    /// `bytes` begins with the header; `len` is how many bytes the frame has from there on, over all segments, Ethernet
    /// padding included.
    #[inline]
    pub fn parse(bytes: &'a [u8], len: usize) -> Result<Ipv6<'a>, WireError> {
        let packet = Ipv6::parse_quoted(bytes)?;
        if packet.total_len() > len { Err(WireError::Truncated) } else { Ok(packet) }
    }

    /// The same for the packet quoted in an ICMPv6 error, whose payload may be cut short.
    #[inline]
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Ipv6<'a>, WireError> {
        let fixed: &[u8; HEADER] = first(bytes)?;
        if fixed[0] >> 4 != 6 { Err(WireError::BadVersion) } else { Ok(Ipv6 { fixed, bytes }) }
    }

    #[inline]
    fn address(&self, at: usize) -> Ipv6Addr {
        match self.fixed.get(at..).map(first::<16>) {
            Some(Ok(octets)) => Ipv6Addr::from(*octets),
            _ => Ipv6Addr::UNSPECIFIED,
        }
    }

    /// Traffic class: DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.fixed[0] << 4) | (self.fixed[1] >> 4)
    }

    /// Payload length in bytes, extension headers included, over all segments.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.fixed[4], self.fixed[5]]))
    }

    /// Length of header and payload in bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        HEADER + self.payload_len()
    }

    /// Protocol number of what follows the fixed header.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.fixed[6]
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.fixed[7]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        self.address(8)
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        self.address(24)
    }

    /// What of the payload lies in the first segment, without Ethernet padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        clamp(self.bytes, HEADER, self.total_len())
    }

    /// The pseudo header of an upper layer that begins right after the fixed header.
    #[inline]
    pub fn pseudo(&self) -> Sum {
        checksum::pseudo_v6(self.src(), self.dst(), self.next_header(), self.payload_len() as u32)
    }

    /// Follows the extension headers. [`WireError::BadExtension`] when one is incomplete, there are more than eight, or two
    /// of them are fragment headers.
    pub fn upper(&self) -> Result<Upper, WireError> {
        let mut upper =
            Upper { protocol: self.next_header(), offset: HEADER, fragment: None, source_routed: false };
        let end = self.total_len();
        for _ in 0..=MAX_EXTENSIONS {
            if !is_extension(upper.protocol) {
                return Ok(upper);
            }
            let header: &[u8; 8] =
                first(clamp(self.bytes, upper.offset, end)).map_err(|_| WireError::BadExtension)?;
            let mut len = 8 * (usize::from(header[1]) + 1);
            if upper.protocol == FRAGMENT {
                if upper.fragment.is_some() {
                    return Err(WireError::BadExtension);
                }
                len = FRAGMENT_HEADER;
                let field = u16::from_be_bytes([header[2], header[3]]);
                upper.fragment = Some(FragmentHeader {
                    offset: field & 0xfff8,
                    more: field & 1 != 0,
                    id: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
                    at: upper.offset,
                });
            } else if upper.protocol == ROUTING {
                upper.source_routed |= header[3] != 0;
            }
            upper.protocol = header[0];
            upper.offset += len;
            if upper.offset > end {
                return Err(WireError::BadExtension);
            }
            // Only the first fragment is followed by the rest of the chain.
            if upper.fragment.is_some_and(|f| f.offset != 0) {
                return Ok(upper);
            }
        }
        Err(WireError::BadExtension)
    }
}

/// A header to write to. It keeps nothing consistent; IPv6 has no header checksum.
#[derive(Debug)]
pub struct Ipv6Mut<'a> {
    fixed: &'a mut [u8; HEADER],
}

impl<'a> Ipv6Mut<'a> {
    /// The header at the start of `bytes`.
    #[inline]
    pub fn new(bytes: &'a mut [u8]) -> Result<Ipv6Mut<'a>, WireError> {
        let fixed: &mut [u8; HEADER] = first_mut(bytes)?;
        if fixed[0] >> 4 != 6 { Err(WireError::BadVersion) } else { Ok(Ipv6Mut { fixed }) }
    }

    /// Sets the traffic class.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        self.fixed[0] = 0x60 | (class >> 4);
        self.fixed[1] = (class << 4) | (self.fixed[1] & 0x0f);
    }

    /// Sets the payload length in bytes.
    #[inline]
    pub fn set_payload_len(&mut self, len: u16) {
        self.fixed[4..6].copy_from_slice(&len.to_be_bytes());
    }

    /// Sets the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hops: u8) {
        self.fixed[7] = hops;
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, src: Ipv6Addr) {
        self.fixed[8..24].copy_from_slice(&src.octets());
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, dst: Ipv6Addr) {
        self.fixed[24..40].copy_from_slice(&dst.octets());
    }
}

/// The bytes of a header. `payload_len` in bytes.
pub fn header(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    next_header: u8,
    hop_limit: u8,
    payload_len: u16,
) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[0] = 0x60;
    h[4..6].copy_from_slice(&payload_len.to_be_bytes());
    h[6] = next_header;
    h[7] = hop_limit;
    h[8..24].copy_from_slice(&src.octets());
    h[24..40].copy_from_slice(&dst.octets());
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 2);

    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        [&header(A, B, next, 64, payload.len() as u16), payload].concat()
    }

    fn plain(protocol: u8, offset: usize) -> Upper {
        Upper { protocol, offset, fragment: None, source_routed: false }
    }

    #[test]
    fn fields() {
        let mut bytes = packet(17, &[7; 9]);
        bytes.extend([0; 6]);
        let p = Ipv6::parse(&bytes, bytes.len()).unwrap();
        assert_eq!((p.src(), p.dst(), p.next_header(), p.hop_limit()), (A, B, 17, 64));
        assert_eq!((p.payload_len(), p.total_len(), p.payload()), (9, 49, &[7; 9][..]));
        assert_eq!(p.upper(), Ok(plain(17, 40)));
    }

    #[test]
    fn defects() {
        let bytes = packet(17, &[7; 8]);
        assert_eq!(Ipv6::parse(&bytes[..39], 39).err(), Some(WireError::Truncated));
        assert_eq!(Ipv6::parse(&bytes, 47).err(), Some(WireError::Truncated));
        assert!(Ipv6::parse(&bytes[..40], 48).is_ok(), "payload may lie in another segment");
        let mut bad = bytes;
        bad[0] = 0x40;
        assert_eq!(Ipv6::parse(&bad, 48).err(), Some(WireError::BadVersion));
    }

    #[test]
    fn extension_headers_are_followed() {
        let hop = [6, 0, 5, 2, 0, 0, 1, 0];
        let first_fragment = [17, 0, 0, 1, 0, 0, 0, 9];
        let later_fragment = [60, 0, 0, 8, 0, 0, 0, 9];
        let routed = [[6, 0, 0, 1, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0, 0, 0]];
        let twice = [[44, 0, 0, 1, 0, 0, 0, 9], [17, 0, 0, 1, 0, 0, 0, 9]].concat();
        let behind = [[44, 0, 1, 4, 0, 0, 0, 0], [6, 0, 0xff, 0xf9, 1, 2, 3, 4]].concat();
        let fragment = |offset, more, id, at| Some(FragmentHeader { offset, more, id, at });
        let cases: [(u8, &[u8], Result<Upper, WireError>); 10] = [
            (0, &hop, Ok(plain(6, 48))),
            (43, &routed[0], Ok(Upper { source_routed: true, ..plain(6, 48) })),
            (43, &routed[1], Ok(plain(6, 48))),
            (44, &first_fragment, Ok(Upper { fragment: fragment(0, true, 9, 40), ..plain(17, 48) })),
            (44, &later_fragment, Ok(Upper { fragment: fragment(8, false, 9, 40), ..plain(60, 48) })),
            (60, &behind, Ok(Upper { fragment: fragment(0xfff8, true, 0x0102_0304, 48), ..plain(6, 56) })),
            (44, &twice, Err(WireError::BadExtension)),
            (60, &hop[..7], Err(WireError::BadExtension)),
            (43, &[6, 1, 0, 0, 0, 0, 0, 0], Err(WireError::BadExtension)),
            (0, &[0; 80], Err(WireError::BadExtension)),
        ];
        for (next, payload, expected) in cases {
            let bytes = packet(next, payload);
            assert_eq!(Ipv6::parse(&bytes, bytes.len()).unwrap().upper(), expected, "{next} {payload:?}");
        }
    }

    #[test]
    fn a_lone_fragment_is_a_whole_packet() {
        let atomic = FragmentHeader { offset: 0, more: false, id: 1, at: 40 };
        assert!(atomic.is_atomic());
        assert!(!FragmentHeader { more: true, ..atomic }.is_atomic());
        assert!(!FragmentHeader { offset: 8, ..atomic }.is_atomic());
    }

    #[test]
    fn setters_write_their_fields_only() {
        let mut bytes = packet(6, &[1; 4]);
        let mut m = Ipv6Mut::new(&mut bytes).unwrap();
        m.set_src(B);
        m.set_dst(A);
        m.set_hop_limit(9);
        m.set_payload_len(3);
        m.set_traffic_class(0xa5);
        let mut expected = [&header(B, A, 6, 9, 3)[..], &[1; 4]].concat();
        expected[..2].copy_from_slice(&[0x6a, 0x50]);
        assert_eq!(bytes, expected);
        assert_eq!(Ipv6::parse(&bytes, 44).unwrap().traffic_class(), 0xa5);
    }
}
