//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::{Sum, WireError, checksum, clamp, first, first_mut};

/// Bytes of a header without options.
pub const HEADER: usize = 20;

/// Bytes that every host takes in one packet (RFC 791 section 3.2), and an ICMP error at most has (RFC 1812 section 4.3.2.3).
pub const MIN_MTU: usize = 576;

const MORE_FRAGMENTS: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;
const OFFSET_MASK: u16 = 0x1fff;

/// A packet whose version and lengths were checked.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<'a> {
    fixed: &'a [u8; HEADER],
    bytes: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Checks version, header length and total length. The checksum is asked for apart: [`Ipv4::checksum_ok`].
    ///
    /// `bytes` begins with the header; `len` is how many bytes the frame has from there on, over all segments, Ethernet
    /// padding included.
    #[inline]
    pub fn parse(bytes: &'a [u8], len: usize) -> Result<Ipv4<'a>, WireError> {
        let packet = Ipv4::parse_quoted(bytes)?;
        if packet.total_len() > len { Err(WireError::Truncated) } else { Ok(packet) }
    }

    /// The same for the packet quoted in an ICMP error, whose payload may be cut short.
    #[inline]
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Ipv4<'a>, WireError> {
        let fixed = first(bytes)?;
        let packet = Ipv4 { fixed, bytes };
        if fixed[0] >> 4 != 4 {
            return Err(WireError::BadVersion);
        }
        if packet.header_len() < HEADER {
            return Err(WireError::BadHeaderLength);
        }
        if packet.header_len() > bytes.len() {
            return Err(WireError::Truncated);
        }
        if packet.total_len() < packet.header_len() {
            return Err(WireError::BadTotalLength);
        }
        Ok(packet)
    }

    #[inline]
    fn word(&self, at: usize) -> u16 {
        match self.fixed.get(at..) {
            Some([a, b, ..]) => u16::from_be_bytes([*a, *b]),
            _ => 0,
        }
    }

    /// Header length in bytes, 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.fixed[0] & 0x0f) * 4
    }

    /// Type of service: DSCP and ECN.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.fixed[1]
    }

    /// Length of header and payload in bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(self.word(2))
    }

    /// Identification.
    #[inline]
    pub fn id(&self) -> u16 {
        self.word(4)
    }

    /// True when routers may not fragment it.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.word(6) & DONT_FRAGMENT != 0
    }

    /// True for every piece of a fragmented packet, the first included.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.word(6) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// True for every fragment but the last.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.word(6) & MORE_FRAGMENTS != 0
    }

    /// Offset of a fragment in bytes.
    #[inline]
    pub fn fragment_offset(&self) -> usize {
        usize::from(self.word(6) & OFFSET_MASK) * 8
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.fixed[8]
    }

    /// Protocol number of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.fixed[9]
    }

    /// Header checksum, a raw word.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_ne_bytes([self.fixed[10], self.fixed[11]])
    }

    /// True when the header checksum is right.
    #[inline]
    pub fn checksum_ok(&self) -> bool {
        // A literal length lets the common case run without a loop.
        if self.header_len() == HEADER {
            checksum::sum(self.fixed).is_valid()
        } else {
            checksum::sum(clamp(self.bytes, 0, self.header_len())).is_valid()
        }
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.fixed[12], self.fixed[13], self.fixed[14], self.fixed[15])
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::new(self.fixed[16], self.fixed[17], self.fixed[18], self.fixed[19])
    }

    /// Payload length in bytes, over all segments.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.total_len().saturating_sub(self.header_len())
    }

    /// What of the payload lies in the first segment, without Ethernet padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        clamp(self.bytes, self.header_len(), self.total_len())
    }

    /// The pseudo header of this packet's payload.
    #[inline]
    pub fn pseudo(&self) -> Sum {
        checksum::pseudo_v4(self.src(), self.dst(), self.protocol(), self.payload_len() as u16)
    }
}

/// A header to write to. It keeps nothing consistent but what [`Ipv4Mut::fill_checksum`] computes.
#[derive(Debug)]
pub struct Ipv4Mut<'a> {
    bytes: &'a mut [u8],
}

impl<'a> Ipv4Mut<'a> {
    /// The header at the start of `bytes`, complete with its options. Reads through [`Ipv4::parse_quoted`]'s checks.
    #[inline]
    pub fn new(bytes: &'a mut [u8]) -> Result<Ipv4Mut<'a>, WireError> {
        let len = Ipv4::parse_quoted(bytes)?.header_len();
        Ok(Ipv4Mut { bytes: bytes.get_mut(..len).ok_or(WireError::Truncated)? })
    }

    #[inline]
    fn put<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        if let Some(Ok(field)) = self.bytes.get_mut(at..).map(first_mut::<N>) {
            *field = value;
        }
    }

    /// Sets type of service.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        self.put(1, [tos]);
    }

    /// Sets the identification.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        self.put(4, id.to_be_bytes());
    }

    /// Sets the two flags and the offset in bytes, a multiple of 8, of a fragment.
    #[inline]
    pub fn set_fragment(&mut self, dont_fragment: bool, more: bool, offset: u16) {
        let dont = if dont_fragment { DONT_FRAGMENT } else { 0 };
        let more = if more { MORE_FRAGMENTS } else { 0 };
        self.put(6, (dont | more | (offset / 8)).to_be_bytes());
    }

    /// Sets the length of header and payload in bytes.
    #[inline]
    pub fn set_total_len(&mut self, len: u16) {
        self.put(2, len.to_be_bytes());
    }

    /// Sets time to live.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        self.put(8, [ttl]);
    }

    /// Sets the header checksum, a raw word.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        self.put(10, checksum.to_ne_bytes());
    }

    /// Sets the source address.
    #[inline]
    pub fn set_src(&mut self, src: Ipv4Addr) {
        self.put(12, src.octets());
    }

    /// Sets the destination address.
    #[inline]
    pub fn set_dst(&mut self, dst: Ipv4Addr) {
        self.put(16, dst.octets());
    }

    /// Computes the header checksum anew.
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let sum = checksum::sum(self.bytes).finish();
        self.set_checksum(sum);
    }
}

/// The options that every fragment has, not the first alone (RFC 791 section 3.1, the copied flag), filled up to whole words.
pub fn copied_options(mut options: &[u8]) -> ArrayVec<u8, 40> {
    const COPIED: u8 = 0x80;
    let mut copied = ArrayVec::new();
    loop {
        options = match options {
            [1, rest @ ..] => rest,
            [kind, len, ..] if *kind > 1 && *len > 1 => {
                let (option, rest) = options.split_at(usize::from(*len).min(options.len()));
                if kind & COPIED != 0 {
                    let _ = copied.try_extend_from_slice(option);
                }
                rest
            }
            _ => break,
        };
    }
    while !copied.len().is_multiple_of(4) {
        copied.push(0);
    }
    copied
}

/// The bytes of a header without options, checksum computed. `payload_len` in bytes, at most 65,515.
pub fn header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl: u8, payload_len: u16) -> [u8; HEADER] {
    let mut h = [0; HEADER];
    h[0] = 0x45;
    h[2..4].copy_from_slice(&payload_len.saturating_add(HEADER as u16).to_be_bytes());
    h[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    h[8] = ttl;
    h[9] = protocol;
    h[12..16].copy_from_slice(&src.octets());
    h[16..20].copy_from_slice(&dst.octets());
    let sum = checksum::sum(&h).finish();
    h[10..12].copy_from_slice(&sum.to_ne_bytes());
    h
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);

    fn packet(payload: usize) -> Vec<u8> {
        let mut p = header(A, B, 17, 64, payload as u16).to_vec();
        p.resize(HEADER + payload, 0xaa);
        p
    }

    #[test]
    fn fields() {
        let mut bytes = packet(9);
        bytes.extend([0; 20]);
        let p = Ipv4::parse(&bytes, bytes.len()).unwrap();
        assert_eq!((p.src(), p.dst(), p.protocol(), p.ttl()), (A, B, 17, 64));
        assert_eq!((p.header_len(), p.total_len(), p.payload_len()), (20, 29, 9));
        assert_eq!(p.payload(), [0xaa; 9], "Ethernet padding is not payload");
        assert!(p.checksum_ok() && p.dont_fragment() && !p.is_fragment());
    }

    #[test]
    fn defects() {
        let good = packet(8);
        let with = |at: usize, v: u8| {
            let mut p = good.clone();
            p[at] = v;
            p
        };
        let parse = |p: Vec<u8>| Ipv4::parse(&p, p.len()).err();
        assert_eq!(parse(good[..19].to_vec()), Some(WireError::Truncated));
        assert_eq!(parse(with(0, 0x65)), Some(WireError::BadVersion));
        assert_eq!(parse(with(0, 0x44)), Some(WireError::BadHeaderLength));
        assert_eq!(parse(with(0, 0x4f)), Some(WireError::Truncated));
        assert_eq!(parse(with(3, 19)), Some(WireError::BadTotalLength));
        assert_eq!(parse(with(3, 29)), Some(WireError::Truncated));
        assert!(!Ipv4::parse(&with(15, 9), 28).unwrap().checksum_ok());
    }

    #[test]
    fn payload_beyond_the_first_segment_counts() {
        let bytes = packet(1000);
        let p = Ipv4::parse(&bytes[..60], 1020).unwrap();
        assert_eq!((p.payload_len(), p.payload().len()), (1000, 40));
        assert!(Ipv4::parse(&bytes[..60], 1019).is_err());
        assert!(Ipv4::parse_quoted(&bytes[..28]).is_ok());
    }

    #[test]
    fn options_and_fragments() {
        let mut bytes = packet(8);
        bytes[0] = 0x46;
        bytes[6] = 0x20;
        bytes[7] = 0x01;
        Ipv4Mut::new(&mut bytes).unwrap().fill_checksum();
        let p = Ipv4::parse(&bytes, bytes.len()).unwrap();
        assert!(p.checksum_ok() && p.is_fragment() && !p.dont_fragment());
        assert_eq!((p.header_len(), p.fragment_offset(), p.payload().len()), (24, 8, 4));
    }

    #[test]
    fn setters_write_their_fields_only() {
        let mut bytes = packet(8);
        let mut m = Ipv4Mut::new(&mut bytes).unwrap();
        m.set_src(B);
        m.set_dst(A);
        m.set_ttl(3);
        m.set_total_len(27);
        m.set_tos(0xc0);
        m.set_id(0x0102);
        m.set_fragment(false, true, 0xfff8);
        m.fill_checksum();
        let p = Ipv4::parse(&bytes, 28).unwrap();
        assert!(p.checksum_ok());
        assert_eq!((p.src(), p.dst(), p.ttl(), p.total_len(), p.protocol()), (B, A, 3, 27, 17));
        assert_eq!((p.tos(), p.id(), p.fragment_offset()), (0xc0, 0x0102, 0xfff8));
        assert!(p.more_fragments() && !p.dont_fragment());
        Ipv4Mut::new(&mut bytes).unwrap().set_fragment(true, false, 0);
        let p = Ipv4::parse(&bytes, 28).unwrap();
        assert!(!p.more_fragments() && p.dont_fragment() && !p.is_fragment());
    }
}
