//! Checks with Linux on both sides: real TCP and UDP through taps, and two workers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use forwarder::api::{PortInfo, Proto};
use forwarder::config::Device;

use super::peers::{CLIENT, Echo, Peers, SERVER, exchange, exchange_datagrams};
use super::relay::{Port, Relay, config, flow, flow_name};
use super::report::Found;
use crate::guest::{Guest, Model};

/// Workers, and so queues.
const WORKERS: usize = 2;
/// Bytes of a transfer.
const TRANSFER: usize = 4 << 20;
/// Datagrams of an exchange.
const DATAGRAMS: usize = 100;
/// Connections of either protocol, and what each carries, where they are to spread over queues.
const CONNECTIONS: usize = 24;
const SHARE: usize = 64 << 10;
/// How long a port may take to show that its link has changed.
const SHOWN: Duration = Duration::from_secs(20);
const FAMILIES: [bool; 2] = [true, false];

/// A relay between two hosts.
pub(super) struct Streams<'a> {
    pub(super) relay: Relay<'a>,
    peers: &'a Peers,
    model: Model,
    /// The client's NIC.
    nic: usize,
    _echoes: Vec<Echo>,
}

impl<'a> Streams<'a> {
    /// Starts servers, and the relay on the client's and the server's device.
    pub(super) fn start(
        guest: &'a mut Guest,
        peers: &'a Peers,
        model: Model,
        (nic, devices): (usize, &[String]),
    ) -> Result<Streams<'a>> {
        let [_, server, ..] = devices else { bail!("there are no two devices") };
        // One of them by its MAC address, which the kernel does not know any more.
        let client = Device::Mac(guest.mac(nic)?).to_string();
        let ports = [
            Port { name: "client", device: &client, link: CLIENT, extra: "" },
            Port { name: "server", device: server, link: SERVER, extra: "" },
        ];
        let echoes = FAMILIES.map(|v4| peers.echo(flow(CLIENT, SERVER, Proto::Tcp, v4).target));
        let echoes = echoes.into_iter().collect::<Result<_>>()?;
        let relay = Relay::start(guest, &config(WORKERS, &ports))?;
        Ok(Streams { relay, peers, model, nic, _echoes: echoes })
    }

    /// Waits until the client's port shows a link state, and so many changes of it.
    fn shown(&mut self, state: &str, changes: u64) -> Result<()> {
        let end = Instant::now() + SHOWN;
        loop {
            let shown = self.relay.show("client")?;
            let (link, counted) = (&shown.port.link, shown.device.link.changes);
            if link == state && counted == changes {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "port show tells of a link {link} after {counted} changes; it is {state} after {changes}"
            );
        }
    }
}

fn listen(proto: Proto, v4: bool) -> std::net::SocketAddr {
    flow(CLIENT, SERVER, proto, v4).listen
}

pub(super) fn streams(s: &mut Streams) -> Result<Found> {
    let mut again = 0;
    for v4 in FAMILIES {
        let stream = s.peers.connect(listen(Proto::Tcp, v4))?;
        exchange(&stream, TRANSFER, 1).with_context(|| format!("TCP to {}", listen(Proto::Tcp, v4)))?;
        let socket = s.peers.datagrams(listen(Proto::Udp, v4))?;
        again += exchange_datagrams(&socket, DATAGRAMS)
            .with_context(|| format!("UDP to {}", listen(Proto::Udp, v4)))?;
    }
    ensure!(again <= DATAGRAMS / 10, "{again} of {} datagrams were lost", 2 * DATAGRAMS);
    let offered = s.relay.port("client")?;
    ensure!(offered.rx.packets > 0, "the port counts nothing: {offered:?}");
    Ok(Found::Holds(format!(
        "TCP {} MiB and UDP {DATAGRAMS} datagrams each way, over IPv4 and IPv6, all bytes compared",
        TRANSFER >> 20
    )))
}

/// Connections of a flow, and what their packets met.
struct Spread {
    /// Which flow.
    name: String,
    /// Packets received at both ports, and of these the ones handed over.
    packets: u64,
    handed_over: u64,
    /// Packets each worker received.
    workers: Vec<u64>,
}

fn spread(s: &mut Streams, proto: Proto, v4: bool) -> Result<Spread> {
    let to = flow(CLIENT, SERVER, proto, v4);
    let before = (s.relay.ports()?, s.relay.settled()?);
    match proto {
        Proto::Tcp => {
            let streams: Result<Vec<_>> = (0..CONNECTIONS).map(|_| s.peers.connect(to.listen)).collect();
            for (n, stream) in streams?.iter().enumerate() {
                exchange(stream, SHARE, n as u8)?;
            }
        }
        Proto::Udp => {
            for _ in 0..CONNECTIONS {
                exchange_datagrams(&s.peers.datagrams(to.listen)?, 4)?;
            }
        }
    }
    let after = (s.relay.settled()?, s.relay.ports()?);
    let sum = |of: fn(&PortInfo) -> u64, ports: &[PortInfo]| ports.iter().map(of).sum::<u64>();
    let workers = after.0.workers.iter().zip(&before.1.workers);
    Ok(Spread {
        name: flow_name(&to),
        packets: sum(|p| p.rx.packets, &after.1) - sum(|p| p.rx.packets, &before.0),
        handed_over: sum(|p| p.handed_over, &after.1) - sum(|p| p.handed_over, &before.0),
        workers: workers.map(|(now, was)| now.received - was.received).collect(),
    })
}

pub(super) fn queues(s: &mut Streams) -> Result<Found> {
    let ports = s.relay.ports()?;
    let steering = ports.first().map(|p| p.steering.clone()).unwrap_or_default();
    for port in &ports {
        ensure!(
            port.steering == steering,
            "{} steers by {}, another by {steering}",
            port.name,
            port.steering
        );
        ensure!(usize::from(port.queues) == WORKERS, "{} has {} queues", port.name, port.queues);
    }
    let mut idle = true;
    let mut wrong = Vec::new();
    for proto in [Proto::Tcp, Proto::Udp] {
        for v4 in FAMILIES {
            let Spread { name, packets, handed_over, workers } = spread(s, proto, v4)?;
            // Questions for neighbors are anybody's; that all of one flow's connections are one worker's is next to impossible.
            idle &= workers.contains(&0);
            let stranded = workers.iter().any(|n| n * 20 < packets);
            if steering == "rss" && (handed_over > 0 || stranded) {
                wrong.push(format!(
                    "{name}: {packets} packets, {handed_over} handed over, by queue {workers:?}"
                ));
            }
        }
    }
    ensure!(wrong.is_empty(), "steering is rss, and yet {}", wrong.join("; "));
    if steering == "rss" {
        return Ok(Found::Holds("rss: both queues receive packets of each flow, none is handed over".into()));
    }
    ensure!(!matches!(s.model, Model::Igb | Model::Virtio), "steering is {steering} and can be rss");
    let queues = if idle { "puts all into one queue" } else { "hashes in its own way" };
    Ok(Found::NotHere(format!(
        "{steering}: the emulated NIC {queues}; every connection is carried, by workers that pass packets on"
    )))
}

pub(super) fn link(s: &mut Streams) -> Result<Found> {
    let stream = s.peers.connect(listen(Proto::Tcp, true))?;
    exchange(&stream, TRANSFER / 4, 1)?;
    let changes = s.relay.show("client")?.device.link.changes;
    s.shown("up", changes)?;
    s.relay.guest.set_link(s.nic, false)?;
    std::thread::scope(|scope| {
        let rest = scope.spawn(|| exchange(&stream, TRANSFER, 2));
        let flap = |s: &mut Streams| -> Result<()> {
            s.shown("down", changes + 1)?;
            ensure!(!rest.is_finished(), "the transfer went on without a link");
            Ok(())
        };
        // Up again whatever was shown, or the transfer would not end.
        let shown = flap(s);
        s.relay.guest.set_link(s.nic, true)?;
        let ended = rest.join().map_err(|_| anyhow::anyhow!("the transfer panicked"))?;
        shown?;
        s.shown("up", changes + 2)?;
        ended.context("the transfer did not go on")
    })?;
    let link = s.relay.show("client")?.device.link;
    let said = s.relay.said();
    for line in ["port client: link down", "port client: link up"] {
        ensure!(said.contains(line), "s2ds did not write `{line}`: {said}");
    }
    let heard = if link.interrupt { "told by the device" } else { "asked for once a second" };
    Ok(Found::Holds(format!(
        "down and up are {heard}, shown, counted and logged; the transfer went on to its end"
    )))
}

pub(super) fn restart(s: &mut Streams) -> Result<Found> {
    s.relay.stop()?;
    s.relay.launch()?;
    let stream = s.peers.connect(listen(Proto::Tcp, true))?;
    exchange(&stream, TRANSFER / 4, 1)?;
    exchange_datagrams(&s.peers.datagrams(listen(Proto::Udp, false))?, 10)?;
    Ok(Found::Holds("status 0; the next one relays".into()))
}
