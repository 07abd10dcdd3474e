//! Ethernet II with at most two VLAN tags: an 802.1ad service tag, an 802.1Q customer tag, or one behind the other.

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
/// 802.1ad service tag, the outer one of two.
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Bytes of an untagged header.
pub const HEADER: usize = 14;
/// Bytes of a VLAN tag.
pub const TAG: usize = 4;
/// Bytes of a header with two VLAN tags; the longest accepted.
pub const HEADER_MAX: usize = HEADER + 2 * TAG;
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

/// The VLAN tags of a frame, each as its tag control information in host order: priority (PCP) and drop eligibility (DEI) in
/// the four high bits, VLAN id in the others. Those of a port are ids alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tags {
    /// Of the 802.1ad service tag.
    pub outer: Option<u16>,
    /// Of the 802.1Q tag.
    pub inner: Option<u16>,
}

impl Tags {
    /// No tag.
    pub const NONE: Tags = Tags { outer: None, inner: None };
    /// The bits of the VLAN id.
    pub const ID: u16 = 0x0fff;

    /// One 802.1Q tag, or none.
    pub const fn one(inner: Option<u16>) -> Tags {
        Tags { outer: None, inner }
    }

    /// Bytes of a header with these tags: 14, 18 or 22.
    #[inline]
    pub const fn header_len(self) -> usize {
        HEADER + TAG * (self.outer.is_some() as usize + self.inner.is_some() as usize)
    }

    /// The VLANs the tags name. An id of 0 is a priority and no VLAN (IEEE 802.1Q section 6.9).
    #[inline]
    pub fn vlans(self) -> Tags {
        let id = |tci: Option<u16>| tci.map(|tci| tci & Tags::ID).filter(|id| *id != 0);
        Tags { outer: id(self.outer), inner: id(self.inner) }
    }

    /// These VLANs with the priority bits of the tags a frame came with: each tag takes those of its own kind, else of the only
    /// one there; a single tag takes those of the outermost. Without any they are zero.
    #[inline]
    pub fn with_priority_of(self, came: Tags) -> Tags {
        let of =
            |id: Option<u16>, tci: Option<u16>| id.map(|id| id & Tags::ID | tci.unwrap_or(0) & !Tags::ID);
        let outermost = came.outer.or(came.inner);
        let inner = if self.outer.is_some() { came.inner.or(came.outer) } else { outermost };
        Tags { outer: of(self.outer, outermost), inner: of(self.inner, inner) }
    }
}

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Destination.
    pub dst: Mac,
    /// Source.
    pub src: Mac,
    /// Its VLAN tags.
    pub tags: Tags,
    /// Ethertype after the tags, host order. Below 0x0600 it is an 802.3 length.
    pub ethertype: u16,
    /// Where layer 3 begins: 14, 18 or 22.
    pub l3: usize,
}

impl Frame {
    /// Reads the header of a frame.
    ///
    /// [`WireError::Truncated`] when it is incomplete, [`WireError::StackedVlan`] for more tags or another order of them.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Frame, WireError> {
        let h: &[u8; HEADER] = first(bytes)?;
        let dst = Mac([h[0], h[1], h[2], h[3], h[4], h[5]]);
        let src = Mac([h[6], h[7], h[8], h[9], h[10], h[11]]);
        let mut frame =
            Frame { dst, src, tags: Tags::NONE, ethertype: u16::from_be_bytes([h[12], h[13]]), l3: HEADER };
        if frame.ethertype == ETHERTYPE_QINQ {
            frame.tags.outer = Some(frame.next_tag(bytes)?);
        }
        if frame.ethertype == ETHERTYPE_VLAN {
            frame.tags.inner = Some(frame.next_tag(bytes)?);
        }
        match frame.ethertype {
            ETHERTYPE_VLAN | ETHERTYPE_QINQ => Err(WireError::StackedVlan),
            _ => Ok(frame),
        }
    }

    /// Steps over a tag; returns its control information.
    #[inline]
    fn next_tag(&mut self, bytes: &[u8]) -> Result<u16, WireError> {
        let t: &[u8; TAG] = first(bytes.get(self.l3..).unwrap_or_default())?;
        self.l3 += TAG;
        self.ethertype = u16::from_be_bytes([t[2], t[3]]);
        Ok(u16::from_be_bytes([t[0], t[1]]))
    }
}

/// A header's bytes: 14, and 4 for each tag.
pub fn header(dst: Mac, src: Mac, tags: Tags, ethertype: u16) -> ArrayVec<u8, HEADER_MAX> {
    let mut h = ArrayVec::new();
    h.extend(dst.0);
    h.extend(src.0);
    for (kind, tci) in [(ETHERTYPE_QINQ, tags.outer), (ETHERTYPE_VLAN, tags.inner)] {
        if let Some(tci) = tci {
            h.extend(kind.to_be_bytes());
            h.extend(tci.to_be_bytes());
        }
    }
    h.extend(ethertype.to_be_bytes());
    h
}

/// Gives the tags of a header that [`header`] made the priority bits of those that its frame came with,
/// [`Tags::with_priority_of`].
pub fn keep_priority(header: &mut [u8], came: Tags) {
    let Ok(frame) = Frame::parse(header) else { return };
    let tags = frame.tags.with_priority_of(came);
    for (tci, at) in [tags.outer, tags.inner].into_iter().flatten().zip((HEADER..).step_by(TAG)) {
        if let Some(to) = header.get_mut(at..at + 2) {
            to.copy_from_slice(&tci.to_be_bytes());
        }
    }
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
        for (outer, inner, l3) in [
            (None, None, 14),
            (None, Some(0x6064), 18),
            (Some(0xf00a), None, 18),
            (Some(0x2001), Some(0xefff), 22),
        ] {
            let tags = Tags { outer, inner };
            let h = header(dst, src, tags, ETHERTYPE_IPV6);
            assert_eq!((h.len(), tags.header_len()), (l3, l3));
            assert_eq!(Frame::parse(&h), Ok(Frame { dst, src, tags, ethertype: ETHERTYPE_IPV6, l3 }));
            for short in 0..l3 {
                assert_eq!(Frame::parse(&h[..short]), Err(WireError::Truncated));
            }
        }
        let h = header(dst, src, Tags { outer: Some(0x2001), inner: Some(0xefff) }, ETHERTYPE_IPV4);
        assert_eq!(h[12..], [0x88, 0xa8, 0x20, 0x01, 0x81, 0x00, 0xef, 0xff, 0x08, 0x00]);
    }

    #[test]
    fn deeper_stacks_and_other_orders_are_refused() {
        let mac = Mac([2, 0, 0, 0, 0, 1]);
        for (outer, inner, ethertype) in [
            (Some(1), None, ETHERTYPE_QINQ),
            (None, Some(1), ETHERTYPE_QINQ),
            (None, Some(1), ETHERTYPE_VLAN),
            (Some(1), Some(1), ETHERTYPE_VLAN),
            (Some(1), Some(1), ETHERTYPE_QINQ),
        ] {
            let mut h = header(mac, mac, Tags { outer, inner }, ethertype).to_vec();
            h.extend([0; 8]);
            assert_eq!(Frame::parse(&h), Err(WireError::StackedVlan), "{outer:?} {inner:?} {ethertype:04x}");
        }
    }

    #[test]
    fn an_id_of_zero_is_no_vlan() {
        let tags = |outer, inner| Tags { outer, inner };
        assert_eq!(tags(None, Some(0xe000)).vlans(), Tags::NONE);
        assert_eq!(tags(Some(0x1000), Some(0x3007)).vlans(), Tags::one(Some(7)));
        assert_eq!(tags(Some(0x1009), Some(0xf000)).vlans(), tags(Some(9), None));
    }

    #[test]
    fn priority_goes_from_tag_to_tag() {
        let tags = |outer, inner| Tags { outer, inner };
        let (none, c, s, both) =
            (Tags::NONE, tags(None, Some(30)), tags(Some(100), None), tags(Some(100), Some(30)));
        let came_c = tags(None, Some(0x3001));
        let came_s = tags(Some(0x5001), None);
        let came_both = tags(Some(0x7001), Some(0x9002));
        for (out, came, expected) in [
            (none, came_both, none),
            (c, none, c),
            (both, none, both),
            (c, came_c, tags(None, Some(0x301e))),
            (c, came_s, tags(None, Some(0x501e))),
            (c, came_both, tags(None, Some(0x701e))),
            (s, came_c, tags(Some(0x3064), None)),
            (s, came_s, tags(Some(0x5064), None)),
            (s, came_both, tags(Some(0x7064), None)),
            (both, came_c, tags(Some(0x3064), Some(0x301e))),
            (both, came_s, tags(Some(0x5064), Some(0x501e))),
            (both, came_both, tags(Some(0x7064), Some(0x901e))),
        ] {
            assert_eq!(out.with_priority_of(came), expected, "{out:x?} {came:x?}");
            let mac = Mac([2, 0, 0, 0, 0, 1]);
            let mut h = header(mac, mac, out, ETHERTYPE_IPV4);
            keep_priority(&mut h, came);
            assert_eq!(h, header(mac, mac, expected, ETHERTYPE_IPV4));
        }
    }
}
