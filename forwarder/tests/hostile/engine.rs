//! The whole engine under a script: the input's bytes say what arrives, where and when. Whatever it is, nothing panics, every
//! frame is accounted for, every buffer comes back, and nothing leaves that [`Oracle`] does not allow. When all is over, the
//! relay still does what it is for.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use forwarder::api::{FlowSpec, MssClamp, Proto, Request};
use forwarder::io::memory::CAPACITY;
use forwarder::wire::Mac;

use super::oracle::{Link, Oracle, layer3};
use super::templates::{BESIDE, COUNT, End, LINKS, QINQ, put_right, tagged};
use crate::common::packet::{arp, gw_mac, host_mac, nd};
use crate::common::{LAN, PORTS, Rig, SMALL, TAG, WAN, flow, neighbors};

/// Few of everything, so that everything runs out.
const LIMITS: &str =
    "[limits]\nconnections = 64\nflows = 24\nneighbors = 64\nsource_ports = \"40000-40063\"\n";
const BUFFERS: usize = 192;
/// Longest script, in steps.
const STEPS: usize = 200;
/// Most frames of one script.
const FRAMES: usize = 1_000_000;

/// The ports behind those of [`PORTS`].
const TRUNK: &str = r#"
[[port]]
name = "qinq"
device = "vdev:test4"
outer_vlan = 100
vlan = 50
addresses = ["10.4.0.1/24", "fd00:4::1/64"]
[[port]]
name = "beside"
device = "vdev:test4"
vlan = 60
addresses = ["10.5.0.1/24", "fd00:5::1/64"]
"#;

/// The flows, each with the port that its clients are at and the one that its target is behind.
pub fn flows() -> Vec<(FlowSpec, u8, u8)> {
    let hosts = "10.0.0.2/31,10.0.0.64/26";
    let hosts6 = "fd00::2/127,fd00::40/122";
    let others = "10.2.0.2/31,10.2.0.64/26";
    let f = |name, proto, listen, target, from, by, out| (flow(name, proto, listen, target, from), by, out);
    let clamped = |(spec, by, out), mss| (FlowSpec { mss_clamp: Some(mss), ..spec }, by, out);
    let hairpin = |(spec, by, out)| (FlowSpec { hairpin: true, ..spec }, by, out);
    let (auto, bytes) = (MssClamp::Auto, MssClamp::Bytes);
    vec![
        f("udp4", Proto::Udp, "10.0.0.1:5000", "10.1.0.2:6000", hosts, LAN, WAN),
        f("tcp4", Proto::Tcp, "10.0.0.1:5000", "10.1.0.2:6000", hosts, LAN, WAN),
        f("udp6", Proto::Udp, "[fd00::1]:5000", "[fd00:1::2]:6000", hosts6, LAN, WAN),
        clamped(f("tcp6", Proto::Tcp, "[fd00::1]:5000", "[fd00:1::2]:6000", hosts6, LAN, WAN), bytes(1200)),
        f("tag4", Proto::Udp, "10.2.0.1:5000", "10.0.0.2:6000", "10.2.0.0/24", TAG, LAN),
        clamped(
            f("tag6", Proto::Tcp, "[fd00:2::1]:5000", "[fd00:3::2]:6000", "fd00:2::/64", TAG, SMALL),
            auto,
        ),
        f("narrow4", Proto::Udp, "10.0.0.1:5001", "10.3.0.2:6000", hosts, LAN, SMALL),
        f("narrow6", Proto::Udp, "[fd00::1]:5001", "[fd00:3::2]:6000", hosts6, LAN, SMALL),
        // Next hops that have to be asked for, one of them a router.
        f("asked4", Proto::Udp, "10.0.0.1:5002", "10.1.0.77:6000", hosts, LAN, WAN),
        f("asked6", Proto::Tcp, "[fd00::1]:5002", "[fd00:1::77]:6000", hosts6, LAN, WAN),
        f("routed4", Proto::Tcp, "10.0.0.1:5003", "192.168.7.7:6000", hosts, LAN, WAN),
        // Sides that differ in family.
        f("udp46", Proto::Udp, "10.0.0.1:5010", "[fd00:1::2]:6010", hosts, LAN, WAN),
        clamped(f("tcp46", Proto::Tcp, "10.0.0.1:5010", "[fd00:3::2]:6010", hosts, LAN, SMALL), auto),
        f("udp64", Proto::Udp, "[fd00::1]:5010", "10.3.0.2:6010", hosts6, LAN, SMALL),
        clamped(f("tcp64", Proto::Tcp, "[fd00::1]:5010", "10.1.0.2:6010", hosts6, LAN, WAN), bytes(1000)),
        // Clients behind another port than the one that is asked.
        hairpin(f("hairpin4", Proto::Udp, "10.0.0.1:5020", "10.1.0.2:6020", others, TAG, WAN)),
        hairpin(f("hairpin46", Proto::Tcp, "10.0.0.1:5020", "[fd00:1::2]:6020", others, TAG, WAN)),
        // Two ports of one device.
        f("qinq4", Proto::Udp, "10.4.0.1:5000", "10.5.0.2:6000", "10.4.0.0/24", QINQ, BESIDE),
        f("qinq6", Proto::Tcp, "[fd00:5::1]:5000", "[fd00:4::2]:6000", "fd00:5::/64", BESIDE, QINQ),
    ]
}

fn config(flows: &[(FlowSpec, u8, u8)]) -> String {
    let mut text = format!("{LIMITS}{PORTS}{TRUNK}{}", neighbors());
    for (port, name) in [(QINQ, "qinq"), (BESIDE, "beside")] {
        for address in [2, 3].iter().flat_map(|n| [host(port, *n, false), host(port, *n, true)]) {
            let mac = Mac(host_mac(address));
            text += &format!("[[neighbor]]\nport = \"{name}\"\naddress = \"{address}\"\nmac = \"{mac}\"\n");
        }
    }
    for (spec, ..) in flows {
        let FlowSpec { name, proto, listen, target, from, mss_clamp, hairpin, .. } = spec;
        let proto = if *proto == Proto::Tcp { "tcp" } else { "udp" };
        let from: Vec<String> = from.iter().map(ToString::to_string).collect();
        text += &format!(
            "[[flow]]\nname = \"{name}\"\nproto = \"{proto}\"\nlisten = \"{listen}\"\ntarget = \"{target}\"\nfrom = {from:?}\nhairpin = {hairpin}\n"
        );
        text += &match mss_clamp {
            Some(MssClamp::Auto) => "mss_clamp = \"auto\"\n".to_owned(),
            Some(MssClamp::Bytes(bytes)) => format!("mss_clamp = {bytes}\n"),
            None => String::new(),
        };
    }
    text
}

/// A host on the link of a port.
fn host(port: u8, n: u8, v6: bool) -> IpAddr {
    if v6 { [0xfd00, port.into(), 0, 0, 0, 0, 0, n.into()].into() } else { [10, port, 0, n].into() }
}

/// A script's bytes, and zeros behind them.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn word(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// What one end of a flow's connection last got from the relay, and who it was.
#[derive(Clone, Default)]
struct Last {
    frame: Option<Vec<u8>>,
    /// The relay's address towards it.
    from: Option<SocketAddr>,
}

pub struct Bench {
    pub rig: Rig,
    pub oracle: Oracle,
    flows: Vec<(FlowSpec, u8, u8)>,
    /// By flow, and whether it is the target's.
    last: BTreeMap<(usize, bool), Last>,
    /// Requests for next hops that nobody has answered.
    asked: Vec<(u8, Vec<u8>)>,
    frames: usize,
    /// Flows are not all as they were at the start.
    changed: bool,
    recent: Option<(u8, Vec<u8>)>,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(1)
    }

    /// Frames arrive at these workers in turn, and are handed over to those that they belong to.
    pub fn with(workers: usize) -> Bench {
        let flows = flows();
        let rig = Rig::with(&config(&flows), workers, BUFFERS);
        let net = rig.workers[0].engine().net();
        let links = net.ports.iter().zip(net.ports_l2()).zip(LINKS).map(|((p, l2), (device, tags))| {
            let own = l2.addresses().collect();
            Link { device, tags: tags.to_vec(), mtu: p.mtu.into(), own }
        });
        let oracle = Oracle::new(links.collect(), flows.clone());
        let (last, asked) = Default::default();
        let mut bench = Bench { rig, oracle, flows, last, asked, frames: 0, changed: false, recent: None };
        bench.rig.advance(1000);
        bench
    }

    /// A frame arrives, unless there is no buffer for it, or it is longer than one.
    pub fn inject(&mut self, port: u8, frame: &[u8]) {
        let cut = &frame[..frame.len().min(CAPACITY)];
        if self.frames < FRAMES && self.rig.ios[self.frames % self.rig.ios.len()].inject(port, cut) {
            self.frames += 1;
            self.oracle.arrives(port, cut);
            self.recent = Some((port, cut.to_vec()));
        }
    }

    /// The worker turns until all is done; what left is judged.
    #[track_caller]
    pub fn turn(&mut self) {
        self.rig.turn();
        self.judge();
    }

    #[track_caller]
    fn judge(&mut self) {
        for (port, frame) in self.rig.take_any() {
            let port = self.oracle.leaves(port, &frame);
            self.remember(port, frame);
        }
    }

    #[track_caller]
    fn wait(&mut self, ms: u64) {
        self.turn();
        self.rig.clock.advance(ms);
        self.turn();
    }

    fn remember(&mut self, port: u8, frame: Vec<u8>) {
        let at = frame.len() - layer3(&frame).map_or(0, |l3| l3.packet.len());
        let ip = &frame[at..];
        if frame[at - 2..at] == [8, 6] || (ip.len() > 54 && ip[0] >> 4 == 6 && ip[6] == 58 && ip[40] == 135) {
            if frame[at - 2] != 8 || ip[7] == 1 {
                self.asked.push((port, frame));
            }
            return;
        }
        let Ok(sliced) = etherparse::SlicedPacket::from_ethernet(&frame) else { return };
        let (src, dst): (IpAddr, IpAddr) = match &sliced.net {
            Some(etherparse::NetSlice::Ipv4(ip)) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            Some(etherparse::NetSlice::Ipv6(ip)) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            _ => return,
        };
        let (proto, sport, dport) = match &sliced.transport {
            Some(etherparse::TransportSlice::Udp(u)) => (Proto::Udp, u.source_port(), u.destination_port()),
            Some(etherparse::TransportSlice::Tcp(t)) => (Proto::Tcp, t.source_port(), t.destination_port()),
            _ => return,
        };
        let (src, dst) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
        let found = self.flows.iter().enumerate().find_map(|(i, (f, by, out))| {
            let there = f.proto == proto && port == *out && dst == f.target;
            let back = f.proto == proto && port == *by && src == f.listen;
            (there || back).then_some((i, there))
        });
        if let Some(key) = found {
            self.last.insert(key, Last { frame: Some(frame.clone()), from: Some(src) });
        }
    }

    /// The client of a flow, chosen by a byte, or the flow's target.
    pub fn end(&self, index: usize, who: u8) -> End {
        let (spec, by, out) = &self.flows[index];
        if who & 1 == 1 {
            let from = self.last.get(&(index, true)).and_then(|l| l.from);
            let own = |a: &&IpAddr| a.is_ipv4() == spec.target.is_ipv4();
            let some = || {
                SocketAddr::new(self.own(*out).iter().find(own).copied().unwrap_or(spec.target.ip()), 40_001)
            };
            return End { port: *out, proto: spec.proto, src: spec.target, dst: from.unwrap_or_else(some) };
        }
        // Two that are known, one that has to be asked for, one that is not allowed.
        let ip = host(*by, [2, 3, 100, 9][usize::from(who >> 1 & 3)], spec.listen.is_ipv6());
        let src = SocketAddr::new(ip, 4000 + u16::from(who >> 3));
        End { port: *by, proto: spec.proto, src, dst: spec.listen }
    }

    fn own(&self, port: u8) -> Vec<IpAddr> {
        let l2 = &self.rig.workers[0].engine().net().ports_l2()[usize::from(port)];
        l2.ipv4.iter().map(|a| IpAddr::from(*a)).chain(l2.ipv6.iter().map(|a| IpAddr::from(*a))).collect()
    }

    /// The packet of a template from one end of a flow.
    pub fn frame(&self, index: usize, who: u8, kind: u8, how: u8) -> Vec<u8> {
        let last = self.last.get(&(index, who & 1 == 1)).and_then(|l| l.frame.as_deref());
        self.end(index, who).frame(kind, how, last)
    }

    /// It arrives.
    pub fn packet(&mut self, index: usize, who: u8, kind: u8, how: u8) {
        let frame = self.frame(index, who, kind, how);
        self.inject(self.end(index, who).port, &frame);
        self.turn();
    }

    /// Answers the oldest request for a next hop, rightly or with a station that is none.
    pub fn answer(&mut self, how: u8) {
        if self.asked.is_empty() {
            return;
        }
        let (port, frame) = self.asked.remove(0);
        let at = frame.len() - layer3(&frame).map_or(0, |l3| l3.packet.len());
        let p = &frame[at..];
        let answer = tagged(port, |port| {
            if frame[at - 2] == 8 {
                let [spa, tpa]: [[u8; 4]; 2] = [p[14..18].try_into().unwrap(), p[24..28].try_into().unwrap()];
                let mac = if how & 1 == 0 { host_mac(tpa.into()) } else { [how, 2, 3, 4, 5, 6] };
                arp(port, gw_mac(port), 2, (mac, tpa), (gw_mac(port), spa))
            } else {
                let [src, target] = [8, 48].map(|at| IpAddr::from(*p[at..].first_chunk::<16>().unwrap()));
                let mac = if how & 1 == 0 { host_mac(target) } else { [how, 2, 3, 4, 5, 6] };
                let (src, target) = (src.to_string(), target.to_string());
                nd(
                    port,
                    (mac, &target),
                    (gw_mac(port), &src),
                    (136, 0x60),
                    &target,
                    (how & 2 == 0).then_some(mac),
                )
            }
        });
        self.inject(port, &answer);
    }

    #[track_caller]
    fn step(&mut self, s: &mut Script<'_>) {
        let op = s.byte();
        match op & 15 {
            // Time passes: a millisecond to more than an hour.
            0 => {
                let ms = 1 << (s.byte() % 23);
                self.wait(ms);
            }
            // A device takes only so many frames, or all again.
            1 => {
                let (port, n) = ((op >> 4 & 7) % LINKS.len() as u8, s.byte());
                let room = if n >= 64 { usize::MAX } else { n.into() };
                self.rig.ios.iter().for_each(|io| io.set_tx_room(port, room));
            }
            // Any bytes, perhaps for us.
            2 => {
                let (port, n) = ([LAN, WAN, TAG, QINQ][usize::from(op >> 4 & 3)], s.byte());
                let mut frame = s.bytes(n.into());
                if op & 0x40 != 0 && frame.len() >= 6 {
                    frame[..6].copy_from_slice(&gw_mac(port));
                }
                self.inject(port, &frame);
            }
            3 => {
                let index = usize::from(s.byte()) % self.flows.len();
                let spec = self.flows[index].0.clone();
                let name = spec.name.clone();
                self.changed = true;
                // Refused when it is there already, or is not any more.
                let _ = self.rig.ask(match op >> 4 & 3 {
                    0 => Request::FlowDelete { name },
                    1 => Request::FlowDrain { name },
                    2 => Request::FlowReplace { spec },
                    _ => Request::FlowAdd { spec },
                });
                self.judge();
            }
            4 => self.answer(s.byte()),
            // The last frame again, many times at once.
            5 => {
                let n = s.byte();
                if let Some((port, frame)) = self.recent.clone() {
                    for _ in 0..n {
                        self.inject(port, &frame);
                    }
                }
            }
            _ => {
                let (index, who, kind, how) = (s.byte(), s.byte(), s.byte(), s.byte());
                let index = usize::from(index) % self.flows.len();
                let mut frame = self.frame(index, who, kind, how);
                mutate(&mut frame, op >> 4 & 7, s);
                self.inject(self.end(index, who).port, &frame);
            }
        }
        if op & 0x80 == 0 {
            self.turn();
        }
    }

    /// Everything under way comes to its end; nothing is missing.
    #[track_caller]
    pub fn finish(&mut self) {
        for port in 0..LINKS.len() as u8 {
            self.rig.ios.iter().for_each(|io| io.set_tx_room(port, usize::MAX));
        }
        for ms in [1, 1000, 1000, 1000, 1000, 1000, 60_000, 60_000] {
            self.wait(ms);
        }
        assert_eq!(self.rig.stats().held, 0, "frames are held for ever");
        self.rig.balance();
        // Connections end by themselves.
        for _ in 0..4 {
            self.wait(3 * 3_600_000);
        }
        let empty = self.rig.workers.iter().all(|worker| worker.engine().table().is_empty());
        assert!(empty, "connections are kept for ever");
        if self.changed {
            let _ = self.rig.ask(Request::FlowDelete { name: "tcp4".into() });
            self.judge();
            self.rig.add(flows().remove(1).0);
        }
        let (client, listen, target) = ("10.0.0.2:4000", "10.0.0.1:5000", "10.1.0.2:6000");
        self.rig.open(Proto::Tcp, LAN, client, listen, WAN, target);
        self.rig.balance();
    }
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

/// Changes a good frame in `n` places. Its checksums are made right again, unless the last change says otherwise.
fn mutate(frame: &mut Vec<u8>, n: u8, s: &mut Script<'_>) {
    let mut fix = 0;
    for _ in 0..n {
        let (kind, at, value) = (s.byte(), s.byte(), s.byte());
        if frame.is_empty() {
            return;
        }
        let len = frame.len();
        let at = usize::from(at) % len;
        match kind & 7 {
            0 | 1 => frame[at] = value,
            2 => frame[at] ^= 1 << (value & 7),
            3 => frame[at] = frame[at].wrapping_add(value),
            4 => frame.truncate(at),
            5 => drop(frame.splice(at..at, std::iter::repeat_n(value, usize::from(value >> 4)))),
            6 => drop(frame.drain(at..len.min(at + usize::from(value & 15)))),
            _ => frame.resize(len + s.word() % 1600, value),
        }
        fix = kind >> 3;
    }
    if n > 0 && fix & 1 == 0 {
        put_right(frame, fix & 2 == 0);
    }
}

pub fn run(data: &[u8]) {
    play(data);
}

/// Plays a script to its end.
pub fn play(data: &[u8]) -> Bench {
    let mut script = Script(data);
    let mut bench = Bench::with(1 + usize::from(script.byte() & 1));
    for _ in 0..STEPS {
        if script.0.is_empty() {
            break;
        }
        bench.step(&mut script);
    }
    bench.finish();
    bench
}

/// Scripts that go everywhere once: every template from both ends of every flow, alone and behind a packet that opened a
/// connection.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for index in 0..flows().len() as u8 {
        let open: [u8; 5] = [6, index, 0, 1, 0];
        let data: [u8; 5] = [6, index, 0, 0, 0];
        let back: [u8; 5] = [6, index, 1, 0, 0];
        let answer: [u8; 2] = [4, 0];
        for kinds in (0..COUNT).collect::<Vec<_>>().chunks(10) {
            let workers = index + kinds[0] / 10;
            let mut script = [&[workers][..], &open, &answer, &data, &back].concat();
            for kind in kinds {
                script.extend([6, index, 0, *kind, 0xc5, 6, index, 1, *kind, 0x42]);
            }
            // A stranger, and a client who has to be asked for.
            script.extend([6, index, 6, 1, 0, 6, index, 4, 1, 0, 4, 0]);
            script.extend([0, 12, 0x86, index, 4, 0, 1, 5, 40, 0x11, 2, 0, 10, 0x31, 0, 3, index]);
            seeds.push(script);
        }
    }
    seeds
}
