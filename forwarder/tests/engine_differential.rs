//! The engine beside the plain reference over a million packets, good, odd and hostile, of connections of all kinds: every
//! packet leaves by the same port with the same bytes in the same order, or is dropped for the same reason.
//!
//! `S2_PACKETS` says how many packets there are (a million), `S2_SEED` what the first round begins with (0). A difference is
//! reported with the packet and the seed of its round. Source ports are drawn at random whatever the seed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::IpAddr;
use std::str::FromStr;

use common::differential::Differential;
use common::packet::{
    ACK, Body, FIN, PSH, RST, SYN, VLANS, extend, fix_ip4, fix_transport, fragments, gw_mac, icmp_frame,
    swapped, tcp,
};
use common::reference::{Model, Verdict};
use common::{Conn, LAN, Rig, SMALL, TAG, WAN, flow};
use forwarder::api::{FlowSpec, Proto};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Packets in a round: a new rig, new connections, a seed of its own.
const ROUND: u64 = 50_000;
/// A burst of the engine is 32, so some here are two.
const MOST_AT_ONCE: usize = 48;

/// Ports of the two sides, and whether over IPv6. The last ones are of clients behind a router.
const PATHS: [(u8, u8, bool); 10] = [
    (LAN, WAN, false),
    (LAN, WAN, true),
    (TAG, LAN, false),
    (TAG, LAN, true),
    (LAN, TAG, false),
    (LAN, TAG, true),
    (TAG, SMALL, false),
    (LAN, SMALL, true),
    (WAN, LAN, false),
    (WAN, SMALL, false),
];
const ROUTED: usize = 8;

fn host(port: u8, v6: bool, last: u8) -> String {
    if v6 { format!("[fd00:{port}::{last}]") } else { format!("10.{port}.0.{last}") }
}

/// A flow for each path and protocol. Its number is part of both its ports, so that flows share addresses but no tuples.
fn flows() -> Vec<FlowSpec> {
    let mut flows = Vec::new();
    for (n, (port, out, v6)) in PATHS.into_iter().enumerate() {
        // Allowed are two hosts, and such as live elsewhere or nowhere: reverse path, no route.
        let from = match (v6, n >= ROUTED) {
            (true, _) => format!("fd00:{port}::2/127,fd00:9::/64"),
            (false, false) => format!("10.{port}.0.2/31,192.168.0.0/16,172.16.0.0/12"),
            (false, true) => "192.168.0.0/16".into(),
        };
        for proto in [Proto::Udp, Proto::Tcp] {
            let listen = format!("{}:{}", host(port, v6, 1), 5000 + n);
            let target = format!("{}:{}", host(out, v6, 2), 6000 + n);
            flows.push(flow(&format!("{proto:?}{n}").to_lowercase(), proto, &listen, &target, &from));
        }
    }
    flows
}

/// The flows, with two connections of each.
fn warm() -> (Rig, Vec<Conn>) {
    // So long that no connection expires while `Differential::settle` waits.
    let timers = "[timers]\nudp = 80000\ntcp_established = 80000\ntcp_transitory = 80000\n";
    let mut rig = Rig::new(timers);
    let flows = flows();
    for spec in &flows {
        rig.add(spec.clone());
    }
    rig.advance(1000);
    let mut conns = Vec::new();
    for (n, (port, out, v6)) in PATHS.into_iter().enumerate() {
        for proto in [Proto::Udp, Proto::Tcp] {
            // The second one's port begins with the byte of a neighbor solicitation.
            for (last, client_port) in [(2, 4000), (3, 0x8700)] {
                let client = if n >= ROUTED { format!("192.168.7.{last}") } else { host(port, v6, last) };
                let client = format!("{client}:{client_port}");
                let spec = &flows[2 * n + usize::from(proto == Proto::Tcp)];
                let (listen, target) = (spec.listen.to_string(), spec.target.to_string());
                conns.push(match proto {
                    Proto::Tcp => rig.establish(port, &client, &listen, out, &target),
                    Proto::Udp => rig.open(proto, port, &client, &listen, out, &target),
                });
            }
        }
    }
    (rig, conns)
}

/// Good packets of a connection, both ways.
fn good(conn: &Conn) -> Vec<(u8, Vec<u8>)> {
    let bodies = match conn.proto {
        Proto::Udp => vec![Body::Udp { checksum: true }, Body::Udp { checksum: conn.client.is_ipv6() }],
        Proto::Tcp => {
            let options = vec![1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8];
            vec![tcp(ACK), tcp(PSH | ACK), Body::Tcp { flags: ACK, seq: u32::MAX, ack: 0, options }]
        }
    };
    let mut packets = Vec::new();
    for body in bodies {
        for len in [0, 1, 2, 6, 7, 18, 64, 129] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8 ^ 0x5a).collect();
            packets.push((conn.port, conn.by_client(body.clone(), &payload).build()));
            packets.push((conn.out, conn.by_target(body.clone(), &payload).build()));
        }
    }
    packets
}

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn percent(&mut self, n: usize) -> bool {
        self.below(100) < n
    }

    fn byte(&mut self) -> u8 {
        self.0.next_u32() as u8
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// A frame being spoiled. Offsets are read from it again and again: it changes. Writes beyond its end are lost.
struct Frame(Vec<u8>);

impl Frame {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn at(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn be(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.at(at), self.at(at + 1)])
    }

    fn add(&mut self, at: usize, by: i16) {
        let sum = self.be(at).wrapping_add_signed(by);
        self.put(at, &sum.to_be_bytes());
    }

    fn insert(&mut self, at: usize, bytes: &[u8]) {
        let at = at.min(self.0.len());
        self.0.splice(at..at, bytes.iter().copied());
    }

    fn l3(&self) -> usize {
        if self.be(12) == 0x8100 { 18 } else { 14 }
    }

    fn v6(&self) -> bool {
        self.be(self.l3() - 2) == 0x86dd
    }

    fn l4(&self) -> usize {
        self.l3() + if self.v6() { 40 } else { usize::from(self.at(self.l3()) & 15) * 4 }
    }

    fn protocol_at(&self) -> usize {
        self.l3() + if self.v6() { 6 } else { 9 }
    }

    fn is_tcp(&self) -> bool {
        self.at(self.protocol_at()) == 6
    }

    fn l4_checksum_at(&self) -> usize {
        self.l4() + if self.is_tcp() { 16 } else { 6 }
    }

    fn fix_ip4(&mut self) {
        let l3 = self.l3();
        if !self.v6() && self.l4() >= l3 + 20 && self.l4() <= self.0.len() {
            fix_ip4(&mut self.0, l3);
        }
    }

    fn fix_transport(&mut self) {
        let l3 = self.l3();
        if matches!(self.at(self.protocol_at()), 6 | 17) {
            fix_transport(&mut self.0, l3);
        }
    }

    /// Changes the word at `at` so that a checksum over it that is `now` becomes `want` (RFC 1071: sums are modulo 0xffff).
    fn tune(&mut self, at: usize, now: u16, want: u16) {
        let word = (u32::from(self.be(at)) + 0xffff + u32::from(now) - u32::from(want)) % 0xffff;
        self.put(at, &(word as u16).to_be_bytes());
    }
}

/// What no defect is: fields that the relay passes on or changes by rule.
fn vary(f: &mut Frame, r: &mut Random) {
    let l3 = f.l3();
    let ttl = r.pick(&[2, 3, 64, 128, 255]);
    if f.v6() {
        f.put(l3 + 7, &[ttl]);
        f.put(l3, &[0x60 | r.byte() & 15, r.byte(), r.byte(), r.byte()]);
    } else {
        f.put(l3 + 8, &[ttl]);
        f.put(l3 + 1, &[r.byte()]);
        f.put(l3 + 4, &[r.byte(), r.byte(), r.pick(&[0, 0x40, 0x80, 0xc0])]);
    }
    if f.is_tcp() {
        let l4 = f.l4();
        f.put(l4 + 4, &r.bytes(8));
        f.put(l4 + 14, &r.bytes(2));
        f.put(l4 + 18, &r.bytes(2));
    }
    let payload = f.l4_checksum_at() + if f.is_tcp() { 4 } else { 2 };
    if !f.is_tcp() {
        let n = f.0.len().saturating_sub(payload);
        f.put(payload, &r.bytes(n));
    }
    let no_checksum = !f.is_tcp() && f.be(f.l4_checksum_at()) == 0;
    f.fix_ip4();
    if !no_checksum {
        f.fix_transport();
    }
}

const MACS: [[u8; 6]; 6] =
    [[0; 6], [0xff; 6], [0x33, 0x33, 0, 0, 0, 1], [1, 0, 0x5e, 0, 0, 1], [2; 6], [3; 6]];
const IPV4: [[u8; 4]; 24] = [
    [0; 4],
    [0, 1, 2, 3],
    [127, 0, 0, 1],
    [169, 254, 3, 4],
    [224, 0, 0, 5],
    [240, 0, 0, 1],
    [255; 4],
    [10, 0, 0, 1],
    [10, 1, 0, 1],
    [10, 2, 0, 1],
    [10, 3, 0, 1],
    [10, 0, 0, 0],
    [10, 0, 0, 255],
    [10, 2, 0, 255],
    [10, 0, 0, 2],
    [10, 0, 0, 3],
    [10, 1, 0, 2],
    [10, 2, 0, 3],
    [10, 0, 0, 9],
    [192, 168, 7, 9],
    [192, 168, 0, 0],
    [172, 16, 0, 5],
    [10, 99, 0, 1],
    [239, 255, 255, 250],
];
const IPV6: [&str; 18] = [
    "::",
    "::1",
    "::ffff:10.0.0.2",
    "fe80::2",
    "fe80::ff:fe00:1",
    "fe80::ff:fe00:2",
    "ff02::1",
    "ff0e::1234",
    "fd00:0::1",
    "fd00:1::1",
    "fd00:2::1",
    "fd00:0::2",
    "fd00:0::3",
    "fd00:2::2",
    "fd00:0::9",
    "fd00:9::1",
    "fd00:1::2",
    "2001:db8::1",
];

/// One defect, or what looks like one.
fn spoil(f: &mut Frame, r: &mut Random, port: u8, model: &Model) {
    let (l3, l4, v6) = (f.l3(), f.l4(), f.v6());
    let length_at = l3 + if v6 { 4 } else { 2 };
    match r.below(29) {
        0 => f.put(0, &r.pick(&MACS)),
        1 => f.put(0, &gw_mac(r.below(4) as u8)),
        2 => f.put(6, &r.pick(&MACS)),
        3 => f.put(6, &gw_mac(port)),
        // Tags: priority, the port's, another; one more, or none.
        4 => {
            let id = r.pick(&[0, VLANS[usize::from(port)].unwrap_or(30), 30, 31, 40, 4095]);
            let tci = (id | u16::from(r.byte()) << 8 & 0xf000).to_be_bytes();
            if l3 == 18 && r.percent(70) {
                f.put(14, &tci);
            } else {
                let kind = r.pick(&[[0x81, 0], [0x81, 0], [0x88, 0xa8], [0x88, 0]]);
                f.insert(12, &[kind[0], kind[1], tci[0], tci[1]]);
            }
        }
        5 if l3 == 18 => drop(f.0.drain(12..16.min(f.0.len()))),
        5 => f.put(12, &r.pick(&[[0x81, 0x00], [0x88, 0xa8], [0x91, 0x00]])),
        6 => {
            let known =
                [[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0], [0x88, 0xa8], [0, 46], [0x88, 0xcc], [6, 0]];
            f.put(l3 - 2, &r.pick(&known));
        }
        7 => f.put(l3, &[r.byte() & 0xf0 | f.at(l3) & 15]),
        8 => f.put(l3, &[f.at(l3) & 0xf0 | r.byte() & 15]),
        9 => f.add(length_at, r.pick(&[-40, -21, -20, -13, -12, -8, -7, -2, -1, 1, 2, 4, 8, 20, 64])),
        10 => f.put(length_at, &r.pick(&[[0, 0], [0, 8], [0, 19], [0, 20], [0, 28], [0, 40], [0xff, 0xff]])),
        11 if v6 => f.put(l3 + 6, &[r.pick(&[0, 43, 44, 60, 50, 51, 59, 135])]),
        11 => f.put(
            l3 + 6,
            &r.pick(&[[0x20, 0], [0x20, 0x10], [0, 0x10], [0, 1], [0x60, 0], [0x80, 0], [0x40, 1]]),
        ),
        12 => f.put(l3 + if v6 { 7 } else { 8 }, &[r.pick(&[0, 1, 2, 255])]),
        13 => f.put(l3 + 10, &r.pick(&[[0, 0], [0xff, 0xff], [0x12, 0x34], [f.at(l3 + 11), f.at(l3 + 10)]])),
        14 => f.put(f.protocol_at(), &[r.pick(&[0, 1, 2, 4, 6, 17, 41, 47, 50, 58, 132, 136, 255])]),
        15 => f.put(l4 + 12, &[r.byte()]),
        16 => {
            let flag = [FIN, SYN, RST, SYN | FIN, SYN | RST, SYN | ACK, FIN | ACK, RST | ACK, 0, 0xff, 0xc2];
            f.put(l4 + 13, &[r.pick(&flag)]);
        }
        // A datagram shorter than its packet is right; any other length is not.
        17 => f.add(l4 + 4, r.pick(&[-64, -9, -8, -2, -1, 1, 2, 8, 600])),
        18 => f.put(l4 + 4, &r.pick(&[[0, 0], [0, 7], [0, 8], [0, 9], [0xff, 0xff]])),
        19 => f.put(f.l4_checksum_at(), &r.pick(&[[0, 0], [0xff, 0xff], [0xab, 0xcd], [0, 1]])),
        20 if v6 => {
            let next = f.at(l3 + 6);
            let header = r.pick(&[
                [next, 0, 1, 4, 0, 0, 0, 0],
                [next, 0, 0, 0, 0, 0, 0, 9],
                [next, 0, 0, 1, 0, 0, 0, 9],
                [next, 0, 1, 0x68, 0, 0, 0, 9],
                [next, 1, 1, 4, 0, 0, 0, 0],
                [next, 9, 1, 4, 0, 0, 0, 0],
            ]);
            f.insert(l3 + 40, &header);
            f.put(l3 + 6, &[r.pick(&[0, 43, 44, 60])]);
            f.add(length_at, 8);
        }
        20 => {
            let options: &[u8] = r.pick(&[
                &[1, 1, 1, 1][..],
                &[0, 0, 0, 0],
                &[0, 7, 0, 0],
                &[148, 4, 0, 0],
                &[7, 7, 4, 0, 0, 0, 0, 0],
                &[68, 8, 5, 0, 0, 0, 0, 0],
                &[131, 7, 4, 1, 2, 3, 4, 0],
                &[1, 137, 3, 4],
                &[7, 0, 0, 0],
                &[7, 1, 0, 0],
                &[7, 5, 0, 0],
                &[1, 1, 1, 7],
                &[1, 1, 1, 131],
                &[0, 131, 3, 4],
                &[82, 12, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            ]);
            f.insert(l3 + 20, options);
            f.put(l3, &[f.at(l3).wrapping_add(options.len() as u8 / 4)]);
            f.add(length_at, options.len() as i16);
        }
        21 => f.0.truncate(r.below(f.0.len() + 1)),
        22 => {
            let n = r.pick(&[1, 2, 3, 18, 46]);
            f.0.extend(r.bytes(n));
        }
        // To just what an MTU takes, and beyond.
        23 => {
            let to = l3 + r.pick(&[1279, 1280, 1281, 1499, 1500, 1501]);
            if f.0.len() < to {
                f.0.resize(to, 7);
                if r.percent(60) {
                    let total = to - l3;
                    f.put(length_at, &((if v6 { total - 40 } else { total }) as u16).to_be_bytes());
                    if !f.is_tcp() {
                        f.put(l4 + 4, &((to - l4.min(to)) as u16).to_be_bytes());
                    }
                }
            }
        }
        24 => {
            let destination = r.percent(40);
            if v6 {
                let address = std::net::Ipv6Addr::from_str(r.pick(&IPV6)).unwrap();
                f.put(l3 + if destination { 24 } else { 8 }, &address.octets());
            } else {
                f.put(l3 + if destination { 16 } else { 12 }, &r.pick(&IPV4));
            }
        }
        25 => {
            let port = r.pick(&[0, 1, 4000, 4001, 0x8700, 0x8800, 5000, 5001, 5002, 6000, 40_000, 65_535]);
            f.put(l4 + 2 * r.below(2), &u16::to_be_bytes(port));
        }
        26 => {
            let bit = r.below(8 * f.0.len().clamp(1, 80));
            f.put(bit / 8, &[f.at(bit / 8) ^ 1 << (bit % 8)]);
        }
        27 => {
            let at = r.below(f.0.len().clamp(1, 80));
            f.put(at, &[r.byte()]);
        }
        _ => tune(f, r, port, model),
    }
}

/// Right packets whose checksums are at the edges of ones' complement arithmetic, on the way in or on the way out.
fn tune(f: &mut Frame, r: &mut Random, port: u8, model: &Model) {
    let (l3, sum_at, v6) = (f.l3(), f.l4_checksum_at(), f.v6());
    let want = r.pick(&[0, 0xffff, 1, 0xfffe]);
    let of_ip = !v6 && r.percent(50);
    // A word that says nothing: identification, sequence number, or data.
    let (at, word) = match (of_ip, f.is_tcp()) {
        (true, _) => (l3 + 10, l3 + 4),
        (false, true) => (sum_at, f.l4() + 6),
        (false, false) => (sum_at, f.l4() + 8),
    };
    if f.0.len() < word + 2 {
        return;
    }
    f.fix_ip4();
    f.fix_transport();
    if r.percent(50) {
        f.tune(word, f.be(at), want);
    } else if let Verdict::Relay(out, sent) = model.judge(port, &f.0) {
        let shift = usize::from(VLANS[usize::from(out)].is_some()) * 4 + 14;
        let at = at + shift - l3;
        f.tune(word, u16::from_be_bytes([sent.frame[at], sent.frame[at + 1]]), want);
    }
    f.fix_ip4();
    f.fix_transport();
    // Both are right, and mean the same (RFC 1071), but for UDP, where 0 is no checksum.
    if of_ip && f.be(l3 + 10) == 0 && r.percent(50) {
        f.put(l3 + 10, &[0xff; 2]);
    }
}

fn packet(good: &[Vec<u8>], r: &mut Random, port: u8, model: &Model) -> Vec<u8> {
    let mut f = Frame(good[r.below(good.len())].clone());
    vary(&mut f, r);
    if r.percent(30) {
        return f.0;
    }
    for _ in 0..r.pick(&[1, 1, 1, 2, 3]) {
        spoil(&mut f, r, port, model);
    }
    if r.percent(75) {
        f.fix_ip4();
    }
    if r.percent(30) {
        f.fix_transport();
    }
    f.0
}

/// An ICMP error about a packet that the gateway sent, as a rule: it quotes `about`, a packet that came, with its ends swapped.
fn error(about: &[u8], r: &mut Random, port: u8) -> Vec<u8> {
    let mut quote = swapped(about);
    let v6 = quote[0] >> 4 == 6;
    let address = |ip: &[u8], at: usize| -> IpAddr {
        if v6 {
            <[u8; 16]>::try_from(&ip[at..at + 16]).unwrap().into()
        } else {
            <[u8; 4]>::try_from(&ip[at..at + 4]).unwrap().into()
        }
    };
    let (ours, theirs) = if v6 { (8, 24) } else { (12, 16) };
    let (us, them) = (address(&quote, ours), address(&quote, theirs));
    // From the host itself, or from a router on the way to it.
    let router = match r.below(3) {
        0 => them,
        1 if v6 => "2001:db8::9".parse().unwrap(),
        1 => "198.51.100.9".parse().unwrap(),
        _ if v6 => format!("fd00:{port}::fe").parse().unwrap(),
        _ => format!("10.{port}.0.254").parse().unwrap(),
    };
    let header = if v6 { 40 } else { 20 };
    let mut fix = r.percent(90);
    match r.below(16) {
        // What the sender wrote is changed on the way, or somebody made it up.
        0 => quote[header + 4 + r.below(4)] ^= 1 << r.below(8),
        1 => quote[header + 1 + 2 * r.below(2)] ^= 0x40,
        2 => quote[header - 1 - r.below(8)] ^= 1,
        3 => quote[if v6 { 6 } else { 9 }] = r.pick(&[1, 6, 17, 58, 44, 60]),
        4 if !v6 => quote[6..8].copy_from_slice(&r.pick(&[[0x20, 0], [0, 1], [0x40, 0], [0x20, 8]])),
        4 => {
            let at =
                r.pick(&[[6, 0, 1, 4, 0, 0, 0, 0], [17, 0, 0, 1, 0, 0, 0, 9], [17, 0, 0, 8, 0, 0, 0, 9]]);
            quote.splice(40..40, at);
            quote[6] = r.pick(&[44, 60]);
        }
        5 if !v6 => {
            quote.splice(20..20, [148, 4, 0, 0]);
            quote[0] = 0x46;
        }
        6 => quote[if v6 { 5 } else { 3 }] = r.byte(),
        7 => quote[r.below(header + 8)] ^= 1 << r.below(8),
        8 => fix = false,
        _ => {}
    }
    if !v6 && fix && quote.len() >= usize::from(quote[0] & 15) * 4 && quote[0] & 15 >= 5 {
        fix_ip4(&mut quote, 0);
    }
    let l4 = if v6 { 40 } else { 20 };
    match r.below(5) {
        0 => quote.truncate(l4 + 8),
        1 => quote.truncate(l4 + r.below(24)),
        2 => quote.extend([0; 6]),
        _ => {}
    }
    let mut rest = [0, 0, r.byte(), r.byte()];
    // Extensions (RFC 4884), and lengths that are none.
    if r.percent(20) {
        let unit = if v6 { 8 } else { 4 };
        let length = if r.percent(70) { 128 } else { r.pick(&[8, 64, 120, 136, 1000]) };
        quote.resize(quote.len().max(128), 0);
        quote.truncate(128);
        quote.extend([0x20, 0, 0, 0, 0, 8, 1, 1, 1, 2, 3, 4]);
        rest[usize::from(!v6)] = (length / unit) as u8;
    }
    let kind =
        if v6 { r.pick(&[1, 2, 3, 4, 1, 2, 3, 4, 5, 0]) } else { r.pick(&[3, 11, 12, 3, 11, 12, 4, 5]) };
    let head = [kind, r.below(6) as u8, rest[0], rest[1], rest[2], rest[3]];
    let macs = (gw_mac(port), [2, 0, 0, 0, 0, 9]);
    let ttl = r.pick(&[1, 2, 61, 64, 64, 64, 64, 255]);
    let to = if r.percent(95) { us } else { them };
    let mut frame = icmp_frame(macs, port, router, to, (ttl, 0xc0), head, &quote);
    if r.percent(10) {
        let at = r.below(frame.len());
        frame[at] ^= 1 << r.below(8);
    }
    if r.percent(10) {
        frame.extend(r.bytes(9));
    }
    frame
}

/// A datagram in fragments, in some order, with one defect now and then.
fn fragmented(good: &[u8], r: &mut Random) -> Vec<Vec<u8>> {
    let mut f = Frame(good.to_vec());
    let (l3, l4, v6) = (f.l3(), f.l4(), f.v6());
    let longer = r.pick(&[0, 16, 100, 1400, 2900]);
    f.0.resize(f.0.len() + longer, 0x5a);
    let len = f.0.len() - l4;
    let total = ((if v6 { len } else { l4 - l3 + len }) as u16).to_be_bytes();
    f.put(l3 + if v6 { 4 } else { 2 }, &total);
    if !f.is_tcp() {
        f.put(l4 + 4, &(len as u16).to_be_bytes());
    }
    f.fix_transport();
    if !v6 {
        f.put(l3 + 6, &[if r.percent(20) { 0x40 } else { 0 }]);
    }
    // The first fragment has the header as a rule.
    let least = if r.percent(90) { f.l4_checksum_at() - l4 + 20 } else { 8 };
    let mut cuts: Vec<usize> = (0..r.below(4)).map(|_| (least + r.below(len)) / 8 * 8).collect();
    // No longer than a frame is.
    cuts.extend((1..3).map(|n| n * 1400));
    cuts.retain(|cut| *cut < len);
    cuts.sort_unstable();
    cuts.dedup();
    let id = r.0.next_u32();
    let mut pieces = fragments(&f.0, &cuts, id);
    if !v6 && r.percent(10) {
        for piece in &mut pieces {
            let mut f = Frame(std::mem::take(piece));
            f.insert(l3 + 20, &[7, 3, 4, 148, 4, 0, 0, 1]);
            f.put(l3, &[0x47]);
            f.add(l3 + 2, 8);
            f.fix_ip4();
            *piece = f.0;
        }
    }
    if v6 && r.percent(20) {
        let options = [0, 0, 1, 4, 0, 0, 0, 0];
        pieces = pieces.iter().map(|f| extend(f, 60, &options)).collect();
    }
    let at = r.below(pieces.len());
    match r.below(12) {
        0 => pieces.push(pieces[at].clone()),
        1 => drop(pieces.remove(at)),
        // Other bytes in the same place, more or fewer, or a part of them elsewhere.
        2 => {
            let other = fragments(&f.0, &[r.below(len).max(8) / 8 * 8], id);
            pieces.extend(other.into_iter().filter(|f| f.len() < 1514));
        }
        3 => {
            let mut f = Frame(pieces[at].clone());
            f.add(l3 + if v6 { 42 } else { 6 }, r.pick(&[1, -1, 8, -8, 0x1000]));
            f.fix_ip4();
            pieces.push(f.0);
        }
        4 => {
            let mut f = Frame(pieces[at].clone());
            spoil_length(&mut f, r);
            pieces[at] = f.0;
        }
        _ => {}
    }
    if r.percent(60) {
        for n in (1..pieces.len()).rev() {
            pieces.swap(n, r.below(n + 1));
        }
    }
    pieces.retain(|f| f.len() <= 1600);
    pieces
}

fn spoil_length(f: &mut Frame, r: &mut Random) {
    let (l3, v6) = (f.l3(), f.v6());
    f.add(l3 + if v6 { 4 } else { 2 }, r.pick(&[-8, -1, -16]));
    f.fix_ip4();
}

/// Packets and bytes that the forwarder has counted for all flows.
fn counted(rig: &mut Rig) -> (u64, u64) {
    let (mut packets, mut bytes) = (0, 0);
    for spec in flows() {
        let flow = rig.flow(&spec.name);
        packets += flow.to_target.packets + flow.to_client.packets;
        bytes += flow.to_target.bytes + flow.to_client.bytes;
    }
    (packets, bytes)
}

fn env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.replace('_', "").parse().unwrap())
}

/// Drop reasons that the packets here must have brought about, so that none of them is compared in vain.
const REASONS: [&str; 39] = [
    "eth_truncated",
    "vlan_mismatch",
    "not_for_us",
    "ethertype_unknown",
    "arp_malformed",
    "nd_malformed",
    "nd_ignored",
    "ip_truncated",
    "ip_bad_version",
    "ip_bad_header_length",
    "ip_bad_length",
    "ip_bad_checksum",
    "ip_options",
    "ipv6_extension",
    "fragment_malformed",
    "fragment_tiny",
    "fragment_overlap",
    "fragment_timeout",
    "martian_source",
    "multicast_source",
    "land",
    "looped",
    "multicast_destination",
    "not_our_address",
    "ttl_expired",
    "protocol_unsupported",
    "l4_truncated",
    "tcp_malformed",
    "udp_bad_length",
    "udp_no_checksum",
    "port_zero",
    "icmp_malformed",
    "icmp_other",
    "icmp_unmatched",
    "no_flow",
    "source_denied",
    "tcp_no_connection",
    "no_route",
    "too_big",
];

#[test]
fn the_engine_does_what_the_reference_says() {
    let (packets, seed) = (env("S2_PACKETS", 1_000_000), env("S2_SEED", 0));
    let (mut relayed, mut dropped, mut opened) = (0, 0, 0);
    let mut reasons = std::collections::BTreeSet::new();
    let (mut told, mut errors, mut cut, mut pieces) = (0, 0, 0, 0);
    for seed in seed..seed + packets.div_ceil(ROUND) {
        let mut r = Random(ChaCha8Rng::seed_from_u64(seed));
        let (rig, conns) = warm();
        let mut good_at: [Vec<Vec<u8>>; 4] = Default::default();
        for (port, frame) in conns.iter().flat_map(good) {
            good_at[usize::from(port)].push(frame);
        }
        let mut test = Differential::new(rig, flows(), &conns);
        test.context = format!("S2_SEED={seed} S2_PACKETS={ROUND}\n");
        let (packets_before, bytes_before) = counted(&mut test.rig);
        let mut left = ROUND as usize;
        // Fragments under way.
        let mut under_way: [Vec<Vec<u8>>; 4] = Default::default();
        while left > 0 {
            let port = r.below(4) as u8;
            let most = r.pick(&[1, 4, 32, MOST_AT_ONCE]);
            let n = (1 + r.below(most)).min(left);
            left -= n;
            let good = &good_at[usize::from(port)];
            let under_way = &mut under_way[usize::from(port)];
            let burst: Vec<_> = (0..n)
                .map(|_| match r.below(1000) {
                    0..6 if under_way.len() < 20 => {
                        under_way.extend(fragmented(&good[r.below(good.len())], &mut r));
                        packet(good, &mut r, port, &test.model)
                    }
                    6..300 if !under_way.is_empty() => under_way.remove(0),
                    300..400 => error(&good[r.below(good.len())], &mut r, port),
                    _ => packet(good, &mut r, port, &test.model),
                })
                .collect();
            test.run(port, &burst);
        }
        let (packets_now, bytes_now) = counted(&mut test.rig);
        let both = (packets_now - packets_before, bytes_now - bytes_before);
        assert_eq!(both, (test.relayed, test.relayed_bytes), "{}counted for flows", test.context);
        test.settle();
        test.rig.balance();
        relayed += test.relayed;
        dropped += test.dropped;
        opened += test.opened;
        (told, errors) = (told + test.told, errors + test.errors);
        (cut, pieces) = (cut + test.cut, pieces + test.pieces);
        reasons.extend(test.reasons);
    }
    println!("{relayed} relayed, {dropped} dropped, {opened} opened; {reasons:?}");
    println!("{told} told, {errors} errors passed on, {cut} cut, {pieces} fragments passed");
    // A run in which hardly anything passes, or hardly anything is dropped, would say little.
    assert!(relayed > packets / 4 && dropped > packets / 4 && opened > packets / 1000);
    let rare = [told, errors, cut, pieces];
    assert!(rare.iter().all(|n| *n > packets / 5000), "told, errors, cut, fragments: {rare:?}");
    let missing: Vec<_> = REASONS.iter().filter(|reason| !reasons.contains(*reason)).collect();
    assert!(missing.is_empty() || packets < 1_000_000, "never seen: {missing:?}");
}
