//! Ethernet II with at most one 802.1Q tag.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use arrayvec::ArrayVec;

use super::{WireError, first};

/// IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// 802.1Q VLAN tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1ad service tag; never accepted.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Bytes of an untagged header.
pub const HEADER: usize = 14;
/// Bytes of a header with one VLAN tag; the longest accepted.
pub const HEADER_MAX: usize = 18;
/// Shortest frame on the wire, without FCS; own frames are padded to it.
pub const MIN_FRAME: usize = 60;

/// A MAC address in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All ones.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// True for group addresses, broadcast among them.
    #[inline]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for the all-ones address.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Mac::BROADCAST
    }

    /// True for addresses a single station can have: neither a group nor all zero.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }

    /// The group address of an IPv4 multicast address (RFC 1112 section 6.4).
    pub fn ipv4_multicast(addr: Ipv4Addr) -> Mac {
        let [_, b, c, d] = addr.octets();
        Mac([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address of an IPv6 multicast address (RFC 2464 section 7).
    pub fn ipv6_multicast(addr: Ipv6Addr) -> Mac {
        let o = addr.octets();
        Mac([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address; write six hexadecimal bytes like \"02:00:00:00:00:01\"")]
pub struct MacParseError(String);

impl FromStr for Mac {
    type Err = MacParseError;

    /// Six bytes of two hexadecimal digits, separated by `:` or `-`.
    fn from_str(text: &str) -> Result<Mac, MacParseError> {
        let error = || MacParseError(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut mac = [0; 6];
        let mut parts = text.split(separator);
        for byte in &mut mac {
            let part = parts.next().ok_or_else(error)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(error());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        if parts.next().is_some() { Err(error()) } else { Ok(Mac(mac)) }
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Tag control information (priority and VLAN id) of a tagged frame, host order.
    pub vlan: Option<u16>,
    /// Ethertype after the tag, host order. Below 0x0600 it is an 802.3 length.
    pub ethertype: u16,
    /// Where layer 3 begins: 14 or 18.
    pub l3: usize,
}

impl Frame {
    /// Reads the header of a frame.
    ///
    /// [`WireError::Truncated`] when it is incomplete, [`WireError::StackedVlan`] for 802.1ad and double tags.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Frame, WireError> {
        let h: &[u8; HEADER] = first(bytes)?;
        let dst = Mac([h[0], h[1], h[2], h[3], h[4], h[5]]);
        let src = Mac([h[6], h[7], h[8], h[9], h[10], h[11]]);
        match u16::from_be_bytes([h[12], h[13]]) {
            ETHERTYPE_VLAN => {
                let h: &[u8; HEADER_MAX] = first(bytes)?;
                let ethertype = u16::from_be_bytes([h[16], h[17]]);
                if matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
                    return Err(WireError::StackedVlan);
                }
                let vlan = Some(u16::from_be_bytes([h[14], h[15]]));
                Ok(Frame { dst, src, vlan, ethertype, l3: HEADER_MAX })
            }
            ETHERTYPE_QINQ => Err(WireError::StackedVlan),
            ethertype => Ok(Frame { dst, src, vlan: None, ethertype, l3: HEADER }),
        }
    }
}

/// A header's bytes: 14, or 18 with a tag. `vlan` is the tag control information.
pub fn header(dst: Mac, src: Mac, vlan: Option<u16>, ethertype: u16) -> ArrayVec<u8, HEADER_MAX> {
    let mut h = ArrayVec::new();
    h.extend(dst.0);
    h.extend(src.0);
    if let Some(tci) = vlan {
        h.extend(ETHERTYPE_VLAN.to_be_bytes());
        h.extend(tci.to_be_bytes());
    }
    h.extend(ethertype.to_be_bytes());
    h
}

/// Writes a whole frame, padded with zeros to [`MIN_FRAME`], and returns its length.
///
/// [`WireError::NoRoom`] when `buf` is too small; nothing is written then.
pub(super) fn write(buf: &mut [u8], header: &[u8], payload: &[u8]) -> Result<usize, WireError> {
    let used = header.len() + payload.len();
    let len = used.max(MIN_FRAME);
    let frame = buf.get_mut(..len).ok_or(WireError::NoRoom)?;
    let (head, rest) = frame.split_at_mut(header.len());
    let (body, padding) = rest.split_at_mut(payload.len());
    head.copy_from_slice(header);
    body.copy_from_slice(payload);
    padding.fill(0);
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text() {
        let mac: Mac = "02:00:5e:AB:cd:ef".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:ab:cd:ef");
        assert_eq!("02-00-5e-ab-cd-ef".parse(), Ok(mac));
        for bad in [
            "",
            "02",
            "02:00:5e:ab:cd",
            "02:00:5e:ab:cd:ef:00",
            "2:0:5e:ab:cd:ef",
            "+2:00:5e:ab:cd:ef",
            "02:00-5e:ab:cd:ef",
            "é2:00:5e:ab:cd:ef",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_kinds() {
        assert!(Mac::BROADCAST.is_broadcast() && Mac::BROADCAST.is_multicast());
        assert!(!Mac([0; 6]).is_unicast() && Mac([2, 0, 0, 0, 0, 1]).is_unicast());
        assert_eq!(Mac::ipv4_multicast(Ipv4Addr::new(239, 255, 1, 2)).to_string(), "01:00:5e:7f:01:02");
        assert_eq!(Mac::ipv6_multicast("ff02::1:ff00:102".parse().unwrap()).to_string(), "33:33:ff:00:01:02");
    }

    #[test]
    fn headers_parse_back() {
        let (dst, src) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        for (vlan, l3) in [(None, 14), (Some(0x6064), 18)] {
            let h = header(dst, src, vlan, ETHERTYPE_IPV6);
            assert_eq!(h.len(), l3);
            assert_eq!(Frame::parse(&h), Ok(Frame { dst, src, vlan, ethertype: ETHERTYPE_IPV6, l3 }));
            assert_eq!(Frame::parse(&h[..l3 - 1]), Err(WireError::Truncated));
        }
    }

    #[test]
    fn stacked_tags_are_refused() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        for (vlan, ethertype) in
            [(None, ETHERTYPE_QINQ), (Some(1), ETHERTYPE_QINQ), (Some(1), ETHERTYPE_VLAN)]
        {
            let mut h = header(mac, mac, vlan, ethertype).to_vec();
            h.extend([0; 8]);
            assert_eq!(Frame::parse(&h), Err(WireError::StackedVlan));
        }
    }
}
