//! A forwarder in the guest.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use forwarder::api::{PortDetail, PortInfo, Proto, Reply, Stats};
use ipnet::IpNet;

use crate::conformance::oracle::{Flow, Link, host, own};
use crate::guest::Guest;
use crate::topology::unaccounted;

/// How long it may take to answer after its start: drivers start, links come up, addresses are probed.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end.
const STOP: Duration = Duration::from_secs(20);
/// How long its ledger may take to settle.
const SETTLE: Duration = Duration::from_secs(10);
/// Where its configuration is.
pub(super) const CONFIG: &str = "/run/s2ds.toml";
/// Its name among what runs in the guest.
const NAME: &str = "s2ds";
/// Ends of every flow.
const LISTEN: u16 = 5000;
const TARGET: u16 = 6000;
/// The host on the far link that targets are on.
pub(super) const TARGET_HOST: u8 = 32;

/// A port of its configuration.
pub(super) struct Port<'a> {
    pub(super) name: &'a str,
    /// PCI address, or `mac:` and the MAC address.
    pub(super) device: &'a str,
    pub(super) link: Link,
    /// Further keys, a line each.
    pub(super) extra: &'a str,
}

/// A configuration with so many workers, the first two ports joined by flows of both protocols and families.
pub(super) fn config(workers: usize, ports: &[Port]) -> String {
    // Core 0 is for what does not relay.
    let cores: Vec<usize> = (1..=workers).collect();
    let mut text = format!(
        "[workers]\ncores = {cores:?}\nidle = \"adaptive\"\n[service]\nsocket = \"/run/s2ds.sock\"\nmode = \"0600\"\n"
    );
    for Port { name, device, link, extra } in ports {
        let addresses = [format!("{}/24", own(*link, true)), format!("{}/64", own(*link, false))];
        let _ = writeln!(
            text,
            "[[port]]\nname = {name:?}\ndevice = {device:?}\naddresses = {addresses:?}\n{extra}"
        );
    }
    if let [near, far, ..] = ports {
        for flow in flows(near.link, far.link) {
            let (ip, name) = (flow.listen.ip(), flow_name(&flow));
            let from = IpNet::new(ip, if ip.is_ipv4() { 24 } else { 64 }).map(|net| net.trunc());
            let from: Vec<String> = from.iter().map(ToString::to_string).collect();
            let _ = writeln!(
                text,
                "[[flow]]\nname = {name:?}\nproto = \"{}\"\nlisten = \"{}\"\ntarget = \"{}\"\nfrom = {from:?}",
                flow.proto, flow.listen, flow.target
            );
        }
    }
    text
}

/// The flow from one link to another.
pub(super) fn flow(near: Link, far: Link, proto: Proto, v4: bool) -> Flow {
    let listen = SocketAddr::new(own(near, v4), LISTEN);
    Flow { proto, near, far, listen, target: SocketAddr::new(host(far, TARGET_HOST, v4), TARGET) }
}

/// All four.
pub(super) fn flows(near: Link, far: Link) -> impl Iterator<Item = Flow> {
    let both = [true, false];
    [Proto::Udp, Proto::Tcp].into_iter().flat_map(move |proto| both.map(|v4| flow(near, far, proto, v4)))
}

/// A flow's name, for people.
pub(super) fn flow_name(flow: &Flow) -> String {
    format!("{}-v{}", flow.proto, if flow.listen.is_ipv4() { 4 } else { 6 })
}

/// A running forwarder. Dropping it kills it.
pub(super) struct Relay<'a> {
    pub(super) guest: &'a mut Guest,
    runs: bool,
}

impl<'a> Relay<'a> {
    /// Starts it and waits until it answers.
    pub(super) fn start(guest: &'a mut Guest, config: &str) -> Result<Relay<'a>> {
        guest.write(CONFIG, config)?;
        let mut relay = Relay { guest, runs: false };
        relay.launch()?;
        Ok(relay)
    }

    /// Starts it again, with the same configuration.
    pub(super) fn launch(&mut self) -> Result<()> {
        self.guest.start(NAME, &format!("s2ds --config {CONFIG}"))?;
        self.runs = true;
        let end = Instant::now() + START;
        loop {
            let Err(e) = self.stats() else { return Ok(()) };
            self.alive()?;
            ensure!(Instant::now() < end, "s2ds does not answer: {e:#}; it wrote: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Fails when it has ended.
    pub(super) fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.guest.ended(NAME)? {
            self.runs = false;
            bail!("s2ds ended with {status} and wrote: {}", self.said());
        }
        Ok(())
    }

    /// What it wrote to its log.
    pub(super) fn said(&mut self) -> String {
        self.guest.said(NAME).map_or_else(|e| format!("{e:#}"), |text| text.trim().to_owned())
    }

    fn ask(&mut self, request: &str) -> Result<Reply> {
        let text = self.guest.ok(&format!("s2ctl --socket /run/s2ds.sock --json {request}"))?;
        serde_json::from_str(&text).with_context(|| format!("`s2ctl {request}` writes {text}"))
    }

    pub(super) fn stats(&mut self) -> Result<Stats> {
        match self.ask("stats")? {
            Reply::Stats { stats } => Ok(stats),
            other => bail!("no counters: {other:?}"),
        }
    }

    /// The counters once no packet comes any more and the ledger is even.
    pub(super) fn settled(&mut self) -> Result<Stats> {
        let end = Instant::now() + SETTLE;
        let mut before = self.stats()?;
        loop {
            let now = self.stats()?;
            if now.received == before.received && unaccounted(&now) == 0 {
                return Ok(now);
            }
            let open = unaccounted(&now);
            ensure!(Instant::now() < end, "{open} packets are not accounted for: {now:?}");
            before = now;
        }
    }

    pub(super) fn ports(&mut self) -> Result<Vec<PortInfo>> {
        match self.ask("port list")? {
            Reply::Ports { ports } => Ok(ports),
            other => bail!("no list of ports: {other:?}"),
        }
    }

    pub(super) fn port(&mut self, name: &str) -> Result<PortInfo> {
        let ports = self.ports()?;
        ports.into_iter().find(|p| p.name == name).with_context(|| format!("there is no port {name}"))
    }

    /// A port in full.
    pub(super) fn show(&mut self, name: &str) -> Result<PortDetail> {
        match self.ask(&format!("port show {name}"))? {
            Reply::Port { port } => Ok(*port),
            other => bail!("no port: {other:?}"),
        }
    }

    /// Stops it as a service manager does; it has to end with status 0.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.alive()?;
        self.guest.signal(NAME, "TERM")?;
        let status = self.guest.wait(NAME, STOP)?;
        self.runs = false;
        ensure!(status == 0, "s2ds ended with {status} after SIGTERM and wrote: {}", self.said());
        Ok(())
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if self.runs && matches!(self.guest.ended(NAME), Ok(None)) {
            // What comes next says what is wrong with the guest.
            let _ = self.guest.signal(NAME, "KILL");
            let _ = self.guest.wait(NAME, STOP);
        }
    }
}
