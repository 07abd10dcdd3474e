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
    /// Largest packet, in bytes as its sender counts them, that both links of the gateway take: between families no error tells of
    /// more (RFC 7915 sections 4.2 and 5.2).
    pub mtu: u16,
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

/// What an error quotes. `ip` is its whole IP packet, whose header was checked and which is no fragment, `l4` the offset of the
/// ICMP message. The ICMP checksum is the caller's business; the quoted transport checksum is nobody's (RFC 5508 REQ-3).
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
            let (header, extensible) =
                to_v6(error.header, &quoted, onward.mtu).ok_or(QuoteError::Untranslatable)?;
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
            let (header, extensible) = to_v4(error.header, upper.fragment.is_some(), onward.mtu)
                .ok_or(QuoteError::Untranslatable)?;
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
            Some(parts) if length >= QUOTE_BEFORE_EXTENSIONS => parts,
            // Without extensions, or a field that was unused once and is no length.
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
            if upper.offset > quote.len() {
                return Err(QuoteError::Truncated);
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
        // Of TCP the quote may end before it, or amid it.
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
fn to_v6(header: &[u8; HEADER], quoted: &Ipv4<'_>, most: u16) -> Option<([u8; HEADER], bool)> {
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
            let mtu = (u32::from(mtu) + V6_MORE).min(most.into());
            with(icmpv6::TOO_BIG, 0, mtu.max(ipv6::MIN_MTU as u32))
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
fn to_v4(header: &[u8; HEADER], fragment: bool, most: u16) -> Option<([u8; HEADER], bool)> {
    let value = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let plain = |kind: u8, code: u8| Some(([kind, code, 0, 0, 0, 0, 0, 0], true));
    match (header[0], header[1]) {
        (icmpv6::UNREACHABLE, icmpv6::NO_ROUTE | 2 | 3) => plain(icmp::UNREACHABLE, icmp::HOST_UNREACHABLE),
        (icmpv6::UNREACHABLE, icmpv6::PROHIBITED) => plain(icmp::UNREACHABLE, icmp::HOST_PROHIBITED),
        (icmpv6::UNREACHABLE, icmpv6::PORT_UNREACHABLE) => plain(icmp::UNREACHABLE, icmp::PORT_UNREACHABLE),
        (icmpv6::TOO_BIG, _) => {
            let mtu = Some(value).filter(|mtu| *mtu >= ipv6::MIN_MTU as u32)?;
            let mtu = mtu - if fragment { V6_MORE_FRAGMENT } else { V6_MORE };
            let [m0, m1] = u16::try_from(mtu).unwrap_or(u16::MAX).min(most).to_be_bytes();
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

#[cfg(test)]
mod tests {
    use etherparse::{IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header};
    use etherparse::{Ipv6Extensions, Ipv6FlowLabel, Ipv6Header, PacketBuilder, PacketBuilderStep};
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Endpoints of one family.
    #[derive(Debug, Clone, Copy)]
    struct Side {
        /// Who sent the error.
        router: IpAddr,
        /// The gateway's address.
        us: SocketAddr,
        /// The connection's peer.
        peer: SocketAddr,
    }

    fn side(v6: bool, n: u16) -> Side {
        let address = |host: u16| -> IpAddr {
            if v6 {
                Ipv6Addr::new(0x2001, 0xdb8, n, 0, 0, 0, 7, host).into()
            } else {
                Ipv4Addr::new(198, 51, n as u8, host as u8).into()
            }
        };
        Side {
            router: address(9),
            us: SocketAddr::new(address(1), 1000 + n),
            peer: SocketAddr::new(address(2), 0xa1b0 + n),
        }
    }

    fn ip(src: IpAddr, dst: IpAddr, hops: u8, class: u8, df: bool) -> PacketBuilderStep<IpHeaders> {
        PacketBuilder::ip(match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut h = Ipv4Header::new(0, hops, IpNumber::UDP, src.octets(), dst.octets()).unwrap();
                h.dont_fragment = df;
                h.fragment_offset = IpFragOffset::ZERO;
                h.dscp = (class >> 2).try_into().unwrap();
                h.ecn = (class & 3).try_into().unwrap();
                IpHeaders::Ipv4(h, Ipv4Extensions::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => IpHeaders::Ipv6(
                Ipv6Header {
                    traffic_class: class,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: 0,
                    next_header: IpNumber::UDP,
                    hop_limit: hops,
                    source: src.octets(),
                    destination: dst.octets(),
                },
                Ipv6Extensions::default(),
            ),
            _ => panic!("two families"),
        })
    }

    /// A packet of a connection, checksums computed.
    fn packet(proto: Proto, src: SocketAddr, dst: SocketAddr, df: bool, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let ip = ip(src.ip(), dst.ip(), 7, 0xb9, df);
        match proto {
            Proto::Tcp => ip.tcp(src.port(), dst.port(), 77, 500).write(&mut out, data).unwrap(),
            Proto::Udp => ip.udp(src.port(), dst.port()).write(&mut out, data).unwrap(),
        }
        out
    }

    /// An error, its checksums computed. `header` are type, code, and the last four bytes of the ICMP header.
    fn error(src: IpAddr, dst: IpAddr, hops: u8, header: [u8; 6], body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let [kind, code, rest @ ..] = header;
        let step = ip(src, dst, hops, 0xc0, true);
        if src.is_ipv6() {
            step.icmpv6_raw(kind, code, rest).write(&mut out, body).unwrap();
        } else {
            step.icmpv4_raw(kind, code, rest).write(&mut out, body).unwrap();
        }
        out
    }

    fn header_len(v6: bool) -> usize {
        if v6 { 40 } else { 20 }
    }

    fn onward(from: &Side) -> Onward {
        Onward {
            src: from.us.ip(),
            dst: from.peer.ip(),
            quoted_src: from.peer,
            quoted_dst: from.us,
            mtu: u16::MAX,
        }
    }

    /// An error about what `there.us` sent to `there.peer` on behalf of `here.peer`, which sent it to `here.us`: as it arrives
    /// and as it goes on, quoting `data` bytes of data at most.
    fn pair(proto: Proto, there: &Side, here: &Side, header: [[u8; 6]; 2], quote: usize) -> [Vec<u8>; 2] {
        let data: Vec<u8> = (0..1000).map(|n| n as u8).collect();
        let too_big = header[1][..2] == [3, 4];
        let [sent, received] = [
            packet(proto, there.us, there.peer, too_big, &data),
            packet(proto, here.peer, here.us, too_big, &data),
        ];
        let cut = |p: &[u8], v6: bool| p[..(header_len(v6) + quote).min(p.len())].to_vec();
        [
            error(there.router, there.us.ip(), 64, header[0], &cut(&sent, there.us.is_ipv6())),
            error(here.us.ip(), here.peer.ip(), 63, header[1], &cut(&received, here.us.is_ipv6())),
        ]
    }

    fn run(ip: &[u8], onward: &Onward) -> Result<Vec<u8>, QuoteError> {
        let mut out = vec![0xaa; ip.len().max(1280)];
        let l4 = header_len(ip[0] >> 4 == 6);
        translate(ip, l4, onward, &mut out).map(|n| {
            assert!(out[n..].iter().all(|b| *b == 0xaa), "written beyond its length");
            out.truncate(n);
            out
        })
    }

    const PROTOS: [Proto; 2] = [Proto::Tcp, Proto::Udp];

    #[test]
    fn a_quote_names_the_packet_that_was_sent() {
        for (v6, proto) in [(false, Proto::Tcp), (false, Proto::Udp), (true, Proto::Tcp), (true, Proto::Udp)]
        {
            let (there, here) = (side(v6, 1), side(v6, 2));
            let [e, _] = pair(proto, &there, &here, [[3, 0, 0, 0, 0, 0]; 2], 8);
            let expected = Quoted { proto, src: there.us, dst: there.peer };
            let l4 = header_len(v6);
            assert_eq!(quoted(&e, l4), Ok(expected));
            assert_eq!(quoted(&e[..e.len() - 1], l4), Err(QuoteError::Truncated));
            let padded = [&e[..], &[0; 9]].concat();
            assert_eq!(quoted(&padded, l4), Ok(expected));
            assert_eq!(quoted(&e, l4 + 1), Err(QuoteError::Malformed));
        }
    }

    #[test]
    fn unusable_quotes_are_refused() {
        let body = |v6: bool, f: &dyn Fn(&mut Vec<u8>)| {
            let s = side(v6, 1);
            let mut quote = packet(Proto::Udp, s.us, s.peer, true, &[5; 30]);
            f(&mut quote);
            quoted(&error(s.router, s.us.ip(), 64, [3, 1, 0, 0, 0, 0], &quote), header_len(v6))
                .map(|q| q.proto)
        };
        let filled = |quote: &mut Vec<u8>| Ipv4Mut::new(quote).unwrap().fill_checksum();
        let udp = Ok(Proto::Udp);
        assert_eq!(body(false, &|_| ()), udp);
        assert_eq!(body(false, &|q| q[8] ^= 1), Err(QuoteError::BadChecksum));
        assert_eq!(body(false, &|q| q[0] = 0x65), Err(QuoteError::Malformed));
        assert_eq!(body(false, &|q| q[0] = 0x44), Err(QuoteError::Malformed));
        assert_eq!(body(false, &|q| q.truncate(27)), Err(QuoteError::Truncated));
        let set = |at: usize, bytes: &'static [u8]| {
            move |q: &mut Vec<u8>| {
                q[at..at + bytes.len()].copy_from_slice(bytes);
                filled(q);
            }
        };
        assert_eq!(body(false, &set(2, &[0, 27])), Err(QuoteError::Truncated), "padding is no header");
        assert_eq!(body(false, &set(6, &[0x20, 0])), udp, "a first fragment");
        assert_eq!(body(false, &set(6, &[0x00, 1])), Err(QuoteError::Fragment));
        assert_eq!(body(false, &set(9, &[1])), Err(QuoteError::Protocol));
        let options = |q: &mut Vec<u8>| {
            q.splice(20..20, [1, 1, 1, 0]);
            q[0] = 0x46;
            q[3] += 4;
            filled(q);
        };
        assert_eq!(body(false, &options), udp);
        let extension = |next: u8, header: [u8; 8]| {
            move |q: &mut Vec<u8>| {
                q.splice(40..40, header);
                q[5] += 8;
                q[6] = next;
            }
        };
        assert_eq!(body(true, &|_| ()), udp);
        assert_eq!(body(true, &|q| q[0] = 0x45), Err(QuoteError::Malformed));
        assert_eq!(body(true, &|q| q.truncate(47)), Err(QuoteError::Truncated));
        assert_eq!(body(true, &extension(60, [17, 0, 1, 4, 0, 0, 0, 0])), udp);
        assert_eq!(body(true, &extension(44, [17, 0, 0, 1, 0, 0, 0, 0])), udp, "a first fragment");
        assert_eq!(body(true, &extension(44, [17, 0, 0, 8, 0, 0, 0, 0])), Err(QuoteError::Fragment));
        assert_eq!(body(true, &extension(60, [17, 9, 1, 4, 0, 0, 0, 0])), Err(QuoteError::Malformed));
        assert_eq!(body(true, &extension(60, [58, 0, 1, 4, 0, 0, 0, 0])), Err(QuoteError::Protocol));
    }

    #[test]
    fn in_one_family_the_sender_sees_its_own_packet() {
        for v6 in [false, true] {
            let (there, here) = (side(v6, 1), side(v6, 2));
            let kinds: &[[u8; 6]] = if v6 {
                &[[1, 4, 0, 0, 0, 0], [2, 0, 0, 0, 5, 0], [3, 0, 0, 0, 0, 0], [4, 1, 0, 0, 0, 6]]
            } else {
                &[[3, 4, 0, 0, 5, 0], [3, 99, 1, 31, 3, 4], [11, 1, 0, 0, 0, 0], [12, 0, 9, 0, 0, 0]]
            };
            for (proto, quote) in
                PROTOS.iter().flat_map(|p| [8, 16, 18, 19, 20, 99, 600, 9000].map(|n| (*p, n)))
            {
                for kind in kinds {
                    let [arrives, expected] = pair(proto, &there, &here, [*kind; 2], quote);
                    assert_eq!(run(&arrives, &onward(&here)), Ok(expected), "{proto} {quote} {kind:?}");
                }
            }
        }
    }

    #[test]
    fn options_extensions_and_padding_of_an_error_stay() {
        let (there, here) = (side(false, 1), side(false, 2));
        let quotes = [
            packet(Proto::Udp, there.us, there.peer, true, &[5; 20]),
            packet(Proto::Udp, here.peer, here.us, true, &[5; 20]),
        ];
        let extended = quotes.map(|mut q| {
            q.resize(128, 0);
            q.extend([0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 1, 2, 3, 4]);
            q
        });
        let with_options = |mut e: Vec<u8>| {
            e.splice(20..20, [148, 4, 0, 0]);
            e[0] = 0x46;
            e[3] += 4;
            Ipv4Mut::new(&mut e).unwrap().fill_checksum();
            e
        };
        let kind = [11, 0, 0, 32, 0, 0];
        let arrives = with_options(error(there.router, there.us.ip(), 64, kind, &extended[0]));
        let expected = with_options(error(here.us.ip(), here.peer.ip(), 63, kind, &extended[1]));
        let mut out = [0; 300];
        // The frame was longer than the packet.
        let frame = [&arrives[..], &[0xee; 6]].concat();
        let n = translate(&frame, 24, &onward(&here), &mut out).unwrap();
        assert_eq!(out[..n], expected);
        assert_eq!(translate(&arrives, 24, &onward(&here), &mut out[..n - 1]), Err(QuoteError::NoRoom));
    }

    #[test]
    fn quoted_checksums_stay_as_wrong_as_they_were() {
        for (from_v6, to_v6) in [(false, false), (true, true), (false, true), (true, false)] {
            let (there, here) = (side(from_v6, 1), side(to_v6, 2));
            let quote = |src, dst, f: &dyn Fn(&mut [u8])| {
                let mut p = packet(Proto::Udp, src, dst, false, &[5; 20]);
                let at = p.len() - 22;
                f(&mut p[at..at + 2]);
                p
            };
            let kinds = [from_v6, to_v6].map(|v6| [if v6 { 3 } else { 11 }, 0, 0, 0, 0, 0]);
            let zero = |sum: &mut [u8]| sum.fill(0);
            let arrives =
                error(there.router, there.us.ip(), 64, kinds[0], &quote(there.us, there.peer, &zero));
            let expected =
                error(here.us.ip(), here.peer.ip(), 63, kinds[1], &quote(here.peer, here.us, &zero));
            assert_eq!(run(&arrives, &onward(&here)), Ok(expected), "zero stays zero");
            let off = |sum: &mut [u8]| {
                let word = u16::from_be_bytes([sum[0], sum[1]]);
                let (new, carry) = word.overflowing_add(0x0123);
                sum.copy_from_slice(&(new + u16::from(carry)).to_be_bytes());
            };
            let arrives =
                error(there.router, there.us.ip(), 64, kinds[0], &quote(there.us, there.peer, &off));
            let expected =
                error(here.us.ip(), here.peer.ip(), 63, kinds[1], &quote(here.peer, here.us, &off));
            assert_eq!(run(&arrives, &onward(&here)), Ok(expected), "off by the same");
        }
    }

    /// Header of an ICMP error and of the ICMPv6 error it becomes (RFC 7915 section 4.2); the quoted packet is 1028 or 1040
    /// bytes long.
    const TO_V6: [([u8; 6], Option<[u8; 6]>); 38] = [
        ([3, 0, 0, 0, 0, 0], Some([1, 0, 0, 0, 0, 0])),
        ([3, 1, 0, 0, 0, 0], Some([1, 0, 0, 0, 0, 0])),
        ([3, 2, 0, 0, 0, 0], Some([4, 1, 0, 0, 0, 6])),
        ([3, 3, 0, 0, 0, 0], Some([1, 4, 0, 0, 0, 0])),
        ([3, 4, 0, 0, 5, 220], Some([2, 0, 0, 0, 5, 240])),
        ([3, 4, 0, 0, 4, 236], Some([2, 0, 0, 0, 5, 0])),
        ([3, 4, 0, 0, 0, 68], Some([2, 0, 0, 0, 5, 0])),
        ([3, 4, 0, 0, 255, 255], Some([2, 0, 0, 0, 255, 255])),
        ([3, 4, 0, 0, 0, 0], Some([2, 0, 0, 0, 5, 0])),
        ([3, 5, 0, 0, 0, 0], Some([1, 0, 0, 0, 0, 0])),
        ([3, 6, 0, 0, 0, 0], Some([1, 0, 0, 0, 0, 0])),
        ([3, 7, 0, 0, 0, 0], Some([1, 0, 0, 0, 0, 0])),
        ([3, 8, 0, 0, 0, 0], Some([1, 0, 0, 0, 0, 0])),
        ([3, 9, 0, 0, 0, 0], Some([1, 1, 0, 0, 0, 0])),
        ([3, 10, 0, 0, 0, 0], Some([1, 1, 0, 0, 0, 0])),
        ([3, 11, 0, 0, 0, 0], Some([1, 0, 0, 0, 0, 0])),
        ([3, 12, 0, 0, 0, 0], Some([1, 0, 0, 0, 0, 0])),
        ([3, 13, 0, 0, 0, 0], Some([1, 1, 0, 0, 0, 0])),
        ([3, 14, 0, 0, 0, 0], None),
        ([3, 15, 0, 0, 0, 0], Some([1, 1, 0, 0, 0, 0])),
        ([3, 16, 0, 0, 0, 0], None),
        ([4, 0, 0, 0, 0, 0], None),
        ([5, 0, 0, 0, 0, 0], None),
        ([11, 0, 0, 0, 0, 0], Some([3, 0, 0, 0, 0, 0])),
        ([11, 1, 0, 0, 0, 0], Some([3, 1, 0, 0, 0, 0])),
        ([12, 0, 0, 0, 0, 0], Some([4, 0, 0, 0, 0, 0])),
        ([12, 0, 1, 0, 0, 0], Some([4, 0, 0, 0, 0, 1])),
        ([12, 0, 2, 0, 0, 0], Some([4, 0, 0, 0, 0, 4])),
        ([12, 2, 3, 0, 0, 0], Some([4, 0, 0, 0, 0, 4])),
        ([12, 0, 4, 0, 0, 0], None),
        ([12, 0, 7, 0, 0, 0], None),
        ([12, 0, 8, 0, 0, 0], Some([4, 0, 0, 0, 0, 7])),
        ([12, 0, 9, 0, 0, 0], Some([4, 0, 0, 0, 0, 6])),
        ([12, 0, 10, 0, 0, 0], None),
        ([12, 0, 15, 0, 0, 0], Some([4, 0, 0, 0, 0, 8])),
        ([12, 0, 19, 0, 0, 0], Some([4, 0, 0, 0, 0, 24])),
        ([12, 0, 20, 0, 0, 0], None),
        ([12, 1, 0, 0, 0, 0], None),
    ];

    #[test]
    fn ipv4_errors_become_ipv6_errors() {
        let (there, here) = (side(false, 1), side(true, 2));
        for (from, to) in TO_V6 {
            for (proto, quote) in PROTOS.iter().flat_map(|p| [8, 18, 99, 548].map(|n| (*p, n))) {
                let [arrives, expected] = pair(proto, &there, &here, [from, to.unwrap_or_default()], quote);
                let expected = to.map(|_| expected).ok_or(QuoteError::Untranslatable);
                assert_eq!(run(&arrives, &onward(&here)), expected, "{from:?} {proto} {quote}");
            }
        }
    }

    #[test]
    fn a_router_without_mtu_gives_the_next_plateau() {
        for (len, mtu) in
            [(1493, 1512), (1492, 1280), (1500, 1512), (2003, 2022), (9000, 8186), (65535, 32020)]
        {
            let (there, here) = (side(false, 1), side(true, 2));
            let mut quote = packet(Proto::Udp, there.us, there.peer, true, &[5; 100]);
            let mut header = Ipv4Mut::new(&mut quote).unwrap();
            header.set_total_len(len);
            header.fill_checksum();
            let e = error(there.router, there.us.ip(), 64, [3, 4, 0, 0, 0, 0], &quote);
            let out = run(&e, &onward(&here)).unwrap();
            assert_eq!(u32::from_be_bytes(out[44..48].try_into().unwrap()), mtu, "{len}");
        }
    }

    /// The same from ICMPv6 to ICMP (RFC 7915 section 5.2).
    const TO_V4: [([u8; 6], Option<[u8; 6]>); 29] = [
        ([1, 0, 0, 0, 0, 0], Some([3, 1, 0, 0, 0, 0])),
        ([1, 1, 0, 0, 0, 0], Some([3, 10, 0, 0, 0, 0])),
        ([1, 2, 0, 0, 0, 0], Some([3, 1, 0, 0, 0, 0])),
        ([1, 3, 0, 0, 0, 0], Some([3, 1, 0, 0, 0, 0])),
        ([1, 4, 0, 0, 0, 0], Some([3, 3, 0, 0, 0, 0])),
        ([1, 5, 0, 0, 0, 0], None),
        ([2, 0, 0, 0, 5, 220], Some([3, 4, 0, 0, 5, 200])),
        ([2, 0, 0, 0, 5, 0], Some([3, 4, 0, 0, 4, 236])),
        ([2, 0, 0, 0, 4, 255], None),
        ([2, 0, 0, 1, 0, 20], Some([3, 4, 0, 0, 255, 255])),
        ([2, 0, 255, 255, 255, 255], Some([3, 4, 0, 0, 255, 255])),
        ([3, 0, 0, 0, 0, 0], Some([11, 0, 0, 0, 0, 0])),
        ([3, 1, 0, 0, 0, 0], Some([11, 1, 0, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 0], Some([12, 0, 0, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 1], Some([12, 0, 1, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 2], None),
        ([4, 0, 0, 0, 0, 3], None),
        ([4, 0, 0, 0, 0, 5], Some([12, 0, 2, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 6], Some([12, 0, 9, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 7], Some([12, 0, 8, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 8], Some([12, 0, 12, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 23], Some([12, 0, 12, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 39], Some([12, 0, 16, 0, 0, 0])),
        ([4, 0, 0, 0, 0, 40], None),
        ([4, 0, 0, 0, 1, 6], None),
        ([4, 1, 0, 0, 0, 6], Some([3, 2, 0, 0, 0, 0])),
        ([4, 2, 0, 0, 0, 40], None),
        ([5, 0, 0, 0, 0, 0], None),
        ([137, 0, 0, 0, 0, 0], None),
    ];

    #[test]
    fn ipv6_errors_become_ipv4_errors_of_576_bytes_at_most() {
        let (there, here) = (side(true, 1), side(false, 2));
        for (from, to) in TO_V4 {
            for (proto, quote) in PROTOS.iter().flat_map(|p| [8, 18, 99, 528, 529, 900].map(|n| (*p, n))) {
                let header = [from, to.unwrap_or_default()];
                let [arrives, _] = pair(proto, &there, &here, header, quote);
                let [_, expected] = pair(proto, &there, &here, header, quote.min(528));
                let expected = to.map(|_| expected).ok_or(QuoteError::Untranslatable);
                assert_eq!(run(&arrives, &onward(&here)), expected, "{from:?} {proto} {quote}");
            }
        }
    }

    #[test]
    fn ipv6_errors_have_1280_bytes_at_most() {
        let (there, here) = (side(false, 1), side(true, 2));
        let data = vec![5; 1400];
        let quotes = [(there.us, there.peer), (here.peer, here.us)]
            .map(|(s, d)| packet(Proto::Udp, s, d, false, &data));
        let arrives = error(there.router, there.us.ip(), 64, [11, 0, 0, 0, 0, 0], &quotes[0]);
        let expected = error(here.us.ip(), here.peer.ip(), 63, [3, 0, 0, 0, 0, 0], &quotes[1][..1232]);
        assert_eq!(run(&arrives, &onward(&here)), Ok(expected));
    }

    #[test]
    fn extensions_cross_families_when_type_and_size_allow() {
        let structure = [0x20, 0, 0x12, 0x34, 0, 8, 1, 1, 1, 2, 3, 4];
        let body = |src, dst, data: usize, size: usize, extended: bool| {
            let mut q = packet(Proto::Udp, src, dst, false, &vec![5; data]);
            if extended {
                assert!(q.len() <= size);
                q.resize(size, 0);
                q.extend(structure);
            } else {
                q.truncate(size);
            }
            q
        };
        let (four, six) = (side(false, 1), side(true, 2));
        // Data; IPv4's quote and IPv6's.
        for (data, size4, size6) in [(20, 128, 128), (99, 128, 152), (101, 132, 152), (508, 536, 560)] {
            let in4 = |kind, hops, from: IpAddr, to: IpAddr, src, dst| {
                error(
                    from,
                    to,
                    hops,
                    [kind, 0, 0, (size4 / 4) as u8, 0, 0],
                    &body(src, dst, data, size4, true),
                )
            };
            let in6 = |kind, hops, from: IpAddr, to: IpAddr, src, dst| {
                error(
                    from,
                    to,
                    hops,
                    [kind, 0, (size6 / 8) as u8, 0, 0, 0],
                    &body(src, dst, data, size6, true),
                )
            };
            let arrives = in4(11, 64, four.router, four.us.ip(), four.us, four.peer);
            let expected = in6(3, 63, six.us.ip(), six.peer.ip(), six.peer, six.us);
            assert_eq!(run(&arrives, &onward(&six)), Ok(expected), "{data}");
            let arrives = in6(3, 64, six.router, six.us.ip(), six.us, six.peer);
            let expected = in4(11, 63, four.us.ip(), four.peer.ip(), four.peer, four.us);
            assert_eq!(run(&arrives, &onward(&four)), Ok(expected), "{data}");
        }
        // Too long together, by little or much: the quote is worth more.
        for (data, size6) in [(509, 560), (520, 568)] {
            let quote = body(six.us, six.peer, data, size6, true);
            let arrives = error(six.router, six.us.ip(), 64, [3, 0, (size6 / 8) as u8, 0, 0, 0], &quote);
            let quote = body(four.peer, four.us, data, 548, false);
            let expected = error(four.us.ip(), four.peer.ip(), 63, [11, 0, 0, 0, 0, 0], &quote);
            assert_eq!(run(&arrives, &onward(&four)), Ok(expected), "{data}");
        }
        // No place for a length.
        let arrives = error(
            four.router,
            four.us.ip(),
            64,
            [3, 2, 0, 32, 0, 0],
            &body(four.us, four.peer, 20, 128, true),
        );
        let quote = body(six.peer, six.us, 20, 68, false);
        let expected = error(six.us.ip(), six.peer.ip(), 63, [4, 1, 0, 0, 0, 6], &quote);
        assert_eq!(run(&arrives, &onward(&six)), Ok(expected));
    }

    #[test]
    fn quoted_fragments_cross_families() {
        let (four, six) = (side(false, 1), side(true, 2));
        let quote4 = |src, dst| {
            let mut q = packet(Proto::Udp, src, dst, false, &[5; 40]);
            let mut header = Ipv4Mut::new(&mut q).unwrap();
            header.set_id(0x0708);
            header.set_fragment(false, true, 0);
            header.fill_checksum();
            q
        };
        let quote6 = |src, dst| {
            let mut q = packet(Proto::Udp, src, dst, false, &[5; 40]);
            q[6] = 44;
            q[5] += 8;
            q.splice(40..40, [17, 0, 0, 1, 0, 0, 7, 8]);
            q
        };
        let arrives = error(four.router, four.us.ip(), 64, [11, 0, 0, 0, 0, 0], &quote4(four.us, four.peer));
        let expected = error(six.us.ip(), six.peer.ip(), 63, [3, 0, 0, 0, 0, 0], &quote6(six.peer, six.us));
        assert_eq!(run(&arrives, &onward(&six)), Ok(expected));
        let arrives = error(six.router, six.us.ip(), 64, [2, 0, 0, 0, 5, 0], &quote6(six.us, six.peer));
        let expected =
            error(four.us.ip(), four.peer.ip(), 63, [3, 4, 0, 0, 4, 228], &quote4(four.peer, four.us));
        assert_eq!(run(&arrives, &onward(&four)), Ok(expected), "a fragment header's bytes count");
    }

    #[test]
    fn what_is_no_error_or_ends_here_does_not_go_on() {
        for v6 in [false, true] {
            let (there, here) = (side(v6, 1), side(v6, 2));
            for kind in 0..=255 {
                let [arrives, _] = pair(Proto::Udp, &there, &here, [[kind, 0, 0, 0, 0, 0]; 2], 8);
                assert_eq!(run(&arrives, &onward(&here)).is_ok(), is_error(v6, kind), "{kind}");
            }
            let [mut arrives, _] = pair(Proto::Udp, &there, &here, [[3, 0, 0, 0, 0, 0]; 2], 8);
            let mixed = Onward { dst: side(!v6, 2).peer.ip(), ..onward(&here) };
            assert_eq!(run(&arrives, &mixed), Err(QuoteError::Family));
            let mixed = Onward { quoted_dst: side(!v6, 2).us, ..onward(&here) };
            assert_eq!(run(&arrives, &mixed), Err(QuoteError::Family));
            let mixed = Onward { quoted_src: side(!v6, 2).us, quoted_dst: side(!v6, 2).us, ..onward(&here) };
            assert_eq!(run(&arrives, &mixed), Err(QuoteError::Family));
            arrives[if v6 { 7 } else { 8 }] = 1;
            assert_eq!(run(&arrives, &onward(&here)), Err(QuoteError::Expired));
        }
    }

    proptest! {
        #[test]
        fn an_error_and_its_way_back_are_the_same_but_for_two_hops(
            v6: bool, udp: bool, quote in 8usize..200, kind in 0usize..3,
        ) {
            let (there, here) = (side(v6, 1), side(v6, 2));
            let proto = if udp { Proto::Udp } else { Proto::Tcp };
            let kind = [if v6 { [1, 2, 3] } else { [3, 11, 12] }[kind], 0, 0, 0, 0, 0];
            let [arrives, _] = pair(proto, &there, &here, [kind; 2], quote);
            let there_again = Onward {
                src: there.router,
                dst: there.us.ip(),
                quoted_src: there.us,
                quoted_dst: there.peer,
                mtu: u16::MAX,
            };
            let back = run(&run(&arrives, &onward(&here)).unwrap(), &there_again).unwrap();
            let mut expected = arrives;
            readdress(&mut expected, Ends::of(there.router, there.us.ip()).unwrap(), true).unwrap();
            readdress(&mut expected, Ends::of(there.router, there.us.ip()).unwrap(), true).unwrap();
            prop_assert_eq!(back, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(
            v6: bool, to_v6: bool, udp: bool, size in 0usize..300, room in 0usize..1400, l4 in 0usize..100, good: bool,
            kind in 1u8..13, changes in vec((0usize..120, any::<u8>()), 0..6),
        ) {
            let (there, here) = (side(v6, 1), side(to_v6, 2));
            let proto = if udp { Proto::Udp } else { Proto::Tcp };
            let [mut bytes, _] = pair(proto, &there, &here, [[kind, 0, 0, 0, 0, 0]; 2], 200);
            for (at, value) in changes {
                bytes[at] = value;
            }
            // The quoted header's checksum hides what is behind it.
            if !v6 && let Ok(mut header) = Ipv4Mut::new(&mut bytes[28..]) {
                header.fill_checksum();
            }
            bytes.truncate(size.max(40));
            let l4 = if good { header_len(v6) } else { l4 };
            let mut out = vec![0; room];
            let _ = quoted(&bytes, l4);
            if let Ok(n) = translate(&bytes, l4, &onward(&here), &mut out) {
                prop_assert!(n <= room);
            }
        }

        #[test]
        fn nor_do_arbitrary_ones(bytes in vec(any::<u8>(), 0..200), l4 in 0usize..70, v6: bool, to_v6: bool) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            let mut out = [0; 1280];
            let _ = quoted(&bytes, l4);
            let _ = translate(&bytes, l4, &onward(&side(to_v6, 2)), &mut out);
        }
    }
}
