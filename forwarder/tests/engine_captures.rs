//! Captures that packet tools test themselves with - protocols of all kinds, packets that once crashed somebody - replayed through
//! the engine: as they were recorded, and with addresses and ports rewritten so that they get past the door. The fuzzer's oracle
//! looks on. `scripts/captures.sh` fetches them; without any, the test says so, and fails when `S2_CAPTURES` is `require`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod hostile;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use common::packet::{gw_mac, host_mac};
use forwarder::io::pcap::{Pcap, PcapError};
use hostile::engine::{Bench, flows};
use hostile::templates::{End, LINKS, put_right};

/// The most frames of one recording, and of one bench.
const FRAMES: usize = 2000;
const TOGETHER: usize = 40;

fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    target.join("captures")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        match path.extension().and_then(|e| e.to_str()) {
            _ if path.is_dir() => found.extend(files(&path)),
            Some("pcap" | "cap") => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

/// The frames of a recording, up to where it is damaged; none when it is of another kind of link.
fn frames(path: &Path) -> Option<Vec<Vec<u8>>> {
    match Pcap::open(path) {
        Ok(recording) => {
            let whole = recording.records().map_while(Result::ok).take(FRAMES);
            Some(whole.map(|record| record.frame.to_vec()).collect())
        }
        Err(PcapError::NotPcap | PcapError::LinkType(_)) => None,
        Err(e) => panic!("{}: {e}", path.display()),
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}

/// The frame from another station, to the gateway's and with the tags of its port.
fn to_us(frame: &[u8], port: u8, from: IpAddr) -> Option<Vec<u8>> {
    let mut at = 12;
    while matches!(word(frame, at), 0x8100 | 0x88a8 | 0x9100) {
        at += 4;
    }
    let (device, tags) = LINKS[usize::from(port)];
    let mut out = [gw_mac(device), host_mac(from)].concat();
    for (kind, id) in tags {
        out.extend(kind.to_be_bytes());
        out.extend(id.to_be_bytes());
    }
    out.extend(frame.get(at..)?);
    Some(out)
}

/// The packet in a frame as if `end` had sent it: addresses, and ports when asked for; checksums are right again.
fn as_sent_by(end: &End, mut frame: Vec<u8>, ports: bool) -> Option<Vec<u8>> {
    let l3 = 14 + 4 * LINKS[usize::from(end.port)].1.len();
    let ip = frame.get_mut(l3..)?;
    let l4 = match (end.src.ip(), end.dst.ip(), word(ip, 0) >> 12) {
        (IpAddr::V4(src), IpAddr::V4(dst), 4) if ip.len() >= 20 => {
            ip[12..16].copy_from_slice(&src.octets());
            ip[16..20].copy_from_slice(&dst.octets());
            usize::from(ip[0] & 15) * 4
        }
        (IpAddr::V6(src), IpAddr::V6(dst), 6) if ip.len() >= 40 => {
            ip[8..24].copy_from_slice(&src.octets());
            ip[24..40].copy_from_slice(&dst.octets());
            40
        }
        _ => return None,
    };
    if let Some(to) = ip.get_mut(l4..l4 + 4).filter(|_| ports) {
        to[..2].copy_from_slice(&end.src.port().to_be_bytes());
        to[2..].copy_from_slice(&end.dst.port().to_be_bytes());
    }
    put_right(&mut frame, true);
    Some(frame)
}

fn replay(bench: &mut Bench, frame: &[u8]) {
    for port in 0..4 {
        bench.inject(port, frame);
        if let Some(frame) = to_us(frame, port, [10, port, 0, 2].into()) {
            bench.inject(port, &frame);
        }
        bench.turn();
    }
    for flow in 0..flows().len() {
        for who in [0, 1, 6] {
            let end = bench.end(flow, who);
            for ports in [true, false] {
                let sent = to_us(frame, end.port, end.src.ip()).and_then(|f| as_sent_by(&end, f, ports));
                if let Some(frame) = sent {
                    bench.inject(LINKS[usize::from(end.port)].0, &frame);
                }
            }
        }
        bench.turn();
    }
}

#[test]
fn captured_packets_do_no_harm() {
    let all = files(&folder());
    if all.is_empty() {
        let why = format!("no captures in {}; scripts/captures.sh fetches them", folder().display());
        assert!(std::env::var("S2_CAPTURES").as_deref() != Ok("require"), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let (mut recordings, mut replayed, mut to_target, mut to_client) = (0, 0, 0, 0);
    for path in &all {
        let Some(frames) = frames(path) else { continue };
        recordings += 1;
        replayed += frames.len();
        for (nth, some) in frames.chunks(TOGETHER).enumerate() {
            // Printed with a failure only.
            println!("{} from frame {}", path.display(), nth * TOGETHER);
            let mut bench = Bench::new();
            some.iter().for_each(|frame| replay(&mut bench, frame));
            bench.finish();
            to_target += bench.oracle.to_target.iter().sum::<u64>();
            to_client += bench.oracle.to_client.iter().sum::<u64>();
        }
    }
    eprintln!(
        "{recordings} recordings of {} files are Ethernet; {replayed} frames replayed; {to_target} packets to targets, \
         {to_client} to clients",
        all.len()
    );
    assert!(recordings > 50 && to_target > 1000 && to_client > 100);
}
