//! ICMP for IPv4 (RFC 792).

use super::{WireError, checksum, first, first_mut};

/// Bytes of a header.
pub const HEADER: usize = 8;
/// Where the checksum lies in the header.
pub const CHECKSUM: usize = 2;

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable; an error.
pub const UNREACHABLE: u8 = 3;
/// Source quench; an error by its form, deprecated (RFC 6633), and one that a relay ignores.
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect; an error by its form, and one that a relay ignores.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded; an error.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem; an error.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Code of [`UNREACHABLE`]: the host cannot be reached.
pub const HOST_UNREACHABLE: u8 = 1;
/// Code of [`UNREACHABLE`]: the host does not know the protocol.
pub const PROTOCOL_UNREACHABLE: u8 = 2;
/// Code of [`UNREACHABLE`]: nobody listens at the port.
pub const PORT_UNREACHABLE: u8 = 3;
/// Code of [`UNREACHABLE`]: forbidden by the host's administrator.
pub const HOST_PROHIBITED: u8 = 10;
/// Code of [`UNREACHABLE`]: fragmentation needed and DF set (RFC 1191 puts the next hop's MTU beside it).
pub const FRAGMENTATION_NEEDED: u8 = 4;

/// A message.
#[derive(Debug, Clone, Copy)]
pub struct Icmp<'a> {
    fixed: &'a [u8; HEADER],
    bytes: &'a [u8],
}

impl<'a> Icmp<'a> {
    /// The message in an IP payload. The checksum is asked for apart: [`Icmp::checksum_ok`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Icmp<'a>, WireError> {
        Ok(Icmp { fixed: first(bytes)?, bytes })
    }

    /// Type.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.fixed[0]
    }

    /// Code.
    #[inline]
    pub fn code(&self) -> u8 {
        self.fixed[1]
    }

    /// Checksum, a raw word.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16::from_ne_bytes([self.fixed[2], self.fixed[3]])
    }

    /// True when the checksum is right. `bytes` of [`Icmp::parse`] has to be the whole IP payload.
    pub fn checksum_ok(&self) -> bool {
        checksum::sum(self.bytes).is_valid()
    }

    /// True for the errors that quote a packet and that a translator passes on (RFC 5508 section 4).
    #[inline]
    pub fn is_error(&self) -> bool {
        matches!(self.kind(), UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// What follows the header: of an error, the quoted packet.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or(&[])
    }
}

/// Turns an echo request into its reply, checksum updated. The addresses are the IP header's business.
///
/// [`WireError::BadCode`], and nothing changed, when it is no echo request.
pub fn echo_reply(bytes: &mut [u8]) -> Result<(), WireError> {
    reply(bytes, ECHO_REQUEST, ECHO_REPLY)
}

/// Replaces type `from` (code 0) by `to` and updates the checksum, which lies in the same place in ICMPv6.
pub(super) fn reply(bytes: &mut [u8], from: u8, to: u8) -> Result<(), WireError> {
    let h: &mut [u8; HEADER] = first_mut(bytes)?;
    if h[0] != from || h[1] != 0 {
        return Err(WireError::BadCode);
    }
    h[0] = to;
    let delta = checksum::Delta::NONE.replace(&[from, 0], &[to, 0]);
    let sum = delta.apply(u16::from_ne_bytes([h[2], h[3]]));
    h[2..4].copy_from_slice(&sum.to_ne_bytes());
    // A reply of nothing but zeros is the one sum that an update cannot reach: its checksum is the other zero.
    if sum == 0 && bytes.iter().all(|&b| b == 0) {
        bytes[2..4].fill(0xff);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8) -> Vec<u8> {
        let mut m = vec![kind, 0, 0, 0, 0x12, 0x34, 0, 1, 9, 8, 7];
        let sum = checksum::sum(&m).finish().to_ne_bytes();
        m[2..4].copy_from_slice(&sum);
        m
    }

    #[test]
    fn echo_is_answered_with_a_right_checksum() {
        let mut m = message(ECHO_REQUEST);
        assert!(Icmp::parse(&m).unwrap().checksum_ok());
        echo_reply(&mut m).unwrap();
        assert_eq!(m, message(ECHO_REPLY));
        assert_eq!(echo_reply(&mut m), Err(WireError::BadCode));
        assert_eq!(echo_reply(&mut m[..7]), Err(WireError::Truncated));
    }

    #[test]
    fn a_reply_of_zeros_has_a_right_checksum() {
        let mut m = [ECHO_REQUEST, 0, 0xf7, 0xff, 0, 0, 0, 0, 0, 0, 0];
        assert!(Icmp::parse(&m).unwrap().checksum_ok());
        echo_reply(&mut m).unwrap();
        assert_eq!(m, [ECHO_REPLY, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0]);
        assert!(Icmp::parse(&m).unwrap().checksum_ok());
    }

    #[test]
    fn errors_are_told_apart() {
        for (kind, error) in
            [(UNREACHABLE, true), (TIME_EXCEEDED, true), (ECHO_REQUEST, false), (REDIRECT, false)]
        {
            let m = message(kind);
            let m = Icmp::parse(&m).unwrap();
            assert_eq!((m.is_error(), m.body()), (error, &[9, 8, 7][..]), "{kind}");
        }
        let mut m = message(UNREACHABLE);
        m[9] ^= 1;
        assert!(!Icmp::parse(&m).unwrap().checksum_ok());
    }
}
