//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::eth::{self, ETHERTYPE_ARP, Mac, Tags};
use super::{WireError, first};

/// Bytes of a packet.
pub const LEN: usize = 28;
/// Length of every frame that [`write()`] makes: the shortest allowed.
pub const FRAME: usize = eth::MIN_FRAME;

/// Asks who has the target address.
pub const REQUEST: u16 = 1;
/// Says that the sender has it.
pub const REPLY: u16 = 2;

/// Ethernet, IPv4, address sizes 6 and 4.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    /// [`REQUEST`] or [`REPLY`].
    pub op: u16,
    /// Sender's hardware address.
    pub sha: Mac,
    /// Sender's protocol address.
    pub spa: Ipv4Addr,
    /// Target's hardware address; without meaning in a request.
    pub tha: Mac,
    /// Target's protocol address.
    pub tpa: Ipv4Addr,
}

impl Arp {
    /// Reads what follows the Ethernet header. [`WireError::BadArp`] for other kinds of hardware or protocol and for
    /// operations other than request and reply.
    pub fn parse(bytes: &[u8]) -> Result<Arp, WireError> {
        let p: &[u8; LEN] = first(bytes)?;
        let op = u16::from_be_bytes([p[6], p[7]]);
        if p[..6] != KIND || !matches!(op, REQUEST | REPLY) {
            return Err(WireError::BadArp);
        }
        Ok(Arp {
            op,
            sha: Mac([p[8], p[9], p[10], p[11], p[12], p[13]]),
            spa: Ipv4Addr::new(p[14], p[15], p[16], p[17]),
            tha: Mac([p[18], p[19], p[20], p[21], p[22], p[23]]),
            tpa: Ipv4Addr::new(p[24], p[25], p[26], p[27]),
        })
    }

    /// The bytes that follow the Ethernet header.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut p = [0; LEN];
        p[..6].copy_from_slice(&KIND);
        p[6..8].copy_from_slice(&self.op.to_be_bytes());
        p[8..14].copy_from_slice(&self.sha.0);
        p[14..18].copy_from_slice(&self.spa.octets());
        p[18..24].copy_from_slice(&self.tha.0);
        p[24..28].copy_from_slice(&self.tpa.octets());
        p
    }
}

/// Writes a whole frame from `packet.sha` to `dst` and returns its length, [`FRAME`]. `tags` are the tag control
/// information. [`WireError::NoRoom`] when `buf` is smaller.
pub fn write(buf: &mut [u8], dst: Mac, tags: Tags, packet: &Arp) -> Result<usize, WireError> {
    eth::write(buf, &eth::header(dst, packet.sha, tags, ETHERTYPE_ARP), &packet.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: Arp = Arp {
        op: REQUEST,
        sha: Mac([2, 0, 0, 0, 0, 1]),
        spa: Ipv4Addr::new(10, 0, 0, 1),
        tha: Mac([0; 6]),
        tpa: Ipv4Addr::new(10, 0, 0, 2),
    };

    #[test]
    fn frames_parse_back() {
        for tags in [Tags::NONE, Tags::one(Some(100)), Tags { outer: Some(7), inner: Some(100) }] {
            let mut buf = [0xee; 64];
            assert_eq!(write(&mut buf, Mac::BROADCAST, tags, &PACKET), Ok(FRAME));
            let frame = eth::Frame::parse(&buf).unwrap();
            assert_eq!((frame.dst, frame.src, frame.tags), (Mac::BROADCAST, PACKET.sha, tags));
            assert_eq!(frame.ethertype, ETHERTYPE_ARP);
            assert_eq!(Arp::parse(&buf[frame.l3..]), Ok(PACKET));
            assert!(buf[frame.l3 + LEN..FRAME].iter().all(|b| *b == 0), "padding leaks nothing");
        }
        assert_eq!(write(&mut [0; 59], Mac::BROADCAST, Tags::NONE, &PACKET), Err(WireError::NoRoom));
    }

    #[test]
    fn other_kinds_are_refused() {
        let good = PACKET.to_bytes();
        assert_eq!(Arp::parse(&good[..27]), Err(WireError::Truncated));
        for at in [1, 2, 4, 5, 7] {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert_eq!(Arp::parse(&bad), Err(WireError::BadArp), "byte {at}");
        }
    }
}
