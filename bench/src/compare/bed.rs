//! The networks of one run: two hosts, two gateways, the WAN between them, and what the approach has there.
//!
//! ```text
//! consumer ==lan== consumer gateway ==wan== WAN ==wan== producer gateway ==lan== producer
//! ```
//!
//! Addresses, links, their MTU and offloads are those of the relay's standard topology and the same for every approach.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use forwarder::api::Stats;

use super::approach::Approach;
use super::cpu;
use super::node::{Node, Tls, address};
use super::path::Path;
use super::setup::{Gate, Side, port};
use crate::stream::Carrier;
use crate::topology::{Family, Gateway, Netns, Place, Process, Workdir, find_binary};

/// How long the source may take until it listens.
const READY: Duration = Duration::from_secs(10);
/// How long the WAN may take; EAL is slow on a busy machine.
const WAN: Duration = Duration::from_secs(30);

/// What is the same for every approach of a series.
#[derive(Debug, Clone)]
pub struct Ground {
    /// In which family.
    pub family: Family,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Cores of the consumer's gateway and of the producer's; the WAN has the latter.
    pub cores: [usize; 2],
    /// Priority of source and sink under SCHED_FIFO, 2 or more; what relays, and the WAN, have one less. 0 leaves all to the scheduler.
    pub priority: u8,
}

impl Ground {
    /// Priority of what relays, for `chrt`.
    fn relay_priority(&self) -> Option<String> {
        (self.priority > 1).then(|| (self.priority - 1).to_string())
    }

    /// A gateway.
    fn gate(&self, side: Side, carrier: Carrier, dir: String) -> Gate {
        let core = self.cores[usize::from(side == Side::Producer)];
        Gate { side, carrier, family: self.family, mtu: self.mtu, core, dir }
    }

    /// Every setting of a run, for people: first those of the approach, then what is the same for all. An entry for each command,
    /// file and fact.
    #[must_use]
    pub fn settings(&self, approach: Approach, carrier: Carrier, path: &Path) -> Vec<String> {
        let [near, far] = self.cores;
        let ends = match self.priority {
            0 => "source and sink: no priority".to_owned(),
            n => format!("source and sink: chrt -f {n} (SCHED_FIFO)"),
        };
        let relays = match self.relay_priority() {
            _ if approach.never_rests() => {
                "relay: no priority, since a thread that never rests would starve the kernel's".to_owned()
            }
            Some(n) => format!("relay: chrt -f {n} (SCHED_FIFO)"),
            None => "relay: no priority".to_owned(),
        };
        let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
        let mut all = vec![
            format!("cores: consumer-gateway {near}, producer-gateway {far}, WAN {far}, source and sink any"),
            ends,
            relays,
            format!("links: veth, MTU {}, offloads off at both ends", self.mtu),
            format!("net/ipv4/tcp_congestion_control = {}", congestion.trim()),
        ];
        all.extend(path.wan().map(|args| format!("taskset -c {far} {}", self.wan(args).join(" "))));
        all.extend(path.buffers().into_iter().map(|(key, value)| format!("net/{key} = {value}")));
        let all = all.into_iter().map(|line| format!("all: {line}"));
        let gates = Side::BOTH.into_iter().map(|side| self.gate(side, carrier, String::new()));
        gates.flat_map(|gate| gate.settings(approach)).chain(all).collect()
    }

    /// The command line of the WAN.
    fn wan(&self, args: &[String]) -> Vec<String> {
        let mtu = self.mtu.to_string();
        let words = ["s2bench", "wan", "--a", "af_packet:near", "--b", "af_packet:far", "--mtu", &mtu];
        words.into_iter().map(str::to_owned).chain(args.iter().cloned()).collect()
    }
}

/// Everything between and around source and sink. Dropping it takes everything down.
#[derive(Debug)]
pub struct Bed {
    nodes: [Node; 2],
    // The process ends before its namespace.
    wan: Option<(Process, Netns)>,
    consumer: Netns,
    producer: Netns,
    ground: Ground,
    approach: Approach,
    carrier: Carrier,
}

impl Bed {
    /// Builds it and waits until everything listens.
    ///
    /// # Errors
    /// Something could not be started; the message has what it said.
    pub fn build(ground: &Ground, approach: Approach, carrier: Carrier, path: &Path) -> Result<Bed> {
        let dir = Arc::new(Workdir::new()?);
        let make = |name| Netns::new(name, dir.clone());
        let (consumer, producer) = (make("consumer")?, make("producer")?);
        let [near, far] = Side::BOTH.map(|side| make(side.name()));
        let (near, far) = (near?, far?);

        let wan = match path.wan() {
            None => near.join("wan", &far, "wan", ground.mtu).map(|()| None)?,
            Some(args) => {
                let netns = make("wan")?;
                near.join("wan", &netns, "near", ground.mtu)?;
                far.join("wan", &netns, "far", ground.mtu)?;
                Some(wan(netns, args, ground)?)
            }
        };
        for (gateway, host, place, side) in [
            (&near, &consumer, Place::CONSUMER, Side::Consumer),
            (&far, &producer, Place::PRODUCER, Side::Producer),
        ] {
            gateway.join("lan", host, "eth0", ground.mtu)?;
            address(host, "eth0", place, ground.family)?;
            host.ip(&format!("route add default via {}", side.lan().ip(ground.family)))?;
        }
        for netns in [&near, &far, &consumer, &producer] {
            for (key, value) in path.buffers() {
                netns.sysctl(key, &value)?;
            }
        }

        let tls = (approach == Approach::Stunnel).then(Tls::make).transpose()?;
        let start = |side: Side, netns| {
            let files = dir.path().join(format!("{}-files", side.name()));
            fs::create_dir(&files).with_context(|| format!("cannot make {}", files.display()))?;
            let gate = ground.gate(side, carrier, files.to_string_lossy().into_owned());
            Node::start(&gate, approach, netns, tls.as_ref())
        };
        // Both at once, since s2ds takes about a second.
        let (near, far) = std::thread::scope(|scope| {
            let far = scope.spawn(|| start(Side::Producer, far));
            (start(Side::Consumer, near), far.join())
        });
        let far = far.map_err(|_| anyhow!("internal: the thread that started a gateway panicked"))?;
        let bed =
            Bed { nodes: [near?, far?], wan, consumer, producer, ground: ground.clone(), approach, carrier };
        bed.prefer()?;
        Ok(bed)
    }

    /// Gives all threads of what is between the ends the priority of [`Ground::relay_priority`].
    fn prefer(&self) -> Result<()> {
        let wan = self.wan.iter().map(|(process, _)| (process, true));
        let nodes = self.nodes.iter().filter_map(|n| Some((n.process()?, !self.approach.never_rests())));
        for (process, rests) in nodes.chain(wan) {
            if let (Some(priority), true) = (self.ground.relay_priority(), rests) {
                let args = ["--all-tasks", "--fifo", "--pid", &priority, &process.pid().to_string()];
                self.consumer.output("chrt", &args, READY)?;
            }
        }
        Ok(())
    }

    /// Where the sink connects to.
    #[must_use]
    pub fn entrance(&self) -> SocketAddr {
        let place = match self.approach {
            Approach::Direct => Place::PRODUCER,
            _ => Place::CONSUMER_GATEWAY,
        };
        place.socket(self.ground.family, port(self.carrier))
    }

    /// Starts `s2bench source` on the producer's host and waits until it listens.
    ///
    /// # Errors
    /// It does not; the message has what it said.
    pub fn source(&self) -> Result<Process> {
        let listen = Place::PRODUCER.socket(self.ground.family, port(self.carrier)).to_string();
        let proto = self.carrier.to_string();
        let mut source = self.end(&self.producer, &["source", "--proto", &proto, "--listen", &listen])?;
        source.wait_for("listening on", READY)?;
        Ok(source)
    }

    /// Starts `s2bench sink` on the consumer's host, towards the entrance, with further arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn sink(&self, args: &[&str]) -> Result<Process> {
        let (proto, connect) = (self.carrier.to_string(), self.entrance().to_string());
        self.end(&self.consumer, &[&["sink", "--proto", &proto, "--connect", &connect], args].concat())
    }

    fn end(&self, host: &Netns, args: &[&str]) -> Result<Process> {
        let s2bench = find_binary("s2bench")?;
        if self.ground.priority == 0 {
            return Ok(host.spawn(&s2bench, args)?);
        }
        let (priority, s2bench) = (self.ground.priority.to_string(), s2bench.to_string_lossy().into_owned());
        Ok(host.spawn("chrt", &[&["-f", &priority, &s2bench], args].concat())?)
    }

    /// What should run and has ended, in a sentence; none when all is well.
    pub fn broken(&mut self) -> Option<String> {
        let wan = self.wan.iter_mut().map(|(process, _)| ("the WAN", process));
        let nodes = Side::BOTH.into_iter().zip(&mut self.nodes);
        let nodes = nodes.filter_map(|(side, node)| Some((side.name(), node.process_mut()?)));
        nodes.chain(wan).find_map(|(name, process)| match process.ended() {
            Ok(None) => None,
            Ok(Some(status)) => Some(format!("{name} ended ({status}): {}", process.said())),
            Err(e) => Some(format!("{name}: {e}")),
        })
    }

    /// What the programs between the ends have said so far, for messages; empty when they were silent.
    #[must_use]
    pub fn said(&self) -> String {
        let wan = self.wan.iter().map(|(process, _)| ("the WAN", process));
        let nodes = Side::BOTH.into_iter().zip(&self.nodes);
        let nodes = nodes.filter_map(|(side, node)| Some((side.name(), node.process()?)));
        let said = nodes.chain(wan).map(|(name, process)| (name, process.said()));
        let said = said.filter(|(_, text)| !text.is_empty());
        said.map(|(name, text)| format!("; {name} wrote: {}", last_lines(&text))).collect()
    }

    /// Processor time of both gateways' processes, in seconds; none when the kernel forwards.
    #[must_use]
    pub fn cpu(&self) -> Option<f64> {
        self.nodes.iter().map(|node| node.process().map(|p| cpu::of(p.pid()))).sum()
    }

    /// Counters of both s2ds: at once when `limit` is zero, else once nothing comes any more or after that time. Empty for other
    /// approaches.
    ///
    /// # Errors
    /// A gateway does not answer.
    pub fn stats(&self, limit: Duration) -> Result<Vec<(&'static str, Stats)>> {
        let s2ds = Side::BOTH.into_iter().zip(&self.nodes).filter_map(|(side, node)| match node {
            Node::S2ds(gateway) => Some((side.name(), gateway)),
            _ => None,
        });
        let stats = |gateway: &Gateway| match limit {
            Duration::ZERO => gateway.stats(),
            limit => gateway.settled(limit),
        };
        s2ds.map(|(name, gateway)| Ok((name, stats(gateway)?))).collect()
    }

    /// The run's own directory.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.consumer.dir()
    }
}

/// Starts the WAN in a namespace of its own.
fn wan(netns: Netns, args: &[String], ground: &Ground) -> Result<(Process, Netns)> {
    for device in ["near", "far"] {
        netns.silence(device)?;
    }
    let s2bench = find_binary("s2bench")?.to_string_lossy().into_owned();
    let (core, command) = (ground.cores[1].to_string(), ground.wan(args));
    let mut line = vec!["-c", &core, &s2bench];
    line.extend(command[1..].iter().map(String::as_str));
    let mut process = netns.spawn("taskset", &line)?;
    process.wait_for("ready", WAN)?;
    Ok((process, netns))
}

/// The end of what a program wrote: enough for a message.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}
