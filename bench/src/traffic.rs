//! Programs that send real traffic across a [`Relay`]: iperf3 and our own sources and sinks, each in its place.

use std::net::SocketAddr;
use std::time::Duration;

use forwarder::api::Proto;
use serde_json::Value;

use crate::stream::Carrier;
use crate::topology::{Family, Place, Process, Relay, TopologyError, find_binary, find_tool, ports};

/// How long a server may take until it listens.
const READY: Duration = Duration::from_secs(10);
/// What a run may take beyond its own time.
const GRACE: Duration = Duration::from_secs(20);
/// What a whole stream may take.
const STREAM: Duration = Duration::from_secs(120);

/// One run of iperf3.
#[derive(Debug, Clone, Copy)]
pub struct Iperf {
    /// What it sends.
    pub proto: Proto,
    /// From producer to consumer; otherwise from consumer to producer.
    pub down: bool,
    /// Streams at once.
    pub parallel: u16,
    /// How long it sends.
    pub seconds: u16,
    /// UDP: bits a second.
    pub rate: u64,
}

/// What the receiving side of iperf3 saw.
#[derive(Debug, Clone, Copy)]
pub struct IperfResult {
    /// Goodput.
    pub mbit_per_second: f64,
    /// UDP: percent lost.
    pub lost: f64,
    /// Bytes received.
    pub bytes: f64,
}

impl Iperf {
    /// Runs the server on the producer's host and the client on the consumer's, through the relay's own flow.
    pub fn run(self, relay: &Relay, family: Family) -> Result<IperfResult, TopologyError> {
        self.run_to(relay, Place::CONSUMER_GATEWAY.socket(family, ports::IPERF))
    }

    /// The same with a client that connects to `to`, wherever that leads.
    pub fn run_to(self, relay: &Relay, to: SocketAddr) -> Result<IperfResult, TopologyError> {
        let port = ports::IPERF.to_string();
        let mut server = relay.producer.spawn("iperf3", &["-s", "-1", "-p", &port, "--forceflush"])?;
        server.wait_for("listening", READY)?;
        let (to, port) = (to.ip().to_string(), to.port().to_string());
        let (parallel, seconds, rate) =
            (self.parallel.to_string(), self.seconds.to_string(), self.rate.to_string());
        let mut args = vec!["-c", &to, "-p", &port, "-J", "-P", &parallel, "-t", &seconds];
        if self.down {
            args.push("-R");
        }
        if self.proto == Proto::Udp {
            args.extend(["-u", "-b", &rate, "-l", "1400"]);
        }
        let limit = Duration::from_secs(self.seconds.into()) + GRACE;
        let output = relay.consumer.output("iperf3", &args, limit)?;
        let sums = read_json(&output.stdout)?["end"].take();
        // TCP reports each side; UDP one sum, the receiver's.
        let sum = if self.proto == Proto::Tcp { &sums["sum_received"] } else { &sums["sum"] };
        let figure = |key: &str| sum[key].as_f64().unwrap_or(0.0);
        Ok(IperfResult {
            mbit_per_second: figure("bits_per_second") * 1e-6,
            lost: figure("lost_percent"),
            bytes: figure("bytes"),
        })
    }
}

/// Starts `s2bench source` on the producer's host, for a consumer of `family`.
pub fn source(relay: &Relay, carrier: Carrier, family: Family) -> Result<Process, TopologyError> {
    let port = if carrier == Carrier::Quic { ports::QUIC } else { ports::STREAM };
    let listen = Place::PRODUCER.socket(relay.producer_family(family), port).to_string();
    let mut source = relay.producer.spawn(
        find_binary("s2bench")?,
        &["source", "--proto", &carrier.to_string(), "--listen", &listen, "--json"],
    )?;
    source.wait_for("listening on", READY)?;
    Ok(source)
}

/// Starts `s2bench sink` on the consumer's host, towards its gateway, with further arguments.
pub fn sink(
    relay: &Relay,
    carrier: Carrier,
    family: Family,
    args: &[&str],
) -> Result<Process, TopologyError> {
    let port = if carrier == Carrier::Quic { ports::QUIC } else { ports::STREAM };
    sink_to(relay, carrier, Place::CONSUMER_GATEWAY.socket(family, port), args)
}

/// Starts `s2bench sink` on the consumer's host, towards `to`, with further arguments.
pub fn sink_to(
    relay: &Relay,
    carrier: Carrier,
    to: SocketAddr,
    args: &[&str],
) -> Result<Process, TopologyError> {
    let (proto, connect) = (carrier.to_string(), to.to_string());
    let mut all = vec!["sink", "--proto", &proto, "--connect", &connect, "--json"];
    all.extend(args);
    relay.consumer.spawn(find_binary("s2bench")?, &all)
}

/// Carries one whole stream between a fresh source and a fresh sink and returns the sink's report.
pub fn stream(
    relay: &Relay,
    carrier: Carrier,
    family: Family,
    args: &[&str],
) -> Result<Value, TopologyError> {
    let _source = source(relay, carrier, family)?;
    let sink = sink(relay, carrier, family, args)?;
    read_json(&sink.finished(STREAM)?.stdout)
}

/// The tools that runs need and that `make deps` installs.
pub fn check_tools() -> Result<(), TopologyError> {
    for tool in ["ip", "ethtool", "setpriv", "iperf3"] {
        find_tool(tool)?;
    }
    for program in ["s2ds", "s2cs", "s2uc", "s2bench"] {
        find_binary(program)?;
    }
    Ok(())
}

fn read_json(text: &str) -> Result<Value, TopologyError> {
    serde_json::from_str(text)
        .map_err(|e| TopologyError::Io { what: "read a report as JSON".into(), source: e.into() })
}
