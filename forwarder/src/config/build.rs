//! From tables to a [`Config`]: each function reads one kind of table and checks it against what was read before.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;
use toml::de::DeTable;

use super::network::{check_fields, check_network, is_edge, is_name, not_a_host};
use super::read::{Place, Placed, Problems, Section};
use super::{
    AddressCheck, AddressesConfig, Config, ConfigError, Cores, Device, EalConfig, FlowError, Idle, Limits,
    NeighborConfig, Network, PortConfig, PrivilegesConfig, Problem, Retry, RouteConfig, Sandbox,
    ServiceConfig, Timers, WorkersConfig,
};
use crate::api::{FlowSpec, MssClamp, Proto, lease, rate};
use crate::io::{MAX_DEVICES, MAX_PORTS, PortIndex};
use crate::wire::Tags;

/// Longest path a Unix socket's address holds, without the terminating zero.
const SOCKET_PATH_MAX: usize = 107;

pub(super) fn config(text: &str, file: &str) -> Result<Config, ConfigError> {
    let problems = Problems::new(file, text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = Place { offset: error.span().map_or(0, |s| s.start), key: "TOML".to_owned() };
        // Some of the parser's messages have several lines; ours have one.
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        problems.add(&place, format!("{message}; see https://toml.io for how it is written"));
    }
    // What a broken text seems to say is not worth judging.
    let config =
        if errors.is_empty() { document(&Section::root(&root, &problems)) } else { Config::default() };
    let found: Vec<Problem> = problems.into_inner();
    if found.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(found)) }
}

fn document(root: &Section<'_>) -> Config {
    let mut config = Config {
        eal: eal(root.section("eal")),
        service: service(root.section("service")),
        addresses: addresses(root.section("addresses")),
        timers: timers(root.section("timers")),
        limits: limits(root.section("limits")),
        privileges: privileges(root.section("privileges")),
        ..Config::default()
    };
    config.workers = workers(root.section("workers"));
    let ports_sound = ports(root, &mut config);
    let routes_sound = routes(root, &mut config, ports_sound);
    neighbors(root, &mut config, ports_sound);
    flows(root, &mut config, ports_sound && routes_sound);
    root.finish();
    config.notices = notices(&config);
    config
}

fn eal(section: Section<'_>) -> EalConfig {
    let default = EalConfig::default();
    let arg = |arg: &str| match arg {
        "--" => Err("ends EAL's options, which s2ds does itself; leave it out"),
        _ if arg.contains('\0') => Err("holds a zero byte; leave it out"),
        _ => Ok(arg.to_owned()),
    };
    let huge = section.flag("huge").unwrap_or(default.huge);
    let args = section.list("args", arg).into_iter().map(|a| a.value).collect();
    section.finish();
    EalConfig { huge, args }
}

fn service(section: Section<'_>) -> ServiceConfig {
    let default = ServiceConfig::default();
    let socket = section.text("socket", |path| match path.len() {
        0 => Err("is empty; give the path of the control socket".to_owned()),
        1..=SOCKET_PATH_MAX if !path.contains('\0') => Ok(PathBuf::from(path)),
        _ => Err(format!(
            "is no path for a Unix socket; use at most {SOCKET_PATH_MAX} bytes, none of them zero"
        )),
    });
    let group = section.text("group", |name| match name {
        "" => Err("is empty; name a group, or leave it out"),
        name => Ok(name.to_owned()),
    });
    let mode = section.text("mode", |mode| {
        let bits = u32::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o777 && !mode.starts_with('+'));
        bits.ok_or("must be permission bits in octal, such as \"0660\"")
    });
    section.finish();
    ServiceConfig {
        socket: value_or(socket, default.socket),
        group: group.map(|g| g.value),
        mode: value_or(mode, default.mode),
    }
}

fn addresses(section: Section<'_>) -> AddressesConfig {
    let check = section.text("check", |word| match word {
        "quick" => Ok(AddressCheck::Quick),
        "rfc5227" => Ok(AddressCheck::Rfc5227),
        "off" => Ok(AddressCheck::Off),
        _ => Err(format!("must be \"quick\", \"rfc5227\" or \"off\", not {word:?}")),
    });
    section.finish();
    AddressesConfig { check: value_or(check, AddressCheck::default()) }
}

fn timers(section: Section<'_>) -> Timers {
    let default = Timers::default();
    let seconds = |key, default| section.number(key, 1..=1_000_000).unwrap_or(default);
    let timers = Timers {
        udp: seconds("udp", default.udp),
        tcp_established: seconds("tcp_established", default.tcp_established),
        tcp_transitory: seconds("tcp_transitory", default.tcp_transitory),
        neighbor: seconds("neighbor", default.neighbor),
    };
    section.finish();
    timers
}

fn limits(section: Section<'_>) -> Limits {
    let default = Limits::default();
    let source_ports = section.text("source_ports", port_range);
    let limits = Limits {
        connections: section.number("connections", 1..=1 << 24).unwrap_or(default.connections),
        flows: section.number("flows", 1..=1 << 16).unwrap_or(default.flows),
        neighbors: section.number("neighbors", 1..=1 << 15).unwrap_or(default.neighbors),
        source_ports: value_or(source_ports, default.source_ports),
    };
    section.finish();
    limits
}

fn privileges(section: Section<'_>) -> PrivilegesConfig {
    let user = section.text("user", |name| match name {
        "" => Err("is empty; name a user, or leave it out"),
        name => Ok(name.to_owned()),
    });
    let sandbox = section.text("sandbox", str::parse);
    let capability = |name: &str| match name.strip_prefix("CAP_") {
        Some(rest) if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') => {
            Ok(name.to_owned())
        }
        _ => Err(format!("{name:?} is no capability; write one like \"CAP_NET_ADMIN\" (capabilities(7))")),
    };
    let file = |path: &str| match path.starts_with('/') {
        true => Ok(PathBuf::from(path)),
        false => Err(format!("{path:?} is no absolute path; write it from / on")),
    };
    let capabilities = section.list("capabilities", capability).into_iter().map(|c| c.value).collect();
    let files = section.list("files", file).into_iter().map(|f| f.value).collect();
    section.finish();
    PrivilegesConfig {
        user: user.map(|u| u.value),
        sandbox: value_or(sandbox, Sandbox::default()),
        capabilities,
        files,
    }
}

fn workers(section: Section<'_>) -> WorkersConfig {
    let cores = match section.numbers_or("cores", "auto", 0..=1023) {
        Some(Placed { value: Some(list), place }) => {
            section.require_items("cores", "list at least one core, or write \"auto\"");
            let mut seen = Seen::default();
            for core in &list {
                if seen.again(*core, "").is_some() {
                    section.fail(&place, format!("names core {core} twice; a core has one worker"));
                }
            }
            Cores::List(list)
        }
        _ => Cores::Auto,
    };
    let idle = section.text("idle", |word| match word {
        "poll" => Ok(Idle::Poll),
        "adaptive" => Ok(Idle::Adaptive),
        _ => Err(format!("must be \"poll\" or \"adaptive\", not {word:?}")),
    });
    section.finish();
    let cores_at = section.file_and_line(&section.place_of("cores"));
    WorkersConfig { cores, cores_at, idle: value_or(idle, Idle::Poll) }
}

/// True when all addresses of ports are sound, so that what refers to them can be judged.
fn ports(root: &Section<'_>, config: &mut Config) -> bool {
    let sections = root.sections("port");
    if sections.is_empty() {
        root.fail(&root.place_of("port"), "there is no port; add a [[port]] with name, device and addresses");
        return false;
    }
    if let Some(extra) = sections.get(MAX_PORTS) {
        extra.fail(&extra.place, format!("is one port too many; at most {MAX_PORTS} are possible"));
    }
    let mut names = Seen::default();
    let mut sound = true;
    for section in sections {
        let (port, place) = port(&section, config);
        if names.again(port.name.clone(), &section.place.key).is_some() && !port.name.is_empty() {
            section.fail(
                &section.place_of("name"),
                format!("{:?} is the name of another port; give each its own", port.name),
            );
        }
        if let Some(device) = place {
            shared_device(&section, &device, &port, config);
        }
        section.finish();
        sound &= !section.failed_in(&["addresses", "gateway"]);
        config.ports.push(port);
    }
    sound
}

/// One port. What could not be read is filled in with anything, since the problem found forbids the whole. Beside it the
/// place of `device` when that was read.
fn port(section: &Section<'_>, config: &Config) -> (PortConfig, Option<Place>) {
    let name = section.required(
        "name",
        section.text("name", |name| {
            is_name(name, 32, b"._-")
                .then(|| name.to_owned())
                .ok_or_else(|| format!("{name:?} is no port name; use 1 to 32 characters of A-Za-z0-9._-"))
        }),
    );
    let device = section.required("device", section.text("device", str::parse::<Device>));
    let addresses = section.list("addresses", prefix);
    section.require_items("addresses", "give the port's own, such as [\"10.0.0.1/24\"]");
    for (index, own) in addresses.iter().enumerate() {
        own_address(section, own, &addresses[..index], config);
    }
    let least_mtu = if addresses.iter().any(|a| a.value.addr().is_ipv6()) { 1280 } else { 576 };
    let gateway = section.one_or_list("gateway", address);
    let port = PortConfig {
        name: name.map(|n| n.value).unwrap_or_default(),
        addresses: addresses.iter().map(|a| a.value).collect(),
        mtu: section.number("mtu", least_mtu..=9600).unwrap_or(1500),
        vlan: section.number("vlan", 1..=4094),
        outer_vlan: section.number("outer_vlan", 1..=4094),
        queues: section.number("queues", 1..=256),
        rx_descriptors: section.number("rx_descriptors", 64..=32_768),
        tx_descriptors: section.number("tx_descriptors", 64..=32_768),
        retry: section.text("retry", str::parse::<Retry>).map(|r| r.value),
        gateway: gateway.iter().map(|g| g.value).collect(),
        device: device.as_ref().map_or(Device::Vdev(String::new()), |d| d.value.clone()),
    };
    for (index, gate) in gateway.iter().enumerate() {
        if gateway[..index].iter().any(|other| other.value.is_ipv4() == gate.value.is_ipv4()) {
            section.fail(
                &gate.place,
                "is a second gateway of its family; keep one and write a [[route]] for the other",
            );
        }
        let alone = Network { ports: std::slice::from_ref(&port), routes: &[] };
        neighbor_address(section, gate, 0, &alone);
    }
    if let (Some(queues), Cores::List(cores)) = (port.queues, &config.workers.cores)
        && usize::from(queues) < cores.len()
    {
        let message = format!(
            "is less than the {} workers, each of which needs a queue; name fewer cores",
            cores.len()
        );
        section.fail(&section.place_of("queues"), message);
    }
    (port, device.map(|d| d.place))
}

/// A device that other ports have, too: their tags tell them apart, and what is the device's is one thing.
fn shared_device(section: &Section<'_>, place: &Place, port: &PortConfig, config: &Config) {
    let others: Vec<_> = config.ports.iter().filter(|p| p.device == port.device).collect();
    if let Some(other) = others.iter().find(|p| p.tags() == port.tags()) {
        let message = format!(
            "{} belongs to port {:?} already, which has the same tags; give each port its own device or its own \
             vlan and outer_vlan",
            port.device, other.name
        );
        section.fail(place, message);
    }
    if others.is_empty() && config.devices().count() == MAX_DEVICES {
        section.fail(place, format!("is one device too many; at most {MAX_DEVICES} are possible"));
    }
    // Its driver passes a service tag for an 802.1Q tag.
    let alike = |p: &&&PortConfig| {
        let ids = |t: Tags| if t.outer.is_some() && t.inner.is_some() { None } else { t.outer.or(t.inner) };
        p.tags() != port.tags() && ids(p.tags()).is_some() && ids(p.tags()) == ids(port.tags())
    };
    if let (Device::AfPacket(_), Some(other)) = (&port.device, others.iter().find(alike)) {
        let message = format!(
            "port {:?} has the same id in a tag of the other kind, which af_packet cannot tell apart; use another id or \
             af_xdp",
            other.name
        );
        section.fail(place, message);
    }
    let others = &others;
    said_once(section, "queues", others, port.queues, |p| p.queues);
    said_once(section, "rx_descriptors", others, port.rx_descriptors, |p| p.rx_descriptors);
    said_once(section, "tx_descriptors", others, port.tx_descriptors, |p| p.tx_descriptors);
    said_once(section, "retry", others, port.retry, |p| p.retry);
}

/// What a device has once is said once by its ports, or alike.
fn said_once<T: Display + PartialEq>(
    section: &Section<'_>,
    key: &'static str,
    others: &[&PortConfig],
    own: Option<T>,
    of: impl Fn(&PortConfig) -> Option<T>,
) {
    let different = |p: &&&PortConfig| of(p).is_some() && of(p) != own;
    if let (Some(value), Some(other)) = (&own, others.iter().find(different)) {
        let name = &other.name;
        let message = format!(
            "{value} differs from what port {name:?} says of the same device; give the device's {key} once"
        );
        section.fail(&section.place_of(key), message);
    }
}

/// An address of the forwarder itself: a host's, once, and in no prefix of another port.
fn own_address(section: &Section<'_>, own: &Placed<IpNet>, before: &[Placed<IpNet>], config: &Config) {
    let (net, ip) = (own.value, own.value.addr());
    let complain = |message: String| section.fail(&own.place, message);
    if let Some(why) = not_a_host(ip) {
        complain(format!("{ip} {why}; give an address of this host"));
    } else if matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local()) {
        complain(format!("{ip} is link-local; leave it out, it is made from the MAC address"));
    } else if is_edge(net, ip) {
        complain(format!(
            "{ip} is the network or broadcast address of {}; give an address of this host",
            net.trunc()
        ));
    }
    if before.iter().any(|other| other.value.addr() == ip) {
        complain(format!("{ip} stands here twice; keep one"));
    }
    for port in &config.ports {
        let overlaps = |other: &&IpNet| other.contains(&net.network()) || net.contains(&other.network());
        if let Some(other) = port.addresses.iter().find(overlaps) {
            complain(format!(
                "{net} overlaps {other} of port {:?}; give each port a network of its own",
                port.name
            ));
        }
    }
}

/// The address of a neighbor: a host's, on-link, not ours.
fn neighbor_address(
    section: &Section<'_>,
    neighbor: &Placed<IpAddr>,
    port: PortIndex,
    network: &Network<'_>,
) {
    let Placed { value: ip, place } = neighbor;
    let Some(config) = network.ports.get(usize::from(port)) else { return };
    if let Some(why) = not_a_host(*ip) {
        section.fail(place, format!("{ip} {why}; give the address of one host"));
    } else if network.owner(*ip).is_some() {
        section.fail(place, format!("{ip} is an address of this forwarder itself; give the neighbor's"));
    } else if !network.on_link(port, *ip) {
        let nets: Vec<_> = config.addresses.iter().map(|own| own.trunc().to_string()).collect();
        let name = &config.name;
        section.fail(
            place,
            format!("{ip} is not on-link of port {name:?}; give an address in {}", nets.join(", ")),
        );
    } else if let Some(net) = config.addresses.iter().find(|own| is_edge(**own, *ip)) {
        section.fail(
            place,
            format!("{ip} is the network or broadcast address of {}; give a host's", net.trunc()),
        );
    }
}

/// Index of the port that a key names.
fn port_index(section: &Section<'_>, config: &Config) -> Option<PortIndex> {
    let name = section.required("port", section.text("port", |name| Ok::<_, String>(name.to_owned())))?;
    let index = (0..).zip(&config.ports).find(|(_, p)| p.name == name.value).map(|(index, _)| index);
    if index.is_none() {
        let names: Vec<_> = config.ports.iter().map(|p| p.name.as_str()).collect();
        section.fail(&name.place, format!("{:?} is no port; the ports are {}", name.value, names.join(", ")));
    }
    index
}

fn routes(root: &Section<'_>, config: &mut Config, ports_sound: bool) -> bool {
    let mut prefixes = Seen::default();
    let mut routes_sound = true;
    for section in root.sections("route") {
        let prefix = section.required("prefix", section.text("prefix", prefix));
        let via = section.required("via", section.text("via", address));
        let port = port_index(&section, config);
        if let (Some(prefix), Some(via)) = (&prefix, &via)
            && prefix.value.addr().is_ipv4() != via.value.is_ipv4()
        {
            section.fail(
                &via.place,
                format!("{} is not of the family of {}; give both as one", via.value, prefix.value),
            );
        }
        if let Some(prefix) = &prefix {
            let net = prefix.value;
            if net.addr() != net.network() {
                section.fail(&prefix.place, format!("{net} has host bits set; write {}", net.trunc()));
            }
            if let Some(other) = prefixes.again(net.trunc(), &section.place.key) {
                section.fail(&prefix.place, format!("{net} has a route in {other} already; keep one"));
            }
        }
        if let (Some(via), Some(port), true) = (&via, port, ports_sound) {
            neighbor_address(&section, via, port, &config.network());
        }
        section.finish();
        routes_sound &= !section.failed_in(&["prefix", "via", "port"]);
        if let (Some(prefix), Some(via), Some(port)) = (prefix, via, port) {
            config.routes.push(RouteConfig { prefix: prefix.value, via: via.value, port });
        }
    }
    routes_sound
}

fn neighbors(root: &Section<'_>, config: &mut Config, ports_sound: bool) {
    let mut addresses = Seen::default();
    for section in root.sections("neighbor") {
        let address = section.required("address", section.text("address", address));
        let mac = section.required("mac", section.text("mac", mac));
        let port = port_index(&section, config);
        if let (Some(address), Some(port)) = (&address, port) {
            if ports_sound {
                neighbor_address(&section, address, port, &config.network());
            }
            if let Some(other) = addresses.again((port, address.value), &section.place.key) {
                section
                    .fail(&address.place, format!("{} stands in {other} already; keep one", address.value));
            }
        }
        section.finish();
        if let (Some(address), Some(mac), Some(port)) = (address, mac, port) {
            config.neighbors.push(NeighborConfig { port, address: address.value, mac: mac.value });
        }
    }
    let (count, most) = (config.neighbors.len(), config.limits.neighbors);
    if count > most {
        root.fail(
            &root.place_of("neighbor"),
            format!("has {count} entries but limits.neighbors is {most}; raise it"),
        );
    }
}

fn flows(root: &Section<'_>, config: &mut Config, sound: bool) {
    let (mut names, mut listeners) = (Seen::default(), Seen::default());
    for section in root.sections("flow") {
        let flow = flow(&section);
        if let Some(flow) = &flow {
            let mut report = |e| match e {
                // Reported when the list was read, which knows an empty list from one of unreadable prefixes.
                FlowError::NoSource => {}
                e => section.fail(&section.place_of(e.field()), e.to_string()),
            };
            check_fields(flow, &mut report);
            if sound {
                check_network(&config.network(), flow, &mut report);
            }
            if let Some(other) = names.again(flow.name.clone(), &section.place.key) {
                let message =
                    format!("{:?} is the name of {other} already; give each flow its own", flow.name);
                section.fail(&section.place_of("name"), message);
            }
            if let Some(other) = listeners.again((flow.proto, flow.listen), &flow.name) {
                let message = format!("flow {other:?} listens on {} {} already", flow.proto, flow.listen);
                section.fail(&section.place_of("listen"), format!("{message}; give another address or port"));
            }
        }
        section.finish();
        config.flows.extend(flow);
    }
    let (count, most) = (config.flows.len(), config.limits.flows);
    if count > most {
        root.fail(
            &root.place_of("flow"),
            format!("has {count} entries but limits.flows is {most}; raise it"),
        );
    }
}

fn flow(section: &Section<'_>) -> Option<FlowSpec> {
    let name = section.required("name", section.text("name", |name| Ok::<_, String>(name.to_owned())));
    let proto = section.required(
        "proto",
        section.text("proto", |word| match word {
            "tcp" => Ok(Proto::Tcp),
            "udp" => Ok(Proto::Udp),
            _ => Err(format!("must be \"tcp\" or \"udp\" (which carries QUIC), not {word:?}")),
        }),
    );
    let listen = section.required("listen", section.text("listen", endpoint));
    let target = section.required("target", section.text("target", endpoint));
    let from = section.list("from", prefix);
    section.require_items("from", "list the prefixes that may open connections, such as [\"10.1.0.0/16\"]");
    let max_conns = section.number("max_conns", 1..=u32::MAX);
    let mss_clamp = section.number_or_text("mss_clamp", MssClamp::RANGE, MssClamp::Bytes, str::parse);
    let hairpin = section.flag("hairpin").unwrap_or(false);
    let rate = section.number_or_text("rate", rate::RANGE, |mbits| mbits, rate::parse);
    let lease = section.text("lease", lease::parse);
    Some(FlowSpec {
        name: name?.value,
        proto: proto?.value,
        listen: listen?.value,
        target: target?.value,
        from: from.into_iter().map(|p| p.value).collect(),
        max_conns,
        mss_clamp,
        hairpin,
        rate,
        lease: lease.map(|l| l.value),
    })
}

fn notices(config: &Config) -> Vec<String> {
    let timers = &config.timers;
    let bounds = [
        ("udp", timers.udp, 120, "RFC 4787 section 4.3"),
        ("tcp_established", timers.tcp_established, 7440, "RFC 5382 section 5"),
        ("tcp_transitory", timers.tcp_transitory, 240, "RFC 5382 section 5"),
    ];
    let mut notices: Vec<_> = bounds
        .iter()
        .filter(|(_, seconds, least, _)| seconds < least)
        .map(|(key, seconds, least, rfc)| {
            format!("timers.{key} is {seconds} s, below the {least} s of {rfc}; quiet connections end early")
        })
        .collect();
    if config.service.mode & 0o007 != 0 {
        let mode = config.service.mode;
        notices.push(format!(
            "service.mode is {mode:04o}, which lets everyone reach the control socket; 0660 does not"
        ));
    }
    for (family, v4) in [("IPv4", true), ("IPv6", false)] {
        let mut with = config.ports.iter().filter(|p| p.gateway.iter().any(|g| g.is_ipv4() == v4));
        if let (Some(first), Some(second)) = (with.next(), with.next()) {
            let (first, second) = (&first.name, &second.name);
            notices.push(format!(
                "ports {first:?} and {second:?} both have an {family} gateway; targets go by {first:?}, \
                 write a [[route]] for those behind {second:?}"
            ));
        }
    }
    notices
}

fn value_or<T>(placed: Option<Placed<T>>, default: T) -> T {
    placed.map_or(default, |p| p.value)
}

/// What was seen, and where first.
struct Seen<K>(HashMap<K, String>);

impl<K> Default for Seen<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Seen<K> {
    /// Where `key` was seen before; if it was not, remembers `here`.
    fn again(&mut self, key: K, here: &str) -> Option<String> {
        use std::collections::hash_map::Entry;
        match self.0.entry(key) {
            Entry::Occupied(entry) => Some(entry.get().clone()),
            Entry::Vacant(entry) => {
                entry.insert(here.to_owned());
                None
            }
        }
    }
}

fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => {
            format!("{text:?} has no prefix length; write {text}/32 for the one address, or such as /24")
        }
        Ok(IpAddr::V6(_)) => {
            format!("{text:?} has no prefix length; write {text}/128 for the one address, or such as /64")
        }
        Err(_) => format!("{text:?} is no prefix; write it like \"10.0.0.0/24\" or \"fd00::/64\""),
    })
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address; write it like \"10.0.0.1\" or \"fd00::1\""))
}

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is no address and port; write it like \"10.0.0.1:5001\" or \"[fd00::1]:5001\" (no host names)")
    })
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let malformed = || format!("{text:?} is no MAC address; write it like \"02:00:00:00:00:01\"");
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
        *byte = part.and_then(|p| u8::from_str_radix(p, 16).ok()).ok_or_else(malformed)?;
    }
    match parts.next() {
        Some(_) => Err(malformed()),
        None if mac == [0; 6] || mac[0] & 1 == 1 => {
            Err(format!("{text} is the MAC address of no single station; give a unicast one"))
        }
        None => Ok(mac),
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let bounds =
        text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match bounds {
        Some((first, last)) if first >= 1024 && first <= last => Ok(first..=last),
        _ => {
            Err(format!("{text:?} is no range of source ports; write it like \"32768-65535\", from 1024 on"))
        }
    }
}
