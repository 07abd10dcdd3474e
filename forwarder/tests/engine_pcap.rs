//! A recording of a TCP connection, replayed through the forwarder: what leaves is what was recorded, rewritten.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::packet::{ACK, Body, FIN, PSH, Packet, SYN, addr, read};
use common::{Conn, LAN, Rig, WAN, assert_same, flow};
use forwarder::api::Proto;
use forwarder::io::PortIndex;
use forwarder::io::pcap::Pcap;

/// Client, listen address and target.
const V4: [&str; 3] = ["10.0.0.2:4000", "10.0.0.1:5000", "10.1.0.2:6000"];
const V6: [&str; 3] = ["[fd00:0::2]:4000", "[fd00:0::1]:5000", "[fd00:1::2]:6000"];

/// Parts of a stream as flags, sequence number, acknowledgment number and bytes.
type Segment = (u8, u32, u32, &'static [u8]);

const CLIENT: [Segment; 5] = [
    (SYN, 1000, 0, b""),
    (ACK, 1001, 9001, b""),
    (PSH | ACK, 1001, 9001, b"first"),
    (PSH | ACK, 1006, 9001, b"and the last part"),
    (FIN | ACK, 1023, 9009, b""),
];

const TARGET: [Segment; 4] = [
    (SYN | ACK, 9000, 1001, b""),
    (PSH | ACK, 9001, 1006, b"received"),
    (ACK, 9009, 1023, b""),
    (FIN | ACK, 9009, 1024, b""),
];

fn body(&(flags, seq, ack, _): &Segment) -> Body {
    Body::Tcp { flags, seq, ack, options: Vec::new() }
}

/// A classic pcap file of Ethernet frames, a second apart.
fn pcap(big: bool, packets: &[Packet]) -> Vec<u8> {
    let word = |w: u32| if big { w.to_be_bytes() } else { w.to_le_bytes() };
    let half = |h: u16| if big { h.to_be_bytes() } else { h.to_le_bytes() };
    let mut file = [word(0xa1b2_c3d4).as_slice(), &half(2), &half(4)].concat();
    file.extend([0, 0, 65535, 1].map(word).concat());
    for (second, packet) in (1..).zip(packets) {
        let frame = packet.build();
        let len = frame.len() as u32;
        file.extend([second, 0, len, len].map(word).concat());
        file.extend(frame);
    }
    file
}

/// Replays a file of `packets` at `port` and returns what left by `out`.
fn replay(rig: &mut Rig, big: bool, packets: &[Packet], port: PortIndex, out: u8) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recording.pcap");
    std::fs::write(&path, pcap(big, packets)).unwrap();
    let recording = Pcap::open(&path).unwrap();
    assert_eq!(recording.replay(&rig.ios[0], port, 0).unwrap(), packets.len());
    rig.turn();
    let sent = rig.take(out);
    assert_eq!(sent.len(), packets.len(), "dropped {:?}", rig.drops());
    sent
}

fn a_recorded_connection_is_relayed(big: bool, [client, listen, target]: [&str; 3]) {
    let mut rig = Rig::new("");
    rig.add(flow(
        "recorded",
        Proto::Tcp,
        listen,
        target,
        if client.starts_with("[") { "fd00::2/128" } else { "10.0.0.2/32" },
    ));
    let (client, listen, target) = (addr(client), addr(listen), addr(target));

    let up = CLIENT.each_ref().map(|s| Packet::arriving(LAN, client, listen, body(s), s.3));
    let sent = replay(&mut rig, big, &up, LAN, WAN);
    let source = read(&sent[0]).src;
    assert_eq!(
        source.ip(),
        if client.is_ipv4() { addr("10.1.0.1:0").ip() } else { addr("[fd00:1::1]:0").ip() }
    );
    let conn = Conn { proto: Proto::Tcp, client, listen, source, target, port: LAN, out: WAN };
    for (frame, packet) in sent.iter().zip(&up) {
        assert_same(frame, &conn.forward(packet).build());
    }

    let down = TARGET.each_ref().map(|s| conn.by_target(body(s), s.3));
    let sent = replay(&mut rig, big, &down, WAN, LAN);
    for (frame, packet) in sent.iter().zip(&down) {
        assert_same(frame, &conn.back(packet).build());
    }

    let carried = rig.flow("recorded");
    assert_eq!((carried.admitted, carried.refused), (1, 0));
    assert_eq!([carried.to_target.packets, carried.to_client.packets], [5, 4]);
    rig.balance();
}

#[test]
fn recordings_of_big_endian_machines_are_relayed() {
    a_recorded_connection_is_relayed(true, V4);
    a_recorded_connection_is_relayed(true, V6);
}

#[test]
fn recordings_of_little_endian_machines_are_relayed() {
    a_recorded_connection_is_relayed(false, V4);
    a_recorded_connection_is_relayed(false, V6);
}
