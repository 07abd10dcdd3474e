//! The packets of a trial: headers made once for each flow, and a few fields written for each packet.
//!
//! Packet `n` belongs to flow `n % flows` and is that flow's packet `n / flows`, so nothing is kept for a flow but its headers.
//! The payload behind the stamp is a pattern that depends on the place in the frame alone: a buffer that was filled with
//! [`fill`] once needs its front written only, whatever it held before.

use anyhow::{Context, Result, ensure};
use forwarder::wire::{checksum, tcp, udp};

use super::headers::{Head, Proto};
use super::rate::FCS;
use super::sizes::Mix;
use super::stamp::{self, LEARNING, Stamp};

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
    use std::net::{IpAddr, SocketAddr};

    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    use forwarder::wire::{Frame, Mac};

    use super::*;
    use crate::pktgen::frame::{Kind, read};
    use crate::pktgen::headers::Flows;

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
}
