//! The relays that tests run on, each a configuration.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use forwarder::api::Proto;

use super::oracle::{Flow, LAN, Lab, Link, SLIM, WAN, host, own};
use super::packet::{CTAG, STAG};
use crate::topology::cores;

/// What a test runs on. Tests of one kind share a relay and leave it as they found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Setup {
    /// Links and hosts without a relay, fresh for every test.
    Alone,
    /// Three ports, flows in both families, defaults everywhere.
    Main,
    /// The same on devices that leave fragments alone.
    Pieces,
    /// Flows with `mss_clamp` and `hairpin`.
    Policy,
    /// Flows whose listen and target address differ in family.
    Families,
    /// Two VLANs on one device, and an untagged port.
    Vlan,
    /// Service tags around customer tags.
    Stacked,
    /// Timers of seconds.
    Timers,
}

pub(super) const UDP: Proto = Proto::Udp;
pub(super) const TCP: Proto = Proto::Tcp;

/// VLAN 30 at the clients' link and VLAN 40 beside it.
pub(super) const LAN30: Link = Link { wire: 0, tags: &[(CTAG, 30)] };
pub(super) const LAN40: Link = Link { wire: 0, tags: &[(CTAG, 40)] };
/// VLAN 30 within service VLAN 100.
pub(super) const STACKED: Link = Link { wire: 0, tags: &[(STAG, 100), (CTAG, 30)] };

/// Address of the host that targets are on; a flow to a silent one has another.
pub(super) const TARGET: u8 = 32;

impl Setup {
    pub(super) const ALL: [Setup; 8] = [
        Setup::Alone,
        Setup::Main,
        Setup::Pieces,
        Setup::Policy,
        Setup::Families,
        Setup::Vlan,
        Setup::Stacked,
        Setup::Timers,
    ];

    /// Makes the hosts and starts the relay.
    pub(super) fn start(self) -> Result<Lab> {
        let links: &[Link] = match self {
            Setup::Vlan => &[LAN30, LAN40, WAN],
            Setup::Stacked => &[STACKED, WAN],
            _ => &[LAN, WAN, SLIM],
        };
        let mut lab = Lab::new(links)?;
        if self != Setup::Alone {
            lab.start(&self.config())?;
        }
        Ok(lab)
    }

    pub(super) fn config(self) -> String {
        // DPDK's af_packet has the kernel reassemble what comes in IPv4 fragments, and makes every VLAN tag that it puts
        // back an 802.1Q one; libpcap does neither.
        let device: fn(&str) -> String = match self {
            Setup::Pieces | Setup::Families | Setup::Vlan | Setup::Stacked => {
                |name| format!("vdev:net_pcap_{name},rx_iface_in={name},tx_iface={name}")
            }
            _ => |name| format!("af_packet:{name}"),
        };
        let mut text = head(if self == Setup::Timers { cores().len() - 1 } else { 0 });
        let lan = device("lan");
        match self {
            Setup::Vlan => {
                port(&mut text, "lan30", &lan, LAN30, "vlan = 30\n");
                port(&mut text, "lan40", &lan, LAN40, "vlan = 40\n");
            }
            Setup::Stacked => port(&mut text, "lan", &lan, STACKED, "vlan = 30\nouter_vlan = 100\n"),
            _ => {
                port(&mut text, "lan", &lan, LAN, "");
                port(&mut text, "slim", &device("slim"), SLIM, "mtu = 1280\n");
            }
        }
        port(&mut text, "wan", &device("wan"), WAN, "");
        if self == Setup::Timers {
            text += "[timers]\nudp = 5\ntcp_established = 10\ntcp_transitory = 3\nneighbor = 2\n";
        }
        for proto in [UDP, TCP] {
            for v4 in [true, false] {
                for (number, extra) in self.flows() {
                    if proto == UDP && extra.contains("mss_clamp") {
                        continue;
                    }
                    add(&mut text, &self.flow(proto, v4, *number), *number, v4, extra);
                }
            }
        }
        text
    }

    /// Listen ports of its flows, which name them in tests too, with further keys.
    fn flows(self) -> &'static [(u16, &'static str)] {
        match self {
            Setup::Alone => &[(5000, "")],
            Setup::Main | Setup::Pieces => &[
                (80, ""),
                (5000, ""),
                (5001, ""),
                (5002, ""),
                (5003, ""),
                (5004, ""),
                (5005, "max_conns = 1\n"),
                (5013, ""),
            ],
            Setup::Policy => &[
                (5000, ""),
                (5010, "hairpin = true\n"),
                (5011, "mss_clamp = 1400\n"),
                (5012, "mss_clamp = \"auto\"\n"),
            ],
            Setup::Families => &[(5020, ""), (5021, "")],
            Setup::Vlan => &[(5000, ""), (5030, "")],
            Setup::Stacked => &[(5000, "")],
            Setup::Timers => &[(5000, ""), (5004, "")],
        }
    }

    /// The flow that listens on port `number` of the clients' link, in the family of its clients.
    pub(super) fn flow(self, proto: Proto, v4: bool, number: u16) -> Flow {
        let near = match self {
            Setup::Vlan => LAN30,
            Setup::Stacked => STACKED,
            _ => LAN,
        };
        let (far, n, port) = match number {
            80 => (WAN, TARGET, 8080),
            5001 => (WAN, TARGET, 6001),
            5002 => (WAN, TARGET + 1, 6000),
            5003 | 5012 | 5021 => (SLIM, TARGET, 6000),
            // Nobody else sends to this one, so that it is not known before a test asks for it.
            5004 => (WAN, TARGET + 2, 6000),
            5030 => (LAN40, TARGET, 6000),
            _ => (WAN, TARGET, 6000),
        };
        let target_v4 = if self == Setup::Families { !v4 } else { v4 };
        Flow {
            proto,
            near,
            far,
            listen: SocketAddr::new(own(near, v4), number),
            target: SocketAddr::new(host(far, n, target_v4), port),
        }
    }
}

/// Name of a flow in the configuration.
pub(super) fn name(proto: Proto, number: u16, v4: bool) -> String {
    format!("{proto}-{number}-v{}", if v4 { 4 } else { 6 })
}

fn head(core: usize) -> String {
    let cores = cores();
    let core = cores.get(core).or(cores.first()).copied().unwrap_or(0);
    format!("[eal]\nhuge = false\n[workers]\ncores = [{core}]\nidle = \"adaptive\"\n")
}

fn port(text: &mut String, name: &str, device: &str, link: Link, extra: &str) {
    let mut addresses = vec![format!("{}/24", own(link, true)), format!("{}/64", own(link, false))];
    if link == WAN {
        // A second one to choose from.
        addresses.extend([format!("{}/24", host(link, 2, true)), format!("{}/64", host(link, 2, false))]);
    }
    let _ =
        write!(text, "[[port]]\nname = {name:?}\ndevice = {device:?}\naddresses = {addresses:?}\n{extra}");
}

/// Clients are the first half of the clients' network; hosts of the targets' network may open what hairpins.
fn add(text: &mut String, flow: &Flow, number: u16, v4: bool, extra: &str) {
    let clients = |link: Link| match (own(link, v4), v4) {
        (IpAddr::V4(a), _) => format!("{}.{}.0.0/25", a.octets()[0], a.octets()[1]),
        (IpAddr::V6(a), _) => format!("{:x}::/121", a.segments()[0]),
    };
    let mut from = vec![clients(flow.near)];
    if matches!(number, 5010 | 5013) {
        from.push(clients(WAN));
    }
    let _ = write!(
        text,
        "[[flow]]\nname = {:?}\nproto = \"{}\"\nlisten = \"{}\"\ntarget = \"{}\"\nfrom = {from:?}\n{extra}",
        name(flow.proto, number, v4),
        flow.proto,
        flow.listen,
        flow.target,
    );
}
