//! The packets of a trial: headers made once for each flow, and a few fields written for each packet.
//!
//! Packet `n` belongs to flow `n % flows` and is that flow's packet `n / flows`, so nothing is kept for a flow but its headers.
//! The payload behind the stamp is a pattern that depends on the place in the frame alone: a buffer that was filled with
//! [`fill`] once needs its front written only, whatever it held before.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use arrayvec::ArrayVec;
use forwarder::wire::checksum::{self, Sum};
use forwarder::wire::{Frame, Mac, PROTO_TCP, PROTO_UDP, Tags, eth, ipv4, ipv6, tcp, udp};

use super::rate::FCS;
use super::sizes::Mix;
use super::stamp::{self, LEARNING, Stamp};

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
    bytes: ArrayVec<u8, HEADERS>,
    l3: usize,
    l4: usize,
    v6: bool,
    proto: Proto,
    ip: Sum,
    transport: Sum,
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

/// A frame size, as the headers of these flows see it.
#[derive(Debug, Clone)]
struct Size {
    /// Bytes of the frame without FCS.
    len: usize,
    /// The length field of the IP header.
    ip: [u8; 2],
    /// Length of the transport header and its payload.
    transport: [u8; 2],
    /// Sum of the payload behind the stamp, as a raw word.
    filler: [u8; 2],
}

/// What is sent in one direction of a trial.
#[derive(Debug, Clone)]
pub struct Template {
    heads: Vec<Head>,
    sizes: Vec<Size>,
    /// Number of the trial.
    trial: u16,
}

/// The payload's pattern, by the place in the frame.
#[inline]
fn pattern(at: usize) -> u8 {
    at as u8
}

/// Writes the payload's pattern over a whole buffer.
pub fn fill(buffer: &mut [u8]) {
    buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = pattern(at));
}

impl Template {
    /// Packets of these flows in these sizes, which [`Flows::check`] has seen.
    ///
    /// # Errors
    /// There are no flows, or their headers are not of one shape.
    pub fn new(heads: Vec<Head>, mix: &Mix, trial: u16) -> Result<Template> {
        let first = heads.first().context("there are no flows")?;
        let (l3, l4, v6, end) = (first.l3, first.l4, first.v6, first.bytes.len());
        ensure!(
            heads.iter().all(|h| (h.l3, h.l4, h.v6, h.bytes.len()) == (l3, l4, v6, end)),
            "packets of different flows arrived with headers of different lengths"
        );
        let size = |size: &usize| {
            let len = size - FCS;
            let transport = ((len - l4) as u16).to_be_bytes();
            let filler: Vec<u8> = (end + stamp::LEN..len).map(pattern).collect();
            Size {
                len,
                ip: if v6 { transport } else { ((len - l3) as u16).to_be_bytes() },
                transport,
                filler: checksum::sum(&filler).fold().to_ne_bytes(),
            }
        };
        Ok(Template { sizes: mix.sizes().iter().map(size).collect(), heads, trial })
    }

    /// Flows.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.heads.len()
    }

    /// Bytes of packet `n`'s frame, without FCS.
    #[inline]
    #[must_use]
    pub fn len(&self, n: u64) -> usize {
        self.size(n).len
    }

    /// Sizes take turns within a flow and among flows, so that every flow has all of them.
    #[inline]
    fn size(&self, n: u64) -> &Size {
        if let [one] = &self.sizes[..] {
            return one;
        }
        let flows = self.heads.len() as u64;
        &self.sizes[((n / flows + n % flows) % self.sizes.len() as u64) as usize]
    }

    /// Writes packet `n`, sent at `time`, into a frame of [`Template::len`] bytes that holds the payload's pattern.
    #[inline]
    pub fn write(&self, n: u64, time: u64, frame: &mut [u8]) {
        let flows = self.heads.len() as u64;
        let head = &self.heads[(n % flows) as usize];
        let stamp = Stamp { trial: self.trial, flow: (n % flows) as u16, seq: (n / flows) as u32, time };
        self.put(head, self.size(n), &stamp, frame);
        // The first packet of a TCP flow opens it.
        if self.trial == LEARNING && head.proto == Proto::Tcp {
            let flags = &mut frame[head.l4 + 13];
            let change = checksum::Delta::NONE.replace(&[5 << 4, *flags], &[5 << 4, tcp::SYN]);
            *flags = tcp::SYN;
            let at = head.l4 + tcp::CHECKSUM;
            let sum = change.apply(u16::from_ne_bytes([frame[at], frame[at + 1]]));
            frame[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
        }
    }

    #[inline]
    fn put(&self, head: &Head, size: &Size, stamp: &Stamp, frame: &mut [u8]) {
        let end = head.bytes.len();
        let stamp = stamp.to_bytes();
        frame[..end].copy_from_slice(&head.bytes);
        frame[end..end + stamp::LEN].copy_from_slice(&stamp);
        if head.v6 {
            frame[head.l3 + 4..head.l3 + 6].copy_from_slice(&size.ip);
        } else {
            frame[head.l3 + 2..head.l3 + 4].copy_from_slice(&size.ip);
            let sum = head.ip.plus(&size.ip).finish();
            frame[head.l3 + 10..head.l3 + 12].copy_from_slice(&sum.to_ne_bytes());
        }
        // Length of the pseudo header.
        let sum = head.transport.plus(&size.transport).plus(&size.filler).plus(&stamp);
        let (at, sum) = if head.proto == Proto::Udp {
            frame[head.l4 + 4..head.l4 + 6].copy_from_slice(&size.transport);
            (head.l4 + udp::CHECKSUM, sum.plus(&size.transport).finish_udp())
        } else {
            (head.l4 + tcp::CHECKSUM, sum.finish())
        };
        frame[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;
    use crate::pktgen::frame::{Kind, read};

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn flows(v6: bool, proto: Proto, vlan: Option<u16>) -> Flows {
        let (src, dst) =
            if v6 { ("[fd00::1]:1000", "[fd00:1::9]:5000") } else { ("10.0.0.1:1000", "192.168.1.9:5000") };
        Flows { src: src.parse().unwrap(), dst: dst.parse().unwrap(), count: 6, hosts: 2, proto, vlan }
    }

    fn packet(template: &Template, n: u64, time: u64) -> Vec<u8> {
        let mut frame = vec![0; template.len(n)];
        fill(&mut frame);
        template.write(n, time, &mut frame);
        frame
    }

    /// Parses with etherparse, another's code, and checks every checksum; returns source, payload and VLAN id.
    fn checked(frame: &[u8]) -> (SocketAddr, Vec<u8>, Option<u16>) {
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let vlan = packet.vlan_ids().first().map(|id| id.value());
        let (src, port, payload) = match (packet.net.unwrap(), packet.transport.unwrap()) {
            (NetSlice::Ipv4(ip), transport) => {
                let header = ip.header().to_header();
                assert_eq!(header.calc_header_checksum(), header.header_checksum);
                let (src, dst) = (header.source, header.destination);
                let (port, payload) = match transport {
                    TransportSlice::Udp(udp) => {
                        let sum = udp.to_header().calc_checksum_ipv4_raw(src, dst, udp.payload()).unwrap();
                        assert_eq!(sum, udp.checksum());
                        (udp.source_port(), udp.payload().to_vec())
                    }
                    TransportSlice::Tcp(tcp) => {
                        let sum = tcp.to_header().calc_checksum_ipv4_raw(src, dst, tcp.payload()).unwrap();
                        assert_eq!(sum, tcp.checksum());
                        (tcp.source_port(), tcp.payload().to_vec())
                    }
                    other => panic!("{other:?}"),
                };
                (IpAddr::from(src), port, payload)
            }
            (NetSlice::Ipv6(ip), transport) => {
                let header = ip.header().to_header();
                let (src, dst) = (header.source, header.destination);
                let (port, payload) = match transport {
                    TransportSlice::Udp(udp) => {
                        let sum = udp.to_header().calc_checksum_ipv6_raw(src, dst, udp.payload()).unwrap();
                        assert_eq!(sum, udp.checksum());
                        (udp.source_port(), udp.payload().to_vec())
                    }
                    TransportSlice::Tcp(tcp) => {
                        let sum = tcp.to_header().calc_checksum_ipv6_raw(src, dst, tcp.payload()).unwrap();
                        assert_eq!(sum, tcp.checksum());
                        (tcp.source_port(), tcp.payload().to_vec())
                    }
                    other => panic!("{other:?}"),
                };
                (IpAddr::from(src), port, payload)
            }
            other => panic!("{other:?}"),
        };
        (SocketAddr::new(src, port), payload, vlan)
    }

    #[test]
    fn another_parser_finds_every_packet_whole() {
        let mix: Mix = "97".parse().unwrap();
        let imix: Mix = "imix".parse().unwrap();
        for v6 in [false, true] {
            for proto in [Proto::Udp, Proto::Tcp] {
                for vlan in [None, Some(100)] {
                    let flows = flows(v6, proto, vlan);
                    for mix in [&mix, &imix, &flows.smallest().to_string().parse().unwrap()] {
                        if mix.range().0 < flows.smallest() {
                            assert!(flows.check(mix).is_err());
                            continue;
                        }
                        flows.check(mix).unwrap();
                        for trial in [LEARNING, 7] {
                            let template = Template::new(flows.heads(A, B), mix, trial).unwrap();
                            for n in [0, 1, 5, 6, 100_000, u64::from(u32::MAX) * 6 + 5] {
                                let frame = packet(&template, n, 0x0123_4567_89ab_cdef);
                                let (src, payload, tag) = checked(&frame);
                                assert_eq!((src, tag), (flows.source((n % 6) as usize), vlan));
                                let stamp = Stamp::read(&payload).unwrap();
                                assert_eq!((stamp.trial, u64::from(stamp.flow)), (trial, n % 6));
                                assert_eq!(u64::from(stamp.seq), n / 6);
                                assert!(mix.sizes().contains(&(frame.len() + FCS)));
                                let Kind::Stamped { stamp: same, .. } = read(&frame, frame.len(), true)
                                else {
                                    panic!("{:?}", read(&frame, frame.len(), true))
                                };
                                assert_eq!(same, stamp);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn used_buffers_need_only_their_front_written() {
        let mix: Mix = "2a1d1b".parse().unwrap();
        let template = Template::new(flows(false, Proto::Udp, None).heads(A, B), &mix, 3).unwrap();
        let mut buffer = vec![0; 2048];
        fill(&mut buffer);
        for n in 0..50 {
            let len = template.len(n);
            template.write(n, n, &mut buffer[..len]);
            checked(&buffer[..len]);
            // A new time for a frame that the device did not take yet.
            template.write(n, n + 1, &mut buffer[..len]);
            assert_eq!(buffer[..len], packet(&template, n, n + 1)[..]);
        }
    }

    #[test]
    fn flows_differ_and_sizes_reach_all_of_them() {
        let template =
            Template::new(flows(false, Proto::Udp, None).heads(A, B), &"imix".parse().unwrap(), 1).unwrap();
        let mut seen = HashSet::new();
        for n in 0..6 * 12 {
            seen.insert((n % 6, template.len(n)));
        }
        assert_eq!(seen.len(), 6 * 3);
        let sources: HashSet<_> = (0..6).map(|n| checked(&packet(&template, n, 0)).0).collect();
        assert_eq!(sources.len(), 6);
        assert_eq!(flows(false, Proto::Udp, None).hosts().count(), 2);
    }

    #[test]
    fn the_way_back_has_the_ends_of_what_arrived_swapped() {
        for (v6, proto) in [(false, Proto::Udp), (true, Proto::Tcp), (true, Proto::Udp), (false, Proto::Tcp)]
        {
            let flows = flows(v6, proto, Some(9));
            let mix: Mix = "200".parse().unwrap();
            let there = packet(&Template::new(flows.heads(A, B), &mix, LEARNING).unwrap(), 3, 0);
            let back = Template::new(vec![Head::back(&there).unwrap()], &mix, 5).unwrap();
            let frame = packet(&back, 0, 1);
            let (src, _, vlan) = checked(&frame);
            assert_eq!((src, vlan), (flows.dst, Some(9)));
            let eth = Frame::parse(&frame).unwrap();
            assert_eq!((eth.dst, eth.src), (A, B));
        }
        assert!(Head::back(&[0; 30]).is_err());
    }

    #[test]
    fn bad_flows_are_refused_with_the_mend() {
        let mix: Mix = "64".parse().unwrap();
        let refused = |change: &dyn Fn(&mut Flows), says: &str| {
            let mut flows = flows(false, Proto::Udp, None);
            change(&mut flows);
            let error = flows.check(&mix).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        flows(false, Proto::Udp, None).check(&mix).unwrap();
        refused(&|f| f.vlan = Some(5), "use --size 68 or more");
        refused(&|f| f.proto = Proto::Tcp, "--size 76");
        refused(&|f| f.dst = "[::1]:5".parse().unwrap(), "different IP families");
        refused(&|f| f.dst = "10.0.0.2:5".parse().unwrap(), "move one of them");
        refused(&|f| f.count = 0, "1 to 65536 flows");
        refused(&|f| f.hosts = 7, "no more hosts than flows");
        refused(&|f| f.src.set_port(65_534), "--hosts");
    }
}
