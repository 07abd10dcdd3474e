//! The whole forwarder in memory: engines, workers and gateway as in service, ports that a test holds the other end of, and a
//! clock that it turns by hand.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod differential;
pub mod packet;
pub mod reference;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use forwarder::api::{
    ApiError, ConnectionInfo, Explanation, FlowInfo, FlowSpec, Proto, Reply, Request, Stats,
};
use forwarder::config::{Config, Idle};
use forwarder::engine::{DropReason, engines};
use forwarder::flow::{Steering, Tuple};
use forwarder::gateway::Gateway;
use forwarder::io::memory::MemoryIo;
use forwarder::net::Network;
use forwarder::service::{Handler, Peer};
use forwarder::sync::StopFlag;
use forwarder::wire::Mac;
use forwarder::worker::{Clock, Worker};

use packet::{Packet, addr, gw_mac, host_mac};

pub const LAN: u8 = 0;
pub const WAN: u8 = 1;
pub const TAG: u8 = 2;
/// Tagged, with an MTU smaller than the others'.
pub const SMALL: u8 = 3;

/// Four ports. Hosts `.2`, `.3` and the router `.254` of each are known; all others have to be asked for.
pub const PORTS: &str = r#"
[[port]]
name = "lan"
device = "vdev:test0"
addresses = ["10.0.0.1/24", "fd00:0::1/64"]
[[port]]
name = "wan"
device = "vdev:test1"
addresses = ["10.1.0.1/24", "fd00:1::1/64"]
[[port]]
name = "tag"
device = "vdev:test2"
vlan = 30
addresses = ["10.2.0.1/24", "fd00:2::1/64"]
[[port]]
name = "small"
device = "vdev:test3"
vlan = 40
mtu = 1280
addresses = ["10.3.0.1/24", "fd00:3::1/64"]
[[route]]
prefix = "192.168.0.0/16"
via = "10.1.0.254"
port = "wan"
"#;

/// The hosts that are known.
pub fn neighbors() -> String {
    let mut text = String::new();
    for (p, name) in ["lan", "wan", "tag", "small"].iter().enumerate() {
        for address in [
            format!("10.{p}.0.2"),
            format!("10.{p}.0.3"),
            format!("10.{p}.0.254"),
            format!("fd00:{p}::2"),
            format!("fd00:{p}::3"),
        ] {
            let mac = Mac(host_mac(address.parse().unwrap()));
            text += &format!("[[neighbor]]\nport = \"{name}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n");
        }
    }
    text
}

/// A clock that a test turns: a thousand ticks a millisecond.
#[derive(Debug, Clone, Default)]
pub struct FakeClock(Arc<AtomicU64>);

impl FakeClock {
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms * 1000, Ordering::Relaxed);
    }
}

impl Clock for FakeClock {
    fn ticks(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn ticks_per_ms(&self) -> u64 {
        1000
    }
}

/// The machine's clock: a thousand ticks a millisecond.
#[derive(Debug, Clone)]
pub struct StdClock(pub Instant);

impl Clock for StdClock {
    fn ticks(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }

    fn ticks_per_ms(&self) -> u64 {
        1000
    }
}

pub type TestWorker<C> = Worker<MemoryIo, C>;

/// What a rig is made of; a test whose workers run on threads takes it apart.
pub struct Made<C> {
    pub gateway: Arc<Gateway>,
    pub workers: Vec<TestWorker<C>>,
    /// The far ends of each worker's ports.
    pub ios: Vec<MemoryIo>,
    pub stop: StopFlag,
}

/// A key of the steering hash.
pub const HASH_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

pub fn make<C: Clock + Clone>(text: &str, workers: usize, buffers: usize, clock: C) -> Made<C> {
    make_steered(text, workers, buffers, clock, &Steering::hand_over(&HASH_KEY, workers as u16))
}

pub fn make_steered<C: Clock + Clone>(
    text: &str,
    workers: usize,
    buffers: usize,
    clock: C,
    steering: &Steering,
) -> Made<C> {
    // Only tests that say so hear the forwarder speak unasked.
    let silence = if text.contains("[addresses]") { "" } else { "\n[addresses]\ncheck = \"off\"\n" };
    let config = Config::parse(&format!("{text}{silence}"), "test.toml");
    let config = Arc::new(config.unwrap_or_else(|e| panic!("{e}")));
    let macs: Vec<Mac> = config.ports.iter().map(|p| Mac(gw_mac(config.first_of_device(p)))).collect();
    let steering = config.ports.iter().map(|_| steering.clone());
    let net = Arc::new(Network::new(Arc::clone(&config), &macs).steered(steering));
    let (publisher, engines) = engines(&config, &net, workers).unwrap();
    let stop = StopFlag::default();
    let io = |_| MemoryIo::new(config.ports.len(), buffers).sharing(&net.devices());
    let ios: Vec<MemoryIo> = (0..workers).map(io).collect();
    let parts = engines.into_iter().zip(&ios).enumerate().map(|(index, (engine, io))| {
        Worker::new(engine, io.clone(), clock.clone(), stop.clone(), Idle::Adaptive, (index, None))
    });
    let (workers, handles): (Vec<_>, Vec<_>) = parts.unzip();
    let gateway = Arc::new(Gateway::new(config, net, publisher, handles, Vec::new()).unwrap());
    Made { gateway, workers, ios, stop }
}

/// A forwarder whose workers turn when the test says so.
pub struct Rig {
    pub gateway: Arc<Gateway>,
    pub workers: Vec<TestWorker<FakeClock>>,
    pub ios: Vec<MemoryIo>,
    pub clock: FakeClock,
    pub stop: StopFlag,
    pub buffers: usize,
}

pub const PEER: Peer = Peer { pid: 1, uid: 0, gid: 0 };

impl Rig {
    /// One worker, the usual ports and neighbors, and `text` in front of them: `[limits]` and `[timers]`.
    pub fn new(text: &str) -> Rig {
        Rig::with(&format!("{text}\n{PORTS}\n{}", neighbors()), 1, 4096)
    }

    pub fn with(text: &str, workers: usize, buffers: usize) -> Rig {
        Rig::steered(text, workers, buffers, &Steering::hand_over(&HASH_KEY, workers as u16))
    }

    pub fn steered(text: &str, workers: usize, buffers: usize, steering: &Steering) -> Rig {
        let clock = FakeClock::default();
        let made = make_steered(text, workers, buffers, clock.clone(), steering);
        let Made { gateway, workers, ios, stop } = made;
        Rig { gateway, workers, ios, clock, stop, buffers }
    }

    /// The worker that a packet belongs to.
    pub fn home(&self, port: u8, proto: Proto, src: SocketAddr, dst: SocketAddr) -> usize {
        let net = Arc::clone(self.workers[0].engine().net());
        let key = Tuple { port, proto, src, dst }.key().unwrap();
        net.ports[usize::from(port)].steering.as_ref().unwrap().home(&key)
    }

    /// Asks as an operator would, while the workers turn.
    pub fn ask(&mut self, request: Request) -> Result<Reply, ApiError> {
        let gateway = Arc::clone(&self.gateway);
        let asking = std::thread::spawn(move || gateway.handle(request, &PEER));
        while !asking.is_finished() {
            for worker in &mut self.workers {
                worker.turn();
            }
            std::thread::yield_now();
        }
        asking.join().unwrap()
    }

    #[track_caller]
    pub fn done(&mut self, request: Request) -> u64 {
        match self.ask(request) {
            Ok(Reply::Done { epoch }) => epoch,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn add(&mut self, spec: FlowSpec) {
        self.done(Request::FlowAdd { spec });
    }

    #[track_caller]
    pub fn delete(&mut self, name: &str) {
        self.done(Request::FlowDelete { name: name.into() });
    }

    #[track_caller]
    pub fn flow(&mut self, name: &str) -> FlowInfo {
        match self.ask(Request::FlowShow { name: name.into() }) {
            Ok(Reply::Flow { flow }) => flow,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn connections(&mut self) -> Vec<ConnectionInfo> {
        match self.ask(Request::ConnectionList { flow: None, limit: None }) {
            Ok(Reply::Connections { connections, truncated: false }) => connections,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn explain(&mut self, port: &str, proto: Proto, src: &str, dst: &str) -> Explanation {
        let request = Request::Explain { port: port.into(), proto, src: addr(src), dst: addr(dst) };
        match self.ask(request) {
            Ok(Reply::Explained { explanation }) => explanation,
            other => panic!("{other:?}"),
        }
    }

    pub fn stats(&self) -> Stats {
        self.gateway.stats()
    }

    /// Turns every worker until nothing is received any more, and once again.
    pub fn turn(&mut self) {
        loop {
            let received: usize = self.workers.iter_mut().map(|w| w.turn()).sum();
            // Counters, as statistics cost more than a turn.
            let counters = self.workers.iter().map(|w| w.engine().counters());
            let handed: u64 =
                counters.map(|c| c.handed_over().wrapping_sub(c.taken_over.get())).fold(0, u64::wrapping_add);
            if received == 0 && handed == 0 {
                break;
            }
        }
    }

    /// Lets time pass: turns before and after.
    pub fn advance(&mut self, ms: u64) {
        self.turn();
        self.clock.advance(ms);
        self.turn();
    }

    #[track_caller]
    pub fn inject_at(&mut self, worker: usize, port: u8, frame: &[u8]) {
        assert!(self.ios[worker].inject(port, frame), "no buffer for a frame of {} bytes", frame.len());
    }

    /// Frames arrive at `port`, all at once, and are dealt with.
    #[track_caller]
    pub fn send(&mut self, port: u8, frames: &[Vec<u8>]) {
        for frame in frames {
            self.inject_at(0, port, frame);
        }
        self.turn();
    }

    /// What was sent by `port` since last asked, by all workers.
    pub fn take(&self, port: u8) -> Vec<Vec<u8>> {
        self.ios.iter().flat_map(|io| io.take_all(port)).collect()
    }

    /// What was sent by all ports.
    pub fn take_any(&self) -> Vec<(u8, Vec<u8>)> {
        let ports = self.workers[0].engine().net().ports.len() as u8;
        (0..ports).flat_map(|port| self.take(port).into_iter().map(move |frame| (port, frame))).collect()
    }

    /// One packet in, exactly one out, by `out`.
    #[track_caller]
    pub fn pass(&mut self, port: u8, frame: &[u8], out: u8) -> Vec<u8> {
        let before = self.drops();
        self.send(port, &[frame.to_vec()]);
        let mut sent = self.take_any();
        assert_eq!(sent.len(), 1, "sent {sent:02x?}\ndropped {:?}", since(&before, &self.drops()));
        let (by, frame) = sent.remove(0);
        assert_eq!(by, out, "port it left by");
        frame
    }

    /// One packet in, exactly `expected` out by `out`, byte for byte.
    #[track_caller]
    pub fn relays(&mut self, port: u8, packet: &Packet, out: u8, expected: &Packet) {
        let sent = self.pass(port, &packet.build(), out);
        assert_same(&sent, &expected.build());
    }

    /// One frame in, nothing out, and one drop, for `reason`.
    #[track_caller]
    pub fn drops_as(&mut self, name: &str, port: u8, frame: &[u8], reason: DropReason) {
        let before = self.drops();
        self.send(port, &[frame.to_vec()]);
        let now = since(&before, &self.drops());
        assert_eq!(now, BTreeMap::from([(reason.name().to_owned(), 1)]), "{name}");
        let sent = self.take_any();
        assert!(sent.is_empty(), "{name}: sent {sent:02x?}");
    }

    /// Drops so far, those that are not zero.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        self.stats().drops.into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// Every frame is accounted for and every buffer is where the counters say.
    #[track_caller]
    pub fn balance(&mut self) {
        self.turn();
        let stats = self.stats();
        let dropped: u64 = stats.drops.values().sum();
        assert_eq!(stats.received, stats.sent + stats.held + dropped, "{stats:#?}");
        let untaken = self.take_any().len();
        assert_eq!(untaken, 0, "frames were sent that nobody looked at");
        let missing: usize = self.ios.iter().map(|io| self.buffers - io.available()).sum();
        assert_eq!(missing as u64, stats.held, "buffers in hand and frames held");
    }

    /// Opens a connection with its first packet and learns the source it was given.
    #[track_caller]
    pub fn open(
        &mut self,
        proto: Proto,
        port: u8,
        client: &str,
        listen: &str,
        out: u8,
        target: &str,
    ) -> Conn {
        let (client, listen, target) = (addr(client), addr(listen), addr(target));
        let body = match proto {
            Proto::Tcp => packet::tcp(packet::SYN),
            Proto::Udp => packet::Body::Udp { checksum: true },
        };
        let first = Packet::arriving(port, client, listen, body, b"");
        let sent = self.pass(port, &first.build(), out);
        let source = packet::read(&sent).src;
        let conn = Conn { proto, client, listen, source, target, port, out };
        assert_same(&sent, &conn.forward(&first).build());
        conn
    }

    /// Opens a TCP connection and completes its handshake.
    #[track_caller]
    pub fn establish(&mut self, port: u8, client: &str, listen: &str, out: u8, target: &str) -> Conn {
        use packet::{ACK, SYN, tcp};
        let conn = self.open(Proto::Tcp, port, client, listen, out, target);
        self.relays_both(&conn, false, tcp(SYN | ACK), b"");
        self.relays_both(&conn, true, tcp(ACK), b"");
        conn
    }

    /// A packet of a connection, from the client or from the target, is relayed exactly.
    #[track_caller]
    pub fn relays_both(&mut self, conn: &Conn, from_client: bool, body: packet::Body, payload: &[u8]) {
        if from_client {
            let p = conn.by_client(body, payload);
            self.relays(conn.port, &p, conn.out, &conn.forward(&p));
        } else {
            let p = conn.by_target(body, payload);
            self.relays(conn.out, &p, conn.port, &conn.back(&p));
        }
    }
}

/// A connection as its two ends see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Conn {
    pub proto: Proto,
    pub client: SocketAddr,
    pub listen: SocketAddr,
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub port: u8,
    pub out: u8,
}

impl Conn {
    pub fn by_client(&self, body: packet::Body, payload: &[u8]) -> Packet {
        Packet::arriving(self.port, self.client, self.listen, body, payload)
    }

    pub fn by_target(&self, body: packet::Body, payload: &[u8]) -> Packet {
        Packet::arriving(self.out, self.target, self.source, body, payload)
    }

    pub fn forward(&self, packet: &Packet) -> Packet {
        packet.leaving_to(self.out, self.source, self.target, next_hop(self.target.ip()))
    }

    pub fn back(&self, packet: &Packet) -> Packet {
        packet.leaving_to(self.port, self.listen, self.client, next_hop(self.client.ip()))
    }
}

/// The next hop in [`PORTS`]: `192.168.0.0/16` is behind the router of the WAN.
pub fn next_hop(to: IpAddr) -> IpAddr {
    match to {
        IpAddr::V4(a) if a.octets()[0] == 192 => IpAddr::from([10, 1, 0, 254]),
        to => to,
    }
}

pub fn since(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = |(name, n): (&String, &u64)| (name.clone(), n - before.get(name).unwrap_or(&0));
    now.iter().map(more).filter(|(_, n)| *n > 0).collect()
}

pub fn flow(name: &str, proto: Proto, listen: &str, target: &str, from: &str) -> FlowSpec {
    FlowSpec {
        name: name.into(),
        proto,
        listen: addr(listen),
        target: addr(target),
        from: from.split(',').map(|p| p.parse().unwrap()).collect(),
        max_conns: None,
        mss_clamp: None,
        hairpin: false,
        rate: None,
        lease: None,
    }
}

#[track_caller]
pub fn assert_same(sent: &[u8], expected: &[u8]) {
    assert!(sent == expected, "sent     {sent:02x?}\nexpected {expected:02x?}");
}
