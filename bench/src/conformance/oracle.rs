//! The oracle: hosts on the links of one relay, played on raw sockets.
//!
//! The relay is a running s2ds. The oracle writes frames to the far end of each link and reads there what arrives. Hosts answer ARP and
//! neighbor discovery for every address that ends in 16 or more; smaller ones are the relay's. Nothing is judged by how
//! fast it happens: what has to come is waited for with much patience, and what must not come is looked for after a
//! packet that was sent later has been answered.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use etherparse::TcpHeader;
use forwarder::api::{ConnectionInfo, Proto, Reply, Request};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};

use super::packet::{
    ETH_ARP, ETH_IPV4, ETH_IPV6, Frame, ICMP, ICMP6, Mac, Message, Packet, TCP, Tag, UDP, tcp, udp,
};
use crate::topology::{Gateway, Netns, Workdir, unaccounted};

/// How long what has to come is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long the relay may take to settle its ledger at the end.
const SETTLE: Duration = Duration::from_secs(10);

/// A link of the relay, or one VLAN on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Link {
    /// Which pair of interfaces.
    pub(crate) wire: usize,
    /// TPID and id of its tags, outermost first.
    pub(crate) tags: &'static [Tag],
}

/// Where clients are. 10.71.0.0/24, fd71::/64, MTU 1500.
pub(crate) const LAN: Link = Link { wire: 0, tags: &[] };
/// Where targets are. 10.72.0.0/24, fd72::/64, MTU 1500; two addresses of the relay in each family.
pub(crate) const WAN: Link = Link { wire: 1, tags: &[] };
/// Targets behind a narrow link. 10.73.0.0/24, fd73::/64, MTU 1280.
pub(crate) const SLIM: Link = Link { wire: 2, tags: &[] };

const WIRES: [(&str, u16); 3] = [("lan", 1500), ("wan", 1500), ("slim", 1280)];
/// What MAC addresses of hosts begin with.
const HOSTS: [u8; 3] = [2, 0, 0x5e];
/// Largest packets that hosts send; links carry more than the relay's MTU, so that only the relay judges sizes.
const LINK_MTU: u16 = 2000;

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WIRES.get(self.wire).map_or("?", |w| w.0))?;
        self.tags.iter().try_for_each(|(tpid, vid)| write!(f, ".{tpid:04x}:{vid}"))
    }
}

/// An address of a host: `host(LAN, 16, true)` is 10.71.0.16.
pub(crate) fn host(link: Link, n: u8, v4: bool) -> IpAddr {
    let net = 71 + link.wire as u8 + 10 * link.tags.last().map_or(0, |t| (t.1 / 10) as u8);
    if v4 {
        IpAddr::from([10, net, 0, n])
    } else {
        IpAddr::from([0xfd00 | u16::from(net / 10 * 16 + net % 10), 0, 0, 0, 0, 0, 0, n.into()])
    }
}

/// The relay's own first address on a link.
pub(crate) fn own(link: Link, v4: bool) -> IpAddr {
    host(link, 1, v4)
}

/// Whether the oracle answers for an address: it is a host's.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[3] >= 16,
        IpAddr::V6(a) => a.segments()[7] >= 16 && a.segments()[0] & 0xff00 == 0xfd00,
    }
}

struct Wire {
    /// The far end, where hosts send.
    tx: OwnedFd,
    /// Where what the relay sent is read.
    rx: OwnedFd,
    /// Frames in each direction.
    carried: Carried,
}

/// Frames that went over a wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From hosts.
    pub(crate) sent: u64,
    /// From the relay.
    pub(crate) came: u64,
}

/// What the relay sent: where, with which tags, and when it was read in the order of all.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) link: Link,
    /// With priority bits.
    pub(crate) tags: Vec<Tag>,
    pub(crate) packet: Packet,
}

/// An ARP packet or neighbor discovery message that the relay sent.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) link: Link,
    pub(crate) frame: Frame,
    pub(crate) what: Neighborly,
}

/// Its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Neighborly {
    /// Operation, sender's MAC and address, target's MAC and address.
    Arp { op: u16, sender_mac: Mac, sender: IpAddr, target_mac: Mac, target: IpAddr },
    /// Source address, target, MAC in the source option.
    Solicit { src: IpAddr, target: IpAddr, mac: Option<Mac> },
    /// Source and destination address, flags (router, solicited, override in the top bits), target, MAC in the target option.
    Advertise { src: IpAddr, dst: IpAddr, flags: u8, target: IpAddr, mac: Option<Mac> },
}

/// A relay and the hosts around it.
pub(crate) struct Lab {
    // The forwarder goes before the namespaces it lives in.
    pub(crate) gateway: Option<Gateway>,
    /// The relay's namespace while no relay runs in it.
    pub(crate) vacant: Option<Netns>,
    pub(crate) dir: Arc<Workdir>,
    wires: Vec<Wire>,
    links: Vec<Link>,
    /// MAC of the relay on each link.
    pub(crate) relay_mac: BTreeMap<Link, Mac>,
    /// What came and was not asked for yet.
    pub(crate) inbox: Vec<Arrival>,
    /// What the relay asked and told its neighbors.
    pub(crate) asked: Vec<Asked>,
    /// Hosts that do not answer.
    pub(crate) mute: BTreeSet<IpAddr>,
    /// Hosts whose MAC is not the one made from their address.
    pub(crate) moved: BTreeMap<IpAddr, Mac>,
    /// Why a frame that came cannot be read; nothing the relay sends may be malformed.
    malformed: Vec<String>,
    ports: u16,
    pings: u16,
    pieces: u32,
    // Last, so that it outlives what is in it.
    _hosts: Option<Netns>,
}

impl Lab {
    /// Makes hosts and links, with no relay yet. `links` are those that its ports will have.
    pub(crate) fn new(links: &[Link]) -> Result<Lab> {
        // At the far end a kernel takes VLAN tags off before anybody sees them. On the relay's own end they are still there.
        let tagged = links.iter().any(|l| !l.tags.is_empty());
        let dir = Arc::new(Workdir::new()?);
        let (gateway, hosts) = (Netns::new("relay", dir.clone())?, Netns::new("hosts", dir.clone())?);
        let mut wires = Vec::new();
        for (name, _) in WIRES {
            let far = format!("h-{name}");
            gateway.join(name, &hosts, &far, LINK_MTU)?;
            gateway.silence(name)?;
            hosts.silence(&far)?;
            let sends = far.clone();
            let tx = hosts.run(move || raw_socket(&sends, None))??;
            let all = Some(SockProtocol::EthAll);
            let rx = match tagged {
                true => gateway.run(move || raw_socket(name, all))??,
                false => hosts.run(move || raw_socket(&far, all))??,
            };
            wires.push(Wire { tx, rx, carried: Carried::default() });
        }
        Ok(Lab { vacant: Some(gateway), _hosts: Some(hosts), ..Lab::around(dir, wires, links) })
    }

    /// Makes hosts on the far ends of cables, one socket each, whose near ends are a relay's that runs elsewhere.
    pub(crate) fn on_cables(
        dir: Arc<Workdir>,
        cables: impl IntoIterator<Item = OwnedFd>,
        links: &[Link],
    ) -> Result<Lab> {
        let wires = cables.into_iter().map(|rx| {
            let tx = rx.try_clone().context("double a socket")?;
            Ok(Wire { tx, rx, carried: Carried::default() })
        });
        Ok(Lab::around(dir, wires.collect::<Result<_>>()?, links))
    }

    fn around(dir: Arc<Workdir>, wires: Vec<Wire>, links: &[Link]) -> Lab {
        Lab {
            gateway: None,
            vacant: None,
            dir,
            wires,
            links: links.to_vec(),
            relay_mac: BTreeMap::new(),
            inbox: Vec::new(),
            asked: Vec::new(),
            mute: BTreeSet::new(),
            moved: BTreeMap::new(),
            malformed: Vec::new(),
            ports: 20_000,
            pings: 0,
            pieces: 0x7000,
            _hosts: None,
        }
    }

    /// What went over a wire so far, and was read.
    pub(crate) fn carried(&self, link: Link) -> Carried {
        self.wires.get(link.wire).map_or(Carried::default(), |w| w.carried)
    }

    /// Starts the relay with `config` and learns its MAC addresses. Hosts answer meanwhile.
    pub(crate) fn start(&mut self, config: &str) -> Result<()> {
        let netns = self.vacant.take().context("a relay runs already")?;
        let started = std::thread::scope(|scope| {
            let start = scope.spawn(|| Gateway::start(netns, config));
            while !start.is_finished() {
                self.pump(Duration::from_millis(20))?;
            }
            let started =
                start.join().map_err(|_| anyhow::anyhow!("the thread that starts the relay panicked"))?;
            started.context("start the relay")
        })?;
        self.gateway = Some(started);
        for link in self.links.clone() {
            self.find_relay(link)?;
        }
        Ok(())
    }

    pub(crate) fn relay(&self) -> Result<&Gateway> {
        self.gateway.as_ref().context("the relay is not running")
    }

    /// Forgets what a relay before this one sent, sound or not.
    pub(crate) fn reset_cables(&mut self) {
        self.malformed.clear();
        self.clear();
        self.wires.iter_mut().for_each(|w| w.carried = Carried::default());
    }

    /// Forgets what came so far.
    pub(crate) fn clear(&mut self) {
        self.inbox.clear();
        self.asked.clear();
    }

    /// Whether there is no relay any more.
    pub(crate) fn has_ended(&mut self) -> bool {
        match &mut self.gateway {
            Some(gateway) => !matches!(gateway.process.ended(), Ok(None)),
            None => self.vacant.is_none(),
        }
    }

    /// Makes ready for the next test, whatever the last one left.
    pub(crate) fn reset(&mut self) -> Result<()> {
        if self.vacant.is_some() {
            return Ok(());
        }
        if let Some(status) = self.gateway.as_mut().context("the relay is not running")?.process.ended()? {
            bail!("the relay has ended ({status}): {}", self.relay()?.process.said());
        }
        self.mute.clear();
        self.moved.clear();
        self.pump(Duration::ZERO)?;
        self.malformed.clear();
        self.clear();
        Ok(())
    }

    /// Asks for the relay's MAC address on a link, as a host does.
    pub(crate) fn find_relay(&mut self, link: Link) -> Result<()> {
        let (me, relay) = (host(link, 16, true), own(link, true));
        let request = arp(1, self.mac(link, me), me, [0; 6], relay);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.send_frame(link, [0xff; 6], ETH_ARP, &request)?;
            let again = Instant::now() + Duration::from_millis(500);
            while Instant::now() < again {
                self.pump(Duration::from_millis(50))?;
                let answer = self.asked.iter().find_map(|a| match a.what {
                    Neighborly::Arp { op: 2, sender_mac, sender, .. }
                        if sender == relay && a.link == link =>
                    {
                        Some(sender_mac)
                    }
                    _ => None,
                });
                if let Some(mac) = answer {
                    self.relay_mac.insert(link, mac);
                    return Ok(());
                }
            }
        }
        self.sound()?;
        bail!(
            "the relay does not answer ARP for {relay} on {link:?}; it sent {:?} and {:?}",
            self.asked,
            self.inbox
        )
    }

    /// MAC address of a host.
    pub(crate) fn mac(&self, link: Link, address: IpAddr) -> Mac {
        let n = match address {
            IpAddr::V4(a) => a.octets()[3],
            IpAddr::V6(a) => a.octets()[15],
        };
        self.moved.get(&address).copied().unwrap_or([2, 0, 0x5e, link.wire as u8, 0, n])
    }

    /// A client's address and a port that no test had before.
    pub(crate) fn client(&mut self, link: Link, n: u8, v4: bool) -> SocketAddr {
        self.ports += 1;
        SocketAddr::new(host(link, n, v4), self.ports)
    }

    /// An identification for a packet in fragments that no test used before: within a minute none may come again.
    pub(crate) fn fragment_id(&mut self) -> u32 {
        self.pieces += 1;
        self.pieces
    }

    /// Sends a frame from a host to `dst`.
    pub(crate) fn send_frame(&mut self, link: Link, dst: Mac, ethertype: u16, payload: &[u8]) -> Result<()> {
        // The relay answers where a packet came from.
        let sender = match ethertype {
            ETH_IPV4 => payload.get(12..).and_then(|p| p.first_chunk::<4>()).map(|a| IpAddr::from(*a)),
            ETH_IPV6 => payload.get(8..).and_then(|p| p.first_chunk::<16>()).map(|a| IpAddr::from(*a)),
            _ => None,
        };
        let told = payload.get(8..).and_then(|p| p.first_chunk().copied()).filter(|_| ethertype == ETH_ARP);
        let router = [HOSTS[0], HOSTS[1], HOSTS[2], link.wire as u8, 0, 0xfe];
        let src = told.or(sender.filter(|a| is_host(*a)).map(|a| self.mac(link, a))).unwrap_or(router);
        self.send_raw(
            link,
            &Frame { dst, src, tags: link.tags.to_vec(), ethertype, payload: payload.to_vec() },
        )
    }

    /// Sends a frame as it stands.
    pub(crate) fn send_raw(&mut self, link: Link, frame: &Frame) -> Result<()> {
        let wire = &mut self.wires[link.wire];
        wire.carried.sent += 1;
        send(wire.tx.as_raw_fd(), &frame.bytes(), MsgFlags::empty()).context("send a frame")?;
        Ok(())
    }

    /// Sends a packet to the relay.
    pub(crate) fn send(&mut self, link: Link, packet: &Packet) -> Result<()> {
        self.send_bytes(link, packet.ethertype(), &packet.bytes()?)
    }

    /// Sends what stands behind the Ethernet header to the relay.
    pub(crate) fn send_bytes(&mut self, link: Link, ethertype: u16, bytes: &[u8]) -> Result<()> {
        let relay = *self.relay_mac.get(&link).context("the relay's MAC address is not known")?;
        self.send_frame(link, relay, ethertype, bytes)
    }

    /// Takes what the relay sent, waiting for something at most `limit`, and answers as hosts do.
    pub(crate) fn pump(&mut self, limit: Duration) -> Result<()> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds: Vec<PollFd> =
            self.wires.iter().map(|w| PollFd::new(w.rx.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(e) => return Err(e).context("wait for frames"),
        }
        for wire in 0..self.wires.len() {
            while let Some(bytes) = receive(&self.wires[wire].rx)? {
                self.wires[wire].carried.came += 1;
                self.take(wire, &bytes)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, wire: usize, bytes: &[u8]) -> Result<()> {
        let read = |bytes: &[u8]| -> Result<(Frame, Option<Packet>)> {
            let frame = Frame::parse(bytes)?;
            let packet = match frame.ethertype {
                ETH_ARP => None,
                ethertype => Some(Packet::parse(ethertype, &frame.payload)?),
            };
            Ok((frame, packet))
        };
        let (frame, packet) = match read(bytes) {
            Ok(read) => read,
            Err(e) => {
                self.malformed.push(format!("on {}: {e:#}: {bytes:02x?}", WIRES[wire].0));
                return Ok(());
            }
        };
        let ids: Vec<Tag> = frame.tags.iter().map(|(tpid, tci)| (*tpid, tci & 0xfff)).collect();
        let Some(link) = self.links.iter().copied().find(|l| l.wire == wire && l.tags == &ids[..]) else {
            self.malformed.push(format!("on {} with the tags {ids:?}: {packet:?}", WIRES[wire].0));
            return Ok(());
        };
        let neighborly = match &packet {
            None => parse_arp(&frame.payload),
            Some(p) => parse_nd(p),
        };
        if let Some(what) = neighborly {
            self.answer(link, &frame, what)?;
            self.asked.push(Asked { link, frame, what });
        } else if let Some(packet) = packet {
            if is_host(packet.dst) && frame.dst != self.mac(link, packet.dst) {
                self.malformed.push(format!("to the MAC address {:02x?}: {packet:?}", frame.dst));
            }
            self.inbox.push(Arrival { link, tags: frame.tags, packet });
        }
        Ok(())
    }

    /// Answers as the host that was asked for.
    fn answer(&mut self, link: Link, frame: &Frame, what: Neighborly) -> Result<()> {
        let hears = |address: IpAddr, mute: &BTreeSet<IpAddr>| is_host(address) && !mute.contains(&address);
        match what {
            Neighborly::Arp { op: 1, sender_mac, sender, target, .. } if hears(target, &self.mute) => {
                let mac = self.mac(link, target);
                self.send_frame(link, frame.src, ETH_ARP, &arp(2, mac, target, sender_mac, sender))
            }
            Neighborly::Solicit { src, target, .. } if hears(target, &self.mute) => {
                let mac = self.mac(link, target);
                let packet = advertisement(target, src, 0x60, target, mac);
                self.send_frame(link, frame.src, ETH_IPV6, &packet.bytes()?)
            }
            _ => Ok(()),
        }
    }

    /// Fails when the relay sent something that nobody can read.
    pub(crate) fn sound(&self) -> Result<()> {
        ensure!(
            self.malformed.is_empty(),
            "the relay sent what it should not: {}",
            self.malformed.join("; ")
        );
        Ok(())
    }

    /// Takes the first packet on `link` that `wanted` holds of, waiting for it.
    pub(crate) fn expect(
        &mut self,
        link: Link,
        what: &str,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Result<Packet> {
        Ok(self.expect_arrival(link, what, wanted)?.packet)
    }

    /// The same with its tags.
    pub(crate) fn expect_arrival(
        &mut self,
        link: Link,
        what: &str,
        wanted: impl Fn(&Packet) -> bool,
    ) -> Result<Arrival> {
        let end = Instant::now() + PATIENCE;
        loop {
            self.pump(Duration::ZERO)?;
            self.sound()?;
            if let Some(i) = self.inbox.iter().position(|a| a.link == link && wanted(&a.packet)) {
                return Ok(self.inbox.remove(i));
            }
            if Instant::now() >= end {
                bail!("{what} did not come on {link:?}; {}{}", self.what_came(), self.drops());
            }
            self.pump(Duration::from_millis(50))?;
        }
    }

    fn what_came(&self) -> String {
        match self.inbox.len() {
            0 => "nothing came".into(),
            n => format!("{n} other packets came, the first: {:?}", self.inbox.first()),
        }
    }

    /// The next `count` packets on `link` with this destination address, in the order they came.
    pub(crate) fn expect_all(
        &mut self,
        link: Link,
        what: &str,
        dst: IpAddr,
        count: usize,
    ) -> Result<Vec<Packet>> {
        (0..count).map(|_| self.expect(link, what, |p| p.dst == dst)).collect()
    }

    /// Waits for an ARP packet or neighbor discovery message.
    pub(crate) fn expect_asked(&mut self, what: &str, wanted: impl Fn(&Asked) -> bool) -> Result<Asked> {
        let end = Instant::now() + 2 * PATIENCE;
        loop {
            if let Some(i) = self.asked.iter().position(&wanted) {
                return Ok(self.asked.remove(i));
            }
            ensure!(Instant::now() < end, "{what} did not come; what came: {:?}", self.asked);
            self.pump(Duration::from_millis(50))?;
        }
    }

    /// Returns when everything that was sent on `link` before has had its effect: two echo requests, one after the other,
    /// have been answered, and a packet's consequences leave before the next burst is read.
    pub(crate) fn settle(&mut self, link: Link) -> Result<()> {
        let (me, relay) = (host(link, 17, true), own(link, true));
        for _ in 0..2 {
            self.pings += 1;
            let [a, b] = self.pings.to_be_bytes();
            let mark = Message { kind: 8, code: 0, rest: [0x5e, 0x77, a, b], body: vec![0; 8] };
            let answer = Message { kind: 0, ..mark.clone() };
            // It may be refused for a moment by the limit of echo replies.
            let mut tries = 0;
            loop {
                self.send(link, &mark.packet(me, relay))?;
                let end = Instant::now() + Duration::from_secs(1);
                let mut found = None;
                while found.is_none() && Instant::now() < end {
                    self.pump(Duration::from_millis(20))?;
                    found = self.inbox.iter().position(|a| {
                        a.link == link && a.packet.proto == ICMP && a.packet.icmp().is_ok_and(|m| m == answer)
                    });
                }
                if let Some(i) = found {
                    self.inbox.remove(i);
                    break;
                }
                tries += 1;
                ensure!(tries < 5, "the relay does not answer an echo request on {link:?} any more");
            }
        }
        self.sound()
    }

    /// Nothing more came on any link, of what was sent on `link`.
    pub(crate) fn silent(&mut self, link: Link, what: &str) -> Result<()> {
        self.settle(link)?;
        ensure!(self.inbox.is_empty(), "{what}: nothing should have come, but {}", self.what_came());
        Ok(())
    }

    /// How often packets were dropped for a reason.
    pub(crate) fn dropped(&self, reason: &str) -> Result<u64> {
        Ok(self.relay()?.stats()?.drops.get(reason).copied().unwrap_or(0))
    }

    /// What was dropped so far, where that can be known.
    fn drops(&self) -> String {
        let Some(Ok(stats)) = self.gateway.as_ref().map(Gateway::stats) else { return String::new() };
        let drops = stats.drops.iter().filter(|d| *d.1 > 0).map(|(k, n)| format!("{n} {k}"));
        format!("; dropped: {}", drops.collect::<Vec<_>>().join(", "))
    }

    /// Sends what must be dropped for `reason`, by name, and without any answer.
    pub(crate) fn dropped_by(
        &mut self,
        link: Link,
        reason: &str,
        what: &str,
        send: impl FnOnce(&mut Lab) -> Result<()>,
    ) -> Result<()> {
        let before = self.dropped(reason)?;
        send(self)?;
        self.silent(link, what)?;
        let after = self.dropped(reason)?;
        ensure!(
            after > before,
            "{what}: nothing was counted as {reason}; {:?}",
            self.relay()?.stats()?.drops
        );
        Ok(())
    }

    /// Connections, under one flow or all.
    pub(crate) fn connections(&self, flow: Option<&str>) -> Result<Vec<ConnectionInfo>> {
        let request = Request::ConnectionList { flow: flow.map(str::to_owned), limit: None };
        match self.relay()?.call(request)? {
            Reply::Connections { connections, .. } => Ok(connections),
            other => bail!("not a list of connections: {other:?}"),
        }
    }

    /// A port of a source address that no connection came from. The relay chooses sources at random, so that any fixed one
    /// may be an earlier test's.
    pub(crate) fn free_source(&self, address: IpAddr) -> Result<SocketAddr> {
        let taken: HashSet<u16> = self.connections(None)?.iter().map(|c| c.source.port()).collect();
        let free = (40_000..=u16::MAX).find(|p| !taken.contains(p)).context("every port is a source")?;
        Ok(SocketAddr::new(address, free))
    }

    /// Stops the relay and looks at its ledger.
    pub(crate) fn finish(mut self) -> Result<()> {
        let stats = self.relay()?.settled(SETTLE)?;
        let difference = unaccounted(&stats);
        ensure!(difference == 0, "{difference} packets are not accounted for: {stats:?}");
        let mut gateway = self.gateway.take().context("the relay is not running")?;
        let status = gateway.stop()?;
        ensure!(status.success(), "the relay stopped with {status}: {}", gateway.process.said());
        Ok(())
    }
}

/// A connection through the relay as both sides see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conn {
    pub(crate) proto: Proto,
    pub(crate) near: Link,
    pub(crate) far: Link,
    pub(crate) client: SocketAddr,
    pub(crate) listen: SocketAddr,
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
}

/// A flow of the configuration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) proto: Proto,
    pub(crate) near: Link,
    pub(crate) far: Link,
    pub(crate) listen: SocketAddr,
    pub(crate) target: SocketAddr,
}

impl Conn {
    /// From the client.
    pub(crate) fn up(&self, data: &[u8]) -> Packet {
        self.build(self.client, self.listen, data)
    }

    /// What the target gets of it, with the TTL counted down.
    pub(crate) fn up_seen(&self, data: &[u8]) -> Packet {
        Packet { ttl: 63, ..self.build(self.source, self.target, data) }
    }

    /// From the target.
    pub(crate) fn down(&self, data: &[u8]) -> Packet {
        self.build(self.target, self.source, data)
    }

    /// What the client gets of it.
    pub(crate) fn down_seen(&self, data: &[u8]) -> Packet {
        Packet { ttl: 63, ..self.build(self.listen, self.client, data) }
    }

    fn build(&self, src: SocketAddr, dst: SocketAddr, data: &[u8]) -> Packet {
        match self.proto {
            Proto::Udp => udp(src, dst, data),
            Proto::Tcp => tcp(src, dst, segment("A"), data),
        }
    }

    /// Whether a packet goes from the target's side to the client's, or is about that.
    pub(crate) fn is_down(&self, p: &Packet) -> bool {
        p.ends() == Some((self.listen, self.client))
    }

    /// The same for the other direction.
    pub(crate) fn is_up(&self, p: &Packet) -> bool {
        p.ends() == Some((self.source, self.target))
    }
}

/// A TCP header with flags out of `SAFRPUEC`.
pub(crate) fn segment(flags: &str) -> TcpHeader {
    let has = |f| flags.contains(f);
    TcpHeader {
        sequence_number: 1000,
        acknowledgment_number: if has('A') { 5000 } else { 0 },
        syn: has('S'),
        ack: has('A'),
        fin: has('F'),
        rst: has('R'),
        psh: has('P'),
        urg: has('U'),
        ece: has('E'),
        cwr: has('C'),
        window_size: 4096,
        ..TcpHeader::default()
    }
}

impl Lab {
    /// Opens a connection: the first datagram, or a whole handshake. The reply is seen, too.
    pub(crate) fn open(&mut self, flow: &Flow, n: u8) -> Result<Conn> {
        let client = self.client(flow.near, n, flow.listen.is_ipv4());
        self.open_from(flow, client)
    }

    /// The same from a given client.
    pub(crate) fn open_from(&mut self, flow: &Flow, client: SocketAddr) -> Result<Conn> {
        let conn = self.first_packet(flow, client)?;
        match conn.proto {
            Proto::Udp => self.pass_down(&conn, b"first reply")?,
            Proto::Tcp => {
                self.flags_down(&conn, "SA")?;
                self.flags_up(&conn, "A")?;
            }
        }
        Ok(conn)
    }

    /// Sends a connection's first packet only, and learns from it what the target sees.
    pub(crate) fn first_packet(&mut self, flow: &Flow, client: SocketAddr) -> Result<Conn> {
        let Flow { proto, near, far, listen, target } = *flow;
        let mut conn = Conn { proto, near, far, client, listen, source: target, target };
        let first = match proto {
            Proto::Udp => udp(client, listen, b"first"),
            Proto::Tcp => tcp(client, listen, segment("S"), b""),
        };
        let protocol = if proto == Proto::Udp { UDP } else { TCP };
        self.send(near, &first)?;
        let what = format!("the first packet from {client} to {target}");
        let came =
            self.expect(far, &what, |p| p.proto == protocol && p.ends().is_some_and(|(_, d)| d == target))?;
        conn.source = came.ends().context("no ports")?.0;
        match proto {
            Proto::Udp => came.udp().map(drop)?,
            Proto::Tcp => came.tcp().map(drop)?,
        }
        Ok(conn)
    }

    /// Carries data from the client; it has to arrive as it is.
    pub(crate) fn pass_up(&mut self, conn: &Conn, data: &[u8]) -> Result<()> {
        self.send(conn.near, &conn.up(data))?;
        let seen = conn.up_seen(data);
        self.expect_exactly(conn.far, &seen)
    }

    /// Carries data from the target.
    pub(crate) fn pass_down(&mut self, conn: &Conn, data: &[u8]) -> Result<()> {
        self.send(conn.far, &conn.down(data))?;
        let seen = conn.down_seen(data);
        self.expect_exactly(conn.near, &seen)
    }

    /// Both directions.
    pub(crate) fn pass(&mut self, conn: &Conn) -> Result<()> {
        self.pass_up(conn, b"up it goes")?;
        self.pass_down(conn, b"and down again")
    }

    /// Waits for a packet between the same ends and compares it whole.
    pub(crate) fn expect_exactly(&mut self, link: Link, wanted: &Packet) -> Result<()> {
        let what = format!(
            "{:?}",
            wanted
                .ends()
                .unwrap_or_else(|| { (SocketAddr::new(wanted.src, 0), SocketAddr::new(wanted.dst, 0)) })
        );
        let came = self.expect(link, &what, |p| {
            (p.src, p.dst, p.proto) == (wanted.src, wanted.dst, wanted.proto) && p.ends() == wanted.ends()
        })?;
        ensure!(came == *wanted, "a packet was changed: {came:?} instead of {wanted:?}");
        Ok(())
    }

    /// Carries a TCP segment with flags from the client.
    pub(crate) fn flags_up(&mut self, conn: &Conn, flags: &str) -> Result<()> {
        self.segment_up(conn, segment(flags))
    }

    /// The same from the target.
    pub(crate) fn flags_down(&mut self, conn: &Conn, flags: &str) -> Result<()> {
        let header = segment(flags);
        self.segment_down(conn, header)
    }

    /// Carries a TCP segment without data from the client; it has to arrive as it is.
    pub(crate) fn segment_up(&mut self, conn: &Conn, header: TcpHeader) -> Result<()> {
        self.send(conn.near, &tcp(conn.client, conn.listen, header.clone(), b""))?;
        self.expect_exactly(conn.far, &Packet { ttl: 63, ..tcp(conn.source, conn.target, header, b"") })
    }

    /// The same from the target.
    pub(crate) fn segment_down(&mut self, conn: &Conn, header: TcpHeader) -> Result<()> {
        self.send(conn.far, &tcp(conn.target, conn.source, header.clone(), b""))?;
        self.expect_exactly(conn.near, &Packet { ttl: 63, ..tcp(conn.listen, conn.client, header, b"") })
    }
}

/// A raw socket on a device. One that only sends has no protocol, and the kernel hands it nothing.
fn raw_socket(device: &str, protocol: Option<SockProtocol>) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, protocol).context("open a raw socket")?;
    if protocol.is_some() {
        // More room than an ordinary user may have is good for bursts, but not needed.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &(32 << 20));
    }
    let address = nix::ifaddrs::getifaddrs()?
        .filter(|i| i.interface_name == device)
        .find_map(|i| i.address?.as_link_addr().copied())
        .with_context(|| format!("{device} has no link address"))?;
    bind(fd.as_raw_fd(), &address).with_context(|| format!("bind a raw socket to {device}"))?;
    Ok(fd)
}

/// The next frame that went out, none when there is none now. What hosts sent
/// passes here as well; their MAC addresses tell.
fn receive(fd: &OwnedFd) -> Result<Option<Vec<u8>>> {
    let mut buffer = [0; 10_000];
    loop {
        match recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(n) if buffer.get(6..9) == Some(&HOSTS[..]) && n >= 14 => {}
            Ok(n) => return Ok(Some(buffer[..n].to_vec())),
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::ENETDOWN) => {}
            Err(nix::errno::Errno::EAGAIN) => return Ok(None),
            Err(e) => return Err(e).context("read a frame"),
        }
    }
}

/// An ARP packet (RFC 826); addresses have to be IPv4.
pub(crate) fn arp(op: u16, sender_mac: Mac, sender: IpAddr, target_mac: Mac, target: IpAddr) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(_) => [0; 4],
    };
    let mut out = vec![0, 1, 8, 0, 6, 4];
    out.extend(op.to_be_bytes());
    out.extend(sender_mac);
    out.extend(octets(sender));
    out.extend(target_mac);
    out.extend(octets(target));
    out
}

fn parse_arp(p: &[u8]) -> Option<Neighborly> {
    let p: &[u8; 28] = p.first_chunk()?;
    let mac = |i: usize| -> Mac { std::array::from_fn(|n| p[i + n]) };
    let ip = |i: usize| IpAddr::from([p[i], p[i + 1], p[i + 2], p[i + 3]]);
    (p[..6] == [0, 1, 8, 0, 6, 4]).then(|| Neighborly::Arp {
        op: u16::from_be_bytes([p[6], p[7]]),
        sender_mac: mac(8),
        sender: ip(14),
        target_mac: mac(18),
        target: ip(24),
    })
}

/// Sound solicitations and advertisements only (RFC 4861 sections 7.1.1 and 7.1.2); others count as ordinary packets, which
/// no test waits for.
fn parse_nd(p: &Packet) -> Option<Neighborly> {
    if p.proto != ICMP6 || p.ttl != 255 {
        return None;
    }
    let m = p.icmp().ok().filter(|m| m.code == 0 && m.body.len() >= 16)?;
    let target = IpAddr::from(*m.body.first_chunk::<16>()?);
    let option = |kind: u8| -> Option<Mac> {
        let o: &[u8; 8] = m.body.get(16..)?.first_chunk()?;
        (o[..2] == [kind, 1]).then(|| std::array::from_fn(|n| o[2 + n]))
    };
    match m.kind {
        135 => Some(Neighborly::Solicit { src: p.src, target, mac: option(1) }),
        136 => {
            Some(Neighborly::Advertise { src: p.src, dst: p.dst, flags: m.rest[0], target, mac: option(2) })
        }
        _ => None,
    }
}

/// A neighbor advertisement; `flags` are router, solicited and override in the top bits.
pub(crate) fn advertisement(src: IpAddr, dst: IpAddr, flags: u8, target: IpAddr, mac: Mac) -> Packet {
    let mut body = match target {
        IpAddr::V6(a) => a.octets().to_vec(),
        IpAddr::V4(_) => Vec::new(),
    };
    body.extend([2, 1]);
    body.extend(mac);
    let mut packet = Message { kind: 136, code: 0, rest: [flags, 0, 0, 0], body }.packet(src, dst);
    packet.ttl = 255;
    packet
}

/// A neighbor solicitation from a host, with its MAC.
pub(crate) fn solicitation(src: IpAddr, dst: IpAddr, target: IpAddr, mac: Mac) -> Packet {
    let mut packet = advertisement(src, dst, 0, target, mac);
    let Ok(mut message) = packet.icmp() else { return packet };
    (message.kind, message.body[16]) = (135, 1);
    packet = Message { rest: [0; 4], ..message }.packet(src, dst);
    packet.ttl = 255;
    packet
}

/// The multicast address on which a neighbor is asked for `address`, and its MAC address (RFC 4291 2.7.1, RFC 2464 7).
pub(crate) fn solicited_node(address: IpAddr) -> (IpAddr, Mac) {
    let o = match address {
        IpAddr::V6(a) => a.octets(),
        IpAddr::V4(_) => [0; 16],
    };
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]];
    (IpAddr::from(group), [0x33, 0x33, 0xff, o[13], o[14], o[15]])
}
