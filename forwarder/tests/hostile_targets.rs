//! The fuzz targets of `forwarder/fuzz` over the inputs that a fuzzer begins with, and over what few mutations make of them, so
//! that the targets hold in every test run. What a fuzzer found is a fixture here.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;
mod hostile;

use std::collections::BTreeSet;

use common::packet::{Body, Packet, SYN, addr, gw_mac, host_mac, icmp, icmp_frame};
use common::{LAN, SMALL, TAG, WAN};
use hostile::engine::{self, Bench, flows};
use hostile::{TARGETS, Target};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Runs a target; a panic tells the input.
fn run(target: &Target, input: &[u8]) {
    struct Tell<'a>(&'a str, &'a [u8]);
    impl Drop for Tell<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("target {} with {:?}", self.0, self.1);
            }
        }
    }
    let _tell = Tell(target.name, input);
    (target.run)(input);
}

#[test]
fn every_target_holds_for_its_seeds() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has nothing to begin with", target.name);
        (target.run)(b"");
        for seed in seeds {
            run(target, &seed);
        }
    }
}

/// Inputs at which a target once failed.
const FOUND: &[(&str, &[u8])] = &[
    // An echo request whose reply is all zeros.
    ("icmp", &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
];

#[test]
fn every_target_holds_for_what_a_fuzzer_found() {
    for (name, input) in FOUND {
        run(TARGETS.iter().find(|target| target.name == *name).unwrap(), input);
    }
}

#[test]
fn every_target_holds_for_seeds_changed_and_cut() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    for target in TARGETS {
        let seeds = (target.seeds)();
        let rounds = if target.name == "engine" { 150 } else { 3000 };
        for _ in 0..rounds {
            let mut pick = |n: usize| random.next_u32() as usize % n.max(1);
            let mut input = seeds[pick(seeds.len())].clone();
            for _ in 0..pick(5) {
                let at = pick(input.len());
                match pick(4) {
                    0 => input.truncate(at),
                    1 => input.insert(at.min(input.len()), pick(256) as u8),
                    _ if input.is_empty() => {}
                    2 => input[at] ^= 1 << pick(8),
                    _ => input[at] = [0, 0xff, 0x7f, 0x80, pick(256) as u8][pick(5)],
                }
            }
            run(target, &input);
        }
    }
}

/// A target that never gets past the door would hold as well.
#[test]
fn the_engine_target_goes_everywhere() {
    let (mut reasons, mut there, mut back) =
        (BTreeSet::new(), vec![0; flows().len()], vec![0; flows().len()]);
    let (mut own, mut translated) = (0, 0);
    for seed in engine::seeds() {
        let bench = engine::play(&seed);
        (own, translated) = (own + bench.oracle.own_errors, translated + bench.oracle.translated_errors);
        reasons.extend(bench.rig.drops().into_keys());
        for (sum, n) in there.iter_mut().zip(&bench.oracle.to_target) {
            *sum += n;
        }
        for (sum, n) in back.iter_mut().zip(&bench.oracle.to_client) {
            *sum += n;
        }
    }
    assert!(there.iter().chain(&back).all(|n| *n > 10), "{there:?} {back:?}");
    assert!(own > 10 && translated > 50, "{own} errors of our own, {translated} translated");
    for reason in [
        "vlan_mismatch",
        "land",
        "ttl_expired",
        "ip_options",
        "source_denied",
        "too_big",
        "tcp_no_connection",
        "local_arp",
        "local_nd",
        "protocol_unsupported",
    ] {
        assert!(reasons.contains(reason), "{reason} is not among {reasons:?}");
    }
}

/// The oracle knows what may leave from what must not.
#[test]
fn the_oracle_is_no_yes_man() {
    let mut bench = Bench::new();
    let oracle = &mut bench.oracle;
    let client = Packet::udp(LAN, "10.0.0.2:4000", "10.0.0.1:5000", b"data");
    let to_target = client.leaving(WAN, "10.1.0.1:40000".parse().unwrap(), "10.1.0.2:6000".parse().unwrap());
    let denied = |oracle: &mut hostile::oracle::Oracle, port, frame: &[u8], why: &str| {
        let reason = oracle.judge(port, frame).expect_err(why);
        assert!(reason.contains(why), "{reason}");
    };
    denied(oracle, WAN, &to_target.build(), "more often than it arrived");
    let stranger = Packet::udp(LAN, "10.0.0.9:4000", "10.0.0.1:5000", b"data");
    oracle.arrives(LAN, &stranger.build());
    denied(oracle, WAN, &to_target.build(), "more often than it arrived");
    oracle.arrives(LAN, &client.build());
    oracle.judge(WAN, &to_target.build()).unwrap();
    denied(oracle, WAN, &to_target.build(), "more often than it arrived");

    oracle.arrives(LAN, &client.build());
    denied(oracle, LAN, &to_target.build(), "from another station");
    denied(
        oracle,
        SMALL,
        &Packet { mac: (to_target.mac.0, gw_mac(SMALL)), ..to_target.clone() }.build(),
        "tags",
    );
    let changed = |change: fn(&mut Packet)| {
        let mut packet = to_target.clone();
        change(&mut packet);
        packet.build()
    };
    denied(oracle, WAN, &changed(|p| p.dst.set_port(6001)), "of no flow");
    denied(oracle, WAN, &changed(|p| p.dst.set_ip([10, 1, 0, 3].into())), "of no flow");
    denied(oracle, WAN, &changed(|p| p.src.set_ip([10, 0, 0, 2].into())), "not ours");
    denied(oracle, WAN, &changed(|p| p.payload = vec![0; 1500]), "MTU");
    denied(oracle, WAN, &changed(|p| p.vlan = Some(7)), "tags");
    oracle.judge(WAN, &to_target.build()).unwrap();

    // Translated: the other family, and a checksum.
    let client = Packet::udp(LAN, "10.0.0.2:4000", "10.0.0.1:5010", b"data");
    let to_target = client.leaving(WAN, addr("[fd00:1::1]:40000"), addr("[fd00:1::2]:6010"));
    oracle.arrives(LAN, &client.build());
    let mut unsummed = to_target.clone();
    unsummed.body = Body::Udp { checksum: false };
    denied(oracle, WAN, &unsummed.build(), "of no flow");
    let wrong = client.leaving(WAN, addr("10.1.0.1:40000"), addr("10.1.0.2:6010"));
    denied(oracle, WAN, &wrong.build(), "of no flow");
    oracle.judge(WAN, &to_target.build()).unwrap();

    // Hairpinned: any port, but only the flow's clients.
    let client = Packet::udp(TAG, "10.2.0.2:4000", "10.0.0.1:5020", b"data");
    let other = Packet::udp(TAG, "10.2.0.9:4000", "10.0.0.1:5020", b"data");
    let to_target = client.leaving(WAN, addr("10.1.0.1:40000"), addr("10.1.0.2:6020"));
    oracle.arrives(TAG, &other.build());
    denied(oracle, WAN, &to_target.build(), "more often than it arrived");
    oracle.arrives(TAG, &client.build());
    oracle.judge(WAN, &to_target.build()).unwrap();
    let answer = Packet::udp(WAN, "10.1.0.2:6020", "10.1.0.1:40000", b"data");
    let back = answer.leaving(TAG, addr("10.0.0.1:5020"), addr("10.2.0.2:4000"));
    denied(oracle, TAG, &back.build(), "more often than it arrived");
    oracle.arrives(WAN, &answer.build());
    oracle.judge(TAG, &back.build()).unwrap();

    // Clamped.
    let syn =
        |mss: u16| Body::Tcp { flags: SYN, seq: 1, ack: 0, options: [[2, 4], mss.to_be_bytes()].concat() };
    let client = Packet::arriving(LAN, addr("[fd00::2]:4000"), addr("[fd00::1]:5000"), syn(1440), b"");
    oracle.arrives(LAN, &client.build());
    let mut to_target = client.leaving(WAN, addr("[fd00:1::1]:40000"), addr("[fd00:1::2]:6000"));
    denied(oracle, WAN, &to_target.build(), "of no flow");
    to_target.body = syn(1200);
    oracle.judge(WAN, &to_target.build()).unwrap();
}

/// An ICMP error is about what came in where it leaves, or is another that came in, told to an end of a connection.
#[test]
fn the_oracle_knows_whose_errors_may_leave() {
    let mut bench = Bench::new();
    let oracle = &mut bench.oracle;
    let ip = |text: &str| text.parse().unwrap();
    let error = |port, src, dst, kind: [u8; 2], quote: &[u8]| {
        let (to, head) = (host_mac(ip(dst)), [kind[0], kind[1], 0, 0, 0, 0]);
        icmp_frame((to, gw_mac(port)), port, ip(src), ip(dst), (64, 0), head, quote)
    };
    let client = Packet::udp(LAN, "10.0.0.2:4000", "10.0.0.1:5000", b"data");
    let quote = &client.build()[14..];
    let about_client = |kind| error(LAN, "10.0.0.1", "10.0.0.2", kind, quote);
    let nothing = "an error about nothing that arrived";
    assert_eq!(oracle.judge(LAN, &about_client([11, 0])), Err(nothing.into()));
    oracle.arrives(LAN, &client.build());
    oracle.judge(LAN, &about_client([11, 0])).unwrap();
    oracle.judge(LAN, &about_client([3, 4])).unwrap();
    assert_eq!(oracle.own_errors, 2);
    assert_eq!(oracle.judge(LAN, &about_client([3, 3])), Err(nothing.into()), "none that we make");
    assert!(
        oracle.judge(LAN, &error(LAN, "10.0.0.1", "10.0.0.3", [11, 0], quote)).is_err(),
        "not to its sender"
    );
    assert!(
        oracle.judge(LAN, &error(LAN, "10.1.0.1", "10.0.0.2", [11, 0], quote)).is_err(),
        "not from its target"
    );
    let mut wrong = about_client([11, 0]);
    wrong[60] ^= 1;
    assert!(oracle.judge(LAN, &wrong).is_err(), "its checksum is wrong");

    // Port unreachable, by the target: the client may hear of it, once, and by the port that he is at.
    let to_target = client.leaving(WAN, addr("10.1.0.1:40000"), addr("10.1.0.2:6000")).build();
    let came = icmp(WAN, ip("10.1.0.2"), ip("10.1.0.1"), [3, 3, 0, 0, 0, 0], &to_target[14..]);
    oracle.judge(WAN, &to_target).unwrap();
    oracle.arrives(WAN, &came);
    assert!(oracle.judge(LAN, &error(LAN, "10.0.0.1", "10.0.0.2", [3, 3], &to_target[14..])).is_err());
    assert!(oracle.judge(WAN, &error(WAN, "10.1.0.1", "10.0.0.2", [3, 3], quote)).is_err());
    oracle.judge(LAN, &about_client([3, 3])).unwrap();
    assert_eq!(oracle.translated_errors, 1);
    assert_eq!(oracle.judge(LAN, &about_client([3, 3])), Err(nothing.into()), "not twice");
}
