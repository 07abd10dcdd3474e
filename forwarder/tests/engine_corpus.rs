//! Malformed packets by the hundred thousand: every kind of packet that the fuzzer begins with, cut at every length, and with every
//! part of its headers at its extremes. `engine_hostile.rs` knows what becomes of some; here the oracle says of all that nothing
//! left that must not, nothing is lost, and the relay still works.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod hostile;

use hostile::engine::{Bench, flows};
use hostile::oracle::layer3;
use hostile::templates::{COUNT, put_right};

/// Headers of an ICMP error with the packet it quotes are about this long.
const HEADERS: usize = 120;

/// Every template as both ends of every flow send it, once their connection is open; `change` makes of each frame those to send.
fn spoil(change: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> u64 {
    let mut sent = 0;
    for index in 0..flows().len() {
        let mut bench = Bench::new();
        for kind in 0..COUNT {
            println!("flow {index}, template {kind}");
            for (who, how) in [(0, 0x20), (1, 0x20), (0, 0xdd), (1, 0xdd)] {
                // Opened anew where the last template closed it.
                bench.packet(index, 0, 1, 0);
                bench.answer(0);
                bench.turn();
                let port = bench.end(index, who).port;
                for frames in change(&bench.frame(index, who, kind, how)).chunks(60) {
                    sent += frames.len() as u64;
                    frames.iter().for_each(|frame| bench.inject(port, frame));
                    bench.turn();
                }
            }
        }
        let (there, back) = (bench.oracle.to_target[index], bench.oracle.to_client[index]);
        assert!(there > 20 && back > 5, "flow {index} relayed {there} and {back}");
        bench.finish();
    }
    sent
}

#[test]
fn every_packet_cut_at_every_length() {
    let sent = spoil(|frame| {
        let cuts = (0..frame.len()).filter(|n| *n < 2 * HEADERS || n % 97 == 0);
        cuts.flat_map(|n| {
            // As it is, and with an IP length that agrees.
            let plain = frame[..n].to_vec();
            let mut agreeing = plain.clone();
            let l3 = frame.len() - layer3(frame).map_or(0, |l3| l3.packet.len());
            if n > l3 + 6 {
                let (at, len) =
                    if frame[l3] >> 4 == 4 { (2, n - l3) } else { (4, (n - l3).saturating_sub(40)) };
                agreeing[l3 + at..l3 + at + 2].copy_from_slice(&(len as u16).to_be_bytes());
                put_right(&mut agreeing, true);
            }
            [plain, agreeing]
        })
        .collect()
    });
    assert!(sent > 100_000, "{sent}");
}

#[test]
fn every_part_of_a_header_at_its_extremes() {
    let sent = spoil(|frame| {
        let mut out = Vec::new();
        for at in 0..frame.len().min(HEADERS) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut byte = frame.to_vec();
                byte[at] = value;
                put_right(&mut byte, true);
                out.push(byte);
            }
            for value in [[0, 0], [0xff, 0xff]] {
                let mut word = frame.to_vec();
                word[at..(at + 2).min(frame.len())].copy_from_slice(&value[..(frame.len() - at).min(2)]);
                put_right(&mut word, at % 4 != 0);
                out.push(word);
            }
        }
        out
    });
    assert!(sent > 100_000, "{sent}");
}
