//! UDP (RFC 768).

use super::{Sum, WireError, clamp, first, first_mut};

/// Bytes of a header.
pub const HEADER: usize = 8;
/// Where the checksum lies in the header.
pub const CHECKSUM: usize = 6;

/// A datagram whose length was checked.
#[derive(Debug, Clone, Copy)]
pub struct Udp<'a> {
    fixed: &'a [u8; HEADER],
    bytes: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Checks the length field against the IP payload's length `len` (bytes, over all segments). A shorter datagram in a
    /// longer packet is allowed (RFC 9868 makes use of it).
    #[inline]
    pub fn parse(bytes: &'a [u8], len: usize) -> Result<Udp<'a>, WireError> {
        let datagram = Udp { fixed: first(bytes)?, bytes };
        if datagram.len() < HEADER {
            return Err(WireError::BadHeaderLength);
        }
        if datagram.len() > len {
            return Err(WireError::Truncated);
        }
        Ok(datagram)
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

    /// Length of header and data in bytes, at least 8.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.fixed[4], self.fixed[5]]))
    }

    /// Checksum, a raw word; zero when the sender computed none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_ne_bytes([self.fixed[6], self.fixed[7]])
    }

    /// What of the data lies in the first segment.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        clamp(self.bytes, HEADER, self.len())
    }

    /// True when the checksum is right or not used. `pseudo` is the pseudo header with [`Udp::len`] as its length; the whole
    /// datagram has to lie in the first segment.
    pub fn checksum_ok(&self, pseudo: Sum) -> bool {
        self.checksum() == 0 || pseudo.plus(clamp(self.bytes, 0, self.len())).is_valid()
    }
}

/// A header to write to.
#[derive(Debug)]
pub struct UdpMut<'a> {
    fixed: &'a mut [u8; HEADER],
}

impl<'a> UdpMut<'a> {
    /// The header at the start of `bytes`.
    #[inline]
    pub fn new(bytes: &'a mut [u8]) -> Result<UdpMut<'a>, WireError> {
        Ok(UdpMut { fixed: first_mut(bytes)? })
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
        self.fixed[6..8].copy_from_slice(&checksum.to_ne_bytes());
    }
}

/// The bytes of a header with checksum zero. `payload_len` in bytes, at most 65,527.
pub fn header(src_port: u16, dst_port: u16, payload_len: u16) -> [u8; HEADER] {
    let [s0, s1] = src_port.to_be_bytes();
    let [d0, d1] = dst_port.to_be_bytes();
    let [l0, l1] = payload_len.saturating_add(HEADER as u16).to_be_bytes();
    [s0, s1, d0, d1, l0, l1, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_defects() {
        let bytes = [&header(4000, 53, 3)[..], &[1, 2, 3, 0, 0]].concat();
        let d = Udp::parse(&bytes, bytes.len()).unwrap();
        assert_eq!((d.src_port(), d.dst_port(), d.len(), d.checksum()), (4000, 53, 11, 0));
        assert_eq!(d.payload(), [1, 2, 3]);
        assert_eq!(Udp::parse(&bytes, 10).err(), Some(WireError::Truncated));
        assert_eq!(Udp::parse(&bytes[..7], 7).err(), Some(WireError::Truncated));
        let short = [0, 1, 0, 2, 0, 7, 0, 0];
        assert_eq!(Udp::parse(&short, 8).err(), Some(WireError::BadHeaderLength));
        assert_eq!(Udp::parse(&bytes[..8], 11).unwrap().payload(), [0u8; 0]);
    }

    #[test]
    fn setters_write_their_fields_only() {
        let mut bytes = header(1, 2, 3);
        let mut m = UdpMut::new(&mut bytes).unwrap();
        m.set_src_port(0x0102);
        m.set_dst_port(0x0304);
        m.set_checksum(u16::from_ne_bytes([5, 6]));
        assert_eq!(bytes, [1, 2, 3, 4, 0, 11, 5, 6]);
    }
}
