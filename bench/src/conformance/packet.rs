//! Packets as the oracle writes and reads them: by etherparse and by the RFCs, never by the relay's own code.
//!
//! What is read is checked on the way: lengths, header checksums, transport checksums. A relay that spoils one of them
//! fails every test whose packet it touches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use etherparse::checksum::Sum16BitWords;
use etherparse::{
    Ethernet2HeaderSlice, IpNumber, Ipv4Header, Ipv4Options, Ipv6FragmentHeader, Ipv6Header,
    SingleVlanHeaderSlice, TcpHeader, UdpHeader,
};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const V6_FRAGMENT: u8 = 44;
pub(crate) const ICMP6: u8 = 58;
pub(crate) const DEST_OPTIONS: u8 = 60;

pub(crate) const ETH_IPV4: u16 = 0x0800;
pub(crate) const ETH_ARP: u16 = 0x0806;
pub(crate) const ETH_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q customer tag.
pub(crate) const CTAG: u16 = 0x8100;
/// IEEE 802.1ad service tag.
pub(crate) const STAG: u16 = 0x88a8;

pub(crate) type Mac = [u8; 6];

/// A VLAN tag: its TPID, and priority, DEI and id as they stand in the frame.
pub(crate) type Tag = (u16, u16);

/// An Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) dst: Mac,
    pub(crate) src: Mac,
    /// Outermost first.
    pub(crate) tags: Vec<Tag>,
    pub(crate) ethertype: u16,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = [self.dst, self.src].concat();
        for (tpid, tci) in &self.tags {
            out.extend(tpid.to_be_bytes());
            out.extend(tci.to_be_bytes());
        }
        out.extend(self.ethertype.to_be_bytes());
        out.extend(&self.payload);
        // The shortest frame has 60 bytes; what pads it is nobody's.
        out.resize(out.len().max(60), 0);
        out
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Frame> {
        let eth = Ethernet2HeaderSlice::from_slice(bytes)?;
        let mut ethertype = eth.ether_type().0;
        let mut rest = &bytes[14..];
        let mut tags = Vec::new();
        while ethertype == CTAG || ethertype == STAG {
            let tag = SingleVlanHeaderSlice::from_slice(rest)?;
            tags.push((ethertype, u16::from_be_bytes([rest[0], rest[1]])));
            ethertype = tag.ether_type().0;
            rest = &rest[4..];
        }
        Ok(Frame { dst: eth.destination(), src: eth.source(), tags, ethertype, payload: rest.to_vec() })
    }
}

/// An IP packet or a fragment of one, of either family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Or hop limit.
    pub(crate) ttl: u8,
    /// Type of service or traffic class, all eight bits.
    pub(crate) tos: u8,
    /// IPv4: the identification field.
    pub(crate) id: u16,
    /// IPv4: do not fragment.
    pub(crate) df: bool,
    /// IPv4: more fragments.
    pub(crate) mf: bool,
    /// IPv4: fragment offset in bytes.
    pub(crate) offset: u16,
    /// IPv4: options, padded to whole words.
    pub(crate) options: Vec<u8>,
    /// IPv6.
    pub(crate) label: u32,
    /// What the payload begins with: a transport protocol, or an IPv6 extension header.
    pub(crate) proto: u8,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn new(src: IpAddr, dst: IpAddr, proto: u8, payload: Vec<u8>) -> Packet {
        Packet {
            src,
            dst,
            ttl: 64,
            tos: 0,
            id: if src.is_ipv4() { 0x1234 } else { 0 },
            df: src.is_ipv4(),
            mf: false,
            offset: 0,
            options: Vec::new(),
            label: 0,
            proto,
            payload,
        }
    }

    pub(crate) fn ethertype(&self) -> u16 {
        if self.src.is_ipv4() { ETH_IPV4 } else { ETH_IPV6 }
    }

    /// From the IP header on.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header =
                    Ipv4Header::new(0, self.ttl, IpNumber(self.proto), src.octets(), dst.octets())?;
                header.options = Ipv4Options::try_from(&self.options[..])?;
                header.set_payload_len(self.payload.len())?;
                header.dscp = (self.tos >> 2).try_into()?;
                header.ecn = (self.tos & 3).try_into()?;
                header.identification = self.id;
                header.dont_fragment = self.df;
                header.more_fragments = self.mf;
                header.fragment_offset = (self.offset / 8).try_into()?;
                header.header_checksum = header.calc_header_checksum();
                Ok([&header.to_bytes()[..], &self.payload].concat())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: self.label.try_into()?,
                    payload_length: u16::try_from(self.payload.len())?,
                    next_header: IpNumber(self.proto),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                Ok([&header.to_bytes()[..], &self.payload].concat())
            }
            _ => bail!("source {} and destination {} are of two families", self.src, self.dst),
        }
    }

    /// Reads a packet with `ethertype` and checks its lengths and header checksum. Padding behind it is left away.
    pub(crate) fn parse(ethertype: u16, bytes: &[u8]) -> Result<Packet> {
        let packet = Packet::quoted(ethertype, bytes)?;
        let length = usize::from(match ethertype {
            ETH_IPV4 => {
                Ipv4Header::from_slice(bytes)?.0.total_len
                    - Ipv4Header::from_slice(bytes)?.0.header_len() as u16
            }
            _ => Ipv6Header::from_slice(bytes)?.0.payload_length,
        });
        ensure!(
            packet.payload.len() == length,
            "its payload is cut off: {} of {length} bytes",
            packet.payload.len()
        );
        Ok(packet)
    }

    /// The same for what an ICMP error quotes, whose end may be missing.
    pub(crate) fn quoted(ethertype: u16, bytes: &[u8]) -> Result<Packet> {
        match ethertype {
            ETH_IPV4 => {
                let (h, rest) = Ipv4Header::from_slice(bytes).context("no IPv4 header")?;
                ensure!(h.header_checksum == h.calc_header_checksum(), "its IPv4 header checksum is wrong");
                let length = usize::from(h.total_len).saturating_sub(h.header_len()).min(rest.len());
                Ok(Packet {
                    src: Ipv4Addr::from(h.source).into(),
                    dst: Ipv4Addr::from(h.destination).into(),
                    ttl: h.time_to_live,
                    tos: h.dscp.value() << 2 | h.ecn.value(),
                    id: h.identification,
                    df: h.dont_fragment,
                    mf: h.more_fragments,
                    offset: h.fragment_offset.byte_offset(),
                    options: h.options.to_vec(),
                    label: 0,
                    proto: h.protocol.0,
                    payload: rest[..length].to_vec(),
                })
            }
            ETH_IPV6 => {
                let (h, rest) = Ipv6Header::from_slice(bytes).context("no IPv6 header")?;
                let length = usize::from(h.payload_length).min(rest.len());
                let mut packet = Packet::new(
                    Ipv6Addr::from(h.source).into(),
                    Ipv6Addr::from(h.destination).into(),
                    h.next_header.0,
                    rest[..length].to_vec(),
                );
                packet.ttl = h.hop_limit;
                packet.tos = h.traffic_class;
                packet.id = 0;
                packet.label = h.flow_label.value();
                Ok(packet)
            }
            other => bail!("ethertype {other:#06x} is not IP"),
        }
    }

    /// One's complement sum of the transport part with its pseudo-header; zero when the checksum in it is right.
    fn sum(&self, payload: &[u8]) -> u16 {
        checksum(self.src, self.dst, self.proto, payload)
    }

    /// Source and destination with ports, of a whole TCP or UDP packet or the first fragment of one.
    pub(crate) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let p = self.payload.get(..4).filter(|_| matches!(self.proto, TCP | UDP) && self.offset == 0)?;
        let port = |i: usize| u16::from_be_bytes([p[i], p[i + 1]]);
        Some((SocketAddr::new(self.src, port(0)), SocketAddr::new(self.dst, port(2))))
    }

    /// The UDP header and payload of a whole datagram; its checksum has to be right, or zero over IPv4.
    pub(crate) fn udp(&self) -> Result<(UdpHeader, &[u8])> {
        ensure!(self.proto == UDP, "protocol {} is not UDP: {self:?}", self.proto);
        let (header, data) = UdpHeader::from_slice(&self.payload)?;
        ensure!(usize::from(header.length) == self.payload.len(), "UDP length {} in {self:?}", header.length);
        let none = header.checksum == 0 && self.src.is_ipv4();
        ensure!(
            none || self.sum(&self.payload) == 0,
            "wrong UDP checksum {:#06x}: {self:?}",
            header.checksum
        );
        Ok((header, data))
    }

    /// The TCP header and payload of a whole segment; its checksum has to be right.
    pub(crate) fn tcp(&self) -> Result<(TcpHeader, &[u8])> {
        ensure!(self.proto == TCP, "protocol {} is not TCP: {self:?}", self.proto);
        ensure!(self.sum(&self.payload) == 0, "wrong TCP checksum: {self:?}");
        Ok(TcpHeader::from_slice(&self.payload)?)
    }

    /// An ICMP or ICMPv6 message; its checksum has to be right.
    pub(crate) fn icmp(&self) -> Result<Message> {
        ensure!(matches!(self.proto, ICMP | ICMP6), "protocol {} is not ICMP: {self:?}", self.proto);
        ensure!(self.payload.len() >= 8, "an ICMP message of {} bytes", self.payload.len());
        ensure!(self.sum(&self.payload) == 0, "wrong ICMP checksum: {self:?}");
        let p = &self.payload;
        Ok(Message { kind: p[0], code: p[1], rest: [p[4], p[5], p[6], p[7]], body: p[8..].to_vec() })
    }

    /// IPv6: the fragment header and what follows it.
    pub(crate) fn fragment(&self) -> Result<(Ipv6FragmentHeader, &[u8])> {
        ensure!(self.proto == V6_FRAGMENT, "next header {} is no fragment header", self.proto);
        Ok(Ipv6FragmentHeader::from_slice(&self.payload)?)
    }

    /// The packet in fragments whose payload is at most `most` bytes, a multiple of 8. Over IPv6 with fragment headers.
    pub(crate) fn fragments(&self, most: usize, id: u32) -> Result<Vec<Packet>> {
        let count = self.payload.len().div_ceil(most);
        let mut out = Vec::new();
        for (n, part) in self.payload.chunks(most).enumerate() {
            let (offset, more) = (n * most, n + 1 < count);
            let mut piece = self.clone();
            if self.src.is_ipv4() {
                piece.id = (id & 0xffff) as u16;
                piece.df = false;
                piece.mf = more;
                piece.offset = u16::try_from(offset)?;
                piece.payload = part.to_vec();
            } else {
                let offset = u16::try_from(offset / 8)?.try_into()?;
                let header = Ipv6FragmentHeader::new(IpNumber(self.proto), offset, more, id);
                piece.proto = V6_FRAGMENT;
                piece.payload = [&header.to_bytes()[..], part].concat();
            }
            out.push(piece);
        }
        Ok(out)
    }

    /// What a fragment of this packet has: identification, offset in bytes, whether more follow, protocol, data.
    pub(crate) fn piece(&self) -> Result<(u32, usize, bool, u8, &[u8])> {
        if self.src.is_ipv4() {
            return Ok((self.id.into(), self.offset.into(), self.mf, self.proto, &self.payload));
        }
        let (h, data) = self.fragment()?;
        Ok((
            h.identification,
            h.fragment_offset.byte_offset().into(),
            h.more_fragments,
            h.next_header.0,
            data,
        ))
    }
}

/// Puts the packet together again whose fragments these are, in whatever order; they have to be of one packet, without
/// gap or overlap.
pub(crate) fn reassemble(pieces: &[Packet]) -> Result<Packet> {
    let first = pieces.first().context("there is no fragment")?;
    let mut parts = Vec::new();
    for p in pieces {
        ensure!((p.src, p.dst) == (first.src, first.dst), "fragments between {p:?} and {first:?}");
        let (id, offset, more, proto, data) = p.piece()?;
        ensure!((id, proto) == (first.piece()?.0, first.piece()?.3), "fragments of two packets: {pieces:?}");
        parts.push((offset, more, proto, data.to_vec()));
    }
    parts.sort();
    let mut whole = first.clone();
    whole.payload.clear();
    let count = parts.len();
    for (n, (offset, more, proto, data)) in parts.into_iter().enumerate() {
        ensure!(offset == whole.payload.len(), "a gap or an overlap at {offset}: {pieces:?}");
        ensure!(more == (n + 1 < count), "wrong `more fragments` at {offset}: {pieces:?}");
        whole.proto = proto;
        whole.payload.extend(data);
    }
    (whole.mf, whole.offset) = (false, 0);
    Ok(whole)
}

/// An ICMP or ICMPv6 message without its checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// The four bytes behind the checksum.
    pub(crate) rest: [u8; 4],
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// As a packet with a right checksum.
    pub(crate) fn packet(&self, src: IpAddr, dst: IpAddr) -> Packet {
        let mut payload = vec![self.kind, self.code, 0, 0];
        payload.extend(self.rest);
        payload.extend(&self.body);
        let proto = if src.is_ipv4() { ICMP } else { ICMP6 };
        let sum = checksum(src, dst, proto, &payload);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
        Packet::new(src, dst, proto, payload)
    }

    /// The packet that an error of the family of `about` quotes.
    pub(crate) fn quote(&self, about: IpAddr) -> Result<Packet> {
        Packet::quoted(if about.is_ipv4() { ETH_IPV4 } else { ETH_IPV6 }, &self.body)
    }
}

/// The Internet checksum over payload and pseudo-header (none for ICMP over IPv4), not yet with zero replaced.
pub(crate) fn checksum(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> u16 {
    let mut sum = Sum16BitWords::new();
    if proto != ICMP {
        for address in [src, dst] {
            sum = match address {
                IpAddr::V4(a) => sum.add_4bytes(a.octets()),
                IpAddr::V6(a) => sum.add_16bytes(a.octets()),
            };
        }
        sum = sum.add_4bytes(u32::try_from(payload.len()).unwrap_or(0).to_be_bytes()).add_2bytes([0, proto]);
    }
    sum.add_slice(payload).ones_complement().to_be()
}

/// A UDP datagram with a right checksum.
pub(crate) fn udp(src: SocketAddr, dst: SocketAddr, data: &[u8]) -> Packet {
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
    let header = UdpHeader { source_port: src.port(), destination_port: dst.port(), length, checksum: 0 };
    let mut payload = [&header.to_bytes()[..], data].concat();
    let sum = match checksum(src.ip(), dst.ip(), UDP, &payload) {
        0 => 0xffff,
        sum => sum,
    };
    payload[6..8].copy_from_slice(&sum.to_be_bytes());
    Packet::new(src.ip(), dst.ip(), UDP, payload)
}

/// A TCP segment; `header` needs neither ports nor checksum.
pub(crate) fn tcp(src: SocketAddr, dst: SocketAddr, mut header: TcpHeader, data: &[u8]) -> Packet {
    (header.source_port, header.destination_port, header.checksum) = (src.port(), dst.port(), 0);
    let mut payload = [&header.to_bytes()[..], data].concat();
    let sum = checksum(src.ip(), dst.ip(), TCP, &payload);
    payload[16..18].copy_from_slice(&sum.to_be_bytes());
    Packet::new(src.ip(), dst.ip(), TCP, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(v4: bool) -> (SocketAddr, SocketAddr) {
        let text = if v4 { ("10.0.0.1:1", "10.0.0.2:2") } else { ("[fd00::1]:1", "[fd00::2]:2") };
        (text.0.parse().unwrap(), text.1.parse().unwrap())
    }

    #[test]
    fn what_is_written_is_read() {
        for v4 in [true, false] {
            let (a, b) = ends(v4);
            let sent = udp(a, b, b"odd");
            let mut read = Packet::parse(sent.ethertype(), &sent.bytes().unwrap()).unwrap();
            assert_eq!(read.udp().unwrap().1, b"odd");
            assert_eq!(read.ends(), Some((a, b)));
            read.payload[8] ^= 1;
            assert!(read.udp().is_err());
            let segment = tcp(a, b, TcpHeader { syn: true, ..TcpHeader::default() }, b"data");
            assert!(segment.tcp().unwrap().0.syn);
            let error = Message { kind: 3, code: 1, rest: [0; 4], body: sent.bytes().unwrap() };
            let message = error.packet(a.ip(), b.ip());
            assert_eq!(message.icmp().unwrap().quote(a.ip()).unwrap().ends(), Some((a, b)));
        }
    }

    #[test]
    fn checksums_are_those_of_etherparse() {
        let (a, b) = ends(true);
        let sent = udp(a, b, b"payload");
        let header = UdpHeader::with_ipv4_checksum(
            1,
            2,
            &Ipv4Header::new(15, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap(),
            b"payload",
        )
        .unwrap();
        assert_eq!(sent.udp().unwrap().0, header);
    }

    #[test]
    fn fragments_make_the_packet_again() {
        for v4 in [true, false] {
            let (a, b) = ends(v4);
            let whole = udp(a, b, &[7; 1000]);
            let mut pieces = whole.fragments(400, 9).unwrap();
            assert_eq!(pieces.len(), 3);
            pieces.swap(0, 2);
            assert_eq!(reassemble(&pieces).unwrap().udp().unwrap().1, [7; 1000]);
            pieces.pop();
            assert!(reassemble(&pieces).is_err());
        }
    }
}
