//! The relay at work on one machine: each kind of traffic crosses two gateways, and a table tells what became of it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use forwarder::api::{Proto, Stats};
use serde::Serialize;
use serde_json::Value;

use crate::stream::Carrier;
use crate::topology::{
    Control, Driver, Family, Gateway, Place, Relay, RelayOptions, Stream, TopologyError, flow_name, ports,
    unaccounted,
};
use crate::traffic::{self, Iperf, IperfResult};

/// How long what has to come is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was tried.
    pub what: String,
    /// Whether it went as it should.
    pub held: bool,
    /// The figure, or what went wrong.
    pub figure: String,
}

/// A gateway's packets at quiescence.
#[derive(Debug, Clone, Serialize)]
pub struct Ledger {
    /// Which gateway.
    pub gateway: String,
    /// Frames received.
    pub received: u64,
    /// Received frames sent on or answered.
    pub sent: u64,
    /// Received frames still held.
    pub held: u64,
    /// Dropped, by reason; only reasons that occurred.
    pub drops: BTreeMap<String, u64>,
    /// received - (sent + held + drops); zero when the ledger is balanced.
    pub unaccounted: i64,
}

impl Ledger {
    fn new(gateway: &str, stats: &Stats) -> Ledger {
        Ledger {
            gateway: gateway.into(),
            received: stats.received,
            sent: stats.sent,
            held: stats.held,
            drops: stats.drops.iter().filter(|(_, n)| **n > 0).map(|(k, n)| (k.clone(), *n)).collect(),
            unaccounted: unaccounted(stats),
        }
    }
}

/// What the demo showed.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The gateways' devices.
    pub driver: String,
    /// In the order tried.
    pub checks: Vec<Check>,
    /// Of both gateways.
    pub ledgers: Vec<Ledger>,
}

impl Report {
    /// Whether everything went as it should.
    #[must_use]
    pub fn held(&self) -> bool {
        self.checks.iter().all(|c| c.held)
    }

    fn add(&mut self, what: &str, outcome: Result<String, Failure>) {
        let (held, figure) = match outcome {
            Ok(figure) => (true, figure),
            Err(Failure(why)) => (false, why),
        };
        self.checks.push(Check { what: what.into(), held, figure });
    }
}

/// Why a check did not hold.
struct Failure(String);

impl From<TopologyError> for Failure {
    fn from(e: TopologyError) -> Failure {
        Failure(e.to_string())
    }
}

fn fail<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(why.into()))
}

/// Builds the topology, runs everything and takes it down. An error means that the demo could not start.
pub fn run(driver: Driver, seconds: u16) -> Result<Report, TopologyError> {
    traffic::check_tools()?;
    let mut relay = Relay::start(&RelayOptions { driver, ..RelayOptions::default() })?;
    let control = Control::start(&relay)?;
    let mut report = Report { driver: driver.name().into(), checks: Vec::new(), ledgers: Vec::new() };

    let tcp = Iperf { proto: Proto::Tcp, down: false, parallel: 4, seconds, rate: 0 };
    on_demand(&mut report, &relay, &control, tcp);
    let udp = Iperf { proto: Proto::Udp, parallel: 1, rate: 100_000_000, ..tcp };
    report.add("iperf3 UDP, consumer to producer, 100 Mbit/s", iperf(&relay, Family::V4, udp));
    report.add(
        "iperf3 TCP over IPv6, producer to consumer",
        iperf(&relay, Family::V6, Iperf { down: true, ..tcp }),
    );
    report.add(
        "200 MB over TCP both ways at once, every byte compared",
        stream(&relay, Carrier::Tcp, Family::V4, &["--bytes", "200M", "--duplex", "--verify"]),
    );
    report.add(
        "plain datagrams over UDP both ways, every byte compared",
        stream(&relay, Carrier::Udp, Family::V4, &["--bytes", "20M", "--duplex", "--verify"]),
    );
    report.add("1,000 short TCP connections", short_connections(&relay));
    report.add("QUIC, client's port changes in mid-stream", roaming(&relay, Family::V4, None));
    report.add(
        "QUIC over IPv6, client's address changes in mid-stream",
        roaming(&relay, Family::V6, Some(Place::ROAMED)),
    );
    report.add("a source that is not allowed", stranger(&relay));
    for gateway in relay.gateways() {
        let name = gateway.netns.name();
        let outcome = gateway.settled(PATIENCE).map_err(Failure::from).and_then(|stats| {
            let ledger = Ledger::new(name, &stats);
            let balanced = ledger.unaccounted;
            report.ledgers.push(ledger);
            if balanced == 0 {
                Ok(format!("{} received, each accounted for", stats.received))
            } else {
                fail(format!("{balanced} of {} received are not accounted for", stats.received))
            }
        });
        report.add(&format!("ledger of {name}"), outcome);
    }
    report.add("SIGTERM stops both gateways", stop(&mut relay));
    Ok(report)
}

/// A stream that a user opens at both gateways, has iperf3 carry bytes through it, and closes.
fn on_demand(report: &mut Report, relay: &Relay, control: &Control, tcp: Iperf) {
    let [consumer, target] = [
        Place::CONSUMER.ip(Family::V4).to_string(),
        Place::PRODUCER.socket(Family::V4, ports::IPERF).to_string(),
    ];
    let stream = match control.open(&target, &["--from", &consumer]) {
        Ok(stream) => stream,
        Err(e) => return report.add("s2uc open", Err(e.into())),
    };
    let told = format!("consumers connect to {}; {}", stream.connect, stream.uri);
    report.add(&format!("s2uc open --target {target} --from {consumer}"), Ok(told));
    for (what, down) in [("consumer to producer", false), ("producer to consumer", true)] {
        let run = Iperf { down, ..tcp };
        let outcome = run.run_to(relay, stream.connect).map_err(Failure::from);
        report.add(
            &format!("iperf3 TCP through it, {what}, 4 streams"),
            outcome.and_then(|r| goodput_of(run, r)),
        );
    }
    report.add("s2uc close stops it", close(relay, control, &stream));
}

fn close(relay: &Relay, control: &Control, stream: &Stream) -> Result<String, Failure> {
    let mut server =
        relay.producer.spawn("iperf3", &["-s", "-p", &ports::IPERF.to_string(), "--forceflush"])?;
    server.wait_for("listening", PATIENCE)?;
    let (to, port) = (stream.connect.ip().to_string(), stream.connect.port().to_string());
    let mut client =
        relay.consumer.spawn("iperf3", &["-c", &to, "-p", &port, "-t", "600", "--forceflush"])?;
    client.wait_for("sec", PATIENCE)?;
    control.s2uc(&["close", &stream.uri])?;
    for (gateway, listen) in relay.gateways().into_iter().zip(stream.listens) {
        if gateway.listening(Proto::Tcp, listen)?.is_some() {
            return fail(format!("{} still relays it", gateway.netns.name()));
        }
    }
    if client.ended()?.is_some() {
        return fail(format!("the transfer had ended before: {}", client.said()));
    }
    let args = ["--bytes", "1K", "--timeout", "2s"];
    if traffic::sink_to(relay, Carrier::Tcp, stream.connect, &args)?.wait(PATIENCE)?.success() {
        return fail("a new connection was let in");
    }
    for gateway in relay.gateways() {
        match gateway.stats()?.connections {
            0 => (),
            n => return fail(format!("{n} connections go on at {}", gateway.netns.name())),
        }
    }
    Ok("a running transfer broke off, a new connection got no answer".into())
}

fn iperf(relay: &Relay, family: Family, run: Iperf) -> Result<String, Failure> {
    goodput_of(run, run.run(relay, family)?)
}

fn goodput_of(run: Iperf, result: IperfResult) -> Result<String, Failure> {
    match run.proto {
        _ if result.bytes == 0.0 => fail("nothing arrived"),
        Proto::Tcp => Ok(format!("{:.0} Mbit/s", result.mbit_per_second)),
        Proto::Udp if result.lost > 1.0 => fail(format!("{:.2} % lost", result.lost)),
        Proto::Udp => Ok(format!("{:.0} Mbit/s, {:.2} % lost", result.mbit_per_second, result.lost)),
    }
}

fn stream(relay: &Relay, carrier: Carrier, family: Family, args: &[&str]) -> Result<String, Failure> {
    Ok(goodput(&traffic::stream(relay, carrier, family, args)?))
}

fn goodput(report: &Value) -> String {
    let rate = |key: &str| report[key].as_f64().unwrap_or(0.0);
    let (down, up) = (rate("mbit_per_second_down"), rate("mbit_per_second_up"));
    match (down > 0.0, up > 0.0) {
        (true, true) => format!("{down:.0} Mbit/s down, {up:.0} Mbit/s up"),
        (_, true) => format!("{up:.0} Mbit/s"),
        _ => format!("{down:.0} Mbit/s"),
    }
}

fn short_connections(relay: &Relay) -> Result<String, Failure> {
    let args = ["--connections", "1000", "--parallel", "8", "--bytes", "2K", "--duplex", "--verify"];
    let report = traffic::stream(relay, Carrier::Tcp, Family::V4, &args)?;
    let (n, seconds) =
        (report["connections"].as_u64().unwrap_or(0), report["seconds"].as_f64().unwrap_or(0.0));
    if n == 1000 { Ok(format!("{n} in {seconds:.2} s")) } else { fail(format!("only {n} of 1000")) }
}

fn roaming(relay: &Relay, family: Family, to: Option<Place>) -> Result<String, Failure> {
    let home = Place::CONSUMER.ip(family).to_string();
    let to = to.map(|place| place.ip(family).to_string());
    let mut args = vec!["--bytes", "60M", "--duplex", "--verify", "--bind", &home, "--rebind-after", "20M"];
    if let Some(to) = &to {
        args.extend(["--rebind-to", to.as_str()]);
    }
    let report = traffic::stream(relay, Carrier::Quic, family, &args)?;
    let change = &report["rebound"][0];
    match (change["from"].as_str(), change["to"].as_str()) {
        (Some(from), Some(to)) if from != to => Ok(format!("{}; {from} became {to}", goodput(&report))),
        _ => fail("the client's address did not change"),
    }
}

fn stranger(relay: &Relay) -> Result<String, Failure> {
    let family = Family::V4;
    let flow = flow_name(Proto::Tcp, ports::STREAM, family);
    let admitted = |gateway: &Gateway| gateway.flow(&flow).map(|f| f.admitted);
    let denied =
        |gateway: &Gateway| gateway.stats().map(|s| s.drops.get("source_denied").copied().unwrap_or(0));
    let [near, far] = relay.gateways();
    let before = (admitted(near)?, admitted(far)?, denied(near)?);

    let _source = traffic::source(relay, Carrier::Tcp, family)?;
    let from = Place::STRANGER.ip(family).to_string();
    let mut sink =
        traffic::sink(relay, Carrier::Tcp, family, &["--bytes", "1K", "--bind", &from, "--timeout", "3s"])?;
    if sink.wait(Duration::from_secs(20))?.success() {
        return fail(format!("{from} got a stream although no flow allows it"));
    }
    if (admitted(near)?, admitted(far)?) != (before.0, before.1) {
        return fail(format!("{from} was admitted although no flow allows it"));
    }
    match denied(near)? - before.2 {
        0 => fail("nothing was counted as source_denied"),
        n => Ok(format!("nothing passed, {n} packets counted as source_denied")),
    }
}

fn stop(relay: &mut Relay) -> Result<String, Failure> {
    for gateway in [&mut relay.consumer_gateway, &mut relay.producer_gateway] {
        let status = gateway.stop()?;
        if !status.success() {
            return fail(format!("{} ended with {status}: {}", gateway.netns.name(), gateway.process.said()));
        }
    }
    Ok("both ended with status 0".into())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wide = |s: &str| s.chars().count();
        let width = self.checks.iter().map(|c| wide(&c.what)).max().unwrap_or(0);
        writeln!(
            f,
            "consumer == gateway (s2ds) == WAN == gateway (s2ds) == producer, over {}, on one machine\n",
            self.driver
        )?;
        for c in &self.checks {
            // A failure may be several lines: the first in the table, the rest below it.
            let figure = c.figure.replace('\n', &format!("\n{:1$}", "", width + 10));
            writeln!(f, "{:width$}  {:6}  {figure}", c.what, if c.held { "ok" } else { "FAILED" })?;
        }
        for ledger in &self.ledgers {
            let Ledger { gateway, received, sent, held, drops, unaccounted } = ledger;
            let total: u64 = drops.values().sum();
            writeln!(
                f,
                "\n{gateway}: {received} received = {sent} sent + {held} held + {total} dropped + {unaccounted} unaccounted"
            )?;
            for (reason, n) in drops {
                writeln!(f, "  {n:>9}  {reason}")?;
            }
        }
        let failed = self.checks.iter().filter(|c| !c.held).count();
        match failed {
            0 => write!(f, "\nEverything held."),
            n => write!(f, "\n{n} of {} checks FAILED.", self.checks.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_enough() {
        let mut report = Report { driver: "af_packet".into(), checks: Vec::new(), ledgers: Vec::new() };
        report.add("this", Ok("1 Mbit/s".into()));
        assert!(report.held());
        assert!(report.to_string().ends_with("Everything held."));
        report.add("that", fail("first line\nsecond line"));
        assert!(!report.held());
        let text = report.to_string();
        assert!(text.contains("that  FAILED  first line\n              second line"), "{text}");
        assert!(text.ends_with("1 of 2 checks FAILED."), "{text}");
    }
}
