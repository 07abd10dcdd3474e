//! What becomes of an ARP packet or a neighbor discovery message.

use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;

use super::announce::ALL_NODES;
use super::{Learn, PortL2};
use crate::wire::arp::{self, Arp};
use crate::wire::icmpv6::{self, Advertisement, Icmpv6, Solicitation};
use crate::wire::ipv6::Ipv6;
use crate::wire::{Frame, Mac, WireError};

/// A whole frame that takes the place of the one received.
pub type Reply = ArrayVec<u8, { icmpv6::FRAME_MAX }>;

/// What a message tells about its sender: the arguments of [`NeighborTable::learn`](super::NeighborTable::learn).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Its address. Whether it belongs on the link is the caller's to check.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: Mac,
    /// How it was heard.
    pub source: Learn,
    /// True when it asked for us and will soon be answered: worth an entry (RFC 826, packet reception).
    pub create: bool,
}

/// Another station that uses, or is about to use, one of our addresses (RFC 5227 section 2.4, RFC 4862 section 5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    /// Our address.
    pub address: IpAddr,
    /// The other's MAC address.
    pub mac: Mac,
}

/// What to do; nothing of all is to ignore the message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Send this back.
    pub reply: Option<Reply>,
    /// Take this in.
    pub heard: Option<Heard>,
    /// Somebody contests one of our addresses. Our address stays; with a reply, the other has been told so.
    pub conflict: Option<Rival>,
}

impl Outcome {
    fn contested(address: impl Into<IpAddr>, mac: Mac) -> Outcome {
        Outcome { conflict: Some(Rival { address: address.into(), mac }), ..Outcome::default() }
    }
}

/// Decides on the ARP packet in a frame that arrived at `port`. Errors are those of [`Arp::parse`].
pub fn answer_arp(bytes: &[u8], frame: &Frame, port: &PortL2) -> Result<Outcome, WireError> {
    let packet = Arp::parse(bytes.get(frame.l3..).unwrap_or(&[]))?;
    let Arp { op, sha, spa, tpa, .. } = packet;
    if sha == port.mac || !sha.is_unicast() {
        return Ok(Outcome::default());
    }
    if port.ipv4.contains(&spa) {
        return Ok(Outcome::contested(spa, sha));
    }
    let for_us = port.ipv4.contains(&tpa);
    // RFC 5227 section 2.1.1: a sender without an address wants to know whether it may take the target.
    let probe = spa == Ipv4Addr::UNSPECIFIED;
    let source = match op {
        arp::REPLY if for_us && frame.dst == port.mac => Learn::Solicited,
        arp::REQUEST if for_us => Learn::Request,
        _ => Learn::Unsolicited,
    };
    let asked = op == arp::REQUEST && for_us;
    Ok(Outcome {
        reply: if asked { Some(arp_reply(port, &packet)?) } else { None },
        heard: (!probe).then_some(Heard { address: spa.into(), mac: sha, source, create: asked }),
        conflict: (asked && probe).then_some(Rival { address: tpa.into(), mac: sha }),
    })
}

fn arp_reply(port: &PortL2, asked: &Arp) -> Result<Reply, WireError> {
    let answer = Arp { op: arp::REPLY, sha: port.mac, spa: asked.tpa, tha: asked.sha, tpa: asked.spa };
    reply(|buf| arp::write(buf, asked.sha, port.tags, &answer))
}

fn reply(write: impl FnOnce(&mut [u8]) -> Result<usize, WireError>) -> Result<Reply, WireError> {
    let mut reply = Reply::from([0; icmpv6::FRAME_MAX]);
    let len = write(&mut reply)?;
    reply.truncate(len);
    Ok(reply)
}

/// Decides on the neighbor solicitation or advertisement in a frame that arrived at `port`; any other message is ignored.
/// `ip` is the frame's packet, without extension headers. Errors are what RFC 4861 section 7.1 has dropped.
pub fn answer_nd(ip: &Ipv6<'_>, frame: &Frame, port: &PortL2) -> Result<Outcome, WireError> {
    if frame.src == port.mac {
        return Ok(Outcome::default());
    }
    match Icmpv6::parse(ip.payload())?.kind() {
        icmpv6::SOLICITATION => solicited(ip, frame, port, &Solicitation::parse(ip)?),
        icmpv6::ADVERTISEMENT => Ok(advertised(frame, port, &Advertisement::parse(ip)?)),
        _ => Ok(Outcome::default()),
    }
}

fn solicited(
    ip: &Ipv6<'_>,
    frame: &Frame,
    port: &PortL2,
    asked: &Solicitation,
) -> Result<Outcome, WireError> {
    let (src, target) = (ip.src(), asked.target);
    let for_us = port.ipv6.contains(&target);
    if port.ipv6.contains(&src) {
        return Ok(Outcome::contested(src, asked.mac.unwrap_or(frame.src)));
    }
    // RFC 4861 section 7.2.3: what is not for us teaches nothing.
    if !for_us || !(ip.dst() == target || ip.dst() == icmpv6::solicited_node(target)) {
        return Ok(Outcome::default());
    }
    // A sender without an address is about to take ours (RFC 4862 section 5.4.3); all nodes are told that it is taken.
    let probe = src.is_unspecified();
    let (dst, dst_mac) = if probe {
        (ALL_NODES, Mac::ipv6_multicast(ALL_NODES))
    } else {
        (src, asked.mac.unwrap_or(frame.src))
    };
    let advertisement =
        Advertisement { target, mac: Some(port.mac), solicited: !probe, overrides: true, router: false };
    let reply =
        reply(|buf| icmpv6::write_advertisement(buf, port.mac, port.tags, dst_mac, dst, &advertisement))?;
    let heard = |mac| Heard { address: src.into(), mac, source: Learn::Request, create: true };
    Ok(Outcome {
        reply: Some(reply),
        heard: asked.mac.filter(|_| !probe).map(heard),
        conflict: probe.then_some(Rival { address: target.into(), mac: frame.src }),
    })
}

fn advertised(frame: &Frame, port: &PortL2, adv: &Advertisement) -> Outcome {
    if port.ipv6.contains(&adv.target) {
        let mac = adv.mac.unwrap_or(frame.src);
        return if mac == port.mac { Outcome::default() } else { Outcome::contested(adv.target, mac) };
    }
    // RFC 4861 section 7.2.5. Without a MAC address, as an answer to a probe may be, it comes from the sender's own.
    let (mac, source) = match (adv.mac, adv.solicited, adv.overrides) {
        (Some(mac), true, true) => (mac, Learn::Solicited),
        (Some(mac), true, false) => (mac, Learn::Tentative),
        (Some(mac), false, true) => (mac, Learn::Unsolicited),
        (None, true, _) => (frame.src, Learn::Tentative),
        (_, false, _) => return Outcome::default(),
    };
    let heard = Heard { address: adv.target.into(), mac, source, create: false };
    Outcome { heard: Some(heard), ..Outcome::default() }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::wire::Tags;

    const US: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const PEER: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const OUR4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const PEER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OTHER4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
    const OUR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
    const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
    const OTHER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);

    fn port() -> PortL2 {
        PortL2 { mac: US, tags: Tags::one(Some(30)), mtu: 1500, ipv4: vec![OUR4], ipv6: vec![OUR6] }
    }

    fn arp(dst: Mac, op: u16, sha: Mac, spa: Ipv4Addr, tpa: Ipv4Addr) -> Outcome {
        let mut buf = [0; arp::FRAME];
        arp::write(&mut buf, dst, Tags::one(Some(30)), &Arp { op, sha, spa, tha: Mac::default(), tpa })
            .unwrap();
        answer_arp(&buf, &Frame::parse(&buf).unwrap(), &port()).unwrap()
    }

    fn heard(address: impl Into<IpAddr>, mac: Mac, source: Learn, create: bool) -> Option<Heard> {
        Some(Heard { address: address.into(), mac, source, create })
    }

    #[test]
    fn arp_requests_for_our_address_are_answered() {
        let Outcome { reply, heard: h, conflict } = arp(Mac::BROADCAST, arp::REQUEST, PEER, PEER4, OUR4);
        assert_eq!((h, conflict), (heard(PEER4, PEER, Learn::Request, true), None));
        let reply = reply.unwrap();
        let frame = Frame::parse(&reply).unwrap();
        assert_eq!(
            (frame.dst, frame.src, frame.tags, reply.len()),
            (PEER, US, Tags::one(Some(30)), arp::FRAME)
        );
        let expected = Arp { op: arp::REPLY, sha: US, spa: OUR4, tha: PEER, tpa: PEER4 };
        assert_eq!(Arp::parse(&reply[frame.l3..]), Ok(expected));
    }

    #[test]
    fn other_arp_teaches_without_answer() {
        let all = Mac::BROADCAST;
        let cases = [
            ("for another", arp(all, arp::REQUEST, PEER, PEER4, OTHER4), Learn::Unsolicited),
            ("gratuitous request", arp(all, arp::REQUEST, PEER, PEER4, PEER4), Learn::Unsolicited),
            ("gratuitous reply", arp(all, arp::REPLY, PEER, PEER4, PEER4), Learn::Unsolicited),
            ("reply to all", arp(all, arp::REPLY, PEER, PEER4, OUR4), Learn::Unsolicited),
            ("reply to us", arp(US, arp::REPLY, PEER, PEER4, OUR4), Learn::Solicited),
        ];
        for (name, outcome, source) in cases {
            let expected = Outcome { heard: heard(PEER4, PEER, source, false), ..Outcome::default() };
            assert_eq!(outcome, expected, "{name}");
        }
    }

    #[test]
    fn arp_conflicts_are_told() {
        let all = Mac::BROADCAST;
        let announced = arp(all, arp::REQUEST, PEER, OUR4, OUR4);
        assert_eq!(announced, Outcome::contested(OUR4, PEER));
        let probed = arp(all, arp::REQUEST, PEER, Ipv4Addr::UNSPECIFIED, OUR4);
        assert_eq!(probed.conflict, announced.conflict);
        assert!(probed.reply.is_some() && probed.heard.is_none());
    }

    #[test]
    fn arp_of_our_own_and_from_groups_is_ignored() {
        assert_eq!(arp(Mac::BROADCAST, arp::REQUEST, US, OUR4, PEER4), Outcome::default());
        assert_eq!(arp(Mac::BROADCAST, arp::REQUEST, Mac::BROADCAST, PEER4, OUR4), Outcome::default());
        let probe_for_another = arp(Mac::BROADCAST, arp::REQUEST, PEER, Ipv4Addr::UNSPECIFIED, OTHER4);
        assert_eq!(probe_for_another, Outcome::default());
        let short = [0; 30];
        let frame = Frame::parse(&short).unwrap();
        assert_eq!(answer_arp(&short, &frame, &port()), Err(WireError::Truncated));
    }

    fn nd(bytes: &[u8]) -> Result<Outcome, WireError> {
        let frame = Frame::parse(bytes).unwrap();
        let ip = Ipv6::parse(&bytes[frame.l3..], bytes.len() - frame.l3).unwrap();
        answer_nd(&ip, &frame, &port())
    }

    fn solicit(mac: Mac, src: Ipv6Addr, target: Ipv6Addr, unicast: Option<Mac>) -> Outcome {
        nd(&reply(|b| icmpv6::write_solicitation(b, mac, Tags::one(Some(30)), src, target, unicast)).unwrap())
            .unwrap()
    }

    fn advertise(mac: Option<Mac>, target: Ipv6Addr, solicited: bool, overrides: bool) -> Outcome {
        let adv = Advertisement { target, mac, solicited, overrides, router: true };
        nd(&reply(|b| icmpv6::write_advertisement(b, PEER, Tags::one(Some(30)), US, OUR6, &adv)).unwrap())
            .unwrap()
    }

    fn parse_reply(reply: Option<Reply>) -> (Frame, Ipv6Addr, Advertisement) {
        let reply = reply.unwrap();
        let frame = Frame::parse(&reply).unwrap();
        let ip = Ipv6::parse(&reply[frame.l3..], reply.len() - frame.l3).unwrap();
        (frame, ip.dst(), Advertisement::parse(&ip).unwrap())
    }

    #[test]
    fn solicitations_for_our_address_are_answered() {
        for unicast in [None, Some(US)] {
            let Outcome { reply, heard: h, conflict } = solicit(PEER, PEER6, OUR6, unicast);
            assert_eq!((h, conflict), (heard(PEER6, PEER, Learn::Request, true), None));
            let (frame, dst, adv) = parse_reply(reply);
            assert_eq!((frame.dst, frame.src, frame.tags, dst), (PEER, US, Tags::one(Some(30)), PEER6));
            let expected = Advertisement {
                target: OUR6,
                mac: Some(US),
                solicited: true,
                overrides: true,
                router: false,
            };
            assert_eq!(adv, expected);
        }
    }

    #[test]
    fn duplicate_address_detection_is_told_and_counted() {
        let Outcome { reply, heard, conflict } = solicit(PEER, Ipv6Addr::UNSPECIFIED, OUR6, None);
        assert_eq!((conflict, heard), (Outcome::contested(OUR6, PEER).conflict, None));
        let (frame, dst, adv) = parse_reply(reply);
        assert_eq!(
            (frame.dst.to_string().as_str(), dst, adv.solicited),
            ("33:33:00:00:00:01", ALL_NODES, false)
        );
    }

    #[test]
    fn solicitations_for_others_and_our_own_are_ignored() {
        assert_eq!(solicit(PEER, PEER6, OTHER6, None), Outcome::default());
        assert_eq!(solicit(US, OUR6, OTHER6, None), Outcome::default());
        assert_eq!(solicit(PEER, OUR6, OTHER6, None), Outcome::contested(OUR6, PEER));
    }

    #[test]
    fn advertisements_teach_by_their_flags() {
        for (mac, solicited, overrides, expected) in [
            (Some(PEER), true, true, heard(PEER6, PEER, Learn::Solicited, false)),
            (Some(PEER), true, false, heard(PEER6, PEER, Learn::Tentative, false)),
            (Some(PEER), false, true, heard(PEER6, PEER, Learn::Unsolicited, false)),
            (Some(PEER), false, false, None),
            (None, true, true, heard(PEER6, PEER, Learn::Tentative, false)),
            (None, false, true, None),
        ] {
            let expected = Outcome { heard: expected, ..Outcome::default() };
            assert_eq!(
                advertise(mac, PEER6, solicited, overrides),
                expected,
                "{mac:?} {solicited} {overrides}"
            );
        }
        for mac in [Some(PEER), None] {
            assert_eq!(advertise(mac, OUR6, false, true), Outcome::contested(OUR6, PEER));
        }
        assert_eq!(advertise(Some(US), OUR6, false, true), Outcome::default());
    }

    #[test]
    fn invalid_messages_are_errors_and_other_messages_ignored() {
        let mut bytes =
            reply(|b| icmpv6::write_solicitation(b, PEER, Tags::NONE, PEER6, OUR6, None)).unwrap();
        bytes[21] = 64;
        assert_eq!(nd(&bytes), Err(WireError::BadHopLimit));
        bytes[54] = 133;
        assert_eq!(nd(&bytes), Ok(Outcome::default()));
    }
}
