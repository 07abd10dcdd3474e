//! ICMPv6 (RFC 4443) and neighbor discovery (RFC 4861).

use std::net::Ipv6Addr;

use arrayvec::ArrayVec;

use super::eth::{self, ETHERTYPE_IPV6, HEADER_MAX, Mac, Tags};
use super::icmp;
use super::ipv6::{self, Ipv6};
use super::{PROTO_ICMPV6, Sum, WireError, checksum, first};

/// Bytes of a header.
pub const HEADER: usize = 8;
/// Where the checksum lies in the header.
pub const CHECKSUM: usize = 2;
/// Longest frame that this module writes: VLAN tags, IPv6 header, message, one option.
pub const FRAME_MAX: usize = HEADER_MAX + ipv6::HEADER + MESSAGE + OPTION;

/// Destination unreachable; an error.
pub const UNREACHABLE: u8 = 1;
/// Packet too big; an error.
pub const TOO_BIG: u8 = 2;
/// Time exceeded; an error.
pub const TIME_EXCEEDED: u8 = 3;
/// Parameter problem; an error.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Types from here on are no errors (RFC 4443 section 2.1).
pub const INFORMATIONAL: u8 = 128;
/// Redirect; informational by its type, and no packet to send an error about.
pub const REDIRECT: u8 = 137;
/// Neighbor solicitation.
pub const SOLICITATION: u8 = 135;
/// Neighbor advertisement.
pub const ADVERTISEMENT: u8 = 136;

/// Code of [`UNREACHABLE`]: no route.
pub const NO_ROUTE: u8 = 0;
/// Code of [`UNREACHABLE`]: forbidden by an administrator.
pub const PROHIBITED: u8 = 1;
/// Code of [`UNREACHABLE`]: nobody listens at the port.
pub const PORT_UNREACHABLE: u8 = 4;
/// Code of [`PARAMETER_PROBLEM`]: a header field is wrong.
pub const BAD_FIELD: u8 = 0;
/// Code of [`PARAMETER_PROBLEM`]: the next header is not known.
pub const UNKNOWN_NEXT_HEADER: u8 = 1;

/// Bytes of a solicitation or advertisement without options: header and target.
const MESSAGE: usize = 24;
/// Bytes of a link-layer address option.
const OPTION: usize = 8;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A message.
#[derive(Debug, Clone, Copy)]
pub struct Icmpv6<'a> {
    fixed: &'a [u8; HEADER],
    bytes: &'a [u8],
}

impl<'a> Icmpv6<'a> {
    /// The message in an IP payload. The checksum is asked for apart: [`Icmpv6::checksum_ok`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Icmpv6<'a>, WireError> {
        Ok(Icmpv6 { fixed: first(bytes)?, bytes })
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

    /// True when the checksum is right. `bytes` of [`Icmpv6::parse`] has to be the whole message, `pseudo` its pseudo header.
    pub fn checksum_ok(&self, pseudo: Sum) -> bool {
        pseudo.plus(self.bytes).is_valid()
    }

    /// True for the errors that quote a packet and that a translator passes on.
    #[inline]
    pub fn is_error(&self) -> bool {
        matches!(self.kind(), UNREACHABLE | TOO_BIG | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// What follows the header: of an error, the quoted packet.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.bytes.get(HEADER..).unwrap_or(&[])
    }
}

/// Turns an echo request into its reply, checksum updated. Swapping the addresses does not change the checksum; replacing
/// one by another does.
///
/// [`WireError::BadCode`], and nothing changed, when it is no echo request.
pub fn echo_reply(bytes: &mut [u8]) -> Result<(), WireError> {
    icmp::reply(bytes, ECHO_REQUEST, ECHO_REPLY)
}

/// The multicast address that solicitations for `addr` go to (RFC 4291 section 2.7.1).
pub fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// A neighbor solicitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Solicitation {
    /// Address asked for.
    pub target: Ipv6Addr,
    /// Source link-layer address, when given. A sender without address (duplicate address detection) gives none.
    pub mac: Option<Mac>,
}

impl Solicitation {
    /// Reads the message in `ip`, which has no extension headers, and validates it as RFC 4861 section 7.1.1 demands.
    pub fn parse(ip: &Ipv6<'_>) -> Result<Solicitation, WireError> {
        let Message { target, mac, .. } = Message::parse(ip, SOLICITATION, SOURCE_LINK_LAYER)?;
        if ip.src().is_unspecified() && (mac.is_some() || !is_solicited_node(ip.dst())) {
            return Err(WireError::BadAddress);
        }
        Ok(Solicitation { target, mac })
    }
}

/// A neighbor advertisement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    /// Address advertised.
    pub target: Ipv6Addr,
    /// Target link-layer address, when given.
    pub mac: Option<Mac>,
    /// True when it answers a solicitation.
    pub solicited: bool,
    /// True when it overrides what is known.
    pub overrides: bool,
    /// True when the sender is a router.
    pub router: bool,
}

impl Advertisement {
    /// Reads the message in `ip`, which has no extension headers, and validates it as RFC 4861 section 7.1.2 demands.
    pub fn parse(ip: &Ipv6<'_>) -> Result<Advertisement, WireError> {
        let Message { target, mac, flags } = Message::parse(ip, ADVERTISEMENT, TARGET_LINK_LAYER)?;
        let has = |bit| flags & bit != 0;
        if has(SOLICITED) && ip.dst().is_multicast() {
            return Err(WireError::BadAddress);
        }
        let (solicited, overrides, router) = (has(SOLICITED), has(OVERRIDE), has(ROUTER));
        Ok(Advertisement { target, mac, solicited, overrides, router })
    }
}

fn is_solicited_node(addr: Ipv6Addr) -> bool {
    solicited_node(addr) == addr
}

/// What solicitation and advertisement have in common.
struct Message {
    target: Ipv6Addr,
    mac: Option<Mac>,
    flags: u8,
}

impl Message {
    fn parse(ip: &Ipv6<'_>, kind: u8, option: u8) -> Result<Message, WireError> {
        let bytes = ip.payload();
        let message: &[u8; MESSAGE] = first(bytes)?;
        if bytes.len() < ip.payload_len() {
            return Err(WireError::Truncated);
        }
        if ip.next_header() != PROTO_ICMPV6 || message[0] != kind || message[1] != 0 {
            return Err(WireError::BadCode);
        }
        if ip.hop_limit() != 255 {
            return Err(WireError::BadHopLimit);
        }
        if !ip.pseudo().plus(bytes).is_valid() {
            return Err(WireError::BadChecksum);
        }
        let target = match first::<16>(&message[HEADER..]) {
            Ok(octets) => Ipv6Addr::from(*octets),
            Err(e) => return Err(e),
        };
        if target.is_multicast() {
            return Err(WireError::BadAddress);
        }
        let mac = link_layer(bytes.get(MESSAGE..).unwrap_or(&[]), option)?;
        Ok(Message { target, mac, flags: message[4] })
    }
}

/// The link-layer address among options; other options are skipped. A group address is none that a neighbor can have.
fn link_layer(mut options: &[u8], kind: u8) -> Result<Option<Mac>, WireError> {
    let mut mac = None;
    while let [found, units, ..] = *options {
        let len = OPTION * usize::from(units);
        if len == 0 || len > options.len() {
            return Err(WireError::BadOption);
        }
        let (option, rest) = options.split_at(len);
        if found == kind {
            let &[_, _, a, b, c, d, e, f] = option else { return Err(WireError::BadOption) };
            let found = Mac([a, b, c, d, e, f]);
            if !found.is_unicast() {
                return Err(WireError::BadOption);
            }
            mac = Some(found);
        }
        options = rest;
    }
    if options.is_empty() { Ok(mac) } else { Err(WireError::BadOption) }
}

/// Writes a whole solicitation frame for `target` from `src` at `mac` and returns its length, at most [`FRAME_MAX`].
///
/// It goes to the solicited-node group, or to `unicast` alone to probe a neighbor known before. `tags` are the tag control
/// information. [`WireError::NoRoom`] when `buf` is too small.
pub fn write_solicitation(
    buf: &mut [u8],
    mac: Mac,
    tags: Tags,
    src: Ipv6Addr,
    target: Ipv6Addr,
    unicast: Option<Mac>,
) -> Result<usize, WireError> {
    let (dst_mac, dst) = match unicast {
        Some(to) => (to, target),
        None => (Mac::ipv6_multicast(solicited_node(target)), solicited_node(target)),
    };
    // RFC 4861 section 4.3: no source link-layer address when the source is unspecified.
    let option = (!src.is_unspecified()).then_some((SOURCE_LINK_LAYER, mac));
    let frame = eth::header(dst_mac, mac, tags, ETHERTYPE_IPV6);
    write_message(buf, &frame, src, dst, [SOLICITATION, 0], target, option)
}

/// Writes a whole advertisement frame of `adv.target`, which is also its source address, to `dst` at `dst_mac`, and
/// returns its length, at most [`FRAME_MAX`].
///
/// `mac` is the sender's own; `tags` the tag control information. [`WireError::NoRoom`] when `buf` is too small.
pub fn write_advertisement(
    buf: &mut [u8],
    mac: Mac,
    tags: Tags,
    dst_mac: Mac,
    dst: Ipv6Addr,
    adv: &Advertisement,
) -> Result<usize, WireError> {
    let bit = |set, bit| if set { bit } else { 0 };
    let flags = bit(adv.router, ROUTER) | bit(adv.solicited, SOLICITED) | bit(adv.overrides, OVERRIDE);
    let option = adv.mac.map(|mac| (TARGET_LINK_LAYER, mac));
    let frame = eth::header(dst_mac, mac, tags, ETHERTYPE_IPV6);
    write_message(buf, &frame, adv.target, dst, [ADVERTISEMENT, flags], adv.target, option)
}

fn write_message(
    buf: &mut [u8],
    frame: &[u8],
    src: Ipv6Addr,
    dst: Ipv6Addr,
    [kind, flags]: [u8; 2],
    target: Ipv6Addr,
    option: Option<(u8, Mac)>,
) -> Result<usize, WireError> {
    let mut message = ArrayVec::<u8, { MESSAGE + OPTION }>::new();
    message.extend([kind, 0, 0, 0, flags, 0, 0, 0]);
    message.extend(target.octets());
    if let Some((option, mac)) = option {
        message.extend([option, 1]);
        message.extend(mac.0);
    }
    let len = message.len() as u16;
    let sum = checksum::pseudo_v6(src, dst, PROTO_ICMPV6, u32::from(len)).plus(&message).finish();
    message[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_ne_bytes());

    let mut packet = ArrayVec::<u8, { ipv6::HEADER + MESSAGE + OPTION }>::new();
    packet.extend(ipv6::header(src, dst, PROTO_ICMPV6, 255, len));
    packet.extend(message);
    eth::write(buf, frame, &packet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Frame;

    const OUR_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const US: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0x12, 0x3456);
    const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xab, 0xcdef);

    fn solicitation(tags: Tags, unicast: Option<Mac>) -> (Frame, Vec<u8>) {
        let mut buf = [0; FRAME_MAX];
        let len = write_solicitation(&mut buf, OUR_MAC, tags, US, PEER, unicast).unwrap();
        let frame = Frame::parse(&buf).unwrap();
        (frame, buf[frame.l3..len].to_vec())
    }

    /// Recomputes the checksum after a change, so that only the change is at fault.
    fn mend(packet: &mut [u8]) {
        packet[42..44].fill(0);
        let sum = Ipv6::parse_quoted(packet).unwrap().pseudo().plus(&packet[40..]).finish();
        packet[42..44].copy_from_slice(&sum.to_ne_bytes());
    }

    #[test]
    fn solicitations_parse_back() {
        for tags in [Tags::NONE, Tags::one(Some(7)), Tags { outer: Some(9), inner: Some(7) }] {
            let (frame, packet) = solicitation(tags, None);
            assert_eq!(
                (frame.dst.to_string().as_str(), frame.src, frame.tags),
                ("33:33:ff:ab:cd:ef", OUR_MAC, tags)
            );
            let ip = Ipv6::parse(&packet, packet.len()).unwrap();
            assert_eq!(ip.dst(), "ff02::1:ffab:cdef".parse::<Ipv6Addr>().unwrap());
            assert_eq!(Solicitation::parse(&ip), Ok(Solicitation { target: PEER, mac: Some(OUR_MAC) }));
            assert_eq!(Advertisement::parse(&ip), Err(WireError::BadCode));
        }
        let (frame, packet) = solicitation(Tags::NONE, Some(PEER_MAC));
        assert_eq!(frame.dst, PEER_MAC);
        assert_eq!(Ipv6::parse(&packet, packet.len()).unwrap().dst(), PEER);
    }

    #[test]
    fn advertisements_parse_back() {
        let adv =
            Advertisement { target: US, mac: Some(OUR_MAC), solicited: true, overrides: true, router: false };
        let mut buf = [0; FRAME_MAX];
        let tags = Tags { outer: Some(5), inner: Some(5) };
        let len = write_advertisement(&mut buf, OUR_MAC, tags, PEER_MAC, PEER, &adv).unwrap();
        assert_eq!(len, FRAME_MAX);
        let frame = Frame::parse(&buf).unwrap();
        let ip = Ipv6::parse(&buf[frame.l3..len], len - frame.l3).unwrap();
        assert_eq!((ip.src(), ip.dst(), Advertisement::parse(&ip)), (US, PEER, Ok(adv)));
        let short = &mut buf[..FRAME_MAX - 1];
        assert_eq!(write_advertisement(short, OUR_MAC, tags, PEER_MAC, PEER, &adv), Err(WireError::NoRoom));
    }

    #[test]
    fn duplicate_address_detection_gives_no_source_mac() {
        let mut buf = [0; FRAME_MAX];
        let len =
            write_solicitation(&mut buf, OUR_MAC, Tags::NONE, Ipv6Addr::UNSPECIFIED, PEER, None).unwrap();
        let ip = Ipv6::parse(&buf[14..len], len - 14).unwrap();
        assert_eq!(Solicitation::parse(&ip), Ok(Solicitation { target: PEER, mac: None }));
    }

    #[test]
    fn each_check_of_rfc4861_refuses() {
        let (_, good) = solicitation(Tags::NONE, None);
        type Change = fn(&mut Vec<u8>);
        let cases: [(&str, Change, WireError); 9] = [
            ("hop limit", |p| p[7] = 254, WireError::BadHopLimit),
            ("code", |p| p[41] = 1, WireError::BadCode),
            ("multicast target", |p| p[48] = 0xff, WireError::BadAddress),
            ("option length zero", |p| p[65] = 0, WireError::BadOption),
            ("option beyond the end", |p| p[65] = 2, WireError::BadOption),
            ("group address as neighbor", |p| p[66] = 1, WireError::BadOption),
            ("unspecified source with an option", |p| p[8..24].fill(0), WireError::BadAddress),
            (
                "stray byte",
                |p| {
                    p.push(0);
                    p[5] += 1
                },
                WireError::BadOption,
            ),
            (
                "cut in the target",
                |p| {
                    p.truncate(60);
                    p[5] = 20
                },
                WireError::Truncated,
            ),
        ];
        for (name, change, error) in cases {
            let mut packet = good.clone();
            change(&mut packet);
            mend(&mut packet);
            let ip = Ipv6::parse(&packet, packet.len()).unwrap();
            assert_eq!(Solicitation::parse(&ip), Err(error), "{name}");
        }
        let mut packet = good;
        packet[50] ^= 1;
        let ip = Ipv6::parse(&packet, packet.len()).unwrap();
        assert_eq!(Solicitation::parse(&ip), Err(WireError::BadChecksum));
    }

    #[test]
    fn solicited_advertisement_to_a_group_is_refused() {
        let adv = Advertisement { target: US, mac: None, solicited: true, overrides: false, router: true };
        let group = "ff02::1".parse().unwrap();
        let mut buf = [0; FRAME_MAX];
        let len = write_advertisement(&mut buf, OUR_MAC, Tags::NONE, Mac::ipv6_multicast(group), group, &adv)
            .unwrap();
        let ip = Ipv6::parse(&buf[14..len], len - 14).unwrap();
        assert_eq!(Advertisement::parse(&ip), Err(WireError::BadAddress));
    }

    #[test]
    fn echo_is_answered_with_a_right_checksum() {
        let mut packet = [
            &ipv6::header(PEER, US, PROTO_ICMPV6, 64, 11)[..],
            &[ECHO_REQUEST, 0, 0, 0, 1, 2, 0, 1, 9, 8, 7],
        ]
        .concat();
        mend(&mut packet);
        echo_reply(&mut packet[40..]).unwrap();
        let mut m = ipv6::Ipv6Mut::new(&mut packet).unwrap();
        m.set_src(US);
        m.set_dst(PEER);
        let ip = Ipv6::parse(&packet, packet.len()).unwrap();
        let message = Icmpv6::parse(ip.payload()).unwrap();
        assert_eq!(message.kind(), ECHO_REPLY);
        assert!(message.checksum_ok(ip.pseudo()));
    }
}
