//! Next hops: who has which MAC address on which port.
//!
//! [`NeighborTable`] is a pure state machine for ARP (RFC 826) and neighbor discovery (RFC 4861) that leaves sending to its
//! owner; [`answer_arp`] and [`answer_nd`] say what becomes of a message. Own addresses are probed for before the forwarder
//! begins ([`claim`]), then announced and defended ([`Announcer`]). Time is given, in milliseconds that may wrap.
//! Nothing is allocated after [`NeighborTable::new`], and every call does a bounded amount of work.
//!
//! ```text
//!             wanted, tick                 an answer
//!   (new) ---> Resolving ------------------------------> Reachable <--+
//!                | ^  ^                                   |  older    | an answer
//!   no answer    | |  | no answer from the old MAC        v           |
//!                v |  +------------------------------- Probing -------+
//!              Failed   (wanted again after a hold-down: Resolving)
//! ```
//!
//! What the fast path reads of a next hop is an [`Adjacency`]: the header bytes ready to copy, and whether they count.
//! While a neighbor is probed they do. Who holds an [`AdjIndex`] from [`NeighborTable::acquire`] keeps the entry alive;
//! entries that nobody holds are forgotten once they have aged.
#![forbid(unsafe_code)]

mod announce;
mod answer;
pub mod claim;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::io::PortIndex;
use crate::wire::arp::{self, Arp};
use crate::wire::eth::{HEADER, HEADER_MAX};
use crate::wire::{Mac, Tags, WireError, icmpv6};

pub use announce::{Announcement, Announcer, Contested};
pub use answer::{Heard, Outcome, Reply, Rival, answer_arp, answer_nd};
pub use table::{Neighbor, NeighborTable, State};

/// Place of a next hop in the table, stable while it is held.
pub type AdjIndex = u16;

/// The layer 2 side of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortL2 {
    /// MAC address.
    pub mac: Mac,
    /// VLAN ids of its frames.
    pub tags: Tags,
    /// Largest layer 3 packet, in bytes.
    pub mtu: u16,
    /// Own IPv4 addresses.
    pub ipv4: Vec<Ipv4Addr>,
    /// Own IPv6 addresses, the link-local one among them.
    pub ipv6: Vec<Ipv6Addr>,
}

impl PortL2 {
    /// The port's own addresses, of both families.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ipv4.iter().copied().map(IpAddr::V4).chain(self.ipv6.iter().copied().map(IpAddr::V6))
    }

    /// Is it one of the port's own addresses?
    pub fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => self.ipv4.contains(&a),
            IpAddr::V6(a) => self.ipv6.contains(&a),
        }
    }
}

/// What a packet needs to leave towards a next hop. Hot on the fast path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct Adjacency {
    /// Ethernet header: destination, source, the port's VLAN tags with priority 0, ethertype of the neighbor's family.
    pub l2: [u8; HEADER_MAX],
    /// Bytes of it: 14, 18 or 22.
    pub l2_len: u8,
    /// Port the packet leaves by.
    pub port: PortIndex,
    /// Largest layer 3 packet, in bytes.
    pub mtu: u16,
    /// False while the MAC address is not known: the packet has to wait or go.
    pub valid: bool,
    /// Longest frame, in bytes, whose header this one may simply overwrite when it has as many bytes; 0 when it may not.
    pub(crate) limit: u16,
}

impl Adjacency {
    /// Leads nowhere.
    pub const NONE: Adjacency =
        Adjacency { l2: [0; HEADER_MAX], l2_len: HEADER as u8, port: 0, mtu: 0, valid: false, limit: 0 };

    /// The same with a MAC address that is known, or no longer.
    fn with_valid(self, valid: bool) -> Adjacency {
        let limit = if valid { self.mtu.saturating_add(self.l2_len.into()) } else { 0 };
        Adjacency { valid, limit, ..self }
    }
}

/// A question to send: who has `target`?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicit {
    /// Port to ask at.
    pub port: PortIndex,
    /// Address asked for.
    pub target: IpAddr,
    /// The MAC address to ask alone, of a neighbor that was known; none asks everybody.
    pub unicast: Option<Mac>,
}

impl Solicit {
    /// Longest frame that [`Solicit::write`] makes.
    pub const FRAME_MAX: usize = icmpv6::FRAME_MAX;

    /// Writes the ARP request or neighbor solicitation and returns its length. `port` is the one to send from, `source` an
    /// address of it that the target can answer to.
    ///
    /// [`WireError::NoRoom`] when `buf` is smaller than [`Solicit::FRAME_MAX`], [`WireError::BadAddress`] when `source` is
    /// of the other family.
    pub fn write(&self, buf: &mut [u8], port: &PortL2, source: IpAddr) -> Result<usize, WireError> {
        match (source, self.target) {
            (IpAddr::V4(spa), IpAddr::V4(tpa)) => {
                // RFC 1122 section 2.3.2.1 (2): a probe goes to the neighbor alone.
                let dst = self.unicast.unwrap_or(Mac::BROADCAST);
                let packet = Arp { op: arp::REQUEST, sha: port.mac, spa, tha: Mac::default(), tpa };
                arp::write(buf, dst, port.tags, &packet)
            }
            (IpAddr::V6(src), IpAddr::V6(target)) => {
                icmpv6::write_solicitation(buf, port.mac, port.tags, src, target, self.unicast)
            }
            _ => Err(WireError::BadAddress),
        }
    }
}

/// How an address was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learn {
    /// An ARP reply to us, or a solicited advertisement that overrides: the neighbor answered.
    Solicited,
    /// A solicited advertisement that does not override (RFC 4861 section 7.2.5, a proxy or an anycast address): confirms
    /// or fills in, never replaces.
    Tentative,
    /// A question from the neighbor: its MAC address, but not yet that it hears us.
    Request,
    /// Said to everybody: gratuitous ARP, unsolicited advertisement.
    Unsolicited,
}

/// What [`NeighborTable::learn`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// The neighbor.
    pub adj: AdjIndex,
    /// True when packets that waited for it may now go.
    pub resolved_now: bool,
    /// True when its MAC address was another.
    pub changed: bool,
}

/// What a packet does whose next hop is not resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is resolved after all: send the packet.
    Ready,
    /// Keep the packet and send this.
    Solicit(Solicit),
    /// Keep the packet; a question is out.
    Wait,
    /// Nobody answers: drop the packet.
    Failed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv6::Ipv6;
    use crate::wire::{Frame, eth};

    fn port() -> PortL2 {
        PortL2 {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            tags: Tags::one(Some(30)),
            mtu: 1500,
            ipv4: vec![Ipv4Addr::new(10, 0, 0, 1)],
            ipv6: vec!["fe80::1".parse().unwrap()],
        }
    }

    #[test]
    fn an_adjacency_is_half_a_line() {
        assert_eq!((size_of::<Adjacency>(), align_of::<Adjacency>()), (32, 32));
    }

    #[test]
    fn questions_are_written_for_both_families() {
        let peer = Mac([2, 0, 0, 0, 0, 9]);
        let mut buf = [0; Solicit::FRAME_MAX];
        for (target, group) in [("10.0.0.2", "ff:ff:ff:ff:ff:ff"), ("fe80::2", "33:33:ff:00:00:02")] {
            let target: IpAddr = target.parse().unwrap();
            let source = if target.is_ipv4() { port().ipv4[0].into() } else { port().ipv6[0].into() };
            for (unicast, dst) in [(None, group.parse().unwrap()), (Some(peer), peer)] {
                let len = Solicit { port: 0, target, unicast }.write(&mut buf, &port(), source).unwrap();
                let frame = Frame::parse(&buf[..len]).unwrap();
                assert_eq!((frame.dst, frame.src, frame.tags), (dst, port().mac, port().tags));
                let asked: IpAddr = match frame.ethertype {
                    eth::ETHERTYPE_ARP => Arp::parse(&buf[frame.l3..len]).unwrap().tpa.into(),
                    _ => {
                        let ip = Ipv6::parse(&buf[frame.l3..len], len - frame.l3).unwrap();
                        icmpv6::Solicitation::parse(&ip).unwrap().target.into()
                    }
                };
                assert_eq!(asked, target);
            }
        }
        let mixed = Solicit { port: 0, target: "10.0.0.2".parse().unwrap(), unicast: None };
        assert_eq!(mixed.write(&mut buf, &port(), port().ipv6[0].into()), Err(WireError::BadAddress));
    }
}
