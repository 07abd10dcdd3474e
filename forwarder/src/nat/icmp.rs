//! ICMP errors that others send about packets of a connection: what they quote, and what of them goes on to the packet's
//! sender (RFC 5508 section 4, RFC 7915 sections 4.2, 4.3, 5.2 and 5.3).
//!
//! An error crosses the gateway against the direction of the packet that it quotes. What it quotes is the packet as the
//! gateway sent it; its sender has to see the one that it sent itself, so all that the relay changed is changed back:
//! addresses, ports, checksums. The rest of a quote stays, between sides of one family byte for byte.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::translate;
use crate::api::Proto;
use crate::wire::ipv4::{self, Ipv4, Ipv4Mut};
use crate::wire::ipv6::{self, FRAGMENT_HEADER, Ipv6, Ipv6Mut};
use crate::wire::{Delta, PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Sum, WireError};
use crate::wire::{checksum, icmp, icmpv6, tcp, udp};

/// Bytes of an ICMP header, in either family.
const HEADER: usize = icmp::HEADER;
/// Where an ICMP header has its checksum, in either family.
const CHECKSUM: usize = icmp::CHECKSUM;
/// Where it has the length of the quote (RFC 4884 section 4): in words of 4 bytes for IPv4, of 8 bytes for IPv6.
const LENGTH_V4: usize = 5;
const LENGTH_V6: usize = 4;
/// Bytes of a transport header that every error quotes (RFC 792).
const TRANSPORT: usize = 8;
/// Least bytes of a quote that extensions follow (RFC 4884 section 4).
const QUOTE_BEFORE_EXTENSIONS: usize = 128;
/// Likely MTUs (RFC 1191 section 7.1) that IPv6 can make use of, largest first.
const PLATEAUS: [u16; 7] = [65535, 32000, 17914, 8166, 4352, 2002, 1492];
/// What a packet has less in bytes as IPv4 than as IPv6, without and with a fragment header.
const V6_MORE: u32 = (ipv6::HEADER - ipv4::HEADER) as u32;
const V6_MORE_FRAGMENT: u32 = V6_MORE + FRAGMENT_HEADER as u32;

/// Why an error is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum QuoteError {
    /// The error ends before its header, or its quote before 8 bytes of the transport header.
    #[error("the error quotes too little")]
    Truncated,
    /// The quoted packet has a malformed header, or the other IP version.
    #[error("the quoted packet is malformed")]
    Malformed,
    /// The quoted IPv4 header's checksum is wrong (RFC 5508 REQ-3).
    #[error("the quoted header's checksum is wrong")]
    BadChecksum,
    /// The quoted packet is a fragment that has no transport header.
    #[error("the quoted packet is a later fragment")]
    Fragment,
    /// The quoted packet is neither TCP nor UDP.
    #[error("the quoted packet is neither TCP nor UDP")]
    Protocol,
    /// It is no error that is passed on, or none that the other family has.
    #[error("the error has no translation")]
    Untranslatable,
    /// Its TTL or hop limit ends here.
    #[error("the TTL or hop limit of the error ends here")]
    Expired,
    /// Addresses of both families where all should be of one.
    #[error("the addresses of the error are not of one family")]
    Family,
    /// The output buffer is too small.
    #[error("the buffer is too small for the error")]
    NoRoom,
}

impl From<WireError> for QuoteError {
    fn from(e: WireError) -> QuoteError {
        if e == WireError::Truncated { QuoteError::Truncated } else { QuoteError::Malformed }
    }
}

/// The packet that an ICMP error quotes, as far as a connection is found by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// Its protocol.
    pub proto: Proto,
    /// Source address and port.
    pub src: SocketAddr,
    /// Destination address and port.
    pub dst: SocketAddr,
}

/// Where an error goes, and what it quotes there. All of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Onward {
    /// The gateway's address.
    pub src: IpAddr,
    /// The address of the quoted packet's sender.
    pub dst: IpAddr,
    /// Source of the quoted packet as its sender wrote it.
    pub quoted_src: SocketAddr,
    /// Destination of the quoted packet as its sender wrote it.
    pub quoted_dst: SocketAddr,
}

/// True for the types of errors that quote a packet and are passed on (RFC 5508 section 4, RFC 4443 section 2.1). Source
/// quench and redirects are not (RFC 6633; a redirect is about the link that it came over).
pub fn is_error(v6: bool, kind: u8) -> bool {
    if v6 {
        matches!(
            kind,
            icmpv6::UNREACHABLE | icmpv6::TOO_BIG | icmpv6::TIME_EXCEEDED | icmpv6::PARAMETER_PROBLEM
        )
    } else {
        matches!(kind, icmp::UNREACHABLE | icmp::TIME_EXCEEDED | icmp::PARAMETER_PROBLEM)
    }
}

/// What an error quotes. `ip` is its whole IP packet, whose header was checked, `l4` the offset of the ICMP message. The ICMP
/// checksum is the caller's business; the quoted transport checksum is nobody's (RFC 5508 REQ-3).
///
/// Options and extension headers of the quoted packet are skipped. [`QuoteError`] says what makes a quote unusable.
pub fn quoted(ip: &[u8], l4: usize) -> Result<Quoted, QuoteError> {
    let error = Error::parse(ip, l4)?;
    Ok(Quote::parse(error.v6, error.quote)?.quoted)
}

/// Writes the IP packet of an error that goes on to the quoted packet's sender, and returns its length in bytes. `ip` and `l4`
/// are as for [`quoted`]. An `out` of 1280 bytes or the length of `ip`, whichever is more, is never too small.
///
/// In the same family only addresses, ports, TTL or hop limit of the error, and the checksums change. Quoted checksums change
/// by what they cover, so one that was wrong stays wrong; a quoted UDP checksum of zero stays zero.
///
/// In the other family, type and code are those of RFC 7915, and so are MTU and pointer. The quote's header becomes one of the
/// other family. Extensions (RFC 4884) are kept when type and size allow: an error has at most 576 bytes in IPv4, 1280 in
/// IPv6; a longer one comes without extensions and with a shorter quote.
pub fn translate(ip: &[u8], l4: usize, onward: &Onward, out: &mut [u8]) -> Result<usize, QuoteError> {
    let error = Error::parse(ip, l4)?;
    if !is_error(error.v6, error.header[0]) {
        return Err(QuoteError::Untranslatable);
    }
    if error.hops <= 1 {
        return Err(QuoteError::Expired);
    }
    let quote = Quote::parse(error.v6, error.quote)?;
    let outer = Ends::of(onward.src, onward.dst)?;
    let inner = Ends::of(onward.quoted_src.ip(), onward.quoted_dst.ip())?;
    match (error.v6, outer, inner) {
        (false, Ends::V4(..), Ends::V4(..)) | (true, Ends::V6(..), Ends::V6(..)) => {
            let out = out.get_mut(..error.ip.len()).ok_or(QuoteError::NoRoom)?;
            out.copy_from_slice(error.ip);
            readdress(out, outer, true)?;
            let message = out.get_mut(l4..).ok_or(QuoteError::Truncated)?;
            let body = message.get_mut(HEADER..).ok_or(QuoteError::Truncated)?;
            readdress(body, inner, false)?;
            quote.rewrite(body.get_mut(quote.transport..quote.packet.len()), onward)?;
            fill_checksum(message, outer)?;
            Ok(error.ip.len())
        }
        (false, Ends::V6(src, dst), Ends::V6(inner_src, inner_dst)) => {
            let quoted = Ipv4::parse_quoted(quote.packet)?;
            let (header, extensible) = to_v6(error.header, &quoted).ok_or(QuoteError::Untranslatable)?;
            let inner = translate::v6_header(&quoted, inner_src, inner_dst, quoted.ttl(), quoted.id().into());
            let mut made =
                Made { header, inner: &inner, rest: quote.rest(), padding: 0, extensions: error.extensions };
            let room = ipv6::MIN_MTU - ipv6::HEADER - HEADER;
            made.fit(room, extensible.then_some((LENGTH_V6, 8)));
            let hops = error.hops - 1;
            let mut head = ipv6::header(src, dst, PROTO_ICMPV6, hops, made.len() as u16);
            Ipv6Mut::new(&mut head)?.set_traffic_class(error.class);
            made.write(&head, outer, &quote, onward, out)
        }
        (true, Ends::V4(src, dst), Ends::V4(inner_src, inner_dst)) => {
            let quoted = Ipv6::parse_quoted(quote.packet)?;
            let upper = quoted.upper()?;
            let (header, extensible) =
                to_v4(error.header, upper.fragment.is_some()).ok_or(QuoteError::Untranslatable)?;
            // Of what its sender wrote only a fragment's identification is left. DF was set, or it would not be an error.
            let id = upper.fragment.map_or(0, |f| f.id as u16);
            let too_big = header[..2] == [icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED];
            let dont_fragment =
                translate::dont_fragment(&quoted, &upper) || too_big && upper.fragment.is_none();
            let addresses = (inner_src, inner_dst);
            let inner =
                translate::v4_header(&quoted, &upper, addresses, quoted.hop_limit(), id, dont_fragment);
            let mut made =
                Made { header, inner: &inner, rest: quote.rest(), padding: 0, extensions: error.extensions };
            let room = ipv4::MIN_MTU - ipv4::HEADER - HEADER;
            made.fit(room, extensible.then_some((LENGTH_V4, 4)));
            let mut head = ipv4::header(src, dst, PROTO_ICMP, error.hops - 1, made.len() as u16);
            let mut header = Ipv4Mut::new(&mut head)?;
            header.set_tos(error.class);
            header.fill_checksum();
            made.write(&head, outer, &quote, onward, out)
        }
        _ => Err(QuoteError::Family),
    }
}

/// Source and destination.
#[derive(Debug, Clone, Copy)]
enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    fn of(src: IpAddr, dst: IpAddr) -> Result<Ends, QuoteError> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Ok(Ends::V4(src, dst)),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Ok(Ends::V6(src, dst)),
            _ => Err(QuoteError::Family),
        }
    }
}

/// An error as it came.
struct Error<'a> {
    v6: bool,
    /// TTL or hop limit, and type of service or traffic class.
    hops: u8,
    class: u8,
    /// The IP packet without padding of the frame.
    ip: &'a [u8],
    header: &'a [u8; HEADER],
    /// The quoted packet; what is behind its total length is padding.
    quote: &'a [u8],
    /// The extension structure (RFC 4884 section 7); empty when there is none.
    extensions: &'a [u8],
}

impl<'a> Error<'a> {
    fn parse(ip: &'a [u8], l4: usize) -> Result<Error<'a>, QuoteError> {
        let v6 = ip.first().is_some_and(|b| b >> 4 == 6);
        let (total, hops, class) = if v6 {
            let header = Ipv6::parse(ip, ip.len())?;
            (header.total_len(), header.hop_limit(), header.traffic_class())
        } else {
            let header = Ipv4::parse(ip, ip.len())?;
            (header.total_len(), header.ttl(), header.tos())
        };
        let ip = ip.get(..total).ok_or(QuoteError::Truncated)?;
        let least = if v6 { ipv6::HEADER } else { ipv4::HEADER };
        let message = ip.get(l4.max(least)..).ok_or(QuoteError::Truncated)?;
        let (header, body) = message.split_first_chunk().ok_or(QuoteError::Truncated)?;
        let length = match (v6, header[0]) {
            (false, _) => usize::from(header[LENGTH_V4]) * 4,
            (true, icmpv6::UNREACHABLE | icmpv6::TIME_EXCEEDED) => usize::from(header[LENGTH_V6]) * 8,
            // The field is part of an MTU or a pointer.
            (true, _) => 0,
        };
        let (quote, extensions) = match body.split_at_checked(length) {
            Some(parts) if length > 0 => parts,
            _ => (body, &[][..]),
        };
        Ok(Error { v6, hops, class, ip, header, quote, extensions })
    }
}

/// The quoted packet.
struct Quote<'a> {
    quoted: Quoted,
    /// As much of the packet as is quoted, without padding.
    packet: &'a [u8],
    /// Where its transport header begins.
    transport: usize,
}

impl<'a> Quote<'a> {
    fn parse(v6: bool, quote: &'a [u8]) -> Result<Quote<'a>, QuoteError> {
        let (protocol, transport, total, src, dst): (_, _, _, IpAddr, IpAddr) = if v6 {
            let ip = Ipv6::parse_quoted(quote)?;
            let upper = ip.upper()?;
            if upper.fragment.is_some_and(|f| f.offset != 0) {
                return Err(QuoteError::Fragment);
            }
            (upper.protocol, upper.offset, ip.total_len(), ip.src().into(), ip.dst().into())
        } else {
            let ip = Ipv4::parse_quoted(quote)?;
            if !ip.checksum_ok() {
                return Err(QuoteError::BadChecksum);
            }
            if ip.fragment_offset() != 0 {
                return Err(QuoteError::Fragment);
            }
            (ip.protocol(), ip.header_len(), ip.total_len(), ip.src().into(), ip.dst().into())
        };
        let proto = match protocol {
            PROTO_TCP => Proto::Tcp,
            PROTO_UDP => Proto::Udp,
            _ => return Err(QuoteError::Protocol),
        };
        let packet = quote.get(..total).unwrap_or(quote);
        let header = packet.get(transport..).filter(|t| t.len() >= TRANSPORT).ok_or(QuoteError::Truncated)?;
        let (src_port, dst_port) = tcp::ports(header)?;
        let quoted =
            Quoted { proto, src: SocketAddr::new(src, src_port), dst: SocketAddr::new(dst, dst_port) };
        Ok(Quote { quoted, packet, transport })
    }

    /// Transport header and data, as far as quoted.
    fn rest(&self) -> &'a [u8] {
        self.packet.get(self.transport..).unwrap_or_default()
    }

    /// Gives the transport header, at the start of `rest`, ports and checksum as the packet's sender wrote them.
    fn rewrite(&self, rest: Option<&mut [u8]>, onward: &Onward) -> Result<(), QuoteError> {
        let rest = rest.ok_or(QuoteError::Truncated)?;
        let ends = [(self.quoted.src, onward.quoted_src), (self.quoted.dst, onward.quoted_dst)];
        let delta = ends.iter().fold(Delta::NONE, |delta, (old, new)| {
            delta
                .replace(&wide(old.ip()), &wide(new.ip()))
                .replace(&old.port().to_be_bytes(), &new.port().to_be_bytes())
        });
        let ports: &mut [u8; 4] = rest.first_chunk_mut().ok_or(QuoteError::Truncated)?;
        let ([s0, s1], [d0, d1]) =
            (onward.quoted_src.port().to_be_bytes(), onward.quoted_dst.port().to_be_bytes());
        *ports = [s0, s1, d0, d1];
        let is_udp = self.quoted.proto == Proto::Udp;
        let at = if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
        // Of TCP the quote may end before it.
        if let Some(sum) = rest.get_mut(at..).and_then(|sum| sum.first_chunk_mut::<2>()) {
            let old = u16::from_ne_bytes(*sum);
            let new = if is_udp { delta.apply_udp(old) } else { delta.apply(old) };
            *sum = new.to_ne_bytes();
        }
        Ok(())
    }
}

/// An address as 16 bytes that have the same sum.
fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_compatible().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// Sets the addresses of the IP header at the start of `packet`, of their family, and takes a hop away if it is `onward`.
fn readdress(packet: &mut [u8], ends: Ends, onward: bool) -> Result<(), QuoteError> {
    match ends {
        Ends::V4(src, dst) => {
            let old = Ipv4::parse_quoted(packet)?;
            let hop = if onward { Delta::TTL_DECREMENT } else { Delta::NONE };
            let delta =
                hop.replace(&old.src().octets(), &src.octets()).replace(&old.dst().octets(), &dst.octets());
            let (ttl, sum) = (old.ttl().saturating_sub(onward.into()), delta.apply(old.checksum()));
            let mut header = Ipv4Mut::new(packet)?;
            header.set_ttl(ttl);
            header.set_checksum(sum);
            header.set_src(src);
            header.set_dst(dst);
        }
        Ends::V6(src, dst) => {
            let hops = Ipv6::parse_quoted(packet)?.hop_limit().saturating_sub(onward.into());
            let mut header = Ipv6Mut::new(packet)?;
            header.set_hop_limit(hops);
            header.set_src(src);
            header.set_dst(dst);
        }
    }
    Ok(())
}

/// Computes the checksum of an ICMP message that goes between `ends`.
fn fill_checksum(message: &mut [u8], ends: Ends) -> Result<(), QuoteError> {
    let pseudo = match ends {
        Ends::V4(..) => Sum::default(),
        Ends::V6(src, dst) => checksum::pseudo_v6(src, dst, PROTO_ICMPV6, message.len() as u32),
    };
    let field = CHECKSUM..CHECKSUM + 2;
    message.get_mut(field.clone()).ok_or(QuoteError::Truncated)?.fill(0);
    let sum = pseudo.plus(message).finish();
    message.get_mut(field).ok_or(QuoteError::Truncated)?.copy_from_slice(&sum.to_ne_bytes());
    Ok(())
}

/// A message made for the other family.
struct Made<'a> {
    header: [u8; HEADER],
    /// The quoted packet: its IP header, and what follows it.
    inner: &'a [u8],
    rest: &'a [u8],
    /// Zeros between the quoted packet and the extensions.
    padding: usize,
    extensions: &'a [u8],
}

impl Made<'_> {
    /// Makes quote and extensions fit `room` bytes. `length` is where the header has the quote's length and in words of how
    /// many bytes, of a message that can have extensions.
    fn fit(&mut self, room: usize, length: Option<(usize, usize)>) {
        let quote = self.inner.len() + self.rest.len();
        if let Some((at, word)) = length.filter(|_| !self.extensions.is_empty()) {
            let padded = quote.max(QUOTE_BEFORE_EXTENSIONS).next_multiple_of(word);
            if padded + self.extensions.len() <= room
                && let (Some(field), Ok(words)) = (self.header.get_mut(at), u8::try_from(padded / word))
            {
                *field = words;
                self.padding = padded - quote;
                return;
            }
        }
        self.extensions = &[];
        self.rest = self.rest.get(..room.saturating_sub(self.inner.len())).unwrap_or(self.rest);
    }

    /// Bytes of the message.
    fn len(&self) -> usize {
        HEADER + self.inner.len() + self.rest.len() + self.padding + self.extensions.len()
    }

    /// Writes it behind the IP header `head` and returns the packet's length.
    fn write(
        &self,
        head: &[u8],
        ends: Ends,
        quote: &Quote<'_>,
        onward: &Onward,
        out: &mut [u8],
    ) -> Result<usize, QuoteError> {
        let total = head.len() + self.len();
        let out = out.get_mut(..total).ok_or(QuoteError::NoRoom)?;
        let zeros = [0; QUOTE_BEFORE_EXTENSIONS];
        let padding = zeros.get(..self.padding).unwrap_or(&zeros);
        let mut left = &mut *out;
        for part in [head, &self.header, self.inner, self.rest, padding, self.extensions] {
            let (to, behind) = left.split_at_mut_checked(part.len()).ok_or(QuoteError::NoRoom)?;
            to.copy_from_slice(part);
            left = behind;
        }
        let message = out.get_mut(head.len()..).ok_or(QuoteError::NoRoom)?;
        let rest = HEADER + self.inner.len();
        quote.rewrite(message.get_mut(rest..rest + self.rest.len()), onward)?;
        fill_checksum(message, ends)?;
        Ok(total)
    }
}

/// The ICMPv6 header, checksum zero, for an ICMP error about `quoted`, and whether it has room for the length of a quote
/// before extensions. `None` when the error has no translation (RFC 7915 section 4.2).
fn to_v6(header: &[u8; HEADER], quoted: &Ipv4<'_>) -> Option<([u8; HEADER], bool)> {
    let plain = |kind: u8, code: u8| Some(([kind, code, 0, 0, 0, 0, 0, 0], true));
    let with = |kind: u8, code: u8, value: u32| {
        let [a, b, c, d] = value.to_be_bytes();
        Some(([kind, code, 0, 0, a, b, c, d], false))
    };
    match (header[0], header[1]) {
        (icmp::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => plain(icmpv6::UNREACHABLE, icmpv6::NO_ROUTE),
        (icmp::UNREACHABLE, 9 | icmp::HOST_PROHIBITED | 13 | 15) => {
            plain(icmpv6::UNREACHABLE, icmpv6::PROHIBITED)
        }
        (icmp::UNREACHABLE, icmp::PORT_UNREACHABLE) => plain(icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE),
        (icmp::UNREACHABLE, icmp::PROTOCOL_UNREACHABLE) => {
            with(icmpv6::PARAMETER_PROBLEM, icmpv6::UNKNOWN_NEXT_HEADER, 6)
        }
        (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED) => {
            let mtu = match u16::from_be_bytes([header[6], header[7]]) {
                // A router older than RFC 1191: the greatest plateau that the packet was longer than, down to IPv6's least MTU.
                0 => PLATEAUS.into_iter().find(|p| usize::from(*p) < quoted.total_len()).unwrap_or(0),
                mtu => mtu,
            };
            with(icmpv6::TOO_BIG, 0, (u32::from(mtu) + V6_MORE).max(ipv6::MIN_MTU as u32))
        }
        (icmp::TIME_EXCEEDED, code) => plain(icmpv6::TIME_EXCEEDED, code),
        (icmp::PARAMETER_PROBLEM, 0 | 2) => {
            let pointer = match header[4] {
                at @ (0 | 1) => at,
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return None,
            };
            with(icmpv6::PARAMETER_PROBLEM, icmpv6::BAD_FIELD, pointer.into())
        }
        _ => None,
    }
}

/// The ICMP header for an ICMPv6 error about a packet with or without fragment header; the same as [`to_v6`]'s otherwise (RFC
/// 7915 section 5.2). A packet too big for less than IPv6's least MTU has none (RFC 8201 section 4).
fn to_v4(header: &[u8; HEADER], fragment: bool) -> Option<([u8; HEADER], bool)> {
    let value = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let plain = |kind: u8, code: u8| Some(([kind, code, 0, 0, 0, 0, 0, 0], true));
    match (header[0], header[1]) {
        (icmpv6::UNREACHABLE, icmpv6::NO_ROUTE | 2 | 3) => plain(icmp::UNREACHABLE, icmp::HOST_UNREACHABLE),
        (icmpv6::UNREACHABLE, icmpv6::PROHIBITED) => plain(icmp::UNREACHABLE, icmp::HOST_PROHIBITED),
        (icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE) => plain(icmp::UNREACHABLE, icmp::PORT_UNREACHABLE),
        (icmpv6::TOO_BIG, _) => {
            let mtu = Some(value).filter(|mtu| *mtu >= ipv6::MIN_MTU as u32)?;
            let mtu = mtu - if fragment { V6_MORE_FRAGMENT } else { V6_MORE };
            let [m0, m1] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
            Some(([icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED, 0, 0, 0, 0, m0, m1], true))
        }
        (icmpv6::TIME_EXCEEDED, code) => plain(icmp::TIME_EXCEEDED, code),
        (icmpv6::PARAMETER_PROBLEM, icmpv6::BAD_FIELD) => {
            let pointer = match value {
                at @ (0 | 1) => at as u8,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return None,
            };
            Some(([icmp::PARAMETER_PROBLEM, 0, 0, 0, pointer, 0, 0, 0], true))
        }
        (icmpv6::PARAMETER_PROBLEM, icmpv6::UNKNOWN_NEXT_HEADER) => {
            plain(icmp::UNREACHABLE, icmp::PROTOCOL_UNREACHABLE)
        }
        _ => None,
    }
}
