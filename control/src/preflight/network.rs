//! Links, speeds, MTUs and pause frames of ports and interfaces.

use forwarder::config::Device;

use super::finding::{Finding, Mend, Subject::Network};
use super::host::Interface;
use super::{Scene, Seen};

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    match scene.config {
        Some(_) => {
            for seen in &scene.devices {
                port(scene, seen, out);
            }
            speeds(scene, out);
            mtus(scene, out);
        }
        None => {
            for interface in scene.host.interfaces.iter().filter(|i| i.real) {
                let what = |what: &str| format!("{what} of {}", interface.name);
                out.push(link(what("link"), interface, None));
                out.extend(interface.mtu.map(|mtu| jumbo(what("MTU"), mtu, &interface.name)));
                out.push(pause(scene, what("pause frames"), interface));
            }
        }
    }
}

fn port(scene: &Scene<'_>, seen: &Seen<'_>, out: &mut Vec<Finding>) {
    let what = |what: &str| format!("{what} of {}", seen.title());
    match (seen.device, seen.interface) {
        (Device::AfPacket(name) | Device::AfXdp(name), None) => {
            let finding = Finding::ok(Network, what("interface"), "there is none of this name in /sys");
            let why = "the port has no device, unless s2ds runs in another network namespace";
            out.push(finding.problem(name.as_str(), why).likely().mend(Mend::by_hand("ip link")));
        }
        (Device::AfPacket(_) | Device::AfXdp(_), Some(interface)) => {
            out.push(link(what("link"), interface, Some(seen)));
            out.push(fits(what("MTU"), interface, seen));
            out.extend(routed(what("routes"), interface));
            if interface.real {
                out.push(pause(scene, what("pause frames"), interface));
            }
        }
        // The kernel's as yet, or shared: DPDK sets the MTU itself.
        (_, Some(interface)) => {
            out.push(link(what("link"), interface, Some(seen)));
            out.extend(routed(what("routes"), interface));
            out.push(pause(scene, what("pause frames"), interface));
        }
        (_, _) if seen.nic.is_some_and(super::Nic::is_handed_over) => {
            out.push(handed_over(scene, seen));
            let why = "the kernel does not see the device; DPDK leaves them as the NIC's firmware has them";
            let tells = "ethtool -a IFACE   # before the device is bound, and the switch's own configuration";
            out.push(Finding::unknown(Network, what("pause frames"), why, tells));
        }
        _ => {}
    }
}

/// A device of vfio: only a running s2ds knows its link.
fn handed_over(scene: &Scene<'_>, seen: &Seen<'_>) -> Finding {
    let what = format!("link of {}", seen.title());
    let device = seen.device.to_string();
    let Some(port) = scene.told.ports.iter().flatten().find(|p| p.device == device) else {
        let why = "the kernel does not see the device, and no s2ds that has it answers";
        return Finding::unknown(Network, what, why, "s2ctl port list   # while s2ds runs");
    };
    let speed = port.speed.map_or_else(String::new, |s| format!(", {} Gbit/s", f64::from(s) / 1000.0));
    let finding = Finding::ok(Network, what, format!("{}{speed}, says s2ds", port.link));
    match port.link.as_str() {
        "down" => finding.warning("up", "nothing passes; look at cable, transceiver and the switch's port"),
        _ => finding,
    }
}

fn link(what: String, interface: &Interface, seen: Option<&Seen<'_>>) -> Finding {
    let speed = interface.mbits.map_or_else(String::new, |m| format!(", {} Gbit/s", m as f64 / 1000.0));
    match interface.carrier {
        Some(true) => {
            let finding = Finding::ok(Network, what, format!("up{speed}"));
            match interface.mbits {
                None => finding.should("up").likely(),
                Some(_) => finding,
            }
        }
        Some(false) => {
            let finding = Finding::ok(Network, what, "down");
            let why = "nothing passes; s2ds does not bring interfaces of the kernel up";
            let mend = Mend::by_hand(format!(
                "ip link set dev {} up   # then cable, transceiver, switch",
                interface.name
            ));
            match seen {
                Some(_) => finding.warning("up", why).mend(mend),
                // Without a configuration nobody says that it is wanted.
                None => finding.should("up, if s2ds is to have it"),
            }
        }
        None => Finding::unknown(
            Network,
            what,
            "the kernel does not tell",
            format!("ip link show dev {}", interface.name),
        ),
    }
}

/// s2ds refuses to start where packets of the port do not fit.
fn fits(what: String, interface: &Interface, seen: &Seen<'_>) -> Finding {
    let Some(mtu) = interface.mtu else {
        return Finding::unknown(
            Network,
            what,
            "the kernel does not tell",
            format!("ip link show dev {}", interface.name),
        );
    };
    let finding = Finding::ok(Network, what, mtu.to_string());
    let wanted = u32::from(seen.mtu);
    let set = Mend::by_hand(format!("ip link set dev {} mtu {wanted}", interface.name));
    if mtu < wanted {
        let why = "the port's mtu is larger than the interface's: s2ds does not start";
        return finding.problem(format!("at least {wanted}"), why).mend(set);
    }
    if mtu > wanted {
        let why = "the interface takes packets that the port drops as too_big, if neighbors think the same";
        return finding.warning(format!("{wanted}, the port's"), why).likely().mend(set);
    }
    finding
}

fn routed(what: String, interface: &Interface) -> Option<Finding> {
    if !interface.routed {
        return Some(Finding::ok(Network, what, "none of the kernel's"));
    }
    let why = "the kernel answers there, too: it resets connections that it does not know, and answers ARP";
    let finding = Finding::ok(Network, what, "the kernel has IPv4 routes over it");
    let look = format!("ip addr flush dev {}   # not if you are logged in over it", interface.name);
    Some(finding.warning("no address of the kernel's", why).likely().mend(Mend::by_hand(look)))
}

fn pause(scene: &Scene<'_>, what: String, interface: &Interface) -> Finding {
    let word = |on: bool| if on { "on" } else { "off" };
    let Some((rx, tx)) = scene.told.pause(&interface.name) else {
        let why = "ethtool is not installed, or the driver does not tell";
        return Finding::unknown(Network, what, why, format!("ethtool -a {}", interface.name));
    };
    let finding = Finding::ok(Network, what, format!("RX {}, TX {}", word(rx), word(tx)));
    let mend =
        Mend::by_hand(format!("ethtool -A {} rx on tx on   # and the switch's port alike", interface.name));
    match rx == tx {
        true => {
            finding.should("both on or both off, as the switch's port and the other port").rule_of_thumb()
        }
        false => {
            let why = "one side would hold the other back, and not be held back itself: losses, or a queue that stands";
            finding.warning("both on or both off, as the switch's port", why).rule_of_thumb().mend(mend)
        }
    }
}

/// A port with less speed than another bounds the stream.
fn speeds(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let told: Vec<(&str, f64)> =
        scene.devices.iter().filter_map(|d| Some((d.names.as_str(), d.gbits?))).collect();
    let (Some(least), Some(most)) =
        (told.iter().map(|(_, g)| *g).reduce(f64::min), told.iter().map(|(_, g)| *g).reduce(f64::max))
    else {
        return;
    };
    if told.len() < 2 {
        return;
    }
    let is = told.iter().map(|(name, g)| format!("{name} {g}")).collect::<Vec<_>>().join(", ");
    let finding = Finding::ok(Network, "link speeds, Gbit/s", is);
    out.push(match (most - least).abs() < f64::EPSILON {
        true => finding,
        false => {
            let why = "bursts at the faster port's speed are lost at the slower one: s2ds holds a few thousand packets, no more";
            finding.warning("the same, or senders that pace, or flows with a rate", why).likely()
        }
    });
}

fn mtus(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let ports = scene.config.map(|c| c.ports.as_slice()).unwrap_or_default();
    let (Some(least), Some(most)) = (ports.iter().map(|p| p.mtu).min(), ports.iter().map(|p| p.mtu).max())
    else {
        return;
    };
    let is = ports.iter().map(|p| format!("{} {}", p.name, p.mtu)).collect::<Vec<_>>().join(", ");
    let finding = Finding::ok(Network, "MTUs of ports", is);
    if least != most {
        let why = "what is too large for the other side is dropped, its sender told; it works, with a start that stutters";
        let clamp = Mend::by_hand(
            "s2ds: the same mtu for every [[port]], or mss_clamp = \"auto\" for every [[flow]]",
        );
        out.push(finding.warning("the same", why).mend(clamp));
        return;
    }
    out.push(finding.should("the same"));
    let why = "switches and routers on the way have MTUs of their own; nothing is sent from here to find out";
    let probe = format!(
        "ping -M do -s {} HOST   # from an end host, through both gateways' networks",
        most.saturating_sub(28)
    );
    out.push(
        Finding::unknown(Network, "MTU of the path", why, probe).should(format!("{most} from end to end")),
    );
}

fn jumbo(what: String, mtu: u32, interface: &str) -> Finding {
    let finding = Finding::ok(Network, what, mtu.to_string());
    if mtu >= 9000 {
        return finding.should("9000");
    }
    let why = "a packet costs the ends and the gateway about the same whatever its size: six times fewer carry six times more";
    let mend = Mend::by_hand(format!(
        "ip link set dev {interface} mtu 9000   # if every switch on the way takes it"
    ));
    finding.warning("9000, where the whole path takes it", why).rule_of_thumb().mend(mend)
}
