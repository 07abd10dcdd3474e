//! The other way round: s2ds runs on this machine and serves the guest's virtio NIC over vhost-user, and the guest's own kernel has
//! the connections. [`s2bench`'s](crate::stream) sources and sinks at both ends compare every byte.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use forwarder::api::{GuestDetail, PortDetail, Proto, Reply, Request, Stats};

use super::peers::{CLIENT, SERVER};
use super::relay::{TARGET_HOST, flow_name, flows};
use super::report::{Check, Found, Report};
use crate::conformance::oracle::{Flow, Link, host, own};
use crate::guest::{Backend, Guest, Image, Machine, Model, Nic, Packages, VIRTIO_NET};
use crate::topology::{Gateway, Netns, Process, Workdir, cores, find_binary, unaccounted};

/// Workers, and so queue pairs of the guest's NIC.
const WORKERS: usize = 2;
/// Largest packet, everywhere.
const MTU: u16 = 9000;
/// Descriptors of the guest's receive queues, QEMU's most.
const RING: u16 = 1024;
/// How long a stream may take, and a guest's kernel to notice that its NIC's other side is back.
const STREAM: Duration = Duration::from_secs(60);
/// How long a change may take to show.
const SHOWN: Duration = Duration::from_secs(20);
/// Last byte of the guest's address.
const GUEST: u8 = TARGET_HOST;
/// The guest's interface.
const ETH: &str = "eth0";
/// Virtio features without which the checks below would show nothing.
const AGREED: [&str; 2] = ["CSUM", "MRG_RXBUF"];
/// Why checks of exact frames and tags are the other kinds' to show.
const NO_FRAMES: &str = "the guest's kernel sends no such frames; see virtio";
/// Checks that other kinds of NIC show, each with the reason.
const ELSEWHERE: [(Check, &str); 4] = [
    (Check::Relay, NO_FRAMES),
    (Check::Multicast, NO_FRAMES),
    (Check::Vlan, NO_FRAMES),
    (Check::Placement, "a socket has no node"),
];

/// Tries one thing with a guest that runs.
type Step = fn(&mut Host) -> Result<Found>;

/// What is tried, in this order.
const CHECKS: [(Check, Step); 7] = [
    (Check::Streams, streams),
    (Check::Neighbors, neighbors),
    (Check::Checksums, checksums),
    (Check::Jumbo, jumbo),
    (Check::Queues, queues),
    (Check::Link, reset),
    (Check::Restart, restart),
];

/// Runs every check.
pub(super) fn run(packages: &Packages, report: &mut Report) {
    let mut add = |check, came: Result<Found>| report.add(Model::Vhost, check, &came);
    for (check, why) in ELSEWHERE {
        add(check, Ok(Found::NotHere(why.into())));
    }
    let mut host = match Host::start(packages) {
        Ok(host) => host,
        Err(e) => {
            let rest = Check::ALL.iter().filter(|check| ELSEWHERE.iter().all(|(there, _)| there != *check));
            rest.for_each(|check| add(*check, Err(anyhow::anyhow!("nothing could be started: {e:#}"))));
            return;
        }
    };
    for (check, run) in CHECKS {
        let came = run(&mut host);
        add(check, came);
    }
    let driver = host.port().map(|port| port.port.driver).unwrap_or_default();
    add(Check::Removal, killed(&mut host));
    add(Check::Ledger, ledger(&mut host));
    report.drivers.insert(Model::Vhost, driver);
}

/// This machine: the forwarder between the guest and a server.
struct Host {
    // Fields drop in this order.
    guest: Option<Guest>,
    _qemu: Netns,
    gateway: Gateway,
    server: Netns,
}

impl Host {
    fn start(packages: &Packages) -> Result<Host> {
        let dir = Arc::new(Workdir::new()?);
        let [qemu, node, server] = ["qemu", "node", "server"].map(|name| Netns::new(name, Arc::clone(&dir)));
        let (qemu, node, server) = (qemu?, node?, server?);
        node.join("wan", &server, ETH, MTU)?;
        node.silence("wan")?;
        server.ip(&format!("link set {ETH} up\n{}", addresses(SERVER, TARGET_HOST)))?;
        let socket = dir.path().join("vm.sock");
        let mut gateway = Gateway::start(node, &config(&socket)?)?;
        let guest = boot(&qemu, packages, socket).inspect_err(|_| drop(gateway.stop()))?;
        let mut host = Host { guest: Some(guest), _qemu: qemu, gateway, server };
        host.configure()?;
        Ok(host)
    }

    fn guest(&mut self) -> Result<&mut Guest> {
        self.guest.as_mut().context("the guest has gone")
    }

    /// Gives the guest's interface its addresses.
    fn configure(&mut self) -> Result<()> {
        let ips: String = addresses(CLIENT, GUEST).lines().fold(String::new(), |mut all, line| {
            let _ = write!(all, " && ip {line}");
            all
        });
        let quiet = format!("echo 0 >/proc/sys/net/ipv6/conf/{ETH}/accept_dad");
        self.guest()?.ok(&format!("{quiet} && ip link set {ETH} mtu {MTU} up{ips}")).map(drop)
    }

    /// The port in front of the guest.
    fn port(&self) -> Result<PortDetail> {
        match self.gateway.call(Request::PortShow { name: "vm".into(), all: false })? {
            Reply::Port { port } => Ok(*port),
            other => bail!("no port: {other:?}"),
        }
    }

    /// Waits until the port shows what `is` asks for.
    fn shown(&self, what: &str, is: impl Fn(&PortDetail) -> bool) -> Result<PortDetail> {
        let end = Instant::now() + SHOWN;
        loop {
            let port = self.port()?;
            if is(&port) {
                return Ok(port);
            }
            ensure!(Instant::now() < end, "port show does not tell that {what}: {port:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Streams over each flow named, each byte compared at both ends: those that the guest opens, then those opened to it.
    fn streams(&mut self, protos: &[Proto], families: &[bool], options: &str) -> Result<()> {
        for flow in flows(CLIENT, SERVER).chain(flows(SERVER, CLIENT)) {
            if !protos.contains(&flow.proto) || !families.contains(&flow.listen.is_ipv4()) {
                continue;
            }
            let opened = if flow.near == CLIENT { "from" } else { "to" };
            self.stream(&flow, options)
                .with_context(|| format!("{} {opened} the guest", flow_name(&flow)))?;
        }
        Ok(())
    }

    fn stream(&mut self, flow: &Flow, options: &str) -> Result<()> {
        let source = format!("source --proto {} --listen {}", flow.proto, flow.target);
        let carrier = match flow.proto {
            Proto::Tcp if options.contains("--bytes") => "",
            Proto::Tcp => "--bytes 2M",
            // As many as rings and sockets hold. A guest that is not let run for long loses some all the same, as any host does.
            Proto::Udp => "--bytes 100k --rate 4M --max-loss 50",
        };
        let sink = format!(
            "sink --proto {} --connect {} --duplex --verify {carrier} {options}",
            flow.proto, flow.listen
        );
        let s2bench = find_binary("s2bench")?;
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let run = |netns: &Netns, line: &str| -> Result<Process> {
            let words = words(line);
            Ok(netns.spawn_with(&s2bench, &words.iter().map(String::as_str).collect::<Vec<_>>(), &[])?)
        };
        if flow.near == CLIENT {
            let mut source = run(&self.server, &source)?;
            source.wait_for("listening", SHOWN)?;
            let said = self.guest()?.run(&format!("s2bench {sink}"), STREAM)?;
            ensure!(said.status == 0, "the guest's sink ended with {}: {}", said.status, said.text);
        } else {
            self.guest()?.start("source", &format!("s2bench {source}"))?;
            let end = Instant::now() + SHOWN;
            while !self.guest()?.said("source")?.contains("listening") {
                ensure!(Instant::now() < end, "the guest's source does not listen");
            }
            let came = run(&self.server, &sink)?.finished(STREAM);
            self.guest()?.signal("source", "KILL")?;
            came?;
        }
        Ok(())
    }

    /// Segments and datagrams that the server's kernel dropped for their checksums.
    fn wrong_checksums(&self) -> Result<u64> {
        let read = |file: &'static str| self.server.run(move || fs::read_to_string(file));
        let (v4, v6) = (read("/proc/self/net/snmp")??, read("/proc/self/net/snmp6")??);
        let mut wrong = 0;
        let lines: Vec<&str> = v4.lines().collect();
        for pair in lines.chunks(2) {
            let [names, values] = pair else { continue };
            let columns = names.split_whitespace().zip(values.split_whitespace());
            wrong += columns
                .filter(|(name, _)| *name == "InCsumErrors")
                .filter_map(|(_, n)| n.parse::<u64>().ok())
                .sum::<u64>();
        }
        let counted = v6.lines().filter(|line| line.contains("InCsumErrors"));
        wrong += counted.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
        Ok(wrong)
    }

    fn settled(&self) -> Result<Stats> {
        let stats = self.gateway.settled(SHOWN)?;
        ensure!(unaccounted(&stats) == 0, "{} packets are not accounted for: {stats:?}", unaccounted(&stats));
        Ok(stats)
    }
}

/// `ip` commands that give `eth0` its addresses on a link.
fn addresses(link: Link, n: u8) -> String {
    format!(
        "address add {}/24 dev {ETH}\naddress add {}/64 dev {ETH}",
        host(link, n, true),
        host(link, n, false)
    )
}

/// Two ports, flows of both protocols and families in each direction.
fn config(socket: &std::path::Path) -> Result<String> {
    let cores: Vec<usize> = cores().into_iter().take(WORKERS).collect();
    ensure!(cores.len() == WORKERS, "{WORKERS} workers need as many cores, and there is one");
    let mut text = format!("[eal]\nhuge = false\n[workers]\ncores = {cores:?}\nidle = \"adaptive\"\n");
    let vhost = format!("vhost:{}", socket.display());
    for (name, device, link) in [("vm", vhost.as_str(), CLIENT), ("wan", "af_packet:wan", SERVER)] {
        let addresses = [format!("{}/24", own(link, true)), format!("{}/64", own(link, false))];
        let _ = writeln!(
            text,
            "[[port]]\nname = {name:?}\ndevice = {device:?}\nmtu = {MTU}\naddresses = {addresses:?}"
        );
    }
    for flow in flows(CLIENT, SERVER).chain(flows(SERVER, CLIENT)) {
        let from = match flow.listen.ip() {
            IpAddr::V4(ip) => format!("{ip}/24"),
            IpAddr::V6(ip) => format!("{ip}/64"),
        };
        let from: ipnet::IpNet = from.parse()?;
        let opened = if flow.near == CLIENT { "out" } else { "in" };
        let _ = writeln!(
            text,
            "[[flow]]\nname = \"{}-{opened}\"\nproto = \"{}\"\nlisten = \"{}\"\ntarget = \"{}\"\nfrom = [\"{}\"]",
            flow_name(&flow),
            flow.proto,
            flow.listen,
            flow.target,
            from.trunc()
        );
    }
    Ok(text)
}

fn boot(netns: &Netns, packages: &Packages, socket: PathBuf) -> Result<Guest> {
    let mut image = Image::new(packages)?;
    image.modules(VIRTIO_NET)?;
    image.program(&find_binary("s2bench")?)?;
    ["ip", "ethtool"].iter().try_for_each(|tool| image.tool(tool))?;
    let nic = Nic {
        model: Model::Vhost,
        mac: [0x52, 0x54, 0, 0, 0xf, 1],
        backend: Backend::VhostUser { socket, queues: WORKERS as u16 },
        options: format!("rx_queue_size={RING}"),
    };
    let machine = Machine {
        memory: 512,
        processors: WORKERS as u16,
        shared_memory: true,
        nics: vec![nic],
        ..Machine::default()
    };
    Guest::boot(netns, packages, &machine, &image)
}

fn agreed(port: &PortDetail) -> Option<&GuestDetail> {
    port.device.guest.as_ref()
}

fn streams(host: &mut Host) -> Result<Found> {
    let port = host.shown("the guest uses all queues", |p| {
        agreed(p).is_some_and(|g| usize::from(g.queue_pairs) == WORKERS)
    })?;
    let features = agreed(&port).map(|g| g.features.clone()).unwrap_or_default();
    let has = |name: &str| features.iter().any(|f| f == name);
    ensure!(AGREED.iter().all(|name| has(name)), "the guest agreed to {features:?}");
    ensure!(
        !features.iter().any(|f| f.starts_with("HOST_") || f == "GSO"),
        "the guest may send {features:?}"
    );
    host.streams(&[Proto::Tcp, Proto::Udp], &[true, false], "")?;
    Ok(Found::Holds(
        "TCP 2 MB and UDP 100 kB each way at once, opened by the guest and to it, over IPv4 and IPv6, all bytes compared".into(),
    ))
}

fn neighbors(host: &mut Host) -> Result<Found> {
    let port = host.port()?.port;
    for v4 in [true, false] {
        let guest = self::host(CLIENT, GUEST, v4);
        let row = port.neighbors.iter().find(|n| n.address == guest);
        ensure!(row.is_some_and(|n| n.mac.is_some()), "{guest} has no MAC address: {:?}", port.neighbors);
    }
    Ok(Found::Holds("the guest is found by both, and finds the port".into()))
}

fn checksums(host: &mut Host) -> Result<Found> {
    let features = "tx off rx off sg off gso off gro off";
    host.guest()?.ok(&format!("ethtool -K {ETH} {features}"))?;
    host.streams(&[Proto::Tcp, Proto::Udp], &[true, false], "--seed 2")?;
    host.guest()?.ok(&format!("ethtool -K {ETH} {}", features.replace("off", "on")))?;
    let wrong = host.wrong_checksums()?;
    ensure!(wrong == 0, "the server's kernel dropped {wrong} packets for their checksums");
    Ok(Found::Holds("left to the NIC by the guest, as is its default, or made by it: the server's kernel finds none wrong".into()))
}

fn jumbo(host: &mut Host) -> Result<Found> {
    let before = host.port()?.port;
    host.streams(&[Proto::Udp], &[true, false], "--datagram 8900")?;
    let after = host.port()?.port;
    for (was, now) in [(before.rx, after.rx), (before.tx, after.tx)] {
        let mean = (now.bytes - was.bytes) / (now.packets - was.packets).max(1);
        ensure!(mean > 4000, "frames have {mean} bytes on average");
    }
    Ok(Found::Holds("datagrams of 8900 bytes each way, compared whole".into()))
}

fn queues(host: &mut Host) -> Result<Found> {
    let pairs = |n: u16| move |p: &PortDetail| agreed(p).is_some_and(|g| g.queue_pairs == n);
    host.guest()?.ok(&format!("ethtool -L {ETH} combined 1"))?;
    host.shown("the guest uses one queue", pairs(1))?;
    host.guest()?.ok(&format!("ethtool -L {ETH} combined {WORKERS}"))?;
    host.shown("the guest uses all queues", pairs(WORKERS as u16))?;
    let before = host.port()?.queues;
    host.streams(&[Proto::Tcp], &[true, false], "--parallel 8 --bytes 256k")?;
    let after = host.port()?.queues;
    let sent: Vec<u64> =
        before.iter().zip(&after).map(|(was, now)| now.tx.packets - was.tx.packets).collect();
    ensure!(
        sent.len() == WORKERS && sent.iter().all(|n| *n > 0),
        "the guest got {sent:?} packets by its queues"
    );
    Ok(Found::Holds(format!(
        "each of {WORKERS} workers sends by a queue of its own; port show tells how many the guest uses"
    )))
}

/// What a reboot is to its NIC: the guest's kernel lets go of it and takes it anew.
fn reset(host: &mut Host) -> Result<Found> {
    let driver = "/sys/bus/virtio/drivers/virtio_net";
    host.guest()?.ok(&format!("echo virtio0 >{driver}/unbind"))?;
    host.shown("the link is down", |p| p.port.link == "down" && p.device.guest.is_none())?;
    host.guest()?.ok(&format!("echo virtio0 >{driver}/bind"))?;
    host.shown("the link is up", |p| p.port.link == "up" && p.device.guest.is_some())?;
    host.configure()?;
    host.streams(&[Proto::Tcp], &[true], "")?;
    Ok(Found::Holds(
        "the guest lets go of its NIC and takes it again, as in a reboot: shown down, then up; it relays"
            .into(),
    ))
}

fn restart(host: &mut Host) -> Result<Found> {
    let status = host.gateway.stop()?;
    ensure!(status.success(), "s2ds ended with {status}: {}", host.gateway.process.said());
    host.gateway.restart()?;
    host.shown("the guest is back", |p| p.device.guest.is_some())?;
    host.streams(&[Proto::Tcp], &[true, false], "")?;
    // Killed, it leaves its socket behind.
    host.gateway.restart()?;
    host.shown("the guest is back", |p| p.device.guest.is_some())?;
    host.streams(&[Proto::Tcp], &[true], "")?;
    Ok(Found::Holds(
        "stopped, then killed: the next one relays for the guest, which did not notice but for a pause"
            .into(),
    ))
}

/// QEMU is killed while streams run.
fn killed(host: &mut Host) -> Result<Found> {
    let Some(flow) = flows(CLIENT, SERVER).find(|f| f.proto == Proto::Tcp) else { bail!("there is no flow") };
    let at: SocketAddr = flow.target;
    let mut source =
        host.server.spawn_with(&find_binary("s2bench")?, &["source", "--listen", &at.to_string()], &[])?;
    source.wait_for("listening", SHOWN)?;
    let before = host.port()?.port;
    host.guest()?.start("sink", &format!("s2bench sink --connect {} --duplex --bytes 10G", flow.listen))?;
    host.shown("packets pass", |p| {
        p.port.rx.packets > before.rx.packets + 1000 && p.port.tx.packets > before.tx.packets + 1000
    })?;
    host.guest = None;
    host.shown("the link is down", |p| p.port.link == "down" && p.device.guest.is_none())?;
    if let Some(status) = host.gateway.process.ended()? {
        bail!("s2ds ended with {status}: {}", host.gateway.process.said());
    }
    Ok(Found::Holds("QEMU killed in the middle of streams: shown down, the forwarder goes on".into()))
}

fn ledger(host: &mut Host) -> Result<Found> {
    let stats = host.settled()?;
    let dropped: u64 = stats.drops.values().sum();
    ensure!(stats.received > 0 && dropped > 0, "{stats:?}");
    let status = host.gateway.stop()?;
    ensure!(status.success(), "s2ds ended with {status}: {}", host.gateway.process.said());
    Ok(Found::Holds("to the packet, with the guest gone in the middle of streams; status 0".into()))
}
