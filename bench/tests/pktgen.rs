//! `s2bench pktgen` from outside: over virtual devices, over veth pairs, through a running gateway, to a reflector.
//!
//! Rates are low and late senders catch up, so that what is lost is what the test loses and not what a busy machine does.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
#[path = "relay/harness.rs"]
mod harness;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;

use bench::pktgen::outcome::{Direction, Outcome, Purpose};
use bench::pktgen::reflect::Reflected;
use bench::pktgen::search::Verdict;
use bench::topology::{Gateway, Netns, Process, Workdir, unaccounted};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use forwarder::io::pcap::Pcap;
use harness::{PATIENCE, private};
use nix::sys::signal::Signal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_s2bench");
/// Of every test with devices of its own.
const CALM: [&str; 4] = ["--settle", "500ms", "--catch-up", "10s"];
/// A ring that gives back what it is given.
const RING: [&str; 4] = ["--tx", "vdev:net_ring0", "--dst-mac", "02:00:00:00:00:09"];

fn pktgen(args: &[&str]) -> Output {
    Command::new(PROGRAM).arg("pktgen").args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The result of a command that succeeds.
fn outcome(args: &[&str]) -> Outcome {
    let output = pktgen(&[args, &CALM, &["--json"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same in a namespace.
fn within(netns: &Netns, args: &[&str]) -> Outcome {
    let output = start(netns, &[args, &CALM, &["--json"]].concat()).finished(3 * PATIENCE).unwrap();
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", output.stdout, output.stderr))
}

fn start(netns: &Netns, args: &[&str]) -> Process {
    netns.spawn(PROGRAM, &[&["pktgen"], args].concat()).unwrap()
}

/// Why a command fails.
fn refused(args: &[&str]) -> String {
    let output = pktgen(args);
    assert!(!output.status.success(), "{}", text(&output.stdout));
    text(&output.stderr)
}

/// Sent, received, lost, reordered, duplicates, corrupt.
fn counts(d: &Direction) -> [u64; 6] {
    let found = d.sum_received.as_ref().unwrap();
    [
        d.sum_sent.packets,
        found.packets,
        found.lost_packets,
        found.out_of_order,
        found.duplicates,
        found.corrupt,
    ]
}

#[test]
fn a_ring_gives_everything_back_and_every_packet_is_told() {
    let o = outcome(
        &[&["run", "--rate", "20kpps", "--count", "10k", "--flows", "7", "--size", "imix"][..], &RING]
            .concat(),
    );
    let [step] = &o.steps[..] else { panic!("{:?}", o.steps) };
    let [there] = &step.directions[..] else { panic!("{step:?}") };
    assert_eq!(counts(there), [10_000, 10_000, 0, 0, 0, 0]);
    // Packet n has the size in place n / 7 + n % 7 of the mix.
    let mix: Vec<u64> = [64, 570, 64, 64, 570, 64, 64, 570, 64, 570, 64, 1518].to_vec();
    let bytes: u64 = (0..10_000).map(|n| mix[(n / 7 + n % 7) % 12]).sum();
    let found = there.sum_received.as_ref().unwrap();
    assert_eq!((there.sum_sent.bytes, found.bytes), (bytes, bytes));
    assert_eq!((found.delay.count, found.jitter.count), (10_000, 10_000 - 7));
    assert!(found.delay.min > 0 && found.delay.histogram().unwrap().len() == 10_000);
    let flows: Vec<u64> = found.flows.iter().map(|f| f.packets).collect();
    assert_eq!(flows, [1429, 1429, 1429, 1429, 1428, 1428, 1428]);
    assert!(step.intervals.iter().map(|i| i.sent_packets).sum::<u64>() <= 10_000);
    assert_eq!(step.offered_packets_per_second, Some(20_000.0));
    assert!(there.sum_sent.bits_per_second > there.sum_sent.l2_bits_per_second);
    assert_eq!((o.start.command.as_str(), o.start.tx.driver.as_str()), ("run", "net_ring"));
    assert!(o.start.host.cores > 0 && !o.end.partial && o.start.settings["flows"] == 7, "{:?}", o.start);
}

#[test]
fn another_parser_finds_what_is_on_the_wire_whole() {
    let file = std::env::temp_dir().join(format!("s2bench-pktgen-{}.pcap", std::process::id()));
    let device = format!("vdev:net_pcap0,tx_pcap={}", file.display());
    let o = outcome(&[
        "run",
        "--tx",
        &device,
        "--rx",
        "none",
        "--dst-mac",
        "02:00:00:00:00:09",
        "--size",
        "128,imix",
        "--count",
        "144",
        "--flows",
        "6",
        "--hosts",
        "3",
        "--src",
        "198.18.0.2:4000",
    ]);
    assert!(o.start.rx.is_none() && o.steps.iter().all(|s| s.directions[0].sum_received.is_none()));
    let pcap = Pcap::open(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let mut sources = std::collections::BTreeMap::<_, usize>::new();
    let mut lengths = std::collections::BTreeMap::<_, usize>::new();
    for record in pcap.records() {
        let bytes = record.unwrap().frame;
        let packet = SlicedPacket::from_ethernet(bytes).unwrap();
        let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("{packet:?}") };
        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!() };
        let header = ip.header().to_header();
        assert_eq!(header.calc_header_checksum(), header.header_checksum);
        let sum =
            udp.to_header().calc_checksum_ipv4_raw(header.source, header.destination, udp.payload()).unwrap();
        assert_eq!(sum, udp.checksum());
        assert_eq!(usize::from(header.total_len), bytes.len() - 14);
        assert!(udp.payload().starts_with(b"S2"));
        *sources.entry((header.source, udp.source_port())).or_default() += 1;
        *lengths.entry(bytes.len() + 4).or_default() += 1;
    }
    let source = |host, port| ([198, 18, 0, host], port);
    let wanted = [(2, 4000), (2, 4001), (3, 4000), (3, 4001), (4, 4000), (4, 4001)];
    assert_eq!(sources.into_iter().collect::<Vec<_>>(), wanted.map(|(h, p)| (source(h, p), 48)));
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [(64, 84), (128, 144), (570, 48), (1518, 12)]);
}

/// A namespace for the generator with devices `p0` and `p1`, and what is at their far ends.
fn wired(mtu: u16) -> (Netns, Netns) {
    let dir = Arc::new(Workdir::new().unwrap());
    let generator = Netns::new("generator", Arc::clone(&dir)).unwrap();
    let middle = Netns::new("middle", dir).unwrap();
    for (near, far) in [("p0", "g0"), ("p1", "g1")] {
        generator.join(near, &middle, far, mtu).unwrap();
        generator.silence(near).unwrap();
        middle.silence(far).unwrap();
    }
    (generator, middle)
}

#[test]
fn both_ends_of_a_cable_speak_both_families_both_protocols_tagged_and_jumbo() {
    private(|| {
        let netns = Netns::new("generator", Arc::new(Workdir::new().unwrap())).unwrap();
        netns.join("p0", &netns, "p1", 9100).unwrap();
        netns.silence("p0").unwrap();
        netns.silence("p1").unwrap();
        let cable =
            ["run", "--tx", "af_packet:p0", "--rx", "af_packet:p1", "--rate", "4kpps", "--count", "2k"];
        let v4 = ["--src", "10.0.0.1:1000", "--dst", "10.0.0.2:5000"];
        let v6 = ["--src", "[fd00::10]:1000", "--dst", "[fd00::2]:5000"];
        for (more, size) in [
            (&v4[..], "64"),
            (&[&v4[..], &["--proto", "tcp", "--vlan", "7"]].concat(), "80"),
            (&[&v6[..], &["--hosts", "3", "--flows", "30"]].concat(), "9018"),
            (&[&v6[..], &["--proto", "tcp", "--bidirectional", "--flows", "5"]].concat(), "2d1i"),
        ] {
            let o = within(&netns, &[&cable, more, &["--size", size]].concat());
            assert_eq!(o.steps.len(), 1);
            for d in &o.steps[0].directions {
                assert_eq!(counts(d), [2000, 2000, 0, 0, 0, 0], "{more:?}: {d:?}");
            }
            assert_eq!(o.steps[0].directions.len(), if more.contains(&"--bidirectional") { 2 } else { 1 });
            assert_ne!(o.steps[0].verdict, Verdict::Lost);
        }
    });
}

/// A gateway between the generator's devices, with UDP and TCP flows in both families for the first addresses of the client's
/// network; `more` is said of each.
fn gateway(middle: Netns, more: &str) -> Gateway {
    let mut config = "[eal]\nhuge = false\n[workers]\nidle = \"adaptive\"\n\
         [[port]]\nname = \"client\"\ndevice = \"af_packet:g0\"\naddresses = [\"10.81.0.1/24\", \"fd81::1/64\"]\n\
         [[port]]\nname = \"wan\"\ndevice = \"af_packet:g1\"\naddresses = [\"10.83.0.1/24\", \"fd83::1/64\"]\n"
        .to_owned();
    for proto in ["udp", "tcp"] {
        for (family, listen, target, from) in [
            ("v4", "10.81.0.1", "10.83.0.2", "10.81.0.2/31"),
            ("v6", "[fd81::1]", "[fd83::2]", "fd81::2/127"),
        ] {
            config += &format!(
                "[[flow]]\nname = \"{proto}-{family}\"\nproto = \"{proto}\"\nlisten = \"{listen}:5000\"\n\
                 target = \"{target}:6000\"\nfrom = [\"{from}\"]\n{more}\n"
            );
        }
    }
    Gateway::start(middle, &config).unwrap()
}

const THROUGH_V4: [&str; 10] = [
    "--tx",
    "af_packet:p0",
    "--rx",
    "af_packet:p1",
    "--src",
    "10.81.0.2:2000",
    "--dst",
    "10.81.0.1:5000",
    "--rx-address",
    "10.83.0.2",
];
const THROUGH_V6: [&str; 10] = [
    "--tx",
    "af_packet:p0",
    "--rx",
    "af_packet:p1",
    "--src",
    "[fd81::2]:2000",
    "--dst",
    "[fd81::1]:5000",
    "--rx-address",
    "fd83::2",
];

#[test]
fn through_a_gateway_packets_are_known_again_in_both_directions_and_agree_with_its_counters() {
    private(|| {
        let (generator, middle) = wired(1500);
        let gateway = gateway(middle, "");
        let run = ["run", "--rate", "3kpps", "--count", "3k", "--flows", "12", "--bidirectional"];
        for (through, proto, flow) in
            [(THROUGH_V4, "udp", "udp-v4"), (THROUGH_V6, "tcp", "tcp-v6"), (THROUGH_V6, "udp", "udp-v6")]
        {
            let o = within(&generator, &[&run[..], &through, &["--proto", proto, "--size", "100"]].concat());
            let [there, back] = &o.steps[0].directions[..] else { panic!("{:?}", o.steps) };
            assert_eq!(counts(there), [3000, 3000, 0, 0, 0, 0], "{o:?}");
            assert_eq!(counts(back), [3000, 3000, 0, 0, 0, 0], "{o:?}");
            // What the gateway counted beside the trial are the first packets of the flows.
            let info = gateway.flow(flow).unwrap();
            assert_eq!(info.admitted, 12);
            for count in [info.to_target.packets, info.to_client.packets] {
                assert!((3012..=3000 + 4 * 12).contains(&count), "{info:?}");
            }
        }
        assert_eq!(unaccounted(&gateway.settled(PATIENCE).unwrap()), 0);
    });
}

#[test]
fn what_a_gateway_denies_is_lost_to_the_packet() {
    private(|| {
        let (generator, middle) = wired(1500);
        let gateway = gateway(middle, "");
        let denied = || gateway.stats().unwrap().drops.get("source_denied").copied().unwrap_or(0);
        // Of five hosts the gateway lets two in: 10.81.0.2 and 10.81.0.3.
        let run = ["run", "--rate", "2kpps", "--count", "5k", "--flows", "5", "--hosts", "5"];
        let o = within(&generator, &[&run[..], &THROUGH_V4].concat());
        let there = &o.steps[0].directions[0];
        assert_eq!(counts(there), [5000, 2000, 3000, 0, 0, 0]);
        let found = there.sum_received.as_ref().unwrap();
        let lost: Vec<u64> = found.flows.iter().map(|f| f.lost_packets).collect();
        assert_eq!((lost, found.lost_percent), (vec![0, 0, 1000, 1000, 1000], 60.0));
        assert_eq!(o.steps[0].verdict, Verdict::Lost);
        assert!(o.end.warnings.iter().any(|w| w.contains("3 of 5 flows did not arrive")), "{:?}", o.end);
        // Four lessons, because three flows never came.
        assert_eq!(denied(), 3000 + 4 * 3);
        // Nobody may in: nothing is measured, and the error says where to look.
        let args = [&["run", "--src", "10.81.0.9:2000"], &THROUGH_V4[..4], &THROUGH_V4[6..]].concat();
        let error =
            start(&generator, &[&args, &CALM[..]].concat()).finished(PATIENCE).unwrap_err().to_string();
        assert!(error.contains("none of the first packets") && error.contains("--rx-address"), "{error}");
    });
}

#[test]
fn a_search_finds_the_rate_that_a_gateway_polices_and_records_each_step() {
    private(|| {
        let (generator, middle) = wired(1500);
        let gateway = gateway(middle, "rate = \"4M\"");
        // 128 KiB at once and 4 Mbit/s: about 104 frames and 400 more in a second.
        let search =
            ["throughput", "--size", "1258", "--trial", "1s", "--max-rate", "2kpps", "--resolution", "10"];
        let o = within(&generator, &[&search[..], &THROUGH_V4, &["--line-rate", "100M"]].concat());
        let [found] = &o.end.throughput[..] else { panic!("{:?}", o.end) };
        let (searched, latency): (Vec<_>, Vec<_>) =
            o.steps.iter().partition(|step| step.purpose == Purpose::Throughput);
        assert_eq!((searched.len(), latency.len()), (found.trials, 1));
        assert!(searched.len() >= 4, "{searched:?}");
        assert_eq!(searched[0].offered_packets_per_second, Some(2000.0));
        assert_eq!(searched[0].verdict, Verdict::Lost);
        let rate = found.packets_per_second.unwrap();
        // The rate is one at which a trial lost nothing, and nothing was lost where less was asked for.
        assert!(searched.iter().any(|s| s.sent() == rate && s.lost() == 0), "{found:?}");
        assert!(
            searched.iter().all(|s| s.lost() == 0 || s.offered_packets_per_second >= Some(rate)),
            "{searched:?}"
        );
        // What the policer can have passed at the most.
        assert!(rate < 700.0, "{rate}");
        assert_eq!(found.delay.len(), 1);
        assert!((found.percent_of_line.unwrap() - rate * 1278.0 * 8.0 / 1e6).abs() < 1e-9, "{found:?}");
        assert!(gateway.flow("udp-v4").unwrap().policed > 0);
    });
}

#[test]
fn loss_by_load_and_bursts_are_tried_as_the_rfcs_say() {
    private(|| {
        let (generator, middle) = wired(1500);
        let _gateway = gateway(middle, "rate = \"4M\"");
        let loss = ["loss", "--size", "1258", "--trial", "1s", "--max-rate", "1kpps", "--step", "25"];
        let o = within(&generator, &[&loss[..], &THROUGH_V4].concat());
        let loads: Vec<(f64, bool)> =
            o.end.loss.iter().map(|l| (l.offered_percent, l.lost_percent > 0.0)).collect();
        assert_eq!(loads.len(), o.steps.len());
        assert!(loads.starts_with(&[(100.0, true), (75.0, true)]), "{loads:?}");
        assert!(loads.ends_with(&[(25.0, false)]), "{loads:?}");

        let bursts = [
            "back-to-back",
            "--size",
            "1258",
            "--searches",
            "2",
            "--longest",
            "50ms",
            "--burst-resolution",
            "20",
        ];
        let known = ["--line-rate", "100M", "--throughput", "300pps"];
        let o = within(&generator, &[&bursts[..], &THROUGH_V4, &known].concat());
        let [found] = &o.end.back_to_back[..] else { panic!("{:?}", o.end) };
        assert_eq!(found.bursts.len(), 2);
        // 128 KiB pass at once, which are 104 packets, and few more in the time of a burst.
        assert!(found.min > 50 && found.corrected_buffer_seconds < found.implied_buffer_seconds, "{found:?}");
        assert!(o.steps.iter().all(|s| s.purpose == Purpose::BackToBack));
        // The longest burst is half of 100 ms at line rate.
        let line: f64 = 100e6 / (1278.0 * 8.0);
        assert_eq!(o.steps[0].directions[0].sum_sent.packets, (0.05 * line) as u64);
    });
}

#[test]
fn a_far_reflector_sends_everything_back() {
    private(|| {
        let (generator, far) = wired(1500);
        for (dst, src, address) in
            [("10.0.0.2:5000", "10.0.0.1:1000", "10.0.0.2"), ("[fd00::2]:5000", "[fd00::1]:1000", "fd00::2")]
        {
            let mut reflector =
                start(&far, &["reflect", "--on", "af_packet:g0", "--address", address, "--json"]);
            reflector.wait_for("ready", PATIENCE).unwrap();
            let run = [
                "run",
                "--tx",
                "af_packet:p0",
                "--rate",
                "2kpps",
                "--count",
                "4k",
                "--flows",
                "3",
                "--size",
                "2b1g",
            ];
            let o = within(&generator, &[&run[..], &["--src", src, "--dst", dst, "--proto", "udp"]].concat());
            assert_eq!(counts(&o.steps[0].directions[0]), [4000, 4000, 0, 0, 0, 0]);
            assert_eq!(o.start.rx, Some(o.start.tx.clone()));
            assert!(reflector.stop(PATIENCE).unwrap().success());
            let did: Reflected = serde_json::from_str(&reflector.output().unwrap().stdout).unwrap();
            // The first packets of the flows beside those of the trial.
            assert!((4003..=4000 + 4 * 3).contains(&did.packets), "{did:?}");
            assert_eq!((did.dropped_packets, did.corrupt), (0, 0));
        }
    });
}

#[test]
fn an_interrupted_run_keeps_what_it_has_and_says_partial() {
    private(|| {
        let netns = Netns::new("generator", Arc::new(Workdir::new().unwrap())).unwrap();
        netns.join("p0", &netns, "p1", 1500).unwrap();
        netns.silence("p0").unwrap();
        netns.silence("p1").unwrap();
        let file: PathBuf = netns.dir().join("partial.json");
        let run = [
            "throughput",
            "--tx",
            "af_packet:p0",
            "--rx",
            "af_packet:p1",
            "--trial",
            "60s",
            "--max-rate",
            "1kpps",
        ];
        let more = ["--json", file.to_str().unwrap(), "--settle", "100ms"];
        let mut process = start(&netns, &[&run[..], &more].concat());
        // It is in its first trial once packets come in numbers.
        harness::eventually("packets arrive", || {
            let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap().unwrap();
            let p1 = text.lines().find_map(|l| l.trim().strip_prefix("p1:")).unwrap_or_default();
            p1.split_whitespace().nth(1).is_some_and(|n| n.parse::<u64>().unwrap() > 200)
        });
        process.signal(Signal::SIGINT).unwrap();
        let status = process.wait(PATIENCE).unwrap();
        assert_eq!(status.code(), Some(1), "{}", process.said());
        let o: Outcome = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert!(o.end.partial && o.end.error.is_some() && o.end.throughput.is_empty());
        let [step] = &o.steps[..] else { panic!("{:?}", o.steps) };
        assert!(step.partial && step.directions[0].sum_sent.packets > 100);
        let seconds = step.intervals.iter().all(|i| i.end == i.start + 1.0);
        assert!(seconds && step.intervals.len() < 60, "{:?}", step.intervals);
        assert!(process.output().unwrap().stdout.contains("partial: interrupted"));
    });
}

#[test]
fn bad_input_is_told_with_its_mend() {
    let run = |more: &[&str]| refused(&[&["run"], &RING[..], more].concat());
    let line = run(&["--line-rate", "10G", "--rate", "15Mpps"]);
    assert!(line.contains("15Mpps is above the line rate") && line.contains("14880952"), "{line}");
    let small = run(&["--vlan", "5", "--size", "64"]);
    assert!(small.contains("use --size 68 or more"), "{small}");
    let share = run(&["--rate", "50%"]);
    assert!(share.contains("--line-rate"), "{share}");
    let both = run(&["--bidirectional"]);
    assert!(both.contains("name another device"), "{both}");
    let rate = run(&["--rate", "fast"]);
    assert!(rate.contains("frames a second as 1.5Mpps"), "{rate}");
    let device = refused(&["run", "--tx", "eth0"]);
    assert!(device.contains("af_packet:IFACE"), "{device}");
    let absent = refused(&["run", "--tx", "0000:ff:1f.7"]);
    assert!(absent.contains("no such PCI device"), "{absent}");
    // The ring has nobody who would answer.
    let silent = refused(&["run", "--tx", "vdev:net_ring0", "--dst", "198.19.0.2:5000"]);
    assert!(silent.contains("no answer to ARP for 198.19.0.2") && silent.contains("--dst-mac"), "{silent}");
    let silent = refused(&["run", "--tx", "vdev:net_ring0", "--src", "[fd00::1]:1", "--dst", "[fd00::9]:1"]);
    assert!(silent.contains("no answer to neighbor discovery for fd00::9"), "{silent}");
    let bursts = refused(&[&["back-to-back"], &RING[..]].concat());
    assert!(bursts.contains("--line-rate"), "{bursts}");
    let nobody = refused(&[&["throughput", "--rx", "none"], &RING[..]].concat());
    assert!(nobody.contains("needs a device that receives"), "{nobody}");
}

#[test]
fn a_rate_that_cannot_be_sent_is_not_reported_as_sent() {
    // A terabit of the smallest frames is beyond any core.
    let search = ["throughput", "--max-rate", "1000Mpps", "--trial", "200ms", "--settle", "200ms", "--json"];
    let output = pktgen(&[&search[..], &RING].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let o: Outcome = serde_json::from_slice(&output.stdout).unwrap();
    let first = &o.steps[0];
    assert!(first.sent() < 1e9 && first.verdict != Verdict::Passed, "{first:?}");
    assert!(first.directions[0].sum_sent.unsent_packets > 0);
    for found in &o.end.throughput {
        let Some(rate) = found.packets_per_second else { continue };
        assert!(o.steps.iter().any(|s| s.sent() == rate && s.lost() == 0), "{found:?}");
        assert!(rate < 1e9);
    }
}

#[test]
fn the_text_tells_offered_sent_and_lost() {
    let output = pktgen(&[&["run", "--rate", "10kpps", "--count", "1k"][..], &RING, &CALM].concat());
    let text = text(&output.stdout);
    for word in
        ["offered 10 kpps", "sent 1000 packets", "lost 0", "reordered 0", "duplicates 0", "cycles a packet"]
    {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
}
