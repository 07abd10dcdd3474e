//! The packets of any number of connections, each computed from the connection's number: no array of them is kept that would
//! take cache from what is measured.

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;
use forwarder::wire::checksum::{self, Sum};
use forwarder::wire::{Mac, PROTO_TCP, PROTO_UDP, Tags, eth, ipv4, ipv6, tcp, udp};

/// Listen and target port of flow 0; those of the others follow. Nobody listens below.
pub(super) const FIRST_PORT: u16 = 5000;
/// Connections of one flow: half of the source ports there are towards one target, so that a free one is soon found.
const PER_FLOW: u32 = 1 << 14;
/// Client addresses of one flow.
const HOSTS: u32 = 1 << 12;
/// Source port of the first connection of each client address.
const CLIENT_PORT: u16 = 20_000;
/// Who may open connections.
pub(super) const CLIENTS: [&str; 2] = ["172.16.0.0/16", "fd10::/32"];
/// Address of the gateway towards the clients.
pub(super) const LISTEN: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 1, 0, 1), Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1));
const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
const TTL: u8 = 64;

/// How many flows `connections` connections need.
pub(super) fn flows(connections: u32) -> u16 {
    connections.div_ceil(PER_FLOW) as u16
}

/// What the gateway is to do with the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Relay them.
    Relayed,
    /// Drop them: their source is not allowed.
    Denied,
    /// Drop them: nobody listens.
    Unheard,
}

/// What packets look like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) v6: bool,
    pub(super) tcp: bool,
    pub(super) vlan: Option<u16>,
    /// Bytes of a frame, without FCS.
    pub(super) size: usize,
    pub(super) fate: Fate,
}

/// An address and port of a connection: what its packets differ in.
struct Ends {
    /// The low 16 bits of the client's address.
    host: u16,
    client_port: u16,
    listen_port: u16,
}

impl Ends {
    fn of(n: u32, first_port: u16) -> Self {
        let client = n % PER_FLOW;
        Self {
            host: (client % HOSTS) as u16 + 1,
            client_port: CLIENT_PORT + (client / HOSTS) as u16,
            listen_port: first_port + (n / PER_FLOW) as u16,
        }
    }
}

/// Writes the packets of a shape.
pub(super) struct Frames {
    headers: ArrayVec<u8, 96>,
    size: usize,
    tcp: bool,
    /// Offsets of the transport header and of the low half of the source address.
    l4: usize,
    host: usize,
    /// Offset of the IPv4 header and its sum without the low half of the source address.
    ipv4: Option<(usize, Sum)>,
    /// Sum of the transport header and its pseudo header, without that half and without the ports. The payload is zeros.
    transport: Sum,
    first_port: u16,
}

impl Frames {
    /// Packets to `gateway`.
    pub(super) fn new(shape: &Shape, gateway: Mac) -> Self {
        let l3 = Tags::one(shape.vlan).header_len();
        let l4 = l3 + if shape.v6 { ipv6::HEADER } else { ipv4::HEADER };
        let len = (shape.size - l4) as u16;
        let (proto, header) = if shape.tcp {
            let mut h = vec![0; tcp::HEADER];
            h[12] = 5 << 4;
            h[13] = tcp::ACK;
            (PROTO_TCP, h)
        } else {
            let mut h = vec![0; udp::HEADER];
            h[4..6].copy_from_slice(&len.to_be_bytes());
            (PROTO_UDP, h)
        };
        let mut headers = ArrayVec::new();
        let ethertype = if shape.v6 { eth::ETHERTYPE_IPV6 } else { eth::ETHERTYPE_IPV4 };
        headers.extend(eth::header(gateway, CLIENT_MAC, Tags::one(shape.vlan), ethertype));
        let mut ipv4 = None;
        let (host, pseudo) = if shape.v6 {
            let client = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0);
            headers.extend(ipv6::header(client, LISTEN.1, proto, TTL, len));
            (l3 + 22, checksum::pseudo_v6(client, LISTEN.1, proto, len.into()))
        } else {
            let second = if shape.fate == Fate::Denied { 99 } else { 16 };
            let client = Ipv4Addr::new(172, second, 0, 0);
            let mut ip = ipv4::header(client, LISTEN.0, proto, TTL, len);
            ip[10..12].fill(0);
            ipv4 = Some((l3, checksum::sum(&ip)));
            headers.extend(ip);
            (l3 + 14, checksum::pseudo_v4(client, LISTEN.0, proto, len))
        };
        let transport = pseudo.plus(&header);
        headers.extend(header);
        let first_port = if shape.fate == Fate::Unheard { FIRST_PORT - 1000 } else { FIRST_PORT };
        Self { headers, size: shape.size, tcp: shape.tcp, l4, host, ipv4, transport, first_port }
    }

    /// Writes the headers of connection `n`; the payload stays what it is, as in the relay.
    #[inline]
    pub(super) fn write(&self, n: u32, frame: &mut [u8]) {
        let ends = Ends::of(n, self.first_port);
        let (host, client, listen) =
            (ends.host.to_be_bytes(), ends.client_port.to_be_bytes(), ends.listen_port.to_be_bytes());
        frame[..self.headers.len()].copy_from_slice(&self.headers);
        frame[self.host..self.host + 2].copy_from_slice(&host);
        if let Some((l3, sum)) = self.ipv4 {
            frame[l3 + 10..l3 + 12].copy_from_slice(&sum.plus(&host).finish().to_ne_bytes());
        }
        let l4 = &mut frame[self.l4..];
        l4[..2].copy_from_slice(&client);
        l4[2..4].copy_from_slice(&listen);
        let sum = self.transport.plus(&[host, client].concat()).plus(&listen);
        let (at, sum) =
            if self.tcp { (tcp::CHECKSUM, sum.finish()) } else { (udp::CHECKSUM, sum.finish_udp()) };
        l4[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    }

    /// Makes a TCP segment one that opens its connection. Its checksum is left: the relay only changes it by a difference.
    pub(super) fn open(&self, frame: &mut [u8]) {
        if self.tcp {
            frame[self.l4 + 13] = tcp::SYN;
        }
    }

    /// The whole packet of connection `n`.
    pub(super) fn frame(&self, n: u32) -> Vec<u8> {
        let mut frame = vec![0; self.size];
        self.write(n, &mut frame);
        frame
    }
}

/// UDP/IPv4 ends of connection `n`, as `(client, client port, listen, listen port)`.
pub(super) fn ends(n: u32) -> (Ipv4Addr, u16, Ipv4Addr, u16) {
    let ends = Ends::of(n, FIRST_PORT);
    let [a, b] = ends.host.to_be_bytes();
    (Ipv4Addr::new(172, 16, a, b), ends.client_port, LISTEN.0, ends.listen_port)
}

/// Visits `0..count` for ever, each number once a round, in an order that prefetchers cannot guess: a full-period linear
/// congruential generator over the next power of two, whose numbers above `count` are passed over.
pub(super) struct Visits {
    at: u32,
    mask: u32,
    count: u32,
}

impl Visits {
    pub(super) fn new(count: u32) -> Self {
        Self { at: 0, mask: count.next_power_of_two() - 1, count }
    }

    #[inline]
    pub(super) fn next(&mut self) -> u32 {
        loop {
            // Hull and Dobell: an odd increment and a multiplier of 1 modulo 4 give the full period.
            self.at = self.at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223) & self.mask;
            if self.at < self.count {
                return self.at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use forwarder::wire::checksum::Sum;
    use forwarder::wire::ipv4::Ipv4;
    use forwarder::wire::ipv6::Ipv6;
    use forwarder::wire::tcp::Tcp;
    use forwarder::wire::udp::Udp;

    use super::*;

    fn checked(shape: &Shape, n: u32) -> (Vec<u8>, u16, u16) {
        let frame = Frames::new(shape, Mac([2, 0, 0, 0, 0, 1])).frame(n);
        assert_eq!(frame.len(), shape.size);
        let l3 = &frame[Tags::one(shape.vlan).header_len()..];
        let (address, pseudo, l4): (Vec<u8>, Sum, &[u8]) = if shape.v6 {
            let ip = Ipv6::parse(l3, l3.len()).unwrap();
            (ip.src().octets().to_vec(), ip.pseudo(), &l3[40..])
        } else {
            let ip = Ipv4::parse(l3, l3.len()).unwrap();
            assert!(ip.checksum_ok());
            (ip.src().octets().to_vec(), ip.pseudo(), ip.payload())
        };
        if shape.tcp {
            let tcp = Tcp::parse(l4, l4.len()).unwrap();
            assert!(tcp.checksum_ok(pseudo));
            (address, tcp.src_port(), tcp.dst_port())
        } else {
            let udp = Udp::parse(l4, l4.len()).unwrap();
            assert!(udp.checksum_ok(pseudo));
            (address, udp.src_port(), udp.dst_port())
        }
    }

    #[test]
    fn packets_are_valid_and_connections_differ() {
        let hot = Shape { v6: false, tcp: false, vlan: None, size: 60, fate: Fate::Relayed };
        for shape in [
            hot,
            Shape { tcp: true, ..hot },
            Shape { v6: true, size: 62, ..hot },
            Shape { v6: true, tcp: true, size: 1514, ..hot },
            Shape { vlan: Some(100), size: 64, ..hot },
            Shape { fate: Fate::Denied, ..hot },
        ] {
            let numbers = (0..200).chain([4095, 4096, 16_383, 16_384, 65_536, (1 << 20) - 1]);
            let all: Vec<_> = numbers.map(|n| checked(&shape, n)).collect();
            let different: HashSet<_> = all.iter().collect();
            assert_eq!(different.len(), all.len(), "{shape:?}");
        }
        let listen = |fate| checked(&Shape { fate, ..hot }, 0).2;
        assert_eq!(listen(Fate::Relayed), FIRST_PORT);
        assert!(listen(Fate::Unheard) < FIRST_PORT);
        assert_eq!(checked(&hot, 70_000).0, ends(70_000).0.octets());
    }

    #[test]
    fn a_round_of_visits_meets_each_number_once_and_not_in_order() {
        for count in [1, 2, 1000, 4096] {
            let mut visits = Visits::new(count);
            let round: Vec<u32> = (0..count).map(|_| visits.next()).collect();
            assert_eq!(round.iter().collect::<HashSet<_>>().len(), count as usize);
            if count < 1000 {
                continue;
            }
            let next_door = round.windows(2).filter(|w| w[0].abs_diff(w[1]) == 1).count();
            assert!(next_door * 10 <= round.len(), "{next_door} of {count}");
        }
    }
}
