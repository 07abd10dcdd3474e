//! Checks with Linux on both sides: real TCP and UDP through taps, and two workers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use forwarder::api::Proto;

use super::peers::{CLIENT, Echo, Peers, SERVER, exchange, exchange_datagrams};
use super::relay::{Port, Relay, config, flow};
use super::report::Found;
use crate::guest::Guest;

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
    /// The client's NIC.
    nic: usize,
    _echoes: Vec<Echo>,
}

impl<'a> Streams<'a> {
    /// Starts servers, and the relay on the client's and the server's device.
    pub(super) fn start(
        guest: &'a mut Guest,
        peers: &'a Peers,
        (nic, devices): (usize, &[String]),
    ) -> Result<Streams<'a>> {
        let [client, server, ..] = devices else { bail!("there are no two devices") };
        let ports = [
            Port { name: "client", device: client, link: CLIENT, extra: "" },
            Port { name: "server", device: server, link: SERVER, extra: "" },
        ];
        let echoes = FAMILIES.map(|v4| peers.echo(flow(CLIENT, SERVER, Proto::Tcp, v4).target));
        let echoes = echoes.into_iter().collect::<Result<_>>()?;
        let relay = Relay::start(guest, &config(WORKERS, &ports))?;
        Ok(Streams { relay, peers, nic, _echoes: echoes })
    }

    /// Waits until the client's port shows a link state.
    fn shown(&mut self, state: &str) -> Result<()> {
        let end = Instant::now() + SHOWN;
        loop {
            let port = self.relay.port("client")?;
            if port.link == state {
                return Ok(());
            }
            ensure!(Instant::now() < end, "port list shows the link {} and it is {state}", port.link);
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

pub(super) fn queues(s: &mut Streams) -> Result<Found> {
    let before = s.relay.ports()?;
    let workers_before = s.relay.stats()?.workers;
    for v4 in FAMILIES {
        let streams: Result<Vec<_>> =
            (0..CONNECTIONS).map(|_| s.peers.connect(listen(Proto::Tcp, v4))).collect();
        for (n, stream) in streams?.iter().enumerate() {
            exchange(stream, SHARE, n as u8)?;
        }
        for _ in 0..CONNECTIONS {
            exchange_datagrams(&s.peers.datagrams(listen(Proto::Udp, v4))?, 4)?;
        }
    }
    s.relay.settled()?;
    let (after, workers) = (s.relay.ports()?, s.relay.stats()?.workers);
    let steering = after.first().map(|p| p.steering.clone()).unwrap_or_default();
    let mut told = Vec::new();
    for (was, now) in before.iter().zip(&after) {
        let (handed, rx) = (now.handed_over - was.handed_over, now.rx.packets - was.rx.packets);
        ensure!(
            now.steering == steering,
            "{} steers by {} and another by {steering}",
            now.name,
            now.steering
        );
        ensure!(usize::from(now.queues) == WORKERS, "{} has {} queues", now.name, now.queues);
        ensure!(
            steering != "rss" || handed == 0,
            "{} of {rx} packets of {} were handed over although its steering is rss",
            handed,
            now.name
        );
        // Half of them when nobody steers, whichever worker has the queue they come to.
        let share = if handed == 0 { "none" } else { "some" };
        told.push(format!("{share} handed over at {}", now.name));
    }
    let received: Vec<u64> =
        workers.iter().zip(&workers_before).map(|(now, was)| now.received - was.received).collect();
    if steering == "rss" {
        ensure!(received.iter().all(|n| *n > 0), "a worker received nothing: {received:?}");
        return Ok(Found::Holds(format!("rss: both queues receive, {}", told.join(", "))));
    }
    let idle = received.contains(&0);
    let spread = if idle { "the emulated NIC puts all into one queue" } else { "both queues receive" };
    Ok(Found::Holds(format!("{steering}: {spread}, {}", told.join(", "))))
}

pub(super) fn link(s: &mut Streams) -> Result<Found> {
    let stream = s.peers.connect(listen(Proto::Tcp, true))?;
    exchange(&stream, TRANSFER / 4, 1)?;
    s.shown("up")?;
    s.relay.guest.set_link(s.nic, false)?;
    std::thread::scope(|scope| {
        let rest = scope.spawn(|| exchange(&stream, TRANSFER, 2));
        let flap = |s: &mut Streams| -> Result<()> {
            s.shown("down")?;
            ensure!(!rest.is_finished(), "the transfer went on without a link");
            Ok(())
        };
        // Up again whatever was shown, or the transfer would not end.
        let shown = flap(s);
        s.relay.guest.set_link(s.nic, true)?;
        let ended = rest.join().map_err(|_| anyhow::anyhow!("the transfer panicked"))?;
        shown?;
        s.shown("up")?;
        ended.context("the transfer did not go on")
    })?;
    s.relay.alive()?;
    Ok(Found::Holds("shown down, then up; the transfer went on to its end".into()))
}

pub(super) fn restart(s: &mut Streams) -> Result<Found> {
    s.relay.stop()?;
    s.relay.launch()?;
    let stream = s.peers.connect(listen(Proto::Tcp, true))?;
    exchange(&stream, TRANSFER / 4, 1)?;
    exchange_datagrams(&s.peers.datagrams(listen(Proto::Udp, false))?, 10)?;
    Ok(Found::Holds("status 0; the next one relays".into()))
}
