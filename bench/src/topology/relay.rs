//! The standard topology.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use forwarder::api::Proto;

use super::shuffle::{self, Shuffle};
use super::{Gateway, Netns, TopologyError, Workdir, switch};

/// An IP family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The one that this is not.
    #[must_use]
    pub fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }

    /// `v4` or `v6`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }
}

/// An interface of the topology: network and host number. The same numbers make its IPv4 and its IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u8, u8);

impl Place {
    /// The consumer.
    pub const CONSUMER: Place = Place(0x81, 2);
    /// A second address of the consumer's host, also allowed: where a roaming client goes.
    pub const ROAMED: Place = Place(0x81, 3);
    /// An address of the consumer's host that no flow allows.
    pub const STRANGER: Place = Place(0x81, 66);
    /// The consumer's gateway, consumer's side: where the consumer connects to.
    pub const CONSUMER_GATEWAY: Place = Place(0x81, 1);
    /// The consumer's gateway, WAN side.
    pub const CONSUMER_WAN: Place = Place(0x82, 1);
    /// The producer's gateway, WAN side.
    pub const PRODUCER_WAN: Place = Place(0x82, 2);
    /// The producer's gateway, producer's side.
    pub const PRODUCER_GATEWAY: Place = Place(0x83, 1);
    /// The producer.
    pub const PRODUCER: Place = Place(0x83, 2);

    /// Its address: 10.8N.0.H or fd8N::H.
    #[must_use]
    pub fn ip(self, family: Family) -> IpAddr {
        let Place(net, host) = self;
        match family {
            Family::V4 => Ipv4Addr::new(10, 80 + (net & 0xf), 0, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd00 | u16::from(net), 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// Its address with `port`.
    #[must_use]
    pub fn socket(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }

    /// The same with the length of its network's prefix.
    #[must_use]
    pub fn prefixed(self, family: Family) -> String {
        format!("{}/{}", self.ip(family), if family == Family::V4 { 24 } else { 64 })
    }
}

/// Port numbers that the relay's flows carry, the same at every hop.
pub mod ports {
    /// iperf3: TCP for control and data, UDP for data.
    pub const IPERF: u16 = 5201;
    /// s2bench's streams over TCP and over UDP.
    pub const STREAM: u16 = 5301;
    /// QUIC, ours or a foreign one.
    pub const QUIC: u16 = 5302;
}

/// What the relay carries by default.
const SERVICES: [(Proto, u16); 5] = [
    (Proto::Tcp, ports::IPERF),
    (Proto::Udp, ports::IPERF),
    (Proto::Tcp, ports::STREAM),
    (Proto::Udp, ports::STREAM),
    (Proto::Udp, ports::QUIC),
];

/// Name of the flow that carries a service, the same on both gateways: `tcp-5201-v4`.
#[must_use]
pub fn flow_name(proto: Proto, port: u16, family: Family) -> String {
    format!("{}-{port}-{}", proto_name(proto), family.name())
}

fn proto_name(proto: Proto) -> &'static str {
    match proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
    }
}

/// How s2ds gets hold of a veth end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Driver {
    /// DPDK's net_af_packet. It has the kernel reassemble what comes in IPv4 fragments.
    AfPacket,
    /// DPDK's net_af_xdp, in copy mode; needs root.
    AfXdp,
    /// DPDK's net_pcap, which takes every frame as it comes.
    Pcap,
}

impl Driver {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Driver::AfPacket => "af_packet",
            Driver::AfXdp => "af_xdp",
            Driver::Pcap => "pcap",
        }
    }

    /// The `device` of the configuration that makes an interface its own.
    #[must_use]
    pub fn device(self, interface: &str) -> String {
        match self {
            Driver::AfPacket | Driver::AfXdp => format!("{}:{interface}", self.name()),
            Driver::Pcap => format!("vdev:net_pcap_{interface},rx_iface_in={interface},tx_iface={interface}"),
        }
    }
}

/// Which gateway translates between IPv4 and IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translator {
    /// The consumer's: the WAN has the family that the consumer has not.
    Consumer,
    /// The producer's: the WAN has the consumer's family.
    Producer,
}

/// Variations of the topology.
#[derive(Debug, Clone)]
pub struct RelayOptions {
    /// Devices of both gateways.
    pub driver: Driver,
    /// Tags the access link of the consumer's gateway with this VLAN id. Needs root.
    pub vlan: Option<u16>,
    /// The WAN has a service tag and a VLAN tag, and either gateway another, untagged port on its device there.
    pub stacked: bool,
    /// Largest IP packet of every link, in bytes.
    pub mtu: u16,
    /// The same of the WAN, where it differs.
    pub wan_mtu: Option<u16>,
    /// The same of the producer's link, where it differs.
    pub producer_mtu: Option<u16>,
    /// The WAN reorders and doubles frames.
    pub shuffled: bool,
    /// Consumer and producer differ in family.
    pub translator: Option<Translator>,
    /// Flows of TCP have `mss_clamp = "auto"`.
    pub clamp: bool,
    /// TOML appended to both gateways' configuration, such as `[timers]`.
    pub extra: String,
}

impl Default for RelayOptions {
    fn default() -> RelayOptions {
        RelayOptions {
            driver: Driver::AfPacket,
            vlan: None,
            stacked: false,
            mtu: 1500,
            wan_mtu: None,
            producer_mtu: None,
            shuffled: false,
            translator: None,
            clamp: false,
            extra: String::new(),
        }
    }
}

impl RelayOptions {
    /// Largest IP packet of the link that a place is on.
    fn mtu_at(&self, place: Place) -> u16 {
        match place {
            Place(0x82, _) => self.wan_mtu.unwrap_or(self.mtu),
            Place(0x83, _) => self.producer_mtu.unwrap_or(self.mtu),
            _ => self.mtu,
        }
    }

    /// In which family what a consumer sends in `family` passes the link that a place is on.
    fn family_at(&self, place: Place, family: Family) -> Family {
        match (place, self.translator) {
            (Place(0x82, _), Some(Translator::Consumer)) | (Place(0x83, _), Some(_)) => family.other(),
            _ => family,
        }
    }
}

/// Two hosts and two running gateways between them. Dropping it takes everything down.
#[derive(Debug)]
pub struct Relay {
    /// The consumer's gateway: listens where the consumer connects, targets the producer's gateway.
    pub consumer_gateway: Gateway,
    /// The producer's gateway: listens on the WAN, targets the producer.
    pub producer_gateway: Gateway,
    /// The consumer's host.
    pub consumer: Netns,
    /// The producer's host.
    pub producer: Netns,
    options: RelayOptions,
    _switch: Option<Netns>,
    shuffle: Option<Shuffle>,
}

impl Relay {
    /// Builds the networks, starts both gateways and waits until they answer.
    pub fn start(options: &RelayOptions) -> Result<Relay, TopologyError> {
        let dir = Arc::new(Workdir::new()?);
        let [consumer, near, far, producer] =
            ["consumer", "consumer-gateway", "producer-gateway", "producer"]
                .map(|n| Netns::new(n, dir.clone()));
        let (consumer, near, far, producer) = (consumer?, near?, far?, producer?);

        let switch = match options.vlan {
            Some(vlan) => Some(switch::join(&near, &consumer, vlan, options.mtu, dir.clone())?),
            None => near.join("lan", &consumer, "eth0", options.mtu).map(|()| None)?,
        };
        // To the kernel, two tags are a part of the packet.
        let wan_mtu = options.mtu_at(Place::CONSUMER_WAN) + if options.stacked { 8 } else { 0 };
        let shuffle = match options.shuffled {
            true => Some(shuffle::join(&near, &far, wan_mtu, dir.clone())?),
            false => near.join("wan", &far, "wan", wan_mtu).map(|()| None)?,
        };
        far.join("lan", &producer, "eth0", options.mtu_at(Place::PRODUCER))?;
        for gateway in [&near, &far] {
            // s2ds owns the links.
            gateway.silence("lan")?;
            gateway.silence("wan")?;
        }
        for (host, places) in [
            (&consumer, &[Place::CONSUMER, Place::ROAMED, Place::STRANGER][..]),
            (&producer, &[Place::PRODUCER]),
        ] {
            host.ip("link set eth0 up")?;
            for place in places {
                // Only the first is for those who do not choose: IPv6 hosts avoid deprecated addresses (RFC 6724).
                let preferred = if place == &places[0] { "forever" } else { "0" };
                host.ip(&format!("address add {} dev eth0", place.prefixed(Family::V4)))?;
                let v6 = place.prefixed(Family::V6);
                host.ip(&format!("address add {v6} dev eth0 nodad preferred_lft {preferred}"))?;
            }
        }

        let cores = cores();
        let consumer_gateway = Gateway::start(near, &near_config(options, cores[0]))?;
        let producer_gateway = Gateway::start(far, &far_config(options, cores[cores.len() - 1]))?;
        Ok(Relay {
            consumer_gateway,
            producer_gateway,
            consumer,
            producer,
            options: options.clone(),
            _switch: switch,
            shuffle,
        })
    }

    /// Frames that others overtook on the WAN so far, when it reorders.
    #[must_use]
    pub fn overtaken(&self) -> u64 {
        self.shuffle.as_ref().map_or(0, Shuffle::overtaken)
    }

    /// The family in which the producer gets what a consumer sends in `family`.
    #[must_use]
    pub fn producer_family(&self, family: Family) -> Family {
        self.options.family_at(Place::PRODUCER, family)
    }

    /// Both gateways with their names.
    #[must_use]
    pub fn gateways(&self) -> [&Gateway; 2] {
        [&self.consumer_gateway, &self.producer_gateway]
    }
}

fn near_config(options: &RelayOptions, core: usize) -> String {
    let mut text = head(options, core);
    let vlan = options.vlan.map(|vlan| format!("vlan = {vlan}\n")).unwrap_or_default();
    port(&mut text, options, "lan", Place::CONSUMER_GATEWAY, &vlan);
    wan_ports(&mut text, options, Place::CONSUMER_WAN, "10.99.0.1/24");
    flows(&mut text, options, Place::CONSUMER_GATEWAY, Place::PRODUCER_WAN, |family| match family {
        Family::V4 => "10.81.0.0/27".into(),
        Family::V6 => "fd81::/123".into(),
    });
    text
}

fn far_config(options: &RelayOptions, core: usize) -> String {
    let mut text = head(options, core);
    wan_ports(&mut text, options, Place::PRODUCER_WAN, "10.99.0.2/24");
    port(&mut text, options, "lan", Place::PRODUCER_GATEWAY, "");
    flows(&mut text, options, Place::PRODUCER_WAN, Place::PRODUCER, |family| {
        format!("{}/{}", Place::CONSUMER_WAN.ip(family), if family == Family::V4 { 32 } else { 128 })
    });
    text
}

fn head(options: &RelayOptions, core: usize) -> String {
    // Adaptive, because gateways and hosts share the cores of one machine; no hugepages, so that nothing is set aside.
    format!("{}\n[eal]\nhuge = false\n[workers]\ncores = [{core}]\nidle = \"adaptive\"\n", options.extra)
}

/// The port `wan`, and when it is tagged another one on its device that has the address `beside`.
fn wan_ports(text: &mut String, options: &RelayOptions, place: Place, beside: &str) {
    if !options.stacked {
        return port(text, options, "wan", place, "");
    }
    let device = options.driver.device("wan");
    let _ = write!(text, "[[port]]\nname = \"beside\"\ndevice = \"{device}\"\naddresses = [\"{beside}\"]\n");
    port(text, options, "wan", place, "outer_vlan = 100\nvlan = 30\n");
}

fn port(text: &mut String, options: &RelayOptions, name: &str, place: Place, tags: &str) {
    let _ = write!(
        text,
        "[[port]]\nname = \"{name}\"\ndevice = \"{}\"\naddresses = [\"{}\", \"{}\"]\nmtu = {}\n",
        options.driver.device(name),
        place.prefixed(Family::V4),
        place.prefixed(Family::V6),
        options.mtu_at(place)
    );
    text.push_str(tags);
}

/// Flows of every service, from clients that `from` tells by the family they come in.
fn flows(
    text: &mut String,
    options: &RelayOptions,
    listen: Place,
    target: Place,
    from: impl Fn(Family) -> String,
) {
    for (proto, port) in SERVICES {
        for family in Family::ALL {
            let (near, far) = (options.family_at(listen, family), options.family_at(target, family));
            let _ = write!(
                text,
                "[[flow]]\nname = \"{}\"\nproto = \"{}\"\nlisten = \"{}\"\ntarget = \"{}\"\nfrom = [\"{}\"]\n{}\n",
                flow_name(proto, port, family),
                proto_name(proto),
                listen.socket(near, port),
                target.socket(far, port),
                from(near),
                if options.clamp && proto == Proto::Tcp { "mss_clamp = \"auto\"" } else { "" }
            );
        }
    }
}

/// Cores this process may use; at least one.
#[must_use]
pub fn cores() -> Vec<usize> {
    let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    let mut cores = Vec::new();
    if let Ok(set) = allowed {
        cores.extend((0..nix::sched::CpuSet::count()).filter(|c| set.is_set(*c).unwrap_or(false)));
    }
    if cores.is_empty() {
        cores.push(0);
    }
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_plan() {
        assert_eq!(Place::CONSUMER.ip(Family::V4).to_string(), "10.81.0.2");
        assert_eq!(Place::STRANGER.ip(Family::V6).to_string(), "fd81::42");
        assert_eq!(Place::PRODUCER_GATEWAY.socket(Family::V6, 1).to_string(), "[fd83::1]:1");
    }

    #[test]
    fn the_stranger_is_outside_what_flows_allow() {
        for (family, prefix) in [(Family::V4, "10.81.0.0/27"), (Family::V6, "fd81::/123")] {
            let prefix: ipnet::IpNet = prefix.parse().unwrap();
            assert!(prefix.contains(&Place::CONSUMER.ip(family)));
            assert!(prefix.contains(&Place::ROAMED.ip(family)));
            assert!(!prefix.contains(&Place::STRANGER.ip(family)));
        }
    }
}
