//! `s2bench wan` from outside: two hosts in namespaces of their own, joined by it.
#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
#[path = "relay/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bench::topology::{Netns, Process, Workdir};
use bench::wan::report::{DirectionReport, Report};
use harness::{PATIENCE, private};
use nix::sys::signal::Signal;

const S2BENCH: &str = env!("CARGO_BIN_EXE_s2bench");

/// Hosts `a` and `b`, 10.N.0.1 and 10.N.0.2 on each of some links, whose other ends `aN` and `bN` are in `wan`.
struct Bed {
    // Dropped in this order: what runs before where it runs.
    process: Option<Process>,
    a: Netns,
    b: Netns,
    wan: Netns,
}

impl Bed {
    fn new(links: u8) -> Bed {
        let dir = Arc::new(Workdir::new().unwrap());
        let [a, b, wan] = ["a", "b", "wan"].map(|name| Netns::new(name, dir.clone()).unwrap());
        for n in 0..links {
            for (host, side, number) in [(&a, "a", 1), (&b, "b", 2)] {
                host.join(&format!("eth{n}"), &wan, &format!("{side}{n}"), 1500).unwrap();
                wan.silence(&format!("{side}{n}")).unwrap();
                host.sysctl(&format!("ipv6/conf/eth{n}/disable_ipv6"), "1").unwrap();
                host.ip(&format!("address add 10.{n}.0.{number}/24 dev eth{n}\nlink set eth{n} up")).unwrap();
            }
        }
        Bed { process: None, a, b, wan }
    }

    /// Starts the WAN and waits until it carries.
    fn start(&mut self, args: &[&str]) {
        let own = self.wan.dir().join("runtime");
        std::fs::create_dir_all(&own).unwrap();
        let env = [("RUNTIME_DIRECTORY", own.to_str().unwrap())];
        let args = [&["wan", "--json"], args].concat();
        let mut process = self.wan.spawn_with(S2BENCH.as_ref(), &args, &env).unwrap();
        process.wait_for("ready\n", PATIENCE).unwrap();
        self.process = Some(process);
    }

    /// One link with these options.
    fn link(args: &[&str]) -> Bed {
        let mut bed = Bed::new(1);
        bed.start(&[&["--a", "af_packet:a0", "--b", "af_packet:b0"], args].concat());
        bed
    }

    /// Stops it; every packet must be accounted for, and nothing be left.
    fn stop(&mut self) -> Report {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::SIGINT).unwrap();
        let status = process.wait(PATIENCE).unwrap();
        assert!(status.success(), "{status}: {}", process.said());
        let report: Report = serde_json::from_str(&process.output().unwrap().stdout).unwrap();
        for link in &report.links {
            for direction in [&link.a_to_b, &link.b_to_a] {
                assert_eq!(direction.unaccounted(), 0, "{direction:?}");
                assert_eq!(direction.lag.count, direction.sent);
                assert!(direction.lag.min >= 0);
            }
        }
        assert_eq!(walk(&self.wan.dir().join("runtime")), [""; 0], "left behind");
        report
    }

    /// Pings from a to b over a link: how many came back, and the shortest round trip in milliseconds.
    fn ping(&self, link: u8, args: &[&str]) -> (u32, f64) {
        let to = format!("10.{link}.0.2");
        let mut process = self.a.spawn("ping", &[&["-n", "-q"], args, &[&to]].concat()).unwrap();
        // That no reply came is an answer, too.
        process.wait(PATIENCE).unwrap();
        let said = process.output().unwrap().stdout;
        let came = said.split(", ").find_map(|part| part.strip_suffix(" received")).unwrap().parse().unwrap();
        let least = said
            .split("mdev = ")
            .nth(1)
            .map_or(f64::INFINITY, |rest| rest.split('/').next().unwrap().parse().unwrap());
        (came, least)
    }
}

/// Files under a directory.
fn walk(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(walk(&path)),
            path => found.push(path.display().to_string()),
        }
    }
    found
}

fn dropped(direction: &DirectionReport, reason: &str) -> u64 {
    direction.dropped[reason]
}

#[test]
fn nothing_comes_before_its_time() {
    private(|| {
        let mut bed = Bed::link(&["--delay", "20ms", "--interval", "100ms"]);
        let (came, least) = bed.ping(0, &["-c", "5", "-i", "0.2"]);
        assert_eq!(came, 5);
        assert!(least >= 40.0, "a round trip of {least} ms over 20 ms each way");
        let said = bed.process.as_ref().unwrap().output().unwrap().stderr;
        let told = |l: &&str| l.contains("link-1 a_to_b: in ") && !l.contains("out 0.000 Mbit/s");
        assert!(said.lines().any(|l| told(&l)), "{said}");
        let report = bed.stop();
        let link = &report.links[0];
        assert!(link.a_to_b.received >= 5 && link.b_to_a.received >= 5, "{report:?}");
        assert_eq!(link.a_to_b.dropped.values().sum::<u64>(), 0);
        // It can be started again at once: the devices are free.
        bed.start(&["--a", "af_packet:a0", "--b", "af_packet:b0", "--preset", "metro"]);
        let (came, least) = bed.ping(0, &["-c", "3", "-i", "0.2"]);
        assert!(came == 3 && least >= 5.0, "{came} came, {least} ms");
        assert_eq!(bed.stop().links[0].preset.map(|p| p.name()), Some("metro"));
    });
}

#[test]
fn frames_pass_as_they_are() {
    private(|| {
        let mut bed = Bed::new(1);
        // What it sends is recorded by the driver itself: a host's kernel would take tags off.
        let file = bed.wan.dir().join("sent.pcap");
        let recorder = format!("vdev:net_pcap0,tx_pcap={}", file.display());
        bed.start(&["--a", "af_packet:a0", "--b", &recorder, "--delay", "1ms"]);
        let frame = |ethernet: &[u8], len: usize| {
            let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], ethernet].concat();
            // No packet that anybody would believe: what is in it is not looked at.
            frame.extend((0..).map(|n| n as u8).take(len - frame.len()));
            frame
        };
        let tagged = [0x81, 0, 0x60, 5, 8, 0];
        let twice = [0x81, 0, 0, 7, 0x81, 0, 0, 5, 0x86, 0xdd];
        let frames = [
            frame(&[8, 0], 60),
            frame(&[8, 0], 1514),
            frame(&tagged, 64),
            frame(&tagged, 1518),
            frame(&twice, 68),
            frame(&[0x88, 0xcc], 60),
        ];
        let sent = frames.clone();
        bed.a.run(move || sent.iter().for_each(|frame| send_raw("eth0", frame))).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let report = bed.stop();
        assert_eq!(report.links[0].a_to_b.received, frames.len() as u64, "{report:?}");
        let recording = forwarder::io::pcap::Pcap::open(&file).unwrap();
        let got: Vec<Vec<u8>> = recording.records().map(|record| record.unwrap().frame.to_vec()).collect();
        assert_eq!(got, frames);
    });
}

/// Sends a frame by an interface of this thread's namespace.
fn send_raw(device: &str, frame: &[u8]) {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll).unwrap();
    let address = nix::ifaddrs::getifaddrs()
        .unwrap()
        .filter(|i| i.interface_name == device)
        .find_map(|i| i.address?.as_link_addr().copied());
    sendto(std::os::fd::AsRawFd::as_raw_fd(&socket), frame, &address.unwrap(), MsgFlags::empty()).unwrap();
}

#[test]
fn streams_pass_whole() {
    private(|| {
        let mut bed =
            Bed::link(&["--delay", "2ms", "--jitter", "500us", "--rate", "200M", "--queue", "100ms"]);
        for proto in ["tcp", "udp", "quic"] {
            let listen = "10.0.0.2:5000";
            let mut source = bed.b.spawn(S2BENCH, &["source", "--listen", listen, "--proto", proto]).unwrap();
            source.wait_for("listening", PATIENCE).unwrap();
            let args =
                ["sink", "--connect", listen, "--proto", proto, "--bytes", "3M", "--duplex", "--verify"];
            let args = [&args[..], &["--rate", "20M", "--parallel", "2"]].concat();
            bed.a.output(S2BENCH, &args, PATIENCE).unwrap();
        }
        let report = bed.stop();
        for direction in [&report.links[0].a_to_b, &report.links[0].b_to_a] {
            // Three streams of 3 MB, by two connections each.
            assert!(direction.sent_bytes > 18_000_000, "{direction:?}");
            assert_eq!(direction.reordered, 0, "jitter keeps order unless told otherwise");
        }
    });
}

/// Sends `n` numbered datagrams from a to b; returns how often each came.
fn datagrams(bed: &Bed, n: u32) -> BTreeMap<u32, u32> {
    let receiver = bed.b.run(|| UdpSocket::bind("10.0.0.2:6000")).unwrap().unwrap();
    nix::sys::socket::setsockopt(&receiver, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20)).ok();
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let counting = std::thread::spawn(move || {
        let (mut came, mut buffer) = (BTreeMap::new(), [0; 64]);
        while let Ok(len) = receiver.recv(&mut buffer) {
            let number = u32::from_be_bytes(buffer[..len].try_into().unwrap());
            *came.entry(number).or_insert(0) += 1;
        }
        came
    });
    let sender = bed.a.run(|| UdpSocket::bind("10.0.0.1:0")).unwrap().unwrap();
    for number in 0..n {
        sender.send_to(&number.to_be_bytes(), "10.0.0.2:6000").unwrap();
        if number % 16 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    counting.join().unwrap()
}

/// Within five standard deviations of the mean of `n` tries of odds `p`.
#[track_caller]
fn assert_binomial(count: u64, n: u64, p: f64) {
    let (mean, sd) = (n as f64 * p, (n as f64 * p * (1.0 - p)).sqrt());
    assert!((count as f64 - mean).abs() <= 5.0 * sd, "{count} of {n} where {mean} +- {sd} are expected");
}

#[test]
fn datagrams_are_lost_and_doubled_as_claimed() {
    private(|| {
        let mut bed = Bed::new(1);
        let ends = ["--a", "af_packet:a0", "--b", "af_packet:b0"];
        let args = ["--loss", "10%", "--duplicate", "5%"];
        bed.start(&[&ends[..], &args, &["--seed", "11"]].concat());
        // Else ARP would be lost, too, and hold up the first datagrams.
        for (host, device, other, address) in
            [(&bed.a, "b", &bed.b, "10.0.0.2"), (&bed.b, "a", &bed.a, "10.0.0.1")]
        {
            let shown = other.output("ip", &["-br", "link", "show", "eth0"], PATIENCE).unwrap().stdout;
            let mac = shown.split_whitespace().nth(2).unwrap().to_owned();
            host.ip(&format!("neighbour replace {address} lladdr {mac} dev eth0"))
                .unwrap_or_else(|e| panic!("{device}: {e}"));
        }
        const N: u32 = 4000;
        let came = datagrams(&bed, N);
        let report = bed.stop();
        let there = &report.links[0].a_to_b;
        let lost = u64::from(N) - came.len() as u64;
        let doubled = came.values().filter(|n| **n == 2).count() as u64;
        assert_binomial(lost, N.into(), 0.1);
        assert_binomial(doubled, N.into(), 0.9 * 0.05);
        // Nothing else went this way: what it counts is what was seen.
        assert_eq!((there.received, dropped(there, "loss"), there.duplicated), (N.into(), lost, doubled));

        // The same seed and the same packets meet the same fate, another seed another.
        bed.start(&[&ends[..], &args, &["--seed", "11"]].concat());
        assert_eq!(datagrams(&bed, N), came);
        bed.stop();
        bed.start(&[&ends[..], &args, &["--seed", "12"]].concat());
        assert_ne!(datagrams(&bed, N), came);
        bed.stop();
    });
}

#[test]
fn larger_packets_than_the_mtu_are_dropped_by_name() {
    private(|| {
        let mut bed = Bed::link(&["--mtu", "1300"]);
        assert_eq!(bed.ping(0, &["-c", "3", "-i", "0.2", "-M", "do", "-s", "1272"]).0, 3);
        assert_eq!(bed.ping(0, &["-c", "2", "-i", "0.2", "-W", "1", "-M", "do", "-s", "1273"]).0, 0);
        let report = bed.stop();
        assert_eq!(dropped(&report.links[0].a_to_b, "mtu"), 2);
        assert_eq!(dropped(&report.links[0].b_to_a, "mtu"), 0);
    });
}

#[test]
fn a_link_goes_down_and_comes_up() {
    private(|| {
        let mut bed = Bed::link(&["--down", "500ms for 500ms every 1s"]);
        let (came, _) = bed.ping(0, &["-c", "60", "-i", "0.05", "-W", "1"]);
        assert!((1..60).contains(&came), "{came} of 60 came back");
        assert!(dropped(&bed.stop().links[0].a_to_b, "down") > 0);
    });
}

#[test]
fn links_go_each_its_own_way() {
    private(|| {
        let mut bed = Bed::new(2);
        let file = bed.wan.dir().join("wan.toml");
        let text = "[[link]]\nname = \"near\"\na = \"af_packet:a0\"\nb = \"af_packet:b0\"\neach = { delay = \"2ms\" }\n\
                    [[link]]\nname = \"far\"\na = \"af_packet:a1\"\nb = \"af_packet:b1\"\n\
                    a_to_b = { delay = \"40ms\" }\nb_to_a = { delay = \"30ms\" }\n";
        // With a worker each, where there are cores.
        let cores = std::thread::available_parallelism().unwrap().get().min(2);
        std::fs::write(&file, format!("cores = {:?}\n{text}", (0..cores).collect::<Vec<_>>())).unwrap();
        bed.start(&["--config", file.to_str().unwrap()]);
        let near = bed.ping(0, &["-c", "3", "-i", "0.2"]);
        let far = bed.ping(1, &["-c", "3", "-i", "0.2"]);
        assert!(near.0 == 3 && near.1 >= 4.0, "{near:?}");
        assert!(far.0 == 3 && far.1 >= 70.0, "{far:?}");
        let report = bed.stop();
        assert_eq!(report.links.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["near", "far"]);
        assert!(report.links.iter().all(|l| l.a_to_b.sent >= 3 && l.b_to_a.sent >= 3), "{report:?}");
    });
}

/// What a command that must fail says.
fn refused(args: &[&str]) -> String {
    let output = Command::new(S2BENCH).arg("wan").args(args).output().unwrap();
    assert!(!output.status.success(), "{args:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn what_cannot_be_is_refused() {
    let ends = ["--a", "af_packet:nowhere0", "--b", "af_packet:nowhere1"];
    let with = |more: &[&str]| refused(&[&ends, more].concat());
    assert!(with(&[]).contains("there is no interface nowhere0"));
    assert!(with(&["--jitter", "1ms"]).contains("raise the delay"));
    assert!(with(&["--loss", "200%"]).contains("from 0% to 100%"));
    assert!(with(&["--cores", "9999"]).contains("core 9999 is not available"));
    assert!(refused(&[]).contains("--a"));
    assert!(refused(&["--config", "/nonexistent/wan.toml"]).contains("/nonexistent/wan.toml"));
    let memory =
        refused(&["--a", "vdev:net_null0", "--b", "vdev:net_null1", "--rate", "100G", "--delay", "1s"]);
    assert!(
        memory.contains("MiB") && memory.contains("--memory") && memory.contains("--packets"),
        "{memory}"
    );
}

#[test]
fn a_kernel_without_netem_is_told_what_is_missing() {
    private(|| {
        let bed = Bed::new(1);
        let args = [
            "wan",
            "--netem",
            "--a",
            "af_packet:a0",
            "--b",
            "af_packet:b0",
            "--delay",
            "1ms",
            "--duration",
            "1s",
        ];
        let mut process = bed.wan.spawn(S2BENCH, &args).unwrap();
        let status = process.wait(PATIENCE).unwrap();
        assert!(status.success() || process.said().contains("sch_netem"), "{}", process.said());
        // Either way nothing is left of it.
        let shown = bed.wan.output("ip", &["-br", "link"], PATIENCE).unwrap().stdout;
        assert!(!shown.contains("s2w"), "{shown}");
        let shown = bed.wan.output("tc", &["qdisc"], PATIENCE).unwrap().stdout;
        assert!(!shown.contains("netem"), "{shown}");
    });
}

#[test]
fn verify_holds_it_against_its_claims() {
    let output = Command::new(S2BENCH).args(["wan", "--verify", "--json"]).output().unwrap();
    let found: bench::wan::verify::Verified = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let names: Vec<_> = found.claims.iter().map(|c| c.name.as_str()).collect();
    for name in
        ["delay", "never early", "rate", "loss", "burst loss", "duplicate", "corrupt", "reorder", "ledger"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    // How late packets come is the machine's matter.
    for claim in found.claims.iter().filter(|c| !c.timing) {
        assert!(claim.held, "{claim:?}");
    }
    assert_eq!(output.status.success(), found.held());
}
