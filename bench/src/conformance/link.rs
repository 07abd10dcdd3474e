//! The links: ARP, neighbor discovery, address conflicts, next hops.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::oracle::{
    LAN, Lab, Link, Neighborly, SLIM, WAN, advertisement, arp, host, own, solicitation, solicited_node,
};
use super::packet::{ETH_ARP, ETH_IPV6, Mac, Packet};
use super::setup::{Setup, UDP};
use crate::topology::find_binary;

suite! { "link":
    Main {
        arp_requests_are_answered,
        arp_is_answered_for_own_addresses_only,
        malformed_arp_is_dropped,
        next_hops_are_asked_for,
        packets_wait_for_their_next_hop_in_order,
        a_next_hop_that_moves_is_followed,
        an_address_conflict_is_counted_and_defended,
        solicitations_are_answered,
        solicitations_are_answered_for_own_addresses_only,
        forged_neighbor_discovery_is_dropped,
    }
    Alone { a_taken_address_refuses_the_start, own_addresses_are_probed_and_announced }
}

const FAMILIES: [bool; 2] = [true, false];

fn is_reply(from: IpAddr) -> impl Fn(&super::oracle::Asked) -> bool {
    move |a| matches!(a.what, Neighborly::Arp { op: 2, sender, .. } if sender == from)
}

fn arp_requests_are_answered(lab: &mut Lab) -> Result<()> {
    for (link, n) in [(LAN, 1), (WAN, 1), (WAN, 2), (SLIM, 1)] {
        let (me, relay) = (host(link, 40, true), host(link, n, true));
        let mac = lab.mac(link, me);
        for dst in [[0xff; 6], lab.relay_mac[&link]] {
            lab.send_frame(link, dst, ETH_ARP, &arp(1, mac, me, [0; 6], relay))?;
            let a = lab.expect_asked("an ARP reply", is_reply(relay))?;
            ensure!(a.link == link && a.frame.dst == mac && a.frame.src == lab.relay_mac[&link], "{a:?}");
            let wanted = Neighborly::Arp {
                op: 2,
                sender_mac: a.frame.src,
                sender: relay,
                target_mac: mac,
                target: me,
            };
            ensure!(a.what == wanted, "the reply is {a:?}");
        }
    }
    Ok(())
}

fn arp_is_answered_for_own_addresses_only(lab: &mut Lab) -> Result<()> {
    let me = host(LAN, 40, true);
    let mac = lab.mac(LAN, me);
    // A neighbor's address, one of the relay's other ports, a target's, one that nobody has.
    for other in [host(LAN, 41, true), own(WAN, true), host(WAN, 32, true), host(LAN, 9, true)] {
        lab.send_frame(LAN, [0xff; 6], ETH_ARP, &arp(1, mac, me, [0; 6], other))?;
        lab.settle(LAN)?;
        ensure!(!lab.asked.iter().any(is_reply(other)), "the relay answers for {other}: {:?}", lab.asked);
    }
    Ok(())
}

fn malformed_arp_is_dropped(lab: &mut Lab) -> Result<()> {
    let (me, relay) = (host(LAN, 40, true), own(LAN, true));
    let good = arp(1, lab.mac(LAN, me), me, [0; 6], relay);
    for (at, byte) in [(0, 1), (1, 6), (2, 9), (4, 7), (5, 16), (7, 9)] {
        let mut bad = good.clone();
        bad[at] = byte;
        lab.send_frame(LAN, [0xff; 6], ETH_ARP, &bad)?;
        lab.settle(LAN)?;
        ensure!(!lab.asked.iter().any(is_reply(relay)), "byte {at} as {byte} was answered: {:?}", lab.asked);
    }
    lab.send_frame(LAN, [0xff; 6], ETH_ARP, &good)?;
    lab.expect_asked("an ARP reply", is_reply(relay)).map(drop)
}

/// Sends one datagram to a flow whose target no other test uses.
fn to_a_new_target(lab: &mut Lab, n: u8, v4: bool) -> Result<()> {
    let f = Setup::Main.flow(UDP, v4, 5004);
    let client = lab.client(LAN, n, v4);
    lab.send(LAN, &super::packet::udp(client, f.listen, b"first"))
}

fn next_hops_are_asked_for(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let target = Setup::Main.flow(UDP, v4, 5004).target.ip();
        to_a_new_target(lab, 40, v4)?;
        let a = lab.expect_asked("a question for the target", |a| match a.what {
            Neighborly::Arp { op: 1, target: t, .. } | Neighborly::Solicit { target: t, .. } => t == target,
            _ => false,
        })?;
        let relay = lab.relay_mac[&WAN];
        ensure!(a.link == WAN && a.frame.src == relay, "asked from elsewhere: {a:?}");
        match a.what {
            Neighborly::Arp { sender_mac, sender, target_mac, .. } => {
                ensure!(a.frame.dst == [0xff; 6] && target_mac == [0; 6], "{a:?}");
                ensure!(sender_mac == relay && sender == own(WAN, true), "{a:?}");
            }
            Neighborly::Solicit { src, mac, .. } => {
                let (group, group_mac) = solicited_node(target);
                let dst = Packet::parse(ETH_IPV6, &a.frame.payload)?.dst;
                ensure!(dst == group && a.frame.dst == group_mac, "not to the solicited-node group: {a:?}");
                ensure!(mac == Some(relay), "no source link-layer address: {a:?}");
                ensure!(src != IpAddr::from([0u16; 8]), "{a:?}");
            }
            Neighborly::Advertise { .. } => {}
        }
        lab.expect(WAN, "the datagram that waited", |p| p.dst == target)?;
    }
    Ok(())
}

fn packets_wait_for_their_next_hop_in_order(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        // Targets that the relay knows by now are known no longer once their flow is another: a new host for each family.
        let mut spec = lab.relay()?.flow(&super::setup::name(UDP, 5002, v4))?.spec;
        spec.name = format!("waits-{v4}");
        spec.listen.set_port(5900);
        spec.target.set_ip(host(WAN, 51, v4));
        let (listen, target) = (spec.listen, spec.target);
        lab.relay()?.call(forwarder::api::Request::FlowAdd { spec })?;
        lab.mute.insert(target.ip());
        let client = lab.client(LAN, 40, v4);
        for n in 0..10u8 {
            lab.send(LAN, &super::packet::udp(client, listen, &[n; 30]))?;
        }
        lab.silent(LAN, "packets whose next hop is not known")?;
        lab.mute.clear();
        for n in 0..10u8 {
            let p = lab.expect(WAN, "a packet that waited", |p| p.dst == target.ip())?;
            ensure!(p.udp()?.1 == [n; 30], "packet {n} was overtaken: {p:?}");
        }
        lab.relay()?.call(forwarder::api::Request::FlowDelete { name: format!("waits-{v4}") })?;
    }
    Ok(())
}

fn a_next_hop_that_moves_is_followed(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Main.flow(super::setup::TCP, v4, 5002), 40)?;
        let target = conn.target.ip();
        for to in [[2, 0, 0x5e, 9, 9, 1], [2, 0, 0x5e, 9, 9, 2]] {
            lab.moved.insert(target, to);
            announce(lab, WAN, target, to)?;
            lab.settle(WAN)?;
            // `take` refuses what goes to the old MAC address.
            lab.pass(&conn)?;
        }
        lab.moved.clear();
        let back = lab.mac(WAN, target);
        announce(lab, WAN, target, back)?;
        lab.settle(WAN)?;
        lab.pass(&conn)?;
    }
    Ok(())
}

/// Tells everybody who has an address: gratuitous ARP, or an unsolicited advertisement that overrides.
pub(super) fn announce(lab: &mut Lab, link: Link, address: IpAddr, mac: Mac) -> Result<()> {
    if address.is_ipv4() {
        return lab.send_frame(link, [0xff; 6], ETH_ARP, &arp(1, mac, address, [0; 6], address));
    }
    let all: IpAddr = "ff02::1".parse()?;
    let p = advertisement(address, all, 0x20, address, mac);
    lab.send_frame(link, [0x33, 0x33, 0, 0, 0, 1], ETH_IPV6, &p.bytes()?)
}

fn an_address_conflict_is_counted_and_defended(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&Setup::Main.flow(UDP, true, 5000), 40)?;
    let (relay, thief) = (own(LAN, true), [2, 0, 0x5e, 6, 6, 6]);
    let before = lab.dropped("address_conflict")?;
    announce(lab, LAN, relay, thief)?;
    lab.settle(LAN)?;
    ensure!(lab.dropped("address_conflict")? > before, "another station's claim was not counted");
    let ours = lab.relay_mac[&LAN];
    lab.expect_asked("an announcement in defence", |a| {
        matches!(a.what, Neighborly::Arp { sender_mac, sender, target, .. }
            if (sender_mac, sender, target) == (ours, relay, relay))
    })?;
    lab.pass(&conn)?;
    // Two stations that both defend would not end: within the interval there is no second answer (RFC 5227 section 2.4).
    lab.asked.clear();
    for _ in 0..5 {
        announce(lab, LAN, relay, thief)?;
    }
    lab.settle(LAN)?;
    ensure!(lab.asked.is_empty(), "claims that follow each other are each answered: {:?}", lab.asked);
    lab.pass(&conn)
}

fn solicitations_are_answered(lab: &mut Lab) -> Result<()> {
    for (link, n) in [(LAN, 1), (WAN, 1), (WAN, 2), (SLIM, 1)] {
        let (me, relay) = (host(link, 40, false), host(link, n, false));
        let (mac, ours) = (lab.mac(link, me), lab.relay_mac[&link]);
        let (group, group_mac) = solicited_node(relay);
        for (dst, dst_mac) in [(group, group_mac), (relay, ours)] {
            let p = solicitation(me, dst, relay, mac);
            lab.send_frame(link, dst_mac, ETH_IPV6, &p.bytes()?)?;
            let a = lab.expect_asked(
                "an advertisement",
                |a| matches!(a.what, Neighborly::Advertise { target, .. } if target == relay),
            )?;
            let Neighborly::Advertise { dst, flags, mac: told, .. } = a.what else { continue };
            ensure!(a.link == link && a.frame.dst == mac && dst == me, "answered to somebody else: {a:?}");
            ensure!(flags & 0x60 == 0x60, "not solicited and overriding: {a:?}");
            ensure!(told == Some(ours), "the link-layer address is missing or wrong: {a:?}");
        }
        // Who has no address yet and looks whether this one is free is told so by all (section 7.2.4).
        let nobody = IpAddr::from([0u16; 8]);
        let mut dad = solicitation(nobody, group, relay, mac);
        dad.payload.truncate(24);
        let mut m = dad.clone();
        m.payload[2..4].fill(0);
        let sum = super::packet::checksum(nobody, group, super::packet::ICMP6, &m.payload);
        m.payload[2..4].copy_from_slice(&sum.to_be_bytes());
        lab.send_frame(link, group_mac, ETH_IPV6, &m.bytes()?)?;
        let a = lab.expect_asked(
            "an advertisement to all",
            |a| matches!(a.what, Neighborly::Advertise { target, .. } if target == relay),
        )?;
        let Neighborly::Advertise { dst, flags, .. } = a.what else { continue };
        ensure!(dst == "ff02::1".parse::<IpAddr>()? && flags & 0x40 == 0, "not to all nodes: {a:?}");
    }
    Ok(())
}

fn solicitations_are_answered_for_own_addresses_only(lab: &mut Lab) -> Result<()> {
    let me = host(LAN, 40, false);
    for other in [host(LAN, 41, false), own(WAN, false), host(WAN, 32, false), host(LAN, 9, false)] {
        let (group, group_mac) = solicited_node(other);
        let p = solicitation(me, group, other, lab.mac(LAN, me));
        lab.send_frame(LAN, group_mac, ETH_IPV6, &p.bytes()?)?;
        lab.settle(LAN)?;
        let answered = lab.asked.iter().any(|a| matches!(a.what, Neighborly::Advertise { .. }));
        ensure!(!answered, "the relay answers for {other}: {:?}", lab.asked);
    }
    Ok(())
}

fn forged_neighbor_discovery_is_dropped(lab: &mut Lab) -> Result<()> {
    let conn = lab.open(&Setup::Main.flow(UDP, false, 5000), 40)?;
    let (target, thief) = (conn.target.ip(), [2, 0, 0x5e, 6, 6, 6]);
    let all: IpAddr = "ff02::1".parse()?;
    let good = advertisement(target, all, 0x20, target, thief);
    // From behind a router, with a code, with a wrong checksum, with an option of no length, for a multicast target.
    let far = Packet { ttl: 254, ..good.clone() };
    let mut m = good.icmp()?;
    m.code = 1;
    let coded = Packet { ttl: 255, ..m.packet(target, all) };
    let mut spoiled = good.clone();
    spoiled.payload[2] ^= 1;
    let mut m = good.icmp()?;
    m.body[17] = 0;
    let endless = Packet { ttl: 255, ..m.packet(target, all) };
    let group = advertisement(target, all, 0x20, "ff02::5".parse()?, thief);
    for bad in [far, coded, spoiled, endless, group] {
        lab.send_frame(WAN, [0x33, 0x33, 0, 0, 0, 1], ETH_IPV6, &bad.bytes()?)?;
        lab.settle(WAN)?;
        lab.pass(&conn)?;
    }
    // A solicitation from behind a router is not answered either.
    let me = host(LAN, 40, false);
    let p = solicitation(me, own(LAN, false), own(LAN, false), lab.mac(LAN, me));
    lab.asked.clear();
    lab.send(LAN, &Packet { ttl: 64, ..p })?;
    lab.settle(LAN)?;
    ensure!(lab.asked.is_empty(), "a solicitation with hop limit 64 was answered: {:?}", lab.asked);
    Ok(())
}

fn a_taken_address_refuses_the_start(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let taken = own(WAN, v4);
        let thief: Mac = [2, 0, 0x5e, 6, 6, if v4 { 4 } else { 6 }];
        let file = lab.dir.path().join("taken.toml");
        let socket = lab.dir.path().join("taken.sock");
        std::fs::write(&file, format!("{}\n[service]\nsocket = {socket:?}\n", Setup::Alone.config()))?;
        let netns = lab.vacant.as_ref().ok_or_else(|| anyhow::anyhow!("a relay runs here"))?;
        let dir = lab.dir.path().to_string_lossy().into_owned();
        let args = ["--config", &*file.to_string_lossy()];
        let mut process = netns.spawn_with(&find_binary("s2ds")?, &args, &[("RUNTIME_DIRECTORY", &dir)])?;
        let end = Instant::now() + Duration::from_secs(20);
        let status = loop {
            lab.pump(Duration::from_millis(20))?;
            for a in std::mem::take(&mut lab.asked) {
                match a.what {
                    Neighborly::Arp { op: 1, sender_mac, sender, target, .. } if v4 && target == taken => {
                        lab.send_frame(
                            a.link,
                            a.frame.src,
                            ETH_ARP,
                            &arp(2, thief, taken, sender_mac, sender),
                        )?;
                    }
                    Neighborly::Solicit { target, .. } if !v4 && target == taken => {
                        announce(lab, a.link, taken, thief)?;
                    }
                    _ => {}
                }
            }
            if let Some(status) = process.ended()? {
                break status;
            }
            ensure!(Instant::now() < end, "the relay started although {taken} is taken");
        };
        let said = process.said();
        let mac: Vec<_> = thief.iter().map(|b| format!("{b:02x}")).collect();
        ensure!(
            !status.success() && said.contains(&taken.to_string()),
            "it ended with {status} and said: {said}"
        );
        ensure!(said.contains(&mac.join(":")), "it does not name the other's MAC address: {said}");
    }
    Ok(())
}

fn own_addresses_are_probed_and_announced(lab: &mut Lab) -> Result<()> {
    lab.start(&Setup::Alone.config())?;
    for (link, n) in [(LAN, 1), (WAN, 1), (WAN, 2), (SLIM, 1)] {
        let (v4, v6, ours) = (host(link, n, true), host(link, n, false), lab.relay_mac[&link]);
        let nobody = (IpAddr::from([0; 4]), IpAddr::from([0u16; 8]));
        // Nobody is told who asks, so that nobody learns a wrong address (RFC 5227 section 2.1.1, RFC 4862 section 5.4.2).
        lab.expect_asked(&format!("a probe of {v4}"), |a| {
            matches!(a.what, Neighborly::Arp { op: 1, sender_mac, sender, target, .. }
                if (sender_mac, sender, target) == (ours, nobody.0, v4))
        })?;
        lab.expect_asked(&format!("a probe of {v6}"), |a| {
            matches!(a.what, Neighborly::Solicit { src, target, mac: None } if (src, target) == (nobody.1, v6))
        })?;
        let a = lab.expect_asked(&format!("an announcement of {v4}"), |a| {
            matches!(a.what, Neighborly::Arp { op: 1, sender_mac, sender, target, .. }
                if (sender_mac, sender, target) == (ours, v4, v4))
        })?;
        ensure!(a.link == link && a.frame.dst == [0xff; 6], "{a:?}");
        lab.expect_asked(&format!("an announcement of {v6}"), |a| {
            matches!(a.what, Neighborly::Advertise { flags, target, mac, .. }
                if target == v6 && mac == Some(ours) && flags & 0x40 == 0)
        })?;
    }
    Ok(())
}
