//! What may leave the gateway, told from what arrived and from the flows, without the engine's help. It reads generously what
//! arrives and strictly what leaves: a frame that it passes may still be wrong, one that it refuses is.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forwarder::api::{FlowSpec, MssClamp, Proto};

use crate::common::packet::{gw_mac, internet_checksum};

/// A port as an outsider knows it.
#[derive(Debug, Clone)]
pub struct Link {
    /// First port of its device: where its frames come and go.
    pub device: u8,
    /// Tags of its frames, kind and VLAN id, the outer one first.
    pub tags: Vec<(u16, u16)>,
    pub mtu: usize,
    pub own: Vec<IpAddr>,
}

/// Layer 3 of a frame.
#[derive(Debug)]
pub struct Layer3<'a> {
    /// Without those whose id is 0: such a tag is a priority.
    tags: Vec<(u16, u16)>,
    ethertype: u16,
    pub packet: &'a [u8],
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

pub fn layer3(frame: &[u8]) -> Option<Layer3<'_>> {
    let (mut at, mut tags) = (12, Vec::new());
    while matches!(be16(frame, at), 0x8100 | 0x88a8) && tags.len() < 3 {
        tags.push((be16(frame, at), be16(frame, at + 2) & 0xfff));
        at += 4;
    }
    tags.retain(|(_, id)| *id != 0);
    Some(Layer3 { tags, ethertype: be16(frame, at), packet: frame.get(at + 2..)? })
}

/// Source and destination of an IP packet, as its version nibble has it.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let v6 = |at: usize| Some(IpAddr::from(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?)));
    let v4 = |at: usize| Some(IpAddr::from(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?)));
    match packet.first()? >> 4 {
        4 => Some((v4(12)?, v4(16)?)),
        6 => Some((v6(8)?, v6(24)?)),
        _ => None,
    }
}

/// Protocol and bytes of an IP packet's upper layer; no bytes in a fragment other than the first. Panics where lengths or the
/// header checksum are wrong: this one we have sent.
fn upper(packet: &[u8]) -> (u8, Option<&[u8]>) {
    if packet[0] >> 4 == 4 {
        let header = usize::from(packet[0] & 15) * 4;
        let total = usize::from(be16(packet, 2));
        assert!(header >= 20 && header <= total && total <= packet.len(), "IPv4 lengths");
        assert_eq!(internet_checksum(&[&packet[..header]]), 0, "IPv4 header checksum");
        return (packet[9], (be16(packet, 6) & 0x1fff == 0).then(|| &packet[header..total]));
    }
    let total = 40 + usize::from(be16(packet, 4));
    assert!(total <= packet.len(), "IPv6 length");
    let (mut next, mut at) = (packet[6], 40);
    while matches!(next, 0 | 43 | 44 | 60) {
        assert!(at + 8 <= total, "IPv6 extension header");
        let is_later = next == 44 && be16(packet, at + 2) & 0xfff8 != 0;
        let len = if next == 44 { 8 } else { 8 * (1 + usize::from(packet[at + 1])) };
        (next, at) = (packet[at], at + len);
        if is_later {
            return (next, None);
        }
    }
    assert!(at <= total, "IPv6 extension headers");
    (next, Some(&packet[at..total]))
}

/// Protocol of an IP packet's upper layer and where that begins, told generously: of a packet that arrived, or one that is quoted.
fn upper_at(packet: &[u8]) -> Option<(u8, usize)> {
    let first = *packet.first()?;
    if first >> 4 == 4 {
        return Some((*packet.get(9)?, usize::from(first & 15) * 4));
    }
    let (mut next, mut at) = (*packet.get(6)?, 40);
    while matches!(next, 0 | 43 | 44 | 60) {
        let len = if next == 44 { 8 } else { 8 * (1 + usize::from(*packet.get(at + 1)?)) };
        (next, at) = (*packet.get(at)?, at + len);
    }
    Some((next, at))
}

/// Does an ICMP message quote a packet?
fn is_error(v6: bool, kind: u8) -> bool {
    if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 11 | 12) }
}

/// What our own error about a packet quotes of it: all that fits the least MTU.
fn quote_of(packet: &[u8]) -> &[u8] {
    let v4 = packet[0] >> 4 == 4;
    let total = if v4 { be16(packet, 2).into() } else { 40 + usize::from(be16(packet, 4)) };
    &packet[..packet.len().min(total).min(if v4 { 576 - 28 } else { 1280 - 48 })]
}

/// The segment size that a TCP header names; none when its options are malformed, or name none.
fn announced(tcp: &[u8]) -> Option<u16> {
    let (end, mut at, mut found) = (usize::from(tcp.get(12)? >> 4) * 4, 20, None);
    let options = tcp.get(..end)?;
    while at < end {
        match options[at] {
            0 => break,
            1 => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if len < 2 || at + len > end || (kind == 2 && len != 4) {
                    return None;
                }
                if kind == 2 {
                    found = found.max(Some(be16(options, at + 2)));
                }
                at += len;
            }
        }
    }
    found
}

#[derive(Debug)]
pub struct Oracle {
    links: Vec<Link>,
    flows: Vec<FlowSpec>,
    /// Port by which each flow's connections come, and by which they go on.
    ways: Vec<(u8, u8)>,
    /// Senders heard at each port, in IP and in ARP packets, and their MAC addresses.
    heard: BTreeSet<(u8, IpAddr)>,
    stations: BTreeSet<(u8, [u8; 6])>,
    /// Packets that could have been a flow's, from a client it allows; packets that could have been answers of its target.
    admissible: Vec<u64>,
    answers: Vec<u64>,
    /// What an error about a packet that arrived would quote, and the port it arrived at.
    arrived: HashSet<(u8, Vec<u8>)>,
    /// Errors that arrived, and have not left, about packets that a flow's clients could have sent, and about its target's.
    errors_to_client: Vec<u64>,
    errors_to_target: Vec<u64>,
    /// Errors of our own, and errors translated, that were sent.
    pub own_errors: u64,
    pub translated_errors: u64,
    /// Packets sent of each flow.
    pub to_target: Vec<u64>,
    pub to_client: Vec<u64>,
}

impl Oracle {
    pub fn new(links: Vec<Link>, flows: Vec<(FlowSpec, u8, u8)>) -> Self {
        let n = flows.len();
        let (flows, ways) = flows.into_iter().map(|(flow, by, out)| (flow, (by, out))).unzip();
        let (heard, stations) = Default::default();
        let zero = || vec![0; n];
        Self {
            links,
            flows,
            ways,
            heard,
            stations,
            admissible: zero(),
            answers: zero(),
            arrived: HashSet::new(),
            errors_to_client: zero(),
            errors_to_target: zero(),
            own_errors: 0,
            translated_errors: 0,
            to_target: zero(),
            to_client: zero(),
        }
    }

    /// The port of a device whose frames have these tags.
    fn port(&self, device: u8, tags: &[(u16, u16)]) -> Option<u8> {
        let found = self.links.iter().position(|link| link.device == device && link.tags == tags);
        found.map(|port| port as u8)
    }

    /// Could it be from a client of the flow to its listen address, by what port it came and its addresses?
    fn sent_by_client(&self, flow: usize, port: u8, src: IpAddr, dst: IpAddr) -> bool {
        let spec = &self.flows[flow];
        let at = self.ways[flow].0 == port || spec.hairpin;
        at && dst == spec.listen.ip() && spec.from.iter().any(|net| net.contains(&src))
    }

    /// Could it be from the flow's target to a source address of ours?
    fn sent_by_target(&self, flow: usize, port: u8, src: IpAddr, dst: IpAddr) -> bool {
        let own = &self.links[usize::from(port)].own;
        self.ways[flow].1 == port && src == self.flows[flow].target.ip() && own.contains(&dst)
    }

    /// A frame arrived at `port`, or another one of its device.
    pub fn arrives(&mut self, port: u8, frame: &[u8]) {
        let device = self.links[usize::from(port)].device;
        let Some(l3) = layer3(frame) else { return };
        let port = self.port(device, &l3.tags).unwrap_or(device);
        self.stations.insert((port, frame[6..12].try_into().unwrap()));
        if l3.ethertype == 0x0806 && l3.packet.len() >= 28 {
            self.heard.insert((port, Ipv4Addr::from(*l3.packet[14..].first_chunk::<4>().unwrap()).into()));
            self.stations.insert((port, l3.packet[8..14].try_into().unwrap()));
        }
        let Some((src, dst)) = addresses(l3.packet) else { return };
        self.heard.insert((port, src));
        // A link-layer address option of neighbor discovery.
        if let Some(mac) = l3.packet.get(66..72) {
            self.stations.insert((port, mac.try_into().unwrap()));
        }
        self.arrived.insert((port, quote_of(l3.packet).to_vec()));
        let quoted = upper_at(l3.packet).and_then(|(_, at)| addresses(l3.packet.get(at + 8..)?));
        for i in 0..self.flows.len() {
            self.admissible[i] += u64::from(self.sent_by_client(i, port, src, dst));
            self.answers[i] += u64::from(self.sent_by_target(i, port, src, dst));
            // An error comes against the direction of what it quotes.
            if let Some((src, dst)) = quoted {
                self.errors_to_client[i] += u64::from(self.sent_by_target(i, port, dst, src));
                self.errors_to_target[i] += u64::from(self.sent_by_client(i, port, dst, src));
            }
        }
    }

    /// A frame left by a device: somebody must have had a right to it. Says by which of its ports.
    #[track_caller]
    pub fn leaves(&mut self, device: u8, frame: &[u8]) -> u8 {
        if let Err(reason) = self.judge(device, frame) {
            panic!("sent by port {device}, {reason}: {frame:02x?}");
        }
        layer3(frame).and_then(|l3| self.port(device, &l3.tags)).unwrap_or(device)
    }

    /// Why a frame must not have left by the device of a port.
    pub fn judge(&mut self, device: u8, frame: &[u8]) -> Result<(), String> {
        let Some(l3) = layer3(frame) else { return Err("no frame".into()) };
        let require = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        require(frame[6..12] == gw_mac(device), "from another station")?;
        let Some(port) = self.port(device, &l3.tags) else { return Err("with other tags".into()) };
        let link = &self.links[usize::from(port)];
        let to: [u8; 6] = frame[..6].try_into().unwrap();
        if l3.ethertype == 0x0806 {
            let p = l3.packet;
            require(p.len() >= 28 && p[8..14] == gw_mac(device), "not our ARP")?;
            let claimed = IpAddr::from(Ipv4Addr::from(*p[14..].first_chunk::<4>().unwrap()));
            require(claimed == IpAddr::from([0; 4]) || link.own.contains(&claimed), "claims an address")?;
            return require(p[7] == 1 || self.stations.contains(&(port, to)), "ARP answer to nobody");
        }
        let Some((src, dst)) = addresses(l3.packet) else { return Err("neither ARP nor IP".into()) };
        require(
            l3.ethertype == if src.is_ipv4() { 0x0800 } else { 0x86dd },
            "with an ethertype of another family",
        )?;
        let total =
            if src.is_ipv4() { be16(l3.packet, 2).into() } else { 40 + usize::from(be16(l3.packet, 4)) };
        require(total <= link.mtu, "larger than the MTU")?;
        let (protocol, bytes) = upper(l3.packet);
        let own = link.own.contains(&src);
        let hairpin = self.flows.iter().any(|f| f.hairpin && f.listen.ip() == src);
        require(own || hairpin, "from an address that is not ours")?;
        match (protocol, bytes) {
            // Discovery goes to groups, and to neighbors that may never have spoken; it claims what is ours.
            (58, Some([135 | 136, ..])) => {
                require(own, "from an address of another port")?;
                require(l3.packet[7] == 255, "neighbor discovery without hop limit 255")?;
                let kind = bytes.unwrap_or(&[]);
                let target = kind.get(8..).and_then(|b| b.first_chunk::<16>());
                let target = target.map(|t| IpAddr::from(Ipv6Addr::from(*t)));
                require(
                    kind[0] == 135 || target.is_some_and(|t| link.own.contains(&t)),
                    "advertises another's address",
                )
            }
            (1, Some([0, ..])) | (58, Some([129, ..])) => {
                require(own && self.heard.contains(&(port, dst)), "an echo reply to somebody who never spoke")
            }
            (1 | 58, Some([kind, ..])) if is_error(protocol == 58, *kind) => {
                self.error(port, (src, dst), bytes.unwrap_or(&[]))
            }
            (6 | 17, bytes) => self.relayed(port, protocol, (src, dst), bytes),
            (other, _) => Err(format!("of protocol {other}")),
        }
    }

    /// An ICMP error: our own to the sender of a packet that came in here, or one that came in elsewhere, to an end of a connection.
    fn error(&mut self, port: u8, (src, dst): (IpAddr, IpAddr), message: &[u8]) -> Result<(), String> {
        let v6 = src.is_ipv6();
        let sum = if v6 {
            let ends = [src, dst].map(|a| if let IpAddr::V6(a) = a { a.octets() } else { [0; 16] }).concat();
            internet_checksum(&[&ends, &(message.len() as u32).to_be_bytes(), &[0, 0, 0, 58], message])
        } else {
            internet_checksum(&[message])
        };
        if sum != 0 {
            return Err("an error with a wrong checksum".into());
        }
        let quote = message.get(8..).unwrap_or(&[]);
        // It is told to who sent the packet, by the address of ours that he sent it to.
        if addresses(quote) != Some((dst, src)) {
            return Err("an error about another's packet".into());
        }
        let known =
            |i: usize| self.sent_by_client(i, port, dst, src) || self.sent_by_target(i, port, dst, src);
        let own_kind =
            matches!((v6, message[0], message[1]), (false, 11, 0) | (false, 3, 4) | (true, 2 | 3, 0));
        if own_kind && self.arrived.contains(&(port, quote.to_vec())) && (0..self.flows.len()).any(known) {
            self.own_errors += 1;
            return Ok(());
        }
        let (protocol, at) = upper_at(quote).unwrap_or_default();
        let ports = quote.get(at..at + 4).map(|b| (be16(b, 0), be16(b, 2)));
        let proto = if protocol == 6 { Proto::Tcp } else { Proto::Udp };
        for i in 0..self.flows.len() {
            let spec = &self.flows[i];
            let Some((sport, dport)) = ports.filter(|_| matches!(protocol, 6 | 17) && spec.proto == proto)
            else {
                continue;
            };
            let to_client = dport == spec.listen.port()
                && self.sent_by_client(i, port, dst, src)
                && self.heard.contains(&(port, dst));
            let to_target = sport == spec.target.port() && self.sent_by_target(i, port, dst, src);
            if to_client && self.admissible[i] > 0 && self.errors_to_client[i] > 0 {
                self.errors_to_client[i] -= 1;
            } else if to_target && self.admissible[i] > 0 && self.errors_to_target[i] > 0 {
                self.errors_to_target[i] -= 1;
            } else {
                continue;
            }
            self.translated_errors += 1;
            return Ok(());
        }
        Err("an error about nothing that arrived".into())
    }

    /// TCP or UDP: towards a flow's target from one of our addresses, or from a listen address to a client.
    fn relayed(
        &mut self,
        port: u8,
        protocol: u8,
        (src, dst): (IpAddr, IpAddr),
        bytes: Option<&[u8]>,
    ) -> Result<(), String> {
        let is_tcp = protocol == 6;
        let ports = bytes.filter(|b| b.len() >= 4).map(|b| (be16(b, 0), be16(b, 2)));
        if bytes.is_some() && ports.is_none() {
            return Err("without ports".into());
        }
        let proto = if is_tcp { Proto::Tcp } else { Proto::Udp };
        let mut unheard = false;
        let syn = bytes.filter(|b| is_tcp && b.get(13).is_some_and(|flags| flags & 2 != 0));
        let size = syn.and_then(announced);
        for (i, flow) in self.flows.iter().enumerate().filter(|(_, f)| f.proto == proto) {
            let (by, out) = self.ways[i];
            let there = self.sent_by_target(i, port, dst, src);
            let back = self.sent_by_client(i, port, dst, src);
            let most = match flow.mss_clamp {
                None => u16::MAX,
                Some(MssClamp::Bytes(bytes)) => bytes,
                Some(MssClamp::Auto) => {
                    let mtu = [by, out].map(|port| self.links[usize::from(port)].mtu);
                    (mtu[0].min(mtu[1]) - 40) as u16
                }
            };
            if size.is_some_and(|size| size > most) {
                continue;
            }
            // IPv6 knows no datagram without a checksum (RFC 7915 section 4.5).
            let translated = flow.listen.is_ipv4() != flow.target.is_ipv4();
            let unsummed = bytes.is_some_and(|b| !is_tcp && b.get(6..8) == Some(&[0, 0]));
            if translated && src.is_ipv6() && unsummed {
                continue;
            }
            if there && ports.is_none_or(|(_, d)| d == flow.target.port()) {
                // Pieces are as many as their sender, or the relay, makes of a packet.
                if self.admissible[i] > self.to_target[i] || (ports.is_none() && self.admissible[i] > 0) {
                    self.to_target[i] += u64::from(ports.is_some());
                    return Ok(());
                }
                unheard = true;
            }
            if back && ports.is_none_or(|(s, _)| s == flow.listen.port()) && self.heard.contains(&(port, dst))
            {
                if self.answers[i] > self.to_client[i] || (ports.is_none() && self.answers[i] > 0) {
                    self.to_client[i] += u64::from(ports.is_some());
                    return Ok(());
                }
                unheard = true;
            }
        }
        Err(if unheard { "more often than it arrived".into() } else { "of no flow".into() })
    }
}
