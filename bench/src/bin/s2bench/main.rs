//! `s2bench`: streams of known bytes, the relay in a box, and the demo.

mod compare;
mod live;
mod naive;
mod nic;
mod pktgen;
mod report;
mod stream;
mod wan;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use bench::core::{self, Outcome, Program, Settings};
use bench::topology::{self, Driver, Family, Place, Relay, RelayOptions};
use bench::{conformance, control, demo};
use clap::{Args, CommandFactory, Parser, Subcommand};
use forwarder::manual;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "s2bench", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves streams, as a producer's application does.
    Source(stream::SourceArgs),
    /// Opens connections and orders bytes, as a consumer's application does.
    Sink(Box<stream::SinkArgs>),
    /// Lists the instruments that a sink can have emulated.
    Profiles(stream::ProfilesArgs),
    /// Shows the relay at work: two gateways, real programs on both sides, every result in a table.
    Demo(DemoArgs),
    /// Holds the relay against the RFCs, packet by packet, and generates the page that tells.
    Conformance(ConformanceArgs),
    /// Measures what the relay costs, without a NIC, beside testpmd and l3fwd, and holds it against its goals.
    Core(CoreArgs),
    /// Measures how quick the control server is and what it needs, and holds it against its goals.
    Control(ControlArgs),
    /// Runs the relay in a virtual machine on the real drivers of emulated NICs, and shows what holds on which.
    NicTest(nic::Args),
    /// Builds the demo's networks and gateways and keeps them until stopped, for experiments by hand.
    Topology(TopologyArgs),
    /// Stands between two interfaces or DPDK ports as a WAN: delay, rate, loss and what else paths do.
    Wan(Box<wan::Args>),
    /// Generates packets at a rate and judges what comes back: loss, order, latency, the zero-loss rate.
    Pktgen(pktgen::Args),
    /// Runs the same streams through this relay and through what else is used, and sets them side by side.
    Compare(compare::Args),
    /// Buffers and forwards TCP in user space, as the first data server did: a peer to compare with.
    Naive(naive::Args),
    /// Makes one page, a table, CSV and JSON of result files.
    Report(report::Args),
    /// Serves a page that shows a running stream, for a monitor.
    Live(live::Args),
}

#[derive(Args)]
struct CoreArgs {
    /// Rounds; in each, every row runs once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    rounds: u16,
    /// Packets of each run of a row that counts packets.
    #[arg(long, default_value_t = 5_000_000, value_name = "N")]
    packets: u64,
    /// One round of small sizes: shows that it works, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Core to measure on; nothing else should run there.
    #[arg(long, default_value_t = 1, value_name = "N")]
    core: usize,
    /// Programs to run in turn with ours. l3fwd is built from Debian's source when it is first asked for.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PROGRAM,...")]
    against: Vec<Program>,
    /// Writes the result as JSON to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures one row in this process and prints what it found as JSON.
    #[arg(long, hide = true)]
    row: Option<String>,
    /// Takes packet memory of that row from hugepages.
    #[arg(long, hide = true, requires = "row")]
    huge: bool,
}

#[derive(Args)]
struct ControlArgs {
    /// Few sessions: shows that it works, measures nothing.
    #[arg(long)]
    quick: bool,
    /// Writes the result as JSON to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct DemoArgs {
    /// How the gateways get hold of their links.
    #[arg(long, value_enum, default_value = "af_packet")]
    driver: Driver,
    /// Seconds that each iperf3 run lasts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Prints the results as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct ConformanceArgs {
    /// Runs only tests whose name contains this.
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["write", "check"])]
    only: Option<String>,
    /// Writes the page.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    write: Option<PathBuf>,
    /// Fails when the page is another than the one this run generates.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Prints the results as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct TopologyArgs {
    /// How the gateways get hold of their links.
    #[arg(long, value_enum, default_value = "af_packet")]
    driver: Driver,
    /// Tags the access link of the consumer's gateway with this VLAN id; needs root.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4094))]
    vlan: Option<u16>,
    /// Largest IP packet of every link, in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..=9600))]
    mtu: u16,
}

fn measure(args: &CoreArgs) -> anyhow::Result<ExitCode> {
    const QUICK: u64 = 20_000;
    let packets = if args.quick { QUICK.min(args.packets) } else { args.packets };
    if let Some(row) = &args.row {
        let settings = Settings { core: args.core, packets, quick: args.quick, huge: args.huge };
        let outcome = core::run_row(row, &settings);
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(if matches!(outcome, Outcome::Figure(_)) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let report = core::run(&core::Options {
        rounds: if args.quick { 1 } else { args.rounds.into() },
        packets,
        quick: args.quick,
        core: args.core,
        against: args.against.clone(),
        json: args.json.clone(),
    })?;
    print!("{report}");
    // A goal that is missed is a finding; a row that fails is a fault.
    Ok(if report.rows.iter().all(|r| r.failed.is_empty()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure_control(args: &ControlArgs) -> anyhow::Result<ExitCode> {
    topology::enter_user_namespace().map_err(anyhow::Error::msg)?;
    let report = control::run(&control::Options { quick: args.quick })?;
    print!("{report}");
    if let Some(file) = &args.json {
        report.write(file)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    if let Some(code) = manual::written_if_asked(Cli::command, "1") {
        return code;
    }
    // Usage errors exit with 2, as clap does; everything else that fails with 1.
    let result = match Cli::parse().command {
        Command::Source(args) => stream::source(&args),
        Command::Sink(args) => stream::sink(*args),
        Command::Profiles(args) => stream::profiles(&args),
        Command::Demo(args) => run_demo(&args),
        Command::Conformance(args) => conform(&args),
        Command::Core(args) => measure(&args),
        Command::Control(args) => measure_control(&args),
        Command::NicTest(args) => nic::run(&args),
        Command::Topology(args) => hold(&args),
        Command::Wan(args) => wan::run(&args),
        Command::Pktgen(args) => pktgen::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Naive(args) => naive::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Live(args) => live::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("s2bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the async runtime")
}

/// Waits for SIGTERM, SIGINT or the end of `limit`. Both are caught from the call on; call it inside a runtime.
fn stopped(limit: Option<Duration>) -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => (),
            _ = int.recv() => (),
            () = tokio::time::sleep(limit.unwrap_or_default()), if limit.is_some() => (),
        }
    })
}

fn run_demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    topology::enter_user_namespace().map_err(anyhow::Error::msg)?;
    let report = demo::run(args.driver, args.seconds)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn conform(args: &ConformanceArgs) -> anyhow::Result<ExitCode> {
    topology::enter_user_namespace().map_err(anyhow::Error::msg)?;
    let report = conformance::run(args.only.as_deref().unwrap_or_default())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    if let Some(file) = &args.write {
        std::fs::write(file, report.page()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &args.check {
        let page =
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        if page != report.page() {
            bail!("{} is not what this run generates; run `make conformance` and commit it", file.display());
        }
    }
    Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn hold(args: &TopologyArgs) -> anyhow::Result<ExitCode> {
    topology::enter_user_namespace().map_err(anyhow::Error::msg)?;
    let options =
        RelayOptions { driver: args.driver, vlan: args.vlan, mtu: args.mtu, ..RelayOptions::default() };
    let mut relay = Relay::start(&options)?;
    for netns in [&relay.consumer, &relay.producer] {
        println!("{}: nsenter --net={}", netns.name(), netns.path().display());
    }
    for gateway in relay.gateways() {
        println!(
            "{}: nsenter --net={}; s2ctl --socket {}; s2ds is process {}",
            gateway.netns.name(),
            gateway.netns.path().display(),
            gateway.socket().display(),
            gateway.process.pid()
        );
    }
    println!(
        "the consumer connects to {} or {}; ready",
        Place::CONSUMER_GATEWAY.ip(Family::V4),
        Place::CONSUMER_GATEWAY.ip(Family::V6)
    );
    runtime()?.block_on(async {
        stopped(None)?.await;
        anyhow::Ok(())
    })?;
    for gateway in [&mut relay.consumer_gateway, &mut relay.producer_gateway] {
        let status = gateway.stop()?;
        if !status.success() {
            bail!(
                "s2ds in {} did not stop cleanly ({status}): {}",
                gateway.netns.name(),
                gateway.process.said()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
