//! VLANs: IEEE 802.1Q and 802.1ad.

use anyhow::{Context, Result, ensure};

use super::oracle::{Conn, Lab, Link, WAN, host, own};
use super::packet::{CTAG, Frame, Mac, Packet, STAG, Tag};
use super::setup::{LAN30, LAN40, STACKED, Setup, TCP, UDP};

suite! { "vlan":
    Vlan {
        each_vlan_is_a_port_of_its_own,
        priority_bits_are_kept,
        a_priority_tag_at_an_untagged_port,
        frames_of_other_vlans_are_dropped,
    }
    Stacked { service_tags_are_carried, service_tags_have_to_match }
}

const FAMILIES: [bool; 2] = [true, false];

/// Sends with tags of one's own.
fn send_tagged(lab: &mut Lab, link: Link, tags: &[Tag], packet: &Packet) -> Result<()> {
    let dst: Mac = *lab.relay_mac.get(&link).context("the relay's MAC address is not known")?;
    let frame = Frame {
        dst,
        src: [2, 0, 0x5e, 0, 0, 0xfe],
        tags: tags.to_vec(),
        ethertype: packet.ethertype(),
        payload: packet.bytes()?,
    };
    lab.send_raw(link, &frame)
}

fn each_vlan_is_a_port_of_its_own(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            // To another device, and to another VLAN of the same one.
            for number in [5000, 5030] {
                let conn = lab.open(&Setup::Vlan.flow(proto, v4, number), 40)?;
                lab.pass(&conn)?;
            }
        }
    }
    Ok(())
}

/// Carries a packet with tags both ways and says with which it left.
fn tags_after(lab: &mut Lab, conn: &Conn, up: &[Tag], down: &[Tag]) -> Result<[Vec<Tag>; 2]> {
    send_tagged(lab, conn.near, up, &conn.up(b"first class"))?;
    let came_up = lab.expect_arrival(conn.far, "a tagged packet", |p| conn.is_up(p))?;
    ensure!(came_up.packet == conn.up_seen(b"first class"), "{came_up:?}");
    send_tagged(lab, conn.far, down, &conn.down(b"first class"))?;
    let came_down = lab.expect_arrival(conn.near, "a tagged packet", |p| conn.is_down(p))?;
    ensure!(came_down.packet == conn.down_seen(b"first class"), "{came_down:?}");
    Ok([came_up.tags, came_down.tags])
}

fn priority_bits_are_kept(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Vlan.flow(UDP, v4, 5030), 40)?;
        for bits in [0u16, 1, 5, 7, 8, 13, 15] {
            // Priority in the top three bits, drop eligible below.
            let bits = (bits & 7) << 13 | (bits >> 3) << 12;
            let [up, down] = tags_after(lab, &conn, &[(CTAG, bits | 30)], &[(CTAG, bits | 40)])?;
            ensure!(up == [(CTAG, bits | 40)], "tag {:#06x} became {up:04x?}", bits | 30);
            ensure!(down == [(CTAG, bits | 30)], "tag {:#06x} became {down:04x?}", bits | 40);
        }
    }
    Ok(())
}

fn a_priority_tag_at_an_untagged_port(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let conn = lab.open(&Setup::Vlan.flow(UDP, v4, 5000), 40)?;
        let [up, down] = tags_after(lab, &conn, &[(CTAG, 5 << 13 | 30)], &[(CTAG, 3 << 13)])?;
        ensure!(up.is_empty(), "an untagged port sent the tags {up:04x?}");
        ensure!(down == [(CTAG, 3 << 13 | 30)], "a priority tag became {down:04x?}");
    }
    Ok(())
}

fn frames_of_other_vlans_are_dropped(lab: &mut Lab) -> Result<()> {
    for v4 in FAMILIES {
        let f = Setup::Vlan.flow(UDP, v4, 5000);
        let client = lab.client(LAN30, 40, v4);
        let p = super::packet::udp(client, f.listen, b"first");
        for tags in [&[][..], &[(CTAG, 31)], &[(CTAG, 0)], &[(CTAG, 30), (CTAG, 30)]] {
            lab.dropped_by(LAN30, "vlan_mismatch", "a frame of another VLAN", |lab| {
                send_tagged(lab, LAN30, tags, &p)
            })
            .with_context(|| format!("{tags:?}"))?;
        }
        // The neighbor VLAN is another network: its addresses are not this one's.
        send_tagged(lab, LAN30, &[(CTAG, 40)], &p)?;
        send_tagged(lab, WAN, &[(CTAG, 30)], &super::packet::udp(f.target, client, b"x"))?;
        lab.settle(WAN)?;
        lab.silent(LAN30, "frames of another VLAN")?;
    }
    ensure!(
        own(LAN30, true) != own(LAN40, true) && host(LAN30, 40, true) != host(LAN40, 40, true),
        "one network"
    );
    Ok(())
}

fn service_tags_are_carried(lab: &mut Lab) -> Result<()> {
    for proto in [UDP, TCP] {
        for v4 in FAMILIES {
            let conn = lab.open(&Setup::Stacked.flow(proto, v4, 5000), 40)?;
            // `expect` finds the link by both tags.
            lab.pass(&conn)?;
        }
    }
    Ok(())
}

fn service_tags_have_to_match(lab: &mut Lab) -> Result<()> {
    let f = Setup::Stacked.flow(UDP, true, 5000);
    let client = lab.client(STACKED, 40, true);
    let p = super::packet::udp(client, f.listen, b"first");
    let strange: [&[Tag]; 5] =
        [&[], &[(CTAG, 30)], &[(STAG, 100)], &[(STAG, 101), (CTAG, 30)], &[(CTAG, 100), (CTAG, 30)]];
    for tags in strange {
        send_tagged(lab, STACKED, tags, &p)?;
        lab.silent(STACKED, "a frame of another VLAN").with_context(|| format!("{tags:?}"))?;
    }
    Ok(())
}
