//! What may leave the gateway, told from what arrived and from the flows, without the engine's help. It reads generously what
//! arrives and strictly what leaves: a frame that it passes may still be wrong, one that it refuses is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use forwarder::api::FlowSpec;

use crate::common::packet::{gw_mac, internet_checksum};

/// A port as an outsider knows it.
#[derive(Debug, Clone)]
pub struct Link {
    /// VLAN ids of its frames, the outer one first.
    pub tags: Vec<u16>,
    pub mtu: usize,
    pub own: Vec<IpAddr>,
}

/// Layer 3 of a frame.
#[derive(Debug)]
struct Layer3<'a> {
    tags: Vec<u16>,
    ethertype: u16,
    packet: &'a [u8],
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

fn layer3(frame: &[u8]) -> Option<Layer3<'_>> {
    let (mut at, mut tags) = (12, Vec::new());
    while matches!(be16(frame, at), 0x8100 | 0x88a8) && tags.len() < 3 {
        tags.push(be16(frame, at + 2) & 0xfff);
        at += 4;
    }
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
            to_target: zero(),
            to_client: zero(),
        }
    }

    /// A frame arrived at `port`.
    pub fn arrives(&mut self, port: u8, frame: &[u8]) {
        if let Some(mac) = frame.get(6..12) {
            self.stations.insert((port, mac.try_into().unwrap()));
        }
        let Some(l3) = layer3(frame) else { return };
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
        let own = &self.links[usize::from(port)].own;
        for (i, flow) in self.flows.iter().enumerate() {
            let (by, out) = self.ways[i];
            if by == port && dst == flow.listen.ip() && flow.from.iter().any(|net| net.contains(&src)) {
                self.admissible[i] += 1;
            }
            if out == port && src == flow.target.ip() && own.contains(&dst) {
                self.answers[i] += 1;
            }
        }
    }

    /// A frame left by `port`: somebody must have had a right to it.
    #[track_caller]
    pub fn leaves(&mut self, port: u8, frame: &[u8]) {
        if let Err(reason) = self.judge(port, frame) {
            panic!("sent by port {port}, {reason}: {frame:02x?}");
        }
    }

    /// Why a frame must not have left by `port`.
    pub fn judge(&mut self, port: u8, frame: &[u8]) -> Result<(), String> {
        let link = &self.links[usize::from(port)];
        let Some(l3) = layer3(frame) else { return Err("no frame".into()) };
        let require = |ok: bool, what: &str| if ok { Ok(()) } else { Err(what.to_owned()) };
        require(frame[6..12] == gw_mac(port), "from another station")?;
        require(l3.tags == link.tags, "with other tags")?;
        let to: [u8; 6] = frame[..6].try_into().unwrap();
        if l3.ethertype == 0x0806 {
            let p = l3.packet;
            require(p.len() >= 28 && p[8..14] == gw_mac(port), "not our ARP")?;
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
        require(link.own.contains(&src), "from an address that is not ours")?;
        match (protocol, bytes) {
            // Discovery goes to groups, and to neighbors that may never have spoken; it claims what is ours.
            (58, Some([135 | 136, ..])) => {
                require(l3.packet[7] == 255, "neighbor discovery without hop limit 255")?;
                let kind = bytes.unwrap_or(&[]);
                let target = kind.get(8..).and_then(|b| b.first_chunk::<16>());
                let target = target.map(|t| IpAddr::from(Ipv6Addr::from(*t)));
                require(
                    kind[0] == 135 || target.is_some_and(|t| link.own.contains(&t)),
                    "advertises another's address",
                )
            }
            // Echo replies and errors go to who has sent something here; errors that were translated go to an end of a
            // connection, which has as well, or is a target.
            (1 | 58, _) => require(
                self.heard.contains(&(port, dst)) || self.flows.iter().any(|f| f.target.ip() == dst),
                "ICMP to somebody who never spoke",
            ),
            (6 | 17, bytes) => self.relayed(port, protocol, (src, dst), bytes),
            (other, _) => Err(format!("of protocol {other}")),
        }
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
        let proto = if is_tcp { forwarder::api::Proto::Tcp } else { forwarder::api::Proto::Udp };
        let mut unheard = false;
        for (i, flow) in self.flows.iter().enumerate().filter(|(_, f)| f.proto == proto) {
            let (by, out) = self.ways[i];
            let there = out == port && dst == flow.target.ip();
            if there && ports.is_none_or(|(_, d)| d == flow.target.port()) {
                // Pieces are as many as their sender, or the relay, makes of a packet.
                if self.admissible[i] > self.to_target[i] || (ports.is_none() && self.admissible[i] > 0) {
                    self.to_target[i] += u64::from(ports.is_some());
                    return Ok(());
                }
                unheard = true;
            }
            let back =
                by == port && src == flow.listen.ip() && flow.from.iter().any(|net| net.contains(&dst));
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
