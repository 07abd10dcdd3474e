//! The relay over DPDK's own devices: rings and memif, lone packets, jumbo frames, frames in several buffers, full tables.
//! EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod dpdk_common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::packet::{ACK, Body, Packet, SYN, addr, gw_mac, host_mac, read, tcp};
use common::{LAN, WAN};
use dpdk_common::{options, settings};
use forwarder::api::Stats;
use forwarder::config::{Config, Device, Idle};
use forwarder::dpdk::{
    DpdkIo, Eal, EalOptions, Mbuf, Mempool, PoolSettings, Port, PortSettings, Queue, RingPair,
};
use forwarder::engine::engines;
use forwarder::gateway::Gateway;
use forwarder::io::pcap::Pcap;
use forwarder::io::{Burst, PacketBuf};
use forwarder::net::Network;
use forwarder::pools::data_room_for;
use forwarder::server::Tsc;
use forwarder::sync::StopFlag;
use forwarder::wire::Mac;
use forwarder::worker::Worker;

const CLIENT: &str = "10.0.0.2:4000";
const LISTEN: &str = "10.0.0.1:5000";
const TARGET: &str = "10.1.0.2:6000";
const CLIENT6: &str = "[fd00::2]:4000";
const LISTEN6: &str = "[fd00::1]:5000";

/// Two ports, a known host on each, flows of both protocols and families from one to the other.
fn config(mtu: u16, limits: &str) -> Config {
    let mut text = format!("[addresses]\ncheck = \"off\"\n[limits]\n{limits}\n");
    for (port, name) in [(0, "lan"), (1, "wan")] {
        text += &format!(
            "[[port]]\nname = \"{name}\"\ndevice = \"vdev:{name}\"\nmtu = {mtu}\n\
             addresses = [\"10.{port}.0.1/24\", \"fd00:{port}::1/64\"]\n"
        );
    }
    for (port, name) in [(0, "lan"), (1, "wan")] {
        for address in [format!("10.{port}.0.2"), format!("fd00:{port}::2")] {
            let mac = Mac(host_mac(address.parse().unwrap()));
            text += &format!("[[neighbor]]\nport = \"{name}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n");
        }
    }
    for proto in ["udp", "tcp"] {
        for (family, listen, target, from) in
            [("4", LISTEN, TARGET, "10.0.0.0/24"), ("6", LISTEN6, "[fd00:1::2]:6000", "fd00::/64")]
        {
            text += &format!(
                "[[flow]]\nname = \"{proto}{family}\"\nproto = \"{proto}\"\nlisten = \"{listen}\"\n\
                 target = \"{target}\"\nfrom = [\"{from}\"]\n"
            );
        }
    }
    Config::parse(&text, "test.toml").unwrap_or_else(|e| panic!("{e}"))
}

fn eal(memory_mb: usize) -> Arc<Eal> {
    Eal::init(&EalOptions { memory_mb, ..options() }).unwrap()
}

fn port_settings(index: u8, mtu: u16, device: Device) -> PortSettings {
    PortSettings { index, mtu, name: format!("p{index}"), ..settings(device) }
}

/// Waits for the links of memif ports.
fn wait_for_links(ports: &[Arc<Port>], up: bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while ports.iter().any(|p| p.link().unwrap().up != up) {
        assert!(Instant::now() < until, "the links have not gone {}", if up { "up" } else { "down" });
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The process at the other end of both memif ports: this program again. It does as lines tell it.
struct Remote {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    ports: Vec<Arc<Port>>,
}

impl Remote {
    fn start(folder: &Path, ports: Vec<Arc<Port>>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_end_of_memif", "--ignored", "--nocapture"])
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut remote = Self { child, orders, answers, ports };
        assert_eq!(remote.answer(), "ready");
        wait_for_links(&remote.ports, true);
        remote
    }

    fn order(&mut self, line: &str) -> String {
        writeln!(self.orders, "{line}").unwrap();
        self.answer()
    }

    /// The next line that is not the test harness's.
    fn answer(&mut self) -> String {
        let mut line = String::new();
        while self.answers.read_line(&mut line).unwrap() > 0 {
            if let Some(answer) = line.trim_end_matches('\n').strip_prefix("> ") {
                return answer.to_owned();
            }
            line.clear();
        }
        panic!("the other end of memif has gone");
    }
}

impl Drop for Remote {
    /// The other end goes first, and its going is noticed: the driver of 22.11 does not bear both at once.
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        if !std::thread::panicking() {
            wait_for_links(&self.ports, false);
        }
    }
}

/// Names the folder of the sockets to the other end.
const FOLDER: &str = "S2_TEST_MEMIF_FOLDER";

#[test]
#[ignore = "the tests over memif run it as the process at the other end"]
fn the_other_end_of_memif() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("run by another test"));
    let eal = eal(64);
    let pool = Mempool::new(&eal, "remote", 1023, 0, data_room_for(9586), None).unwrap();
    let open = |index: u8| {
        let device = Device::Memif(folder.join(format!("{index}.sock")));
        Port::open(&eal, port_settings(index, 9586, device), &pool).unwrap()
    };
    let (ports, mut queues): (Vec<_>, Vec<_>) = [open(LAN), open(WAN)].into_iter().unzip();
    wait_for_links(&ports, true);
    let mut take = |port: usize| {
        let mut burst = Burst::<Mbuf>::new();
        queues[port][0].rx(&mut burst);
        burst
    };
    // A client's first look at its queue offers the buffers that the server sends in.
    assert!(take(0).is_empty() && take(1).is_empty());
    println!("\n> ready");
    for line in std::io::stdin().lines().map(Result::unwrap) {
        let (order, rest) = line.split_at(1);
        let port = usize::from(rest.starts_with('1'));
        if order == "s" {
            let mut one = Burst::<Mbuf>::new();
            one.push(dpdk_common::frame(&pool, &unhex(&rest[1..])));
            println!("> {}", queues[port][0].tx(&mut one));
        } else {
            let mut burst = Burst::<Mbuf>::new();
            queues[port][0].rx(&mut burst);
            println!("> {}", burst.iter().map(|f| hex(&whole(f))).collect::<Vec<_>>().join(" "));
        }
    }
    // Killed before it comes here, or left behind: then without the pains of taking down.
    std::process::exit(0);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// The bytes of a frame that lies in one buffer.
fn whole(frame: &Mbuf) -> Vec<u8> {
    assert_eq!(frame.head().len(), frame.frame_len());
    frame.head().to_vec()
}

/// What stands at the other ends of the ports.
enum Ends {
    Rings(Vec<RingPair>),
    Memif(Remote),
    /// Files only.
    None,
}

/// A worker between two ports, and the other ends of these.
struct Bed {
    worker: Worker<DpdkIo, Tsc>,
    gateway: Gateway,
    ends: Ends,
    /// One, or one a port.
    pools: Vec<Arc<Mempool>>,
}

impl Bed {
    fn new(config: Config, queues: Vec<Queue>, ends: Ends, pools: Vec<Arc<Mempool>>, eal: &Eal) -> Self {
        let config = Arc::new(config);
        let net = Arc::new(Network::new(Arc::clone(&config), &[Mac(gw_mac(LAN)), Mac(gw_mac(WAN))]));
        let (publisher, mut engines) = engines(&config, &net, 1).unwrap();
        let io = DpdkIo::new(queues, Arc::clone(&pools[0]));
        let engine = engines.pop().unwrap();
        let (mut worker, handle) =
            Worker::new(engine, io, Tsc::new(eal), StopFlag::default(), Idle::Poll, (0, None));
        let gateway = Gateway::new(config, net, publisher, vec![handle], Vec::new()).unwrap();
        worker.turn();
        Self { worker, gateway, ends, pools }
    }

    /// Over rings.
    fn rings(eal: &Arc<Eal>, mtu: u16, limits: &str) -> Self {
        let pool = Mempool::new(eal, "rings", 1023, 0, data_room_for(mtu), None).unwrap();
        Self::rings_with(eal, mtu, limits, vec![pool])
    }

    /// The same with a pool for each port.
    fn rings_of_two_pools(eal: &Arc<Eal>) -> Self {
        let pool = |name: &str| PoolSettings { name: name.to_owned(), count: 1023, numa_node: None };
        let pools = Mempool::together(eal, &["lan", "wan"].map(pool), 0, data_room_for(1500)).unwrap();
        Self::rings_with(eal, 1500, "", pools)
    }

    fn rings_with(eal: &Arc<Eal>, mtu: u16, limits: &str, pools: Vec<Arc<Mempool>>) -> Self {
        let (mut queues, mut ends) = (Vec::new(), Vec::new());
        for index in [LAN, WAN] {
            let wanted = PortSettings {
                one_pool: pools.len() == 1,
                ..port_settings(index, mtu, Device::Vdev("rings".to_owned()))
            };
            let pool = &pools[usize::from(index) % pools.len()];
            let (_, mut queue, mut pair) = Port::from_rings(wanted, 256, pool).unwrap();
            queues.append(&mut queue);
            ends.append(&mut pair);
        }
        Self::new(config(mtu, limits), queues, Ends::Rings(ends), pools, eal)
    }

    /// Over memif, with another process.
    fn memif(folder: &Path, mtu: u16) -> Self {
        let eal = eal(64);
        let pool = Mempool::new(&eal, "memif", 1023, 0, data_room_for(mtu), None).unwrap();
        let (mut queues, mut ports) = (Vec::new(), Vec::new());
        for index in [LAN, WAN] {
            let device = Device::Memif(folder.join(format!("{index}.sock")));
            let (port, mut queue) = Port::open(&eal, port_settings(index, mtu, device), &pool).unwrap();
            queues.append(&mut queue);
            ports.push(port);
        }
        let remote = Remote::start(folder, ports);
        Self::new(config(mtu, ""), queues, Ends::Memif(remote), vec![pool], &eal)
    }

    /// What the files hold comes in; what is sent is written beside them. Mbufs of `room` bytes: the driver puts longer
    /// frames into several.
    fn files(folder: &Path, room: u16, arrivals: [&[Vec<u8>]; 2]) -> Self {
        let eal = eal(64);
        let pool = Mempool::new(&eal, "files", 1023, 0, room, None).unwrap();
        let mut queues = Vec::new();
        for (index, frames) in (LAN..).zip(arrivals) {
            let file = folder.join(format!("{index}.pcap"));
            std::fs::write(&file, recording(frames)).unwrap();
            // The driver does not ask how long frames are.
            let mtu = room - 22;
            let (_, mut queue) =
                Port::open(&eal, port_settings(index, mtu, Device::Pcap(file)), &pool).unwrap();
            queues.append(&mut queue);
        }
        let config = config(9586, "source_ports = \"40000-40000\"");
        Self::new(config, queues, Ends::None, vec![pool], &eal)
    }

    fn send(&mut self, port: u8, bytes: &[u8]) {
        match &mut self.ends {
            Ends::Rings(pairs) => {
                let mut one = Burst::<Mbuf>::new();
                let pool = &self.pools[usize::from(port) % self.pools.len()];
                one.push(dpdk_common::frame(pool, bytes));
                assert_eq!(pairs[usize::from(port)].send(&mut one), 1);
            }
            Ends::Memif(remote) => assert_eq!(remote.order(&format!("s{port}{}", hex(bytes))), "1"),
            Ends::None => panic!("frames come from files"),
        }
    }

    /// Frames that were sent by a port.
    fn take(&mut self, port: u8) -> Vec<Vec<u8>> {
        match &mut self.ends {
            Ends::Rings(pairs) => {
                let mut burst = Burst::<Mbuf>::new();
                pairs[usize::from(port)].recv(&mut burst);
                burst.iter().map(whole).collect()
            }
            Ends::Memif(remote) => remote.order(&format!("t{port}")).split_whitespace().map(unhex).collect(),
            Ends::None => panic!("frames go to files"),
        }
    }

    /// One packet in, one turn, exactly one packet out, at the other port.
    #[track_caller]
    fn pass(&mut self, port: u8, packet: &Packet) -> Vec<u8> {
        self.send(port, &packet.build());
        assert_eq!(self.worker.turn(), 1);
        let (mut sent, back) = (self.take(1 - port), self.take(port));
        assert_eq!((sent.len(), back.len()), (1, 0), "{:?}", self.drops());
        sent.remove(0)
    }

    /// Opens a connection by a first packet; returns its source as the target sees it.
    #[track_caller]
    fn open(&mut self, first: &Packet) -> std::net::SocketAddr {
        read(&self.pass(LAN, first)).src
    }

    fn stats(&self) -> Stats {
        self.gateway.stats()
    }

    fn drops(&self) -> Vec<(String, u64)> {
        self.stats().drops.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// Every frame is accounted for, and with the ports every buffer comes back.
    fn end(self) {
        let stats = self.stats();
        assert_eq!((stats.received, stats.held), (stats.sent + stats.drops.values().sum::<u64>(), 0));
        let Self { worker, gateway, ends, pools } = self;
        drop(ends);
        drop((worker, gateway));
        assert!(pools.iter().all(|pool| pool.available() == pool.count()));
    }
}

/// A capture file: classic pcap, little-endian, microseconds, Ethernet.
fn recording(frames: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let mut bytes = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
    for frame in frames {
        bytes.extend(words(&[0, 0, frame.len() as u32, frame.len() as u32]));
        bytes.extend(frame);
    }
    bytes
}

/// The frames that a port over files has sent.
fn written(folder: &Path, port: u8) -> Vec<Vec<u8>> {
    let pcap = Pcap::open(&folder.join(format!("{port}.tx.pcap"))).unwrap();
    pcap.records().map(|r| r.unwrap().frame.to_vec()).collect()
}

fn udp() -> Body {
    Body::Udp { checksum: true }
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 256) as u8).collect()
}

/// A connection's packets of these payload lengths both ways, byte for byte, each in the turn it came in.
#[track_caller]
fn talk(bed: &mut Bed, client: &str, listen: &str, body: Body, lengths: &[usize]) {
    let target = if client.starts_with('[') { "[fd00:1::2]:6000" } else { TARGET };
    let (client, listen, target) = (addr(client), addr(listen), addr(target));
    let first = if body == udp() { udp() } else { tcp(SYN) };
    let source = bed.open(&Packet::arriving(LAN, client, listen, first, b""));
    for len in lengths {
        let there = Packet::arriving(LAN, client, listen, body.clone(), &payload(*len));
        let sent = bed.pass(LAN, &there);
        assert!(sent == there.leaving_to(WAN, source, target, target.ip()).build(), "{len} bytes there");
        let back = Packet::arriving(WAN, target, source, body.clone(), &payload(*len));
        let sent = bed.pass(WAN, &back);
        assert!(sent == back.leaving_to(LAN, listen, client, client.ip()).build(), "{len} bytes back");
    }
}

#[test]
fn a_lone_packet_leaves_in_the_turn_it_came_in_over_rings() {
    let mut bed = Bed::rings(&eal(64), 1500, "");
    for body in [udp(), tcp(ACK)] {
        talk(&mut bed, CLIENT, LISTEN, body.clone(), &[0, 1, 1000, 1460 - 12]);
        talk(&mut bed, CLIENT6, LISTEN6, body, &[0, 1, 1000]);
    }
    let worker = &bed.stats().workers[0];
    assert!(worker.residence.samples >= 1 && worker.residence.p50_ns > 0, "{:?}", worker.residence);
    bed.end();
}

/// What one port received into its pool leaves by the other, whose pool is another one, and goes home when it was sent.
#[test]
fn packets_of_two_pools_cross_and_come_home() {
    let mut bed = Bed::rings_of_two_pools(&eal(64));
    let free = |bed: &Bed| [&bed.pools[0], &bed.pools[1]].map(|pool| pool.available());
    let seen = bed.open(&Packet::udp(LAN, CLIENT, LISTEN, b"first"));
    assert_eq!(free(&bed), [1023, 1023]);
    let there = Packet::udp(LAN, CLIENT, LISTEN, b"there");
    let back = Packet::udp(WAN, TARGET, &seen.to_string(), b"back");
    for (port, packet, out) in [(LAN, there, [1022, 1023]), (WAN, back, [1023, 1022])] {
        bed.send(port, &packet.build());
        assert_eq!((bed.worker.turn(), free(&bed)), (1, out), "it lies in the pool of the port it came by");
        assert_eq!((bed.take(1 - port).len(), free(&bed)), (1, [1023, 1023]));
    }
    talk(&mut bed, CLIENT6, LISTEN6, tcp(ACK), &[0, 1, 1000]);
    bed.end();
}

#[test]
fn a_lone_packet_leaves_in_the_turn_it_came_in_over_memif() {
    let folder = tempfile::tempdir().unwrap();
    let mut bed = Bed::memif(folder.path(), 1500);
    for body in [udp(), tcp(ACK)] {
        talk(&mut bed, CLIENT, LISTEN, body.clone(), &[0, 1, 1000, 1460 - 12]);
        talk(&mut bed, CLIENT6, LISTEN6, body, &[0, 1, 1000]);
    }
    bed.end();
}

/// UDP over IPv4 in a frame of 9,600 bytes.
const JUMBO: usize = 9600 - 42;

#[test]
fn frames_of_9600_bytes_pass_in_one_buffer() {
    let mut bed = Bed::rings(&eal(64), 9586, "");
    talk(&mut bed, CLIENT, LISTEN, udp(), &[JUMBO, 8000, 9]);
    let too_big = Packet::udp(LAN, CLIENT, LISTEN, &payload(JUMBO + 1));
    bed.send(LAN, &too_big.build());
    bed.worker.turn();
    assert_eq!(bed.drops(), [("too_big".to_owned(), 1)]);
    bed.end();
}

#[test]
fn frames_of_9600_bytes_pass_over_memif() {
    let folder = tempfile::tempdir().unwrap();
    let mut bed = Bed::memif(folder.path(), 9586);
    talk(&mut bed, CLIENT, LISTEN, udp(), &[JUMBO, 8000, 9]);
    bed.end();
}

/// Frames longer than a buffer lie in several. They go through in place: headers rewritten, the rest as it came, every piece sent.
#[test]
fn frames_of_several_buffers_pass_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (mut firsts, mut there, mut back) = (vec![], vec![], vec![]);
    // From the longest frame to one that just fits a buffer, and the lengths at which one more is needed.
    let lengths = [9600, 9599, 8192, 4097, 4096, 4095, 2049, 2048, 2047, 64];
    for (client, listen, target, source) in [
        (CLIENT, LISTEN, TARGET, "10.1.0.1:40000"),
        (CLIENT6, LISTEN6, "[fd00:1::2]:6000", "[fd00:1::1]:40000"),
    ] {
        let [client, listen, target, source] = [client, listen, target, source].map(addr);
        let by_client = |body: &Body, payload: &[u8]| {
            let packet = Packet::arriving(LAN, client, listen, body.clone(), payload);
            (packet.build(), packet.leaving_to(WAN, source, target, target.ip()).build())
        };
        for (first, body) in [(udp(), udp()), (tcp(SYN), tcp(ACK))] {
            firsts.push(by_client(&first, b""));
            let headers = by_client(&body, b"").0.len();
            for len in lengths {
                let payload = payload(len.max(headers) - headers);
                there.push(by_client(&body, &payload));
                let packet = Packet::arriving(WAN, target, source, body.clone(), &payload);
                back.push((packet.build(), packet.leaving_to(LAN, listen, client, client.ip()).build()));
            }
        }
    }
    firsts.append(&mut there);
    let (there, at_wan): (Vec<_>, Vec<_>) = firsts.into_iter().unzip();
    let (back, at_lan): (Vec<_>, Vec<_>) = back.into_iter().unzip();
    assert_eq!(there.iter().map(Vec::len).max(), Some(9600));
    let mut bed = Bed::files(folder.path(), data_room_for(1500), [&there, &back]);
    while bed.worker.turn() > 0 {}
    assert_eq!(bed.drops(), []);
    bed.end();
    assert!(written(folder.path(), WAN) == at_wan);
    assert!(written(folder.path(), LAN) == at_lan);
}

/// A header that does not lie in the first buffer whole is refused by name, and nothing of it is lost.
#[test]
fn headers_of_several_buffers_are_dropped_by_name() {
    const ROOM: u16 = 90;
    let folder = tempfile::tempdir().unwrap();
    let options = |body, payload: &[u8]| Packet {
        ip_options: vec![1; 40],
        ..Packet::arriving(LAN, addr(CLIENT), addr(LISTEN), body, payload)
    };
    let split = options(tcp(ACK), &payload(500)).build();
    let plain = Packet::tcp(LAN, CLIENT, LISTEN, ACK, &payload(500));
    // 14 bytes Ethernet, 60 IPv4, 8 UDP: within the first buffer.
    let (first, within) = (Packet::tcp(LAN, CLIENT, LISTEN, SYN, b""), options(udp(), &payload(500)));
    let frames = [first.build(), split.clone(), plain.build(), split, within.build()];
    let mut bed = Bed::files(folder.path(), ROOM, [&frames, &[]]);
    while bed.worker.turn() > 0 {}
    assert_eq!(bed.drops(), [("l4_truncated".to_owned(), 2)]);
    bed.end();
    let (source, target) = (addr("10.1.0.1:40000"), addr(TARGET));
    let relayed = [first, plain, within].map(|p| p.leaving_to(WAN, source, target, target.ip()).build());
    assert!(written(folder.path(), WAN) == relayed);
}

#[test]
fn a_port_takes_frames_of_several_buffers_when_its_device_does() {
    let eal = eal(64);
    let pool = Mempool::new(&eal, "small", 255, 0, data_room_for(1500), None).unwrap();
    let open =
        |device: &str| Port::open(&eal, port_settings(0, 9586, Device::Vdev(device.to_owned())), &pool);
    drop(open("net_ring0").unwrap());
    let error = open("net_null0").unwrap_err().to_string();
    assert!(error.contains("does not fit into packet buffers of 2048 bytes"), "{error}");
    assert!(error.contains("the device takes one a frame; use larger buffers or a lower mtu"), "{error}");
}

/// Who comes too late is refused by name; who was there before does not notice.
#[test]
fn full_tables_and_spent_ports_harm_nobody() {
    let limits =
        [("connections = 8", "conn_table_full", 8), ("source_ports = \"40000-40003\"", "no_source_port", 4)];
    let eal = eal(64);
    let client = |n: usize| addr(&format!("10.0.0.2:{}", 4000 + n));
    for (limit, reason, room) in limits {
        let first = |n: usize| Packet::arriving(LAN, client(n), addr(LISTEN), udp(), &[n as u8]);
        let mut bed = Bed::rings(&eal, 1500, limit);
        let sources: Vec<_> = (0..room).map(|n| bed.open(&first(n))).collect();
        for n in room..room + 5 {
            bed.send(LAN, &first(n).build());
            bed.worker.turn();
            assert_eq!((bed.take(WAN), bed.take(LAN)), (vec![], vec![]));
        }
        assert_eq!(bed.drops(), [(reason.to_owned(), 5)]);
        for (n, source) in sources.iter().enumerate() {
            assert_eq!(bed.open(&first(n)), *source);
            let back = Packet::arriving(WAN, addr(TARGET), *source, udp(), b"back");
            let sent = bed.pass(WAN, &back);
            assert!(sent == back.leaving_to(LAN, addr(LISTEN), client(n), client(n).ip()).build());
        }
        bed.end();
    }
}
