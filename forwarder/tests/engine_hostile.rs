//! Packets that nobody honest sends. Each is dropped under its own reason; whatever is done to a packet, nothing comes out
//! but what a plain and slow model of the relay says must come out, and nothing is lost on the way.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;

use common::differential::Differential;
use common::packet::{ACK, Body, FIN, PSH, Packet, RST, SYN, addr, fix_ip4, gw_mac, read, tcp};
use common::reference::{Model, Verdict};
use common::{Conn, LAN, Rig, SMALL, TAG, WAN, flow, since};
use etherparse::{IpNumber, PacketBuilder};
use forwarder::api::{FlowSpec, Proto};
use forwarder::engine::DropReason;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn flows() -> Vec<FlowSpec> {
    let hosts = "10.0.0.2/32,10.0.0.3/32";
    vec![
        flow("udp4", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", hosts),
        flow("tcp4", Proto::Tcp, "10.0.0.1:5000", "10.1.0.2:6000", hosts),
        flow("udp6", Proto::Udp, "[fd00:0::1]:5000", "[fd00:1::2]:6000", "fd00::2/128"),
        flow("tcp6", Proto::Tcp, "[fd00:0::1]:5000", "[fd00:1::2]:6000", "fd00::2/128"),
        flow("tag-udp4", Proto::Udp, "10.2.0.1:5000", "10.0.0.2:6000", "10.2.0.2/32"),
        flow("tag-tcp6", Proto::Tcp, "[fd00:2::1]:5000", "[fd00:3::2]:6000", "fd00:2::2/128"),
        flow("narrow", Proto::Udp, "10.0.0.1:5001", "10.3.0.2:6000", hosts),
    ]
}

/// So long that no connection expires while [`Differential::settle`] waits.
const TIMERS: &str = "[timers]\nudp = 80000\ntcp_established = 80000\ntcp_transitory = 80000\n";

/// The flows, and one connection of each, in order.
fn warm() -> (Rig, Vec<Conn>) {
    let mut rig = Rig::new(TIMERS);
    for spec in flows() {
        rig.add(spec);
    }
    rig.advance(1000);
    let conns = vec![
        rig.open(Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000"),
        rig.establish(LAN, "10.0.0.2:4000", "10.0.0.1:5000", WAN, "10.1.0.2:6000"),
        rig.open(Proto::Udp, LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5000", WAN, "[fd00:1::2]:6000"),
        rig.establish(LAN, "[fd00:0::2]:4000", "[fd00:0::1]:5000", WAN, "[fd00:1::2]:6000"),
        rig.open(Proto::Udp, TAG, "10.2.0.2:4000", "10.2.0.1:5000", LAN, "10.0.0.2:6000"),
        rig.establish(TAG, "[fd00:2::2]:4000", "[fd00:2::1]:5000", SMALL, "[fd00:3::2]:6000"),
        rig.open(Proto::Udp, LAN, "10.0.0.2:4000", "10.0.0.1:5001", SMALL, "10.3.0.2:6000"),
    ];
    (rig, conns)
}

const DATA: &[u8] = b"0123";

fn body(proto: Proto) -> Body {
    if proto == Proto::Tcp { tcp(PSH | ACK) } else { Body::Udp { checksum: true } }
}

/// Every packet begins as one that passes: from the client of connection `conn` of [`warm`].
struct Case {
    name: String,
    port: u8,
    frame: Vec<u8>,
    reason: DropReason,
}

struct Cases(Vec<Case>);

impl Cases {
    fn raw(&mut self, name: impl Into<String>, port: u8, frame: Vec<u8>, reason: DropReason) {
        self.0.push(Case { name: name.into(), port, frame, reason });
    }

    /// A frame of `conn` whose bytes are changed; the IPv4 header checksum is made right again.
    fn bytes(
        &mut self,
        name: impl Into<String>,
        conn: &Conn,
        reason: DropReason,
        change: impl Fn(&mut Vec<u8>),
    ) {
        let packet = conn.by_client(body(conn.proto), DATA);
        let mut frame = packet.build();
        change(&mut frame);
        let l3 = packet.l3();
        if conn.client.is_ipv4() && frame[l3] & 15 >= 5 && frame.len() >= l3 + usize::from(frame[l3] & 15) * 4
        {
            fix_ip4(&mut frame, l3);
        }
        self.raw(name, conn.port, frame, reason);
    }

    /// A packet of `conn` that says something else; all checksums are right.
    fn fields(
        &mut self,
        name: impl Into<String>,
        conn: &Conn,
        reason: DropReason,
        change: impl Fn(&mut Packet),
    ) {
        let mut packet = conn.by_client(body(conn.proto), DATA);
        change(&mut packet);
        self.raw(name, conn.port, packet.build(), reason);
    }
}

fn cases(conns: &[Conn]) -> Vec<Case> {
    use DropReason::*;
    let [udp4, tcp4, udp6, tcp6, tag4, tag6, narrow] = conns else { panic!() };
    let mut c = Cases(Vec::new());

    for conn in [udp4, tcp4, tag4] {
        let l3 = if conn.port == TAG { 18 } else { 14 };
        c.bytes("version 5", conn, IpBadVersion, |f| f[l3] = 0x55);
        c.bytes("version 6 as ipv4", conn, IpBadVersion, |f| f[l3] = 0x65);
        c.bytes("header length 16", conn, IpBadHeaderLength, |f| f[l3] = 0x44);
        c.bytes("header length 0", conn, IpBadHeaderLength, |f| f[l3] = 0x40);
        c.bytes("header longer than the frame", conn, IpTruncated, |f| {
            f[l3] = 0x4f;
            f.truncate(l3 + 56);
        });
        c.bytes("header longer than the packet", conn, IpBadLength, |f| {
            f[l3] = 0x4f;
            f.resize(l3 + 60, 0);
        });
        for n in [0, 1, 19] {
            c.bytes(format!("total length {n}"), conn, IpBadLength, |f| {
                f[l3 + 2..l3 + 4].copy_from_slice(&[0, n])
            });
        }
        c.bytes("total length one too many", conn, IpTruncated, |f| f[l3 + 3] += 1);
        c.bytes("total length 65535", conn, IpTruncated, |f| f[l3 + 2..l3 + 4].fill(0xff));
        for n in [20, 27] {
            c.bytes(format!("total length {n}"), conn, L4Truncated, |f| f[l3 + 3] = n);
        }
        for bit in 0..16 {
            let mut frame = conn.by_client(body(conn.proto), DATA).build();
            frame[l3 + 10 + bit / 8] ^= 1 << (bit % 8);
            c.raw(format!("checksum bit {bit}"), conn.port, frame, IpBadChecksum);
        }
        // What is a fragment by itself; `tests/engine_fragments.rs` has those that are none beside others.
        let place = |f: &mut Vec<u8>, flags: u8, offset: u16, len: u16| {
            f[l3 + 2..l3 + 4].copy_from_slice(&(20 + len).to_be_bytes());
            f[l3 + 6..l3 + 8].copy_from_slice(&(u16::from(flags) << 8 | offset).to_be_bytes());
            f.resize(l3 + 20 + usize::from(len), 0);
        };
        let least = if conn.proto == Proto::Tcp { 20 } else { 8 };
        c.bytes("first fragment, header cut", conn, FragmentTiny, |f| place(f, 0x20, 0, least - 1));
        c.bytes("first fragment, cut at no multiple of 8", conn, FragmentMalformed, |f| {
            place(f, 0x20, 0, 39)
        });
        c.bytes("middle fragment, cut at no multiple of 8", conn, FragmentMalformed, |f| {
            place(f, 0x20, 3, 39);
        });
        c.bytes("ping of death", conn, FragmentMalformed, |f| place(f, 0, 0x1fff, 8));
        c.bytes("last byte too many", conn, FragmentMalformed, |f| place(f, 0, 0x1ff0, 108));
        c.bytes("empty last fragment", conn, FragmentMalformed, |f| place(f, 0, 3, 0));
        if conn.proto == Proto::Tcp {
            for offset in [1, 2] {
                let name = format!("fragment at {offset} within the header");
                c.bytes(name, conn, FragmentTiny, |f| place(f, 0, offset, 40));
            }
            c.bytes("first fragment, options cut", conn, FragmentTiny, |f| {
                place(f, 0x20, 0, 24);
                f[l3 + 20 + 12] = 0x70;
            });
        }
        for ttl in [0, 1] {
            c.fields(format!("ttl {ttl}"), conn, TtlExpired, |p| p.ttl = ttl);
        }
        for protocol in [0, 2, 4, 41, 47, 50, 132, 255] {
            c.bytes(format!("protocol {protocol}"), conn, ProtocolUnsupported, |f| f[l3 + 9] = protocol);
        }
        c.fields("source port 0", conn, PortZero, |p| p.src.set_port(0));
        c.fields("destination port 0", conn, PortZero, |p| p.dst.set_port(0));
        let subnet = if conn.port == TAG { "10.2.0" } else { "10.0.0" };
        let sources = [
            ("0.0.0.0", MartianSource),
            ("0.1.2.3", MartianSource),
            ("127.0.0.1", MartianSource),
            ("169.254.3.4", MartianSource),
            ("240.0.0.1", MartianSource),
            ("224.0.0.1", MulticastSource),
            ("239.255.255.250", MulticastSource),
            ("255.255.255.255", MulticastSource),
            ("10.1.0.1", Looped),
            ("10.3.0.1", Looped),
        ];
        for (source, reason) in sources {
            c.fields(format!("source {source}"), conn, reason, |p| p.src.set_ip(source.parse().unwrap()));
        }
        for last in [0, 255] {
            c.fields(format!("source .{last}"), conn, MulticastSource, |p| {
                p.src.set_ip(format!("{subnet}.{last}").parse().unwrap());
            });
            c.fields(format!("destination .{last}"), conn, MulticastDestination, |p| {
                p.dst.set_ip(format!("{subnet}.{last}").parse().unwrap());
            });
        }
        c.fields("land", conn, Land, |p| p.src = p.dst);
        c.fields("land, other port", conn, Land, |p| p.src.set_ip(p.dst.ip()));
        for (destination, reason) in [
            ("224.0.0.5", MulticastDestination),
            ("255.255.255.255", MulticastDestination),
            ("10.1.0.1", NotOurAddress),
            ("10.99.0.1", NotOurAddress),
            ("127.0.0.1", NotOurAddress),
        ] {
            c.fields(format!("destination {destination}"), conn, reason, |p| {
                p.dst.set_ip(destination.parse().unwrap())
            });
        }
        let options: [(&str, &[u8]); 8] = [
            ("loose source route", &[131, 7, 4, 1, 2, 3, 4, 0]),
            ("strict source route", &[137, 7, 4, 1, 2, 3, 4, 0]),
            ("source route behind others", &[1, 1, 7, 3, 4, 131, 3, 4]),
            ("length 0", &[7, 0, 0, 0]),
            ("length 1", &[7, 1, 0, 0]),
            ("length beyond the header", &[7, 5, 0, 0]),
            ("no length", &[1, 1, 1, 7]),
            ("source route without length", &[1, 1, 1, 131]),
        ];
        for (name, bytes) in options {
            c.fields(name, conn, IpOptions, |p| p.ip_options = bytes.to_vec());
        }
    }

    for conn in [udp6, tcp6, tag6] {
        let l3 = if conn.port == TAG { 18 } else { 14 };
        c.bytes("version 4 as ipv6", conn, IpBadVersion, |f| f[l3] = 0x45);
        c.bytes("version 7", conn, IpBadVersion, |f| f[l3] = 0x70);
        c.bytes("payload one too long", conn, IpTruncated, |f| f[l3 + 5] += 1);
        c.bytes("payload 65535", conn, IpTruncated, |f| f[l3 + 4..l3 + 6].fill(0xff));
        c.bytes("payload 0", conn, L4Truncated, |f| f[l3 + 4..l3 + 6].fill(0));
        c.bytes("payload 7", conn, L4Truncated, |f| f[l3 + 5] = 7);
        for n in [0, 1] {
            c.fields(format!("hop limit {n}"), conn, TtlExpired, |p| p.ttl = n);
        }
        let inner = if conn.proto == Proto::Tcp { 6 } else { 17 };
        // Headers go in between, as a sender would write them.
        let chain = |f: &mut Vec<u8>, first: u8, headers: &[u8]| {
            f.splice(l3 + 40..l3 + 40, headers.iter().copied());
            f[l3 + 6] = first;
            let n = u16::from_be_bytes([f[l3 + 4], f[l3 + 5]]) + headers.len() as u16;
            f[l3 + 4..l3 + 6].copy_from_slice(&n.to_be_bytes());
        };
        for (name, next) in [("no next header", 59), ("esp", 50), ("authentication", 51), ("ipv4 inside", 4)]
        {
            c.bytes(name, conn, ProtocolUnsupported, |f| chain(f, next, &[inner, 0, 0, 0, 1, 2, 0, 0]));
        }
        c.bytes("a route to go", conn, Ipv6Extension, |f| chain(f, 43, &[inner, 0, 0, 1, 0, 0, 0, 0]));
        c.bytes("a route to go, last of three", conn, Ipv6Extension, |f| {
            let headers =
                [[60, 0, 1, 4, 0, 0, 0, 0], [43, 0, 1, 4, 0, 0, 0, 0], [inner, 0, 0, 9, 0, 0, 0, 0]];
            chain(f, 0, &headers.concat());
        });
        c.bytes("nine extension headers", conn, Ipv6Extension, |f| {
            let headers = [[60, 0, 1, 4, 0, 0, 0, 0].repeat(8), vec![inner, 0, 1, 4, 0, 0, 0, 0]];
            chain(f, 60, &headers.concat());
        });
        c.bytes("two fragment headers", conn, Ipv6Extension, |f| {
            chain(f, 44, &[44, 0, 0, 1, 0, 0, 0, 9, inner, 0, 0, 1, 0, 0, 0, 9]);
        });
        c.bytes("an error behind an extension header", conn, Ipv6Extension, |f| {
            chain(f, 60, &[58, 0, 1, 4, 0, 0, 0, 0]);
        });
        c.bytes("a fragment of an error", conn, IcmpOther, |f| chain(f, 44, &[58, 0, 0, 1, 0, 0, 0, 9]));
        c.bytes("a fragment of something else", conn, ProtocolUnsupported, |f| {
            chain(f, 44, &[50, 0, 0, 8, 0, 0, 0, 9]);
        });
        let least = if conn.proto == Proto::Tcp { 20 } else { 8 };
        let fragment = |f: &mut Vec<u8>, place: u16, len: usize| {
            f.resize(l3 + 40 + len, 0);
            f[l3 + 4..l3 + 6].copy_from_slice(&(len as u16).to_be_bytes());
            let [p0, p1] = place.to_be_bytes();
            chain(f, 44, &[inner, 0, p0, p1, 0, 0, 0, 9]);
        };
        c.bytes("first fragment, header cut", conn, FragmentTiny, |f| fragment(f, 1, least - 1));
        c.bytes("first fragment, cut at no multiple of 8", conn, FragmentMalformed, |f| fragment(f, 1, 39));
        c.bytes("middle fragment, cut at no multiple of 8", conn, FragmentMalformed, |f| {
            fragment(f, 24 | 1, 39);
        });
        c.bytes("ping of death", conn, FragmentMalformed, |f| fragment(f, 0xfff8, 8));
        c.bytes("empty last fragment", conn, FragmentMalformed, |f| fragment(f, 24, 0));
        if conn.proto == Proto::Tcp {
            for offset in [8, 16] {
                let name = format!("fragment at {offset} within the header");
                c.bytes(name, conn, FragmentTiny, |f| fragment(f, offset, 40));
            }
        }
        c.bytes("extension header cut off", conn, Ipv6Extension, |f| {
            f[l3 + 6] = 60;
            f[l3 + 5] = 4;
        });
        c.bytes("extension header too long", conn, Ipv6Extension, |f| {
            f[l3 + 6] = 60;
            f[l3 + 41] = 200;
        });
        c.bytes("extension headers without end", conn, Ipv6Extension, |f| {
            f.splice(l3 + 40.., [60, 0, 0, 0, 0, 0, 0, 0].repeat(40));
            f[l3 + 6] = 60;
            f[l3 + 4..l3 + 6].copy_from_slice(&320u16.to_be_bytes());
        });
        c.fields("source port 0", conn, PortZero, |p| p.src.set_port(0));
        c.fields("destination port 0", conn, PortZero, |p| p.dst.set_port(0));
        for (source, reason) in [
            ("::", MartianSource),
            ("::1", MartianSource),
            ("::ffff:10.0.0.2", MartianSource),
            ("fe80::2", MartianSource),
            ("ff02::1", MulticastSource),
            ("fd00:1::1", Looped),
            ("fe80::ff:fe00:2", Looped),
        ] {
            c.fields(format!("source {source}"), conn, reason, |p| p.src.set_ip(source.parse().unwrap()));
        }
        c.fields("land", conn, Land, |p| p.src = p.dst);
        for (destination, reason) in [
            ("ff02::1", MulticastDestination),
            ("ff0e::1234", MulticastDestination),
            ("fd00:1::1", NotOurAddress),
            ("fd00:9::1", NotOurAddress),
            ("::1", NotOurAddress),
        ] {
            c.fields(format!("destination {destination}"), conn, reason, |p| {
                p.dst.set_ip(destination.parse().unwrap())
            });
        }
    }
    c.bytes("no udp checksum over ipv6", udp6, UdpNoChecksum, |f| f[14 + 46..14 + 48].fill(0));

    for (conn, l4) in [(udp4, 34), (udp6, 54), (tag4, 38)] {
        for n in [0, 7] {
            c.bytes(format!("udp length {n}"), conn, UdpBadLength, |f| {
                f[l4 + 4..l4 + 6].copy_from_slice(&[0, n])
            });
        }
        c.bytes("udp length one too many", conn, UdpBadLength, |f| f[l4 + 5] += 1);
        c.bytes("udp length 65535", conn, UdpBadLength, |f| f[l4 + 4..l4 + 6].fill(0xff));
    }
    for (conn, l4) in [(tcp4, 34), (tcp6, 54), (tag6, 58)] {
        for n in 0..5 {
            c.bytes(format!("data offset {n}"), conn, TcpMalformed, |f| f[l4 + 12] = n << 4);
        }
        for n in [7, 15] {
            c.bytes(format!("data offset {n}"), conn, L4Truncated, |f| f[l4 + 12] = n << 4);
        }
        for (name, flags) in [
            ("syn+fin", SYN | FIN),
            ("syn+rst", SYN | RST),
            ("syn+fin+ack", SYN | FIN | ACK),
            ("syn+rst+ack", SYN | RST | ACK),
            ("all flags", 0xff),
        ] {
            c.bytes(name, conn, TcpMalformed, |f| f[l4 + 13] = flags);
        }
        c.bytes("19 bytes of tcp", conn, L4Truncated, |f| {
            let (at, n) = if conn.client.is_ipv4() { (l4 - 17, 39) } else { (l4 - 35, 19) };
            f[at] = n;
        });
    }

    // Ethernet.
    for conn in [udp4, tcp4, udp6, tcp6] {
        c.fields("other station", conn, NotForUs, |p| p.mac.0 = [2, 0, 0, 0, 0, 99]);
        c.fields("no station", conn, NotForUs, |p| p.mac.0 = [0; 6]);
        c.fields("another port's station", conn, NotForUs, |p| p.mac.0 = gw_mac(WAN));
        c.fields("broadcast station", conn, MulticastDestination, |p| p.mac.0 = [0xff; 6]);
        c.fields("group of stations", conn, MulticastDestination, |p| p.mac.0 = [0x33, 0x33, 0, 0, 0, 1]);
        c.fields("tagged at an untagged port", conn, VlanMismatch, |p| p.vlan = Some(30));
        for tags in [
            [0x81, 0x00, 0, 0, 0x81, 0x00, 0, 0],
            [0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 0],
            [0x81, 0x00, 0, 0, 0x88, 0xa8, 0, 0],
        ] {
            c.bytes(format!("double tags {tags:02x?}"), conn, VlanMismatch, |f| {
                f.splice(12..12, tags);
                f.resize(f.len() + 20, 0);
            });
        }
        c.bytes("llc", conn, EthertypeUnknown, |f| f[12..14].copy_from_slice(&[0, 0x26]));
        c.bytes("lldp", conn, EthertypeUnknown, |f| f[12..14].copy_from_slice(&[0x88, 0xcc]));
        c.bytes("mpls", conn, EthertypeUnknown, |f| f[12..14].copy_from_slice(&[0x88, 0x47]));
    }
    c.fields("spanning tree", udp4, EthertypeUnknown, |_| ());
    c.0.last_mut().unwrap().frame =
        [&[1, 0x80, 0xc2, 0, 0, 0, 2, 0, 0, 0, 0, 9, 0, 38, 0x42, 0x42, 3][..], &[0; 43]].concat();
    c.bytes("ipv6 said to be ipv4", udp6, IpBadVersion, |f| f[12..14].copy_from_slice(&[0x08, 0x00]));
    c.bytes("ipv4 said to be ipv6", tcp4, IpBadVersion, |f| f[12..14].copy_from_slice(&[0x86, 0xdd]));
    for conn in [tag4, tag6] {
        c.fields("untagged at a tagged port", conn, VlanMismatch, |p| p.vlan = None);
        c.fields("another vlan", conn, VlanMismatch, |p| p.vlan = Some(31));
        c.bytes("priority tag at a tagged port", conn, VlanMismatch, |f| {
            f[14..16].copy_from_slice(&[0xe0, 0])
        });
        c.bytes("two tags", conn, VlanMismatch, |f| drop(f.splice(12..12, [0x81, 0, 0, 30])));
        c.bytes("service tag", conn, VlanMismatch, |f| f[12..14].copy_from_slice(&[0x88, 0xa8]));
    }

    // Larger than the next link takes, by one byte; as an IP packet, and by what is behind it.
    c.fields("too big", narrow, TooBig, |p| p.payload = vec![1; 1280 - 28 + 1]);
    c.fields("too big with options", narrow, TooBig, |p| {
        p.payload = vec![1; 1280 - 32 + 1];
        p.ip_options = vec![1, 1, 1, 0];
    });
    c.bytes("too long a trailer", narrow, TooBig, |f| f.resize(14 + 1281, 0));
    c.fields("too big for ipv6", tag6, TooBig, |p| p.payload = vec![1; 1280 - 60 + 1]);

    icmp_cases(&mut c);
    c.0
}

fn icmp_cases(c: &mut Cases) {
    use DropReason::*;
    let eth = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], gw_mac(LAN));
    let v4 = |kind: u8, code: u8, payload: &[u8]| {
        let mut frame = Vec::new();
        let step = eth().ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64).icmpv4_raw(kind, code, [0, 1, 0, 2]);
        step.write(&mut frame, payload).unwrap();
        frame
    };
    let (ours, theirs): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
        ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
    let v6 = |kind: u8, code: u8, payload: &[u8]| {
        let mut frame = Vec::new();
        let step = eth().ipv6(theirs.octets(), ours.octets(), 64).icmpv6_raw(kind, code, [0, 0, 5, 0]);
        step.write(&mut frame, payload).unwrap();
        frame
    };
    let quoted = Packet::udp(WAN, "10.0.0.1:5000", "10.0.0.2:4000", b"12345678").build()[14..].to_vec();
    // About a packet of no connection; what it is about is in `tests/engine_errors.rs`.
    let stray = Packet::udp(WAN, "10.0.0.1:5000", "10.0.0.2:4999", b"12345678").build()[14..].to_vec();
    let stray6 = Packet::udp(WAN, "[fd00::1]:5000", "[fd00::2]:4999", b"12345678").build()[14..].to_vec();
    for (name, kind, code, reason) in [
        ("echo reply", 0, 0, IcmpOther),
        ("unreachable", 3, 1, IcmpUnmatched),
        ("fragmentation needed", 3, 4, IcmpUnmatched),
        ("source quench", 4, 0, IcmpOther),
        ("redirect", 5, 1, IcmpOther),
        ("echo request with a code", 8, 1, IcmpOther),
        ("time exceeded", 11, 0, IcmpUnmatched),
        ("parameter problem", 12, 0, IcmpUnmatched),
        ("timestamp request", 13, 0, IcmpOther),
    ] {
        c.raw(name, LAN, v4(kind, code, &stray), reason);
    }
    for (name, kind, code, reason) in [
        ("unreachable", 1, 0, IcmpUnmatched),
        ("too big", 2, 0, IcmpUnmatched),
        ("time exceeded", 3, 0, IcmpUnmatched),
        ("parameter problem", 4, 0, IcmpUnmatched),
        ("unknown error", 5, 0, IcmpOther),
        ("echo reply", 129, 0, IcmpOther),
        ("router advertisement", 134, 0, IcmpOther),
        ("redirect", 137, 0, IcmpOther),
    ] {
        c.raw(format!("icmpv6 {name}"), LAN, v6(kind, code, &stray6), reason);
    }
    c.raw("half a quote", LAN, v4(3, 1, &quoted[..27]), IcmpMalformed);
    c.raw("a quote of the other version", LAN, v4(3, 1, &stray6), IcmpMalformed);
    c.raw("icmpv6 half a quote", LAN, v6(1, 0, &stray6[..47]), IcmpMalformed);
    let mut spoiled = quoted.clone();
    spoiled[10] ^= 1;
    c.raw("a quoted header with a wrong checksum", LAN, v4(3, 1, &spoiled), IcmpMalformed);
    for (name, mut frame, at) in [("echo", v4(8, 0, b"ping"), 36), ("icmpv6 echo", v6(128, 0, b"ping"), 56)] {
        frame[at] ^= 1;
        c.raw(format!("{name} with a wrong checksum"), LAN, frame.clone(), IcmpMalformed);
        frame[at] ^= 1;
        frame[6..12].fill(0xff);
        c.raw(format!("{name} from the broadcast station"), LAN, frame, MulticastSource);
    }
    let mut short = v4(8, 0, b"");
    short[17] = 27;
    fix_ip4(&mut short, 14);
    c.raw("seven bytes of icmp", LAN, short, IcmpMalformed);
    let mut short = v6(128, 0, b"");
    short[19] = 7;
    c.raw("seven bytes of icmpv6", LAN, short, IcmpMalformed);
    let mut frame = Vec::new();
    let ip = etherparse::Ipv6Header {
        hop_limit: 255,
        source: theirs.octets(),
        destination: ours.octets(),
        ..Default::default()
    };
    eth()
        .ip(etherparse::IpHeaders::Ipv6(ip, Default::default()))
        .write(&mut frame, IpNumber(58), &[135, 0, 0, 0])
        .unwrap();
    c.raw("half a neighbor solicitation", LAN, frame, NdMalformed);
}

/// One drop, for the case's reason; nothing comes out but what its sender may be told. The model is believed in other tests: it
/// must know all this as well.
#[track_caller]
fn drops(rig: &mut Rig, model: &mut Model, case: &Case) {
    let before = rig.drops();
    rig.send(case.port, std::slice::from_ref(&case.frame));
    let now = since(&before, &rig.drops());
    assert_eq!(now, BTreeMap::from([(case.reason.name().to_owned(), 1)]), "{}", case.name);
    let verdict = model.judge(case.port, &case.frame);
    assert_eq!(verdict.reason(), Some(case.reason), "{}", case.name);
    let told = match verdict {
        Verdict::Told(_, frame) => vec![(case.port, frame)],
        _ => vec![],
    };
    assert_eq!(rig.take_any(), told, "{}", case.name);
}

#[test]
fn each_defect_has_its_reason() {
    let (mut rig, conns) = warm();
    let mut model = Model::new(flows(), &conns);
    for case in cases(&conns) {
        drops(&mut rig, &mut model, &case);
    }
    for conn in &conns {
        for from_client in [true, false] {
            rig.relays_both(conn, from_client, body(conn.proto), b"unharmed");
        }
    }
    rig.balance();
    // Where there is no connection the reasons are the same, but for what is found out only on the way out.
    let mut cold = Rig::new("");
    for spec in flows() {
        cold.add(spec);
    }
    cold.advance(1000);
    let mut model = Model::new(flows(), &[]);
    for case in cases(&conns).iter().filter(|case| case.reason != DropReason::TooBig) {
        drops(&mut cold, &mut model, case);
    }
    assert!(cold.connections().is_empty());
    cold.balance();
}

#[test]
fn the_largest_packet_that_fits_passes() {
    let (mut rig, conns) = warm();
    let mut packet = conns[6].by_client(body(Proto::Udp), &[1; 1280 - 28]);
    rig.relays(LAN, &packet, SMALL, &conns[6].forward(&packet));
    packet.payload.truncate(1280 - 32);
    packet.ip_options = vec![1, 1, 1, 0];
    rig.relays(LAN, &packet, SMALL, &conns[6].forward(&packet));
    let packet = conns[5].by_client(body(Proto::Tcp), &[1; 1280 - 60]);
    rig.relays(TAG, &packet, SMALL, &conns[5].forward(&packet));
}

#[test]
fn truncated_at_every_length() {
    let (mut rig, conns) = warm();
    for conn in &conns {
        for (port, packet) in [
            (conn.port, conn.by_client(body(conn.proto), DATA)),
            (conn.out, conn.by_target(body(conn.proto), DATA)),
        ] {
            let (frame, l3) = (packet.build(), packet.l3());
            for n in 0..frame.len() {
                let reason = if n < l3 { DropReason::EthTruncated } else { DropReason::IpTruncated };
                rig.drops_as(&format!("{n} bytes"), port, &frame[..n], reason);
            }
        }
    }
    rig.balance();
}

/// Every single bit of a header matters or is passed on; the model knows which.
#[test]
fn every_bit_flipped() {
    let (rig, conns) = warm();
    let mut test = Differential::new(rig, flows(), &conns);
    for conn in &conns {
        let packet = conn.by_client(body(conn.proto), DATA);
        let frame = packet.build();
        for right_ip in [false, true] {
            let mutants = (0..frame.len() * 8).map(|bit| {
                let mut f = frame.clone();
                f[bit / 8] ^= 1 << (bit % 8);
                if right_ip && conn.client.is_ipv4() && f[packet.l3()] == 0x45 {
                    fix_ip4(&mut f, packet.l3());
                }
                f
            });
            let mutants: Vec<_> = mutants.collect();
            for batch in mutants.chunks(50) {
                test.run(conn.port, batch);
            }
        }
    }
}

#[test]
fn echo_is_answered_exactly_and_not_without_end() {
    let mut rig = Rig::new("");
    let ping = |n: u16, reply: bool| {
        let mut v4 = Vec::new();
        let (ours, theirs) = (gw_mac(LAN), [2, 4 ^ 10, 0, 0, 2, 4]);
        if reply {
            PacketBuilder::ethernet2(ours, theirs)
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .icmpv4_echo_reply(7, n)
        } else {
            PacketBuilder::ethernet2(theirs, ours)
                .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 1)
                .icmpv4_echo_request(7, n)
        }
        .write(&mut v4, b"odd")
        .unwrap();
        v4
    };
    let ping6 = |n: u16, reply: bool| {
        let mut v6 = Vec::new();
        let (ours, theirs): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
            ("fd00:2::1".parse().unwrap(), "fd00:2::2".parse().unwrap());
        let vlan = etherparse::VlanId::try_new(30).unwrap();
        if reply {
            PacketBuilder::ethernet2(gw_mac(TAG), [2, 6, 0, 2, 0, 2])
                .single_vlan(vlan)
                .ipv6(ours.octets(), theirs.octets(), 64)
                .icmpv6_echo_reply(7, n)
        } else {
            PacketBuilder::ethernet2([2, 6, 0, 2, 0, 2], gw_mac(TAG))
                .single_vlan(vlan)
                .ipv6(theirs.octets(), ours.octets(), 9)
                .icmpv6_echo_request(7, n)
        }
        .write(&mut v6, b"even")
        .unwrap();
        v6
    };
    rig.advance(1000);
    let v4 = rig.pass(LAN, &ping(1, false), LAN);
    assert_eq!(v4, ping(1, true));
    let v6 = rig.pass(TAG, &ping6(1, false), TAG);
    assert_eq!(v6, ping6(1, true));
    rig.advance(1000);
    // 200 at once, then one a millisecond.
    rig.send(LAN, &(0..300).map(|n| ping(n, false)).collect::<Vec<_>>());
    let answers = rig.take(LAN);
    assert_eq!(answers, (0..200).map(|n| ping(n, true)).collect::<Vec<_>>());
    assert_eq!(rig.drops()["icmp_rate_limited"], 100);
    rig.advance(50);
    rig.send(TAG, &(0..100).map(|n| ping6(n, false)).collect::<Vec<_>>());
    assert_eq!(rig.take(TAG).len(), 50);
    assert_eq!(rig.drops()["icmp_rate_limited"], 150);
    rig.balance();
}

#[derive(Debug, Clone)]
enum Mutation {
    Flip(prop::sample::Index, u8),
    Set(prop::sample::Index, u8),
    /// Of the first 60 bytes, where the headers are.
    Header(usize, u8),
    Truncate(prop::sample::Index),
    Extend(Vec<u8>),
    /// IPv4 total length, IPv6 payload length, UDP length or TCP offset, by a little.
    Length(u8, i8),
    Insert(prop::sample::Index, Vec<u8>),
    Flags(u8),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use prop::sample::Index;
    prop_oneof![
        (any::<Index>(), 0u8..8).prop_map(|(i, b)| Mutation::Flip(i, b)),
        (any::<Index>(), any::<u8>()).prop_map(|(i, v)| Mutation::Set(i, v)),
        (0usize..60, any::<u8>()).prop_map(|(i, v)| Mutation::Header(i, v)),
        any::<Index>().prop_map(Mutation::Truncate),
        prop::collection::vec(any::<u8>(), 1..40).prop_map(Mutation::Extend),
        (0u8..4, any::<i8>()).prop_map(|(f, d)| Mutation::Length(f, d)),
        (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(i, v)| Mutation::Insert(i, v)),
        any::<u8>().prop_map(Mutation::Flags),
    ]
}

impl Mutation {
    fn apply(&self, f: &mut Vec<u8>) {
        if f.is_empty() {
            return;
        }
        let n = f.len();
        let l3 = if f.len() > 18 && f[12..14] == [0x81, 0] { 18 } else { 14 };
        match self {
            Mutation::Flip(i, bit) => f[i.index(n)] ^= 1 << bit,
            Mutation::Set(i, v) => f[i.index(n)] = *v,
            Mutation::Header(i, v) => f[*i % n] = *v,
            Mutation::Truncate(i) => f.truncate(i.index(n)),
            Mutation::Extend(v) => f.extend(v),
            Mutation::Insert(i, v) => drop(f.splice(i.index(n)..i.index(n), v.iter().copied())),
            Mutation::Flags(v) => {
                for at in [l3 + 33, l3 + 53] {
                    if at < n && f[l3] >> 4 == if at == l3 + 33 { 4 } else { 6 } {
                        f[at] = *v;
                    }
                }
            }
            Mutation::Length(field, by) => {
                let at = match field {
                    0 => l3 + 3,
                    1 => l3 + 5,
                    2 => l3 + 25,
                    _ => l3 + 45,
                };
                if at < n {
                    f[at] = f[at].wrapping_add_signed(*by);
                }
            }
        }
    }
}

/// What a case sends: which packet it begins with, what is done to it, and whether its IPv4 checksum is made right again.
type Mutant = (prop::sample::Index, Vec<Mutation>, bool);

fn seeds(conns: &[Conn]) -> Vec<(u8, Vec<u8>)> {
    let mut seeds = Vec::new();
    for conn in conns {
        let mut packets = vec![
            (conn.port, conn.by_client(body(conn.proto), b"from the client")),
            (conn.out, conn.by_target(body(conn.proto), b"from the target!")),
        ];
        if conn.client.is_ipv4() {
            let mut packet = conn.by_client(body(conn.proto), b"with options");
            packet.ip_options = vec![7, 7, 4, 0, 0, 0, 0, 0];
            packets.push((conn.port, packet));
            let mut packet = conn.by_client(body(conn.proto), b"unsummed");
            if conn.proto == Proto::Udp {
                packet.body = Body::Udp { checksum: false };
            }
            packets.push((conn.port, packet));
        }
        if conn.proto == Proto::Tcp {
            packets.push((conn.port, conn.by_client(tcp(SYN), b"")));
            let options = vec![2, 4, 5, 0xb4, 1, 3, 3, 7];
            let synack = Body::Tcp { flags: SYN | ACK, seq: 1, ack: 2, options };
            packets.push((conn.out, conn.by_target(synack, b"")));
        }
        seeds.extend(packets.into_iter().map(|(port, packet)| (port, packet.build())));
    }
    let mut echo = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], gw_mac(LAN))
        .ipv4([10, 0, 0, 2], [10, 0, 0, 1], 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut echo, b"ping")
        .unwrap();
    seeds.push((LAN, echo));
    let arp = [
        &[0xff; 6][..],
        &[
            2, 14, 0, 0, 2, 4, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 14, 0, 0, 2, 4, 10, 0, 0, 2, 0, 0, 0, 0, 0,
            0, 10, 0, 0, 1,
        ],
    ];
    seeds.push((LAN, arp.concat()));
    seeds
}

fn mutants() -> impl Strategy<Value = (u8, Vec<Mutant>)> {
    let mutant = (any::<prop::sample::Index>(), prop::collection::vec(mutation(), 0..4), any::<bool>());
    (prop::sample::select(vec![LAN, WAN, TAG, SMALL]), prop::collection::vec(mutant, 1..48))
}

/// The heart of this file: a warm relay and the model, side by side, over whatever mutation makes of good packets.
#[test]
fn mutated_packets_fare_as_the_model_says() {
    let (rig, conns) = warm();
    let seeds = seeds(&conns);
    let test = RefCell::new(Differential::new(rig, flows(), &conns));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() });
    runner
        .run(&mutants(), |(port, mutants)| {
            let here: Vec<_> = seeds.iter().filter(|(p, _)| *p == port).collect();
            let frames: Vec<Vec<u8>> = mutants
                .iter()
                .map(|(seed, mutations, fix)| {
                    let mut f = here[seed.index(here.len())].1.clone();
                    mutations.iter().for_each(|m| m.apply(&mut f));
                    let l3 = if f.get(12..14) == Some(&[0x81, 0]) { 18 } else { 14 };
                    let header = f.get(l3).map_or(0, |b| usize::from(b & 15) * 4);
                    if *fix && header >= 20 && f.len() >= l3 + header && f[l3] >> 4 == 4 {
                        fix_ip4(&mut f, l3);
                    }
                    f
                })
                .collect();
            test.borrow_mut().run(port, &frames);
            Ok(())
        })
        .unwrap();
    let test = test.into_inner();
    // A test in which everything is dropped, or everything passes, would say little.
    assert!(
        test.relayed > 1000 && test.dropped > 1000 && test.opened > 10,
        "{} {} {}",
        test.relayed,
        test.dropped,
        test.opened
    );
}

#[test]
fn random_bytes_do_no_harm() {
    let (rig, conns) = warm();
    let test = RefCell::new(Differential::new(rig, flows(), &conns));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() });
    let frames = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..40);
    let ethertypes =
        prop::sample::select(vec![[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0], [0x88, 0xa8], [0, 9]]);
    runner
        .run(&(0u8..4, frames, ethertypes, any::<bool>()), |(port, mut frames, ethertype, to_us)| {
            for f in frames.iter_mut().filter(|f| f.len() >= 14 && to_us) {
                f[..6].copy_from_slice(&gw_mac(port));
                f[12..14].copy_from_slice(&ethertype);
            }
            test.borrow_mut().run(port, &frames);
            Ok(())
        })
        .unwrap();
    let mut test = test.into_inner();
    for conn in &conns {
        test.rig.relays_both(conn, true, body(conn.proto), b"unharmed");
        test.rig.relays_both(conn, false, body(conn.proto), b"unharmed");
    }
}

/// The model must be able to say no: it knows a right packet, and knows it from a wrong one.
#[test]
fn the_model_is_no_yes_man() {
    let (mut rig, conns) = warm();
    let model = Model::new(flows(), &conns);
    let packet = conns[0].by_client(body(Proto::Udp), DATA);
    let Verdict::Relay(WAN, expected) = model.judge(LAN, &packet.build()) else { panic!() };
    assert_eq!(expected.frame, conns[0].forward(&packet).build());
    let sent = rig.pass(LAN, &packet.build(), WAN);
    assert!(expected.equals(&sent));
    for at in 0..sent.len() {
        let mut wrong = sent.clone();
        wrong[at] ^= 0x10;
        assert!(!expected.equals(&wrong), "byte {at}");
    }
    assert!(!expected.equals(&sent[1..]));
    assert_eq!(read(&sent).dst, addr("10.1.0.2:6000"));
}
