//! TCP (RFC 9293), as far as a relay looks at it.

use super::{Sum, WireError, first, first_mut};

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

#[cfg(test)]
mod tests {
    use super::*;

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
