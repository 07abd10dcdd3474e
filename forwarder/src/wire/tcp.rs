//! TCP (RFC 9293), as far as a relay looks at it.

use arrayvec::ArrayVec;

use super::{Delta, Sum, WireError, first, first_mut};

/// Bytes of a header without options.
pub const HEADER: usize = 20;
/// Where the checksum lies in the header.
pub const CHECKSUM: usize = 16;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Opens a connection.
pub const SYN: u8 = 0x02;
/// Resets a connection.
pub const RST: u8 = 0x04;
/// The acknowledgment field counts.
pub const ACK: u8 = 0x10;
/// The flags of segments that open or close a connection.
pub const OPENS_OR_CLOSES: u8 = SYN | FIN | RST;

/// Do flags both open and close? No sender makes these; they probe firewalls.
#[inline(always)]
pub fn contradictory(flags: u8) -> bool {
    flags & SYN != 0 && flags & (FIN | RST) != 0
}

/// A segment whose header length was checked.
#[derive(Debug, Clone, Copy)]
pub struct Tcp<'a> {
    fixed: &'a [u8; HEADER],
    bytes: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Checks the data offset against the first segment's bytes and against the IP payload's length `len` (bytes, over all
    /// segments).
    #[inline]
    pub fn parse(bytes: &'a [u8], len: usize) -> Result<Tcp<'a>, WireError> {
        let segment = Tcp { fixed: first(bytes)?, bytes };
        if segment.header_len() < HEADER {
            return Err(WireError::BadHeaderLength);
        }
        if segment.header_len() > len.min(bytes.len()) {
            return Err(WireError::Truncated);
        }
        Ok(segment)
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[0], self.fixed[1]])
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// Sequence number.
    #[inline]
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes([self.fixed[4], self.fixed[5], self.fixed[6], self.fixed[7]])
    }

    /// Acknowledgment number.
    #[inline]
    pub fn ack(&self) -> u32 {
        u32::from_be_bytes([self.fixed[8], self.fixed[9], self.fixed[10], self.fixed[11]])
    }

    /// Header length in bytes, 20 to 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.fixed[12] >> 4) * 4
    }

    /// Control bits: [`FIN`], [`SYN`], [`RST`], [`ACK`] and others.
    #[inline]
    pub fn flags(&self) -> u8 {
        self.fixed[13]
    }

    /// Checksum, a raw word.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_ne_bytes([self.fixed[16], self.fixed[17]])
    }

    /// True when the checksum is right. `bytes` of [`Tcp::parse`] has to be the whole IP payload.
    pub fn checksum_ok(&self, pseudo: Sum) -> bool {
        pseudo.plus(self.bytes).is_valid()
    }
}

/// A header to write to.
#[derive(Debug)]
pub struct TcpMut<'a> {
    fixed: &'a mut [u8; HEADER],
}

impl<'a> TcpMut<'a> {
    /// The header at the start of `bytes`.
    #[inline]
    pub fn new(bytes: &'a mut [u8]) -> Result<TcpMut<'a>, WireError> {
        Ok(TcpMut { fixed: first_mut(bytes)? })
    }

    /// Sets the source port.
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        self.fixed[0..2].copy_from_slice(&port.to_be_bytes());
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        self.fixed[2..4].copy_from_slice(&port.to_be_bytes());
    }

    /// Sets the checksum, a raw word.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        self.fixed[16..18].copy_from_slice(&checksum.to_ne_bytes());
    }
}

/// Source and destination port at the start of a TCP or UDP header: all that an ICMP error is sure to quote (RFC 792).
#[inline]
pub fn ports(bytes: &[u8]) -> Result<(u16, u16), WireError> {
    let p: &[u8; 4] = first(bytes)?;
    Ok((u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])))
}

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
/// Bytes of a maximum segment size option: kind, length, value.
const MSS_LEN: usize = 4;
/// More such options do not fit the 40 bytes of a header's options.
const MSS_MOST: usize = 10;

/// Lowers the maximum segment size that a SYN announces (RFC 9293 section 3.7.1) to `most` bytes, when it is larger, and
/// updates the checksum. `segment` begins with the TCP header and holds the whole of it. True when something changed: no
/// other segment is touched, nor one whose options are malformed or that names no size.
pub fn clamp_mss(segment: &mut [u8], most: u16) -> bool {
    let Ok(tcp) = Tcp::parse(segment, segment.len()) else { return false };
    let (syn, checksum) = (tcp.flags() & SYN != 0, tcp.checksum());
    let Some(found) = segment.get(HEADER..tcp.header_len()).filter(|_| syn).and_then(mss_values) else {
        return false;
    };
    let (mut delta, mut changed) = (Delta::NONE, false);
    for at in &found {
        let Some(value) = segment.get_mut(HEADER + at..).and_then(|s| s.first_chunk_mut::<2>()) else {
            continue;
        };
        if u16::from_be_bytes(*value) > most {
            let (old, new) = (*value, most.to_be_bytes());
            // A value at an odd offset lies in two of the checksum's words.
            delta = if at % 2 == 0 {
                delta.replace(&old, &new)
            } else {
                delta.replace(&[0, old[0], old[1], 0], &[0, new[0], new[1], 0])
            };
            *value = new;
            changed = true;
        }
    }
    if changed && let Ok(mut header) = TcpMut::new(segment) {
        header.set_checksum(delta.apply(checksum));
    }
    changed
}

/// Where the values of the maximum segment size options lie in a header's options, or none when the options are malformed.
fn mss_values(options: &[u8]) -> Option<ArrayVec<usize, MSS_MOST>> {
    let mut found = ArrayVec::new();
    let mut at = 0;
    while let Some(kind) = options.get(at) {
        match *kind {
            OPTION_END => break,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if len < 2 || at + len > options.len() || (kind == OPTION_MSS && len != MSS_LEN) {
                    return None;
                }
                if kind == OPTION_MSS {
                    found.try_push(at + 2).ok()?;
                }
                at += len;
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::checksum;

    /// A segment with options (padded to whole words) and data, its checksum right for an empty pseudo header.
    fn with_options(flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut s = vec![0x0f, 0xa0, 0x01, 0xbb, 0, 0, 0, 7, 0, 0, 0, 9, 0, flags, 0x12, 0x34, 0, 0, 0, 0];
        s.extend(options);
        s.resize(s.len().next_multiple_of(4), 0);
        s[12] = (s.len() as u8 / 4) << 4;
        s.extend(data);
        checksummed(s)
    }

    fn checksummed(mut s: Vec<u8>) -> Vec<u8> {
        s[16..18].fill(0);
        let sum = checksum::sum(&s).finish().to_ne_bytes();
        s[16..18].copy_from_slice(&sum);
        s
    }

    #[test]
    fn a_larger_segment_size_is_lowered_wherever_it_lies() {
        for before in [&[][..], &[1], &[1, 1], &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0], &[3, 3, 7]] {
            for flags in [SYN, SYN | ACK] {
                let segment = |mss: u16| {
                    let mss = mss.to_be_bytes();
                    with_options(flags, &[before, &[2, 4, mss[0], mss[1], 4, 2]].concat(), &[7; 3])
                };
                let mut s = segment(1460);
                assert!(clamp_mss(&mut s, 1400));
                assert_eq!(s, segment(1400), "{before:?}");
                assert!(!clamp_mss(&mut s, 1400), "it fits");
                assert_eq!(s, segment(1400));
                let mut most = segment(0xffff);
                assert!(clamp_mss(&mut most, 1));
                assert_eq!(most, segment(1));
            }
        }
        let mut twice = with_options(SYN, &[2, 4, 5, 0xb4, 1, 2, 4, 5, 0xb4], &[]);
        assert!(clamp_mss(&mut twice, 1400));
        assert_eq!(
            twice,
            with_options(SYN, &[2, 4, 5, 0x78, 1, 2, 4, 5, 0x78], &[]),
            "whichever the receiver takes"
        );
    }

    #[test]
    fn other_segments_stay_as_they_are() {
        let mss = [2, 4, 5, 0xb4];
        let cases = [
            ("no SYN", with_options(ACK, &mss, &[])),
            ("no options", with_options(SYN, &[], &mss)),
            ("after the end", with_options(SYN, &[0, 2, 4, 5, 0xb4], &[])),
            ("length 0", with_options(SYN, &[2, 4, 5, 0xb4, 8, 0], &[])),
            ("length 1", with_options(SYN, &[8, 1, 2, 4, 5, 0xb4], &[])),
            ("beyond the header", with_options(SYN, &[2, 4, 5, 0xb4, 1, 1, 8, 10], &[1; 8])),
            ("no length", with_options(SYN, &[2, 4, 5, 0xb4, 1, 1, 1, 8], &[1; 8])),
            ("another length", with_options(SYN, &[2, 6, 5, 0xb4, 0, 0], &[])),
            ("cut short", with_options(SYN, &mss, &[])[..23].to_vec()),
        ];
        for (name, segment) in cases {
            let mut s = segment.clone();
            assert!(!clamp_mss(&mut s, 100), "{name}");
            assert_eq!(s, segment, "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_clamped_checksum_is_the_recomputed_one(
            options in vec(any::<u8>(), 0..=40), mss in any::<u16>(), most in any::<u16>(), at in 0usize..37, put: bool,
        ) {
            let mut options = options;
            if put {
                // Nothing but padding before it.
                options.resize(40, 1);
                options[..at].fill(1);
                let mss = mss.to_be_bytes();
                options[at..at + 4].copy_from_slice(&[2, 4, mss[0], mss[1]]);
                options[at + 4..].fill(0);
            }
            let segment = with_options(SYN, &options, &[1, 2, 3]);
            let mut s = segment.clone();
            let changed = clamp_mss(&mut s, most);
            prop_assert_eq!(changed, s != segment);
            prop_assert!(!put || changed == (mss > most));
            prop_assert_eq!(&checksummed(s.clone()), &s);
        }

        #[test]
        fn no_bytes_make_the_clamp_panic(bytes in vec(any::<u8>(), 0..80), most in any::<u16>()) {
            let mut bytes = bytes;
            clamp_mss(&mut bytes, most);
        }
    }

    fn segment() -> Vec<u8> {
        let mut s =
            vec![0x0f, 0xa0, 0x01, 0xbb, 0, 0, 0, 7, 0, 0, 0, 9, 0x60, SYN | ACK, 0, 0, 0xab, 0xcd, 0, 0];
        s.extend([2, 4, 5, 0xb4, 0x55]);
        s
    }

    #[test]
    fn fields() {
        let bytes = segment();
        let s = Tcp::parse(&bytes, bytes.len()).unwrap();
        assert_eq!((s.src_port(), s.dst_port(), s.seq(), s.ack()), (4000, 443, 7, 9));
        assert_eq!((s.header_len(), s.flags()), (24, SYN | ACK));
        assert_eq!(s.checksum().to_ne_bytes(), [0xab, 0xcd]);
        assert_eq!(ports(&bytes[..4]), Ok((4000, 443)));
    }

    #[test]
    fn defects() {
        let mut bytes = segment();
        assert_eq!(Tcp::parse(&bytes[..19], 25).err(), Some(WireError::Truncated));
        assert_eq!(Tcp::parse(&bytes[..23], 25).err(), Some(WireError::Truncated));
        assert_eq!(Tcp::parse(&bytes, 23).err(), Some(WireError::Truncated));
        bytes[12] = 0x40;
        assert_eq!(Tcp::parse(&bytes, 25).err(), Some(WireError::BadHeaderLength));
        assert_eq!(ports(&bytes[..3]), Err(WireError::Truncated));
    }

    #[test]
    fn setters_write_their_fields_only() {
        let mut bytes = segment();
        let mut m = TcpMut::new(&mut bytes).unwrap();
        m.set_src_port(1);
        m.set_dst_port(2);
        m.set_checksum(u16::from_ne_bytes([3, 4]));
        let mut expected = segment();
        expected[..4].copy_from_slice(&[0, 1, 0, 2]);
        expected[16..18].copy_from_slice(&[3, 4]);
        assert_eq!(bytes, expected);
    }
}
