//! Checks by exact frames: hosts on the NICs' cables.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forwarder::api::{OffloadBy, PortInfo, Proto, Stats};

use super::relay::{Port, Relay, config, flow, flow_name, flows};
use super::report::Found;
use crate::conformance::oracle::{
    Conn, LAN, Lab, Link, Neighborly, WAN, host, own, solicitation, solicited_node,
};
use crate::conformance::packet::{CTAG, ETH_IPV6, Frame, Mac, Packet, checksum, udp};
use crate::guest::Guest;
use crate::topology::{Workdir, unaccounted};

/// VLAN 30 on the clients' cable.
const LAN30: Link = Link { wire: 0, tags: &[(CTAG, 30)] };
/// How long a link may take to come up.
const LINK: Duration = Duration::from_secs(20);
/// Packets of a burst.
const BURST: u8 = 48;
/// Largest packet that everybody carries, and the one with `mtu = 9000`.
const MTU: usize = 1500;
const JUMBO: usize = 9000;

/// A relay and hosts on the cables of its first two ports.
pub(super) struct Frames<'a> {
    pub(super) relay: Relay<'a>,
    pub(super) lab: Lab,
    lan: Link,
}

impl<'a> Frames<'a> {
    /// Untagged ports on the first two of `devices`, and a spare port on the third if there is one.
    pub(super) fn plain(
        guest: &'a mut Guest,
        dir: &Arc<Workdir>,
        (nics, devices): ([usize; 2], &[String]),
    ) -> Result<Frames<'a>> {
        let spare = Link { wire: 2, tags: &[] };
        let ports: Vec<Port> = [("lan", LAN), ("wan", WAN), ("spare", spare)]
            .into_iter()
            .zip(devices)
            .map(|((name, link), device)| Port { name, device, link, extra: "retry = \"2s\"\n" })
            .collect();
        Frames::start(guest, dir, nics, &ports)
    }

    /// A VLAN of the first device, and the second; both carry large packets if wanted.
    pub(super) fn tagged(
        guest: &'a mut Guest,
        dir: &Arc<Workdir>,
        (nics, devices): ([usize; 2], &[String]),
        jumbo: bool,
    ) -> Result<Frames<'a>> {
        let mtu = if jumbo { "mtu = 9000\n" } else { "" };
        let [lan, wan, ..] = devices else { anyhow::bail!("there are no two devices") };
        let extra = format!("vlan = 30\n{mtu}");
        let ports = [
            Port { name: "lan", device: lan, link: LAN30, extra: &extra },
            Port { name: "wan", device: wan, link: WAN, extra: mtu },
        ];
        Frames::start(guest, dir, nics, &ports)
    }

    fn start(
        guest: &'a mut Guest,
        dir: &Arc<Workdir>,
        nics: [usize; 2],
        ports: &[Port],
    ) -> Result<Frames<'a>> {
        let cables = nics.map(|nic| Ok(guest.wire(nic)?.try_clone()?.into()));
        let cables = cables.into_iter().collect::<Result<Vec<_>>>()?;
        let links: Vec<Link> = ports.iter().take(2).map(|p| p.link).collect();
        let mut lab = Lab::on_cables(Arc::clone(dir), cables, &links)?;
        // What a relay before this one sent is nobody's.
        lab.pump(Duration::from_millis(100))?;
        lab.reset_cables();
        let relay = Relay::start(guest, &config(1, ports))?;
        let mut frames = Frames { relay, lab, lan: links[0] };
        frames.wait_for_links(&links)?;
        Ok(frames)
    }

    /// Returns when the relay answers on every link.
    fn wait_for_links(&mut self, links: &[Link]) -> Result<()> {
        let end = Instant::now() + LINK;
        for link in links {
            while let Err(e) = self.lab.find_relay(*link) {
                self.relay.alive()?;
                if Instant::now() >= end {
                    return Err(e.context(format!("s2ds wrote: {}", self.relay.said())));
                }
            }
        }
        self.lab.clear();
        Ok(())
    }

    pub(super) fn flow(&self, proto: Proto, v4: bool) -> crate::conformance::oracle::Flow {
        flow(self.lan, WAN, proto, v4)
    }

    /// A connection of each flow, opened.
    pub(super) fn conns(&mut self) -> Result<Vec<Conn>> {
        let all: Vec<_> = flows(self.lan, WAN).collect();
        all.iter().map(|f| self.lab.open(f, 20).with_context(|| flow_name(f))).collect()
    }
}

/// Data of a size that no two packets have alike.
fn data(n: usize, seed: u8) -> Vec<u8> {
    (0..n).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) ^ (i >> 8) as u8).collect()
}

/// Bytes of data that fit into a packet of `mtu` bytes.
fn room(conn: &Conn, mtu: usize) -> usize {
    let ip = if conn.listen.is_ipv4() { 20 } else { 40 };
    mtu - ip - if conn.proto == Proto::Udp { 8 } else { 20 }
}

pub(super) fn neighbors(f: &mut Frames) -> Result<Found> {
    for (link, name) in [(f.lan, "lan"), (WAN, "wan")] {
        let mac = *f.lab.relay_mac.get(&link).context("it did not answer ARP")?;
        let told = f.relay.port(name)?.mac;
        let heard: Vec<String> = mac.iter().map(|b| format!("{b:02x}")).collect();
        ensure!(told == heard.join(":"), "ARP tells {mac:02x?} and `s2ctl port list` {told}");
        let me = host(link, 40, false);
        // Each by the group of its own, which a NIC has to be told.
        for relay in [own(link, false), f.relay.show(name)?.link_local.into()] {
            let (group, group_mac) = solicited_node(relay);
            let asks = solicitation(me, group, relay, f.lab.mac(link, me)).bytes()?;
            f.lab.asked.clear();
            f.lab.send_frame(link, group_mac, ETH_IPV6, &asks)?;
            f.lab.expect_asked(&format!("a neighbor advertisement of {relay}"), |a| {
                matches!(a.what, Neighborly::Advertise { target, mac: Some(m), .. } if (target, m) == (relay, mac))
            })?;
        }
    }
    // Its own questions: nobody has told it where the targets are.
    f.lab.asked.clear();
    for v4 in [true, false] {
        let opened = f.flow(Proto::Udp, v4);
        let conn = f.lab.open(&opened, 20)?;
        f.lab.expect_asked("a question for the target's address", |a| match a.what {
            Neighborly::Arp { op: 1, target, .. } | Neighborly::Solicit { target, .. } => {
                target == conn.target.ip()
            }
            _ => false,
        })?;
    }
    Ok(Found::Holds("answers for its addresses, the link-local one too, and asks for next hops".into()))
}

pub(super) fn relay(f: &mut Frames) -> Result<Found> {
    let frames = exchange(f, MTU)?;
    Ok(Found::Holds(format!("{frames} frames compared, none differs")))
}

/// Packets of many sizes up to `mtu`, alone and in bursts, of each flow in both directions.
fn exchange(f: &mut Frames, mtu: usize) -> Result<usize> {
    let mut frames = 0;
    for conn in f.conns()? {
        let most = room(&conn, mtu);
        // The shortest frames are padded; 1 byte more or less than the longest tells off-by-one errors in buffers.
        for size in [1, 18, 19, 64, 511, most / 2, most - 1, most] {
            f.lab.pass_up(&conn, &data(size, 1))?;
            f.lab.pass_down(&conn, &data(size, 2))?;
            frames += 2;
        }
        let sizes = |n: u8| [1, 200, most][usize::from(n % 3)];
        for n in 0..BURST {
            f.lab.send(conn.near, &conn.up(&data(sizes(n), n)))?;
            f.lab.send(conn.far, &conn.down(&data(sizes(n), n)))?;
        }
        for n in 0..BURST {
            let context = || format!("packet {n} of a burst of {}", conn.proto);
            let (up, down) = (conn.up_seen(&data(sizes(n), n)), conn.down_seen(&data(sizes(n), n)));
            f.lab.expect_exactly(conn.far, &up).with_context(context)?;
            f.lab.expect_exactly(conn.near, &down).with_context(context)?;
        }
        frames += 2 * usize::from(BURST);
    }
    Ok(frames)
}

pub(super) fn checksums(f: &mut Frames) -> Result<Found> {
    let mut wrong = 0;
    for conn in f.conns()? {
        // Sums that carry, and ones that are all zeros or all ones; whole packets are compared.
        for data in [&[][..], &[0], &[0xff; 9], &[0xff, 0xfe, 1], &[0; 64], &[0x55; 1400]] {
            f.lab.pass_up(&conn, data)?;
            f.lab.pass_down(&conn, data)?;
        }
        let mut spoiled = conn.up(b"spoiled on the way");
        let last = spoiled.payload.len() - 1;
        spoiled.payload[last] ^= 0x10;
        f.lab.send(conn.near, &spoiled)?;
        let came = f.lab.expect(conn.far, "the spoiled packet", |p| conn.is_up(p))?;
        let off = |p: &Packet| checksum(p.src, p.dst, p.proto, &p.payload);
        ensure!(off(&came) != 0, "a wrong checksum was made right: {came:?}");
        ensure!(off(&came) == off(&spoiled), "the error shows differently: {came:?}");
        wrong += 1;
    }
    let flow = f.flow(Proto::Udp, true);
    let conn = f.lab.open(&flow, 20)?;
    let (missed, before) = (f.relay.port("lan")?.rx_missed, f.relay.settled()?);
    let good = conn.up(b"with a wrong header checksum");
    let mut bytes = good.bytes()?;
    bytes[10] ^= 0x20;
    f.lab.send_bytes(conn.near, good.ethertype(), &bytes)?;
    f.lab.silent(conn.near, "a packet with a wrong header checksum")?;
    let after = f.relay.settled()?;
    let dropped = after.drops["ip_bad_checksum"] - before.drops["ip_bad_checksum"];
    let missed = f.relay.port("lan")?.rx_missed - missed;
    ensure!(
        dropped + missed == 1,
        "a packet with a wrong header checksum counts as {dropped} ip_bad_checksum and {missed} missed"
    );
    let by = if dropped == 1 { "ip_bad_checksum" } else { "an error of the device" };
    Ok(Found::Holds(format!("{wrong} wrong ones stayed wrong; a wrong one of IPv4 counted as {by}")))
}

/// Counters of a port: frames received and sent, by the workers and by the device, and what the device lost.
#[derive(Debug)]
struct Counters {
    name: String,
    workers: [u64; 2],
    device: [u64; 2],
    lost: u64,
}

fn counters(f: &mut Frames) -> Result<Vec<Counters>> {
    let read = |name: &str| {
        let shown = f.relay.show(name)?;
        let own = |counter: &str| shown.device.xstats.get(counter).copied().unwrap_or(0);
        let PortInfo { rx, tx, rx_missed, tx_errors, .. } = &shown.port;
        Ok(Counters {
            name: name.into(),
            workers: [rx.packets, tx.packets],
            device: [own("rx_good_packets"), own("tx_good_packets")],
            lost: rx_missed + tx_errors,
        })
    };
    ["lan", "wan"].into_iter().map(read).collect()
}

pub(super) fn ledger(f: &mut Frames) -> Result<Found> {
    let (conns, links) = (f.conns()?, [f.lan, WAN]);
    let settle = |f: &mut Frames| -> Result<Stats> {
        links.iter().try_for_each(|link| f.lab.settle(*link))?;
        let stats = f.relay.settled()?;
        f.lab.pump(Duration::from_millis(100))?;
        Ok(stats)
    };
    settle(f)?;
    let (before, carried) = (counters(f)?, links.map(|l| f.lab.carried(l)));
    for conn in &conns {
        for n in 0..BURST {
            f.lab.send(conn.near, &conn.up(&data(100, n)))?;
            f.lab.send(conn.far, &conn.down(&data(100, n)))?;
        }
    }
    let stats = settle(f)?;
    let mut all = 0;
    for ((now, before), (link, was)) in counters(f)?.iter().zip(&before).zip(links.into_iter().zip(carried)) {
        let on_cable = f.lab.carried(link);
        let (sent, came) = (on_cable.sent - was.sent, on_cable.came - was.came);
        let risen = |now: [u64; 2], before: [u64; 2]| [now[0] - before[0], now[1] - before[1]];
        let (workers, device) = (risen(now.workers, before.workers), risen(now.device, before.device));
        ensure!(
            workers == [sent, came] && device == [sent, came] && now.lost == before.lost,
            "{sent} frames were sent to port {} and {came} came from it: received and sent are {workers:?} by its workers, \
             {device:?} by its device, which lost {}",
            now.name,
            now.lost - before.lost
        );
        all += sent + came;
    }
    ensure!(unaccounted(&stats) == 0, "the ledger is not even: {stats:?}");
    Ok(Found::Holds(format!(
        "{all} frames on both cables are those of the workers' and of the device's own counters; received = sent + held + dropped"
    )))
}

pub(super) fn multicast(f: &mut Frames) -> Result<Found> {
    /// Frames of each kind that are not ours.
    const FOREIGN: u64 = 20;
    let link = f.lan;
    let (me, relay) = (host(link, 40, false), own(link, false));
    let (group, group_mac) = solicited_node(relay);
    let asks = solicitation(me, group, relay, f.lab.mac(link, me)).bytes()?;
    f.lab.asked.clear();
    f.lab.send_frame(link, group_mac, ETH_IPV6, &asks)?;
    f.lab.expect_asked(
        "a neighbor advertisement",
        |a| matches!(a.what, Neighborly::Advertise { target, .. } if target == relay),
    )?;

    let mut let_in = Vec::new();
    for (kind, dst) in
        [("groups", [0x33, 0x33, 0xff, 0x99, 0x99, 0x99]), ("stations", [0x52, 0x54, 0, 0x99, 0x99, 0x99])]
    {
        let dst: Mac = dst;
        f.lab.settle(link)?;
        let before = f.relay.settled()?;
        let (rx, sent) = (f.relay.port("lan")?.rx.packets, f.lab.carried(link).sent);
        let to = if kind == "groups" { "[ff02::1:ff99:9999]:5000" } else { "[fd71::99]:5000" };
        let packet = udp(std::net::SocketAddr::new(me, 4000), to.parse()?, b"somebody else's");
        let frame = Frame {
            dst,
            src: f.lab.mac(link, me),
            tags: link.tags.to_vec(),
            ethertype: ETH_IPV6,
            payload: packet.bytes()?,
        };
        for _ in 0..FOREIGN {
            f.lab.send_raw(link, &frame)?;
        }
        f.lab.silent(link, "frames of other stations")?;
        let after = f.relay.settled()?;
        let ours = f.lab.carried(link).sent - sent - FOREIGN;
        let passed = f.relay.port("lan")?.rx.packets - rx - ours;
        ensure!(passed <= FOREIGN, "{passed} of {FOREIGN} foreign frames were received");
        let reasons = ["not_for_us", "multicast_destination", "nd_ignored", "not_our_address"];
        let dropped: u64 = reasons.iter().map(|r| after.drops[*r] - before.drops[*r]).sum();
        ensure!(
            dropped == passed,
            "{passed} frames to other {kind} came in and {dropped} were dropped as such"
        );
        if passed > 0 {
            let_in.push(format!("{passed} of {FOREIGN} to other {kind}"));
        }
    }
    let shown = f.relay.show("lan")?.device.offloads;
    let filter = shown.iter().find(|o| o.name == "multicast filter").context("no word on the filter")?;
    let groups_in = let_in.iter().any(|kind| kind.ends_with("groups"));
    ensure!(
        (filter.by == OffloadBy::Hardware) != groups_in,
        "port show says that {:?} filters ({}), and let in are {let_in:?}",
        filter.by,
        filter.why
    );
    Ok(Found::Holds(match &let_in[..] {
        [] => "the NIC keeps frames to other groups and stations out".into(),
        some => {
            format!("let in are {}, which the relay drops and counts: {}", some.join(" and "), filter.why)
        }
    }))
}

pub(super) fn vlan(f: &mut Frames) -> Result<Found> {
    let frames = exchange(f, MTU)?;
    // Untagged, and of another VLAN.
    for tags in [vec![], vec![(CTAG, 31)]] {
        let before = f.relay.settled()?.drops["vlan_mismatch"];
        let flow = f.flow(Proto::Udp, true);
        let conn = f.lab.open(&flow, 20)?;
        let dst = *f.lab.relay_mac.get(&f.lan).context("the relay's MAC address is not known")?;
        let frame = Frame {
            dst,
            src: f.lab.mac(f.lan, conn.client.ip()),
            tags: tags.clone(),
            ethertype: 0x0800,
            payload: conn.up(b"of another network").bytes()?,
        };
        f.lab.send_raw(f.lan, &frame)?;
        f.lab.silent(f.lan, "a frame without the port's tag")?;
        let dropped = f.relay.settled()?.drops["vlan_mismatch"] - before;
        // A NIC that filters VLANs lets untagged frames in.
        let at_least = u64::from(tags.is_empty());
        ensure!(
            (at_least..=1).contains(&dropped),
            "{dropped} frames with tags {tags:?} counted as vlan_mismatch"
        );
    }
    Ok(Found::Holds(format!("{frames} frames compared, none differs; other tags are not let through")))
}

pub(super) fn jumbo(f: &mut Frames) -> Result<Found> {
    let frames = exchange(f, JUMBO)?;
    Ok(Found::Holds(format!("{frames} frames compared, none differs")))
}

/// Traffic passes, of every flow.
pub(super) fn passes(f: &mut Frames) -> Result<()> {
    for conn in f.conns()? {
        f.lab.pass(&conn)?;
    }
    Ok(())
}
