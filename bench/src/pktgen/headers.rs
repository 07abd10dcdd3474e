//! The headers of the flows, made once for each.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use forwarder::wire::checksum::{self, Sum};
use forwarder::wire::{Frame, Mac, PROTO_TCP, PROTO_UDP, Tags, eth, ipv4, ipv6, tcp, udp};

use super::rate::FCS;
use super::sizes::Mix;
use super::stamp;

/// Most flows of a template: what a stamp can number.
pub const MOST_FLOWS: usize = 1 << 16;
/// The longest headers: two tags, IPv6, TCP.
const HEADERS: usize = eth::HEADER_MAX + ipv6::HEADER + tcp::HEADER;
const TTL: u8 = 64;
/// Sequence number, acknowledgment number and window of every TCP segment.
const SEGMENT: ([u8; 4], [u8; 4], [u8; 2]) = ([0, 0, 0, 1], [0, 0, 0, 1], [0xff, 0xff]);

/// What carries the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Proto {
    /// Datagrams.
    Udp,
    /// A SYN, then data segments that all have the same sequence number: enough for what looks at headers, not for what
    /// follows a connection's numbers.
    Tcp,
}

/// The flows that are asked for: clients that differ in address and port, and one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flows {
    /// First source address and port.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// How many.
    pub count: usize,
    /// Source addresses among which they are spread; they follow [`Flows::src`].
    pub hosts: usize,
    /// What carries the payload.
    pub proto: Proto,
    /// VLAN tag.
    pub vlan: Option<u16>,
}

impl Flows {
    /// Source address and port of a flow: hosts first, then ports.
    #[must_use]
    pub fn source(&self, flow: usize) -> SocketAddr {
        let (host, port) = (flow % self.hosts, flow / self.hosts);
        let ip = match self.src.ip() {
            IpAddr::V4(a) => IpAddr::V4(u32::from(a).wrapping_add(host as u32).into()),
            IpAddr::V6(a) => IpAddr::V6(u128::from(a).wrapping_add(host as u128).into()),
        };
        SocketAddr::new(ip, self.src.port().wrapping_add(port as u16))
    }

    /// Source addresses.
    pub fn hosts(&self) -> impl Iterator<Item = IpAddr> + '_ {
        (0..self.hosts.min(self.count)).map(|host| self.source(host).ip())
    }

    /// Bytes of the Ethernet header.
    #[must_use]
    pub fn l2(&self) -> usize {
        Tags::one(self.vlan).header_len()
    }

    /// The smallest frame that holds the headers and a stamp, in bytes with FCS.
    #[must_use]
    pub fn smallest(&self) -> usize {
        let l3 = if self.src.is_ipv4() { ipv4::HEADER } else { ipv6::HEADER };
        let l4 = if self.proto == Proto::Udp { udp::HEADER } else { tcp::HEADER };
        (self.l2() + l3 + l4 + stamp::LEN + FCS).max(64)
    }

    /// # Errors
    /// There are none or too many, ports run out, the families differ, or a frame is too small.
    pub fn check(&self, mix: &Mix) -> Result<()> {
        ensure!(
            self.src.is_ipv4() == self.dst.is_ipv4(),
            "--src {} and --dst {} are of different IP families; give two of one",
            self.src,
            self.dst
        );
        ensure!(
            (1..=MOST_FLOWS).contains(&self.count) && (1..=self.count).contains(&self.hosts),
            "--flows {} and --hosts {}: there are 1 to {MOST_FLOWS} flows, and no more hosts than flows",
            self.count,
            self.hosts
        );
        ensure!(
            !self.hosts().any(|host| host == self.dst.ip()),
            "--dst {} is one of the {} source addresses from {} on; move one of them",
            self.dst.ip(),
            self.hosts,
            self.src.ip()
        );
        let last = usize::from(self.src.port()) + (self.count - 1) / self.hosts;
        ensure!(
            self.src.port() > 0 && self.dst.port() > 0 && last <= 0xffff,
            "ports of {} flows from {} on would end at {last}; begin lower, or spread them with --hosts",
            self.count,
            self.src
        );
        let (least, smallest) = (mix.range().0, self.smallest());
        ensure!(
            least >= smallest,
            "a frame of {least} bytes has no room: headers, stamp ({} bytes) and FCS of these flows take {smallest} bytes; \
             use --size {smallest} or more",
            stamp::LEN
        );
        Ok(())
    }

    /// The headers of every flow, from `src` to `dst`.
    #[must_use]
    pub fn heads(&self, src: Mac, dst: Mac) -> Vec<Head> {
        (0..self.count).map(|flow| self.head(flow, src, dst)).collect()
    }

    fn head(&self, flow: usize, src_mac: Mac, dst_mac: Mac) -> Head {
        let (src, dst) = (self.source(flow), self.dst);
        let v6 = src.is_ipv6();
        let proto = if self.proto == Proto::Tcp { PROTO_TCP } else { PROTO_UDP };
        let ethertype = if v6 { eth::ETHERTYPE_IPV6 } else { eth::ETHERTYPE_IPV4 };
        let mut bytes = ArrayVec::new();
        bytes.extend(eth::header(dst_mac, src_mac, Tags::one(self.vlan), ethertype));
        match (src.ip(), dst.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => bytes.extend(ipv4::header(s, d, proto, TTL, 0)),
            (IpAddr::V6(s), IpAddr::V6(d)) => bytes.extend(ipv6::header(s, d, proto, TTL, 0)),
            // Refused by `check`.
            _ => {}
        }
        if self.proto == Proto::Udp {
            bytes.extend(udp::header(src.port(), dst.port(), 0));
        } else {
            let (seq, ack, window) = SEGMENT;
            bytes.extend(src.port().to_be_bytes());
            bytes.extend(dst.port().to_be_bytes());
            bytes.extend(seq.into_iter().chain(ack).chain([5 << 4, tcp::ACK]).chain(window).chain([0; 4]));
        }
        Head::new(bytes, Tags::one(self.vlan).header_len(), v6, self.proto)
    }
}

/// The headers of a flow, lengths and checksums zero, and their sums without these.
#[derive(Debug, Clone)]
pub struct Head {
    pub(super) bytes: ArrayVec<u8, HEADERS>,
    pub(super) l3: usize,
    pub(super) l4: usize,
    pub(super) v6: bool,
    pub(super) proto: Proto,
    pub(super) ip: Sum,
    pub(super) transport: Sum,
}

impl Head {
    fn new(mut bytes: ArrayVec<u8, HEADERS>, l3: usize, v6: bool, proto: Proto) -> Head {
        let l4 = l3 + if v6 { ipv6::HEADER } else { ipv4::HEADER };
        let (addresses, number) = if v6 {
            bytes[l3 + 4..l3 + 6].fill(0);
            (l3 + 8..l3 + 40, bytes[l3 + 6])
        } else {
            bytes[l3 + 2..l3 + 4].fill(0);
            bytes[l3 + 10..l3 + 12].fill(0);
            (l3 + 12..l3 + 20, bytes[l3 + 9])
        };
        if proto == Proto::Udp {
            bytes[l4 + 4..l4 + 8].fill(0);
        } else {
            bytes[l4 + tcp::CHECKSUM..l4 + tcp::CHECKSUM + 2].fill(0);
        }
        let ip = checksum::sum(&bytes[l3..l4]);
        let transport = checksum::sum(&bytes[addresses]).plus(&[0, number]).plus(&bytes[l4..]);
        Head { bytes, l3, l4, v6, proto, ip, transport }
    }

    /// The headers of the flow's way back, from a packet as it arrived: ends swapped, whatever the way had made of them.
    ///
    /// # Errors
    /// The frame has no such headers.
    pub fn back(frame: &[u8]) -> Result<Head> {
        let eth = Frame::parse(frame)?;
        let v6 = eth.ethertype == eth::ETHERTYPE_IPV6;
        let l4 = eth.l3 + if v6 { ipv6::HEADER } else { ipv4::HEADER };
        let number = *frame.get(eth.l3 + if v6 { 6 } else { 9 }).context("the packet is cut off")?;
        let (proto, len) =
            if number == PROTO_TCP { (Proto::Tcp, tcp::HEADER) } else { (Proto::Udp, udp::HEADER) };
        let headers = frame.get(..l4 + len).context("the packet is cut off")?;
        let mut bytes: ArrayVec<u8, HEADERS> = headers.iter().copied().take(HEADERS).collect();
        swap_ends(&mut bytes, eth.l3, l4, v6);
        bytes[eth.l3 + if v6 { 7 } else { 8 }] = TTL;
        if proto == Proto::Tcp {
            bytes[l4 + 12..l4 + 14].copy_from_slice(&[5 << 4, tcp::ACK]);
        }
        Ok(Head::new(bytes, eth.l3, v6, proto))
    }
}

/// Swaps MAC addresses, IP addresses and ports. No checksum sees it, because the sum of the same words is the same.
pub fn swap_ends(frame: &mut [u8], l3: usize, l4: usize, v6: bool) {
    let (at, len) = if v6 { (l3 + 8, 16) } else { (l3 + 12, 4) };
    for (a, len) in [(0, 6), (at, len), (l4, 2)] {
        let (one, other) = frame[a..a + 2 * len].split_at_mut(len);
        one.swap_with_slice(other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows() -> Flows {
        let (src, dst) = ("10.0.0.1:1000".parse().unwrap(), "192.168.1.9:5000".parse().unwrap());
        Flows { src, dst, count: 6, hosts: 2, proto: Proto::Udp, vlan: None }
    }

    #[test]
    fn bad_flows_are_refused_with_the_mend() {
        let mix: Mix = "64".parse().unwrap();
        let refused = |change: &dyn Fn(&mut Flows), says: &str| {
            let mut flows = flows();
            change(&mut flows);
            let error = flows.check(&mix).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        flows().check(&mix).unwrap();
        refused(&|f| f.vlan = Some(5), "use --size 68 or more");
        refused(&|f| f.proto = Proto::Tcp, "--size 76");
        refused(&|f| f.dst = "[::1]:5".parse().unwrap(), "different IP families");
        refused(&|f| f.dst = "10.0.0.2:5".parse().unwrap(), "move one of them");
        refused(&|f| f.count = 0, "1 to 65536 flows");
        refused(&|f| f.hosts = 7, "no more hosts than flows");
        refused(&|f| f.src.set_port(65_534), "--hosts");
    }
}
