//! The command `s2bench pktgen`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bench::pktgen::headers::{Flows, Proto};
use bench::pktgen::measure::{News, SearchSettings, Settings, Task, measure};
use bench::pktgen::outcome::Interval;
use bench::pktgen::rate::{self, Rate};
use bench::pktgen::setup::Setup;
use bench::pktgen::sizes::Mix;
use bench::pktgen::threads::End;
use bench::pktgen::{reflect, search};
use bench::{result, size};
use clap::Subcommand;
use forwarder::config::Device;
use forwarder::sync::StopFlag;
use forwarder::wire::Mac;
use nix::sys::signal::{SigSet, Signal};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Box<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Sends at a rate and tells what arrived: loss, order, duplicates, delay.
    Run {
        #[command(flatten)]
        common: Common,
        /// Rate: frames a second (1.5Mpps), bits a second on the wire with preamble and gap (10Gbps), of frames alone
        /// (9.5Gbps-l2), a share of the line rate (80%), or line.
        #[arg(long, default_value = "1Mpps", value_name = "RATE")]
        rate: Rate,
        /// How long to send.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "10s", value_name = "TIME")]
        duration: Duration,
        /// Packets to send in each direction, instead of a duration: 5000, 1M.
        #[arg(long, value_parser = size::parse, conflicts_with = "duration", value_name = "N")]
        count: Option<u64>,
    },
    /// Searches the highest rate without loss for each frame size, and measures the delay at it (RFC 2544, 26.1 and 26.2).
    Throughput {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        search: SearchArgs,
        /// Trials of the delay at the rate that was found; RFC 2544 asks for 20 of two minutes.
        #[arg(long, default_value_t = 1, value_name = "N")]
        latency_trials: u32,
    },
    /// Measures the loss at loads from the highest downwards (RFC 2544, 26.3).
    Loss {
        #[command(flatten)]
        common: Common,
        /// Length of a trial.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "5s", value_name = "TIME")]
        trial: Duration,
        /// The highest load.
        #[arg(long, default_value = "line", value_name = "RATE")]
        max_rate: Rate,
        /// Percent of the highest load between two trials; RFC 2544 asks for 10 or less.
        #[arg(long, default_value_t = 10.0, value_name = "PERCENT")]
        step: f64,
    },
    /// Searches the longest burst at line rate without loss, and says what buffer that means (RFC 9004).
    BackToBack {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        search: SearchArgs,
        /// Searches; RFC 2544 asks for 50.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
        searches: u32,
        /// Longest burst to try, as time at line rate.
        #[arg(long, value_parser = humantime::parse_duration, default_value = "2s", value_name = "TIME")]
        longest: Duration,
        /// How exactly to find the longest burst, in frames.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), value_name = "FRAMES")]
        burst_resolution: u64,
        /// The rate without loss, which the buffer time is corrected with; searched for when not given.
        #[arg(long, value_name = "RATE")]
        throughput: Option<Rate>,
    },
    /// Sends every packet of a generator on another host back to it.
    Reflect(ReflectArgs),
}

/// How the rate without loss is searched for.
#[derive(clap::Args)]
struct SearchArgs {
    /// Length of a trial; RFC 2544 asks for at least 60s.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "5s", value_name = "TIME")]
    trial: Duration,
    /// The highest rate to try; line without a line rate: what the generator sends at its fastest.
    #[arg(long, default_value = "line", value_name = "RATE")]
    max_rate: Rate,
    /// Where the search stops, in percent of the highest rate.
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    resolution: f64,
    /// Repeats a trial with loss so often before the loss counts (binary search with loss verification, ETSI TST 009).
    #[arg(long, default_value_t = 0, value_name = "N")]
    verify_loss: u32,
}

#[derive(clap::Args)]
struct Common {
    /// Device that sends, as in s2ds' configuration: 0000:81:00.0, af_packet:IFACE, af_xdp:IFACE, memif:SOCKET, vdev:...
    #[arg(long, value_name = "DEVICE")]
    tx: Device,
    /// Device that receives; the same as --tx when not given, none for nobody.
    #[arg(long, value_parser = receiver, value_name = "DEVICE")]
    rx: Option<Receives>,
    /// First source address and port.
    #[arg(long, default_value = "198.18.0.2:1024", value_name = "ADDR:PORT")]
    src: SocketAddr,
    /// Destination address and port.
    #[arg(long, default_value = "198.19.0.2:5000", value_name = "ADDR:PORT")]
    dst: SocketAddr,
    /// Flows: source ports from the first one on.
    #[arg(long, default_value_t = 1, value_name = "N")]
    flows: usize,
    /// Source addresses among which the flows are spread.
    #[arg(long, default_value_t = 1, value_name = "N")]
    hosts: usize,
    /// What carries the payload; tcp is a SYN, then segments of one sequence number.
    #[arg(long, value_enum, default_value = "udp")]
    proto: Proto,
    /// VLAN tag of what is sent.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4094), value_name = "ID")]
    vlan: Option<u16>,
    /// VLAN tag of what is received; that of --vlan when not given, 0 for none.
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=4094), value_name = "ID")]
    rx_vlan: Option<u16>,
    /// MAC address to send to; without it, the next hop is asked for (ARP, neighbor discovery).
    #[arg(long, value_name = "MAC")]
    dst_mac: Option<Mac>,
    /// Next hop; the destination itself when not given.
    #[arg(long, conflicts_with = "dst_mac", value_name = "ADDR")]
    gateway: Option<IpAddr>,
    /// Addresses to answer for on --rx; the destination's when not given.
    #[arg(long, value_delimiter = ',', value_name = "ADDR,...")]
    rx_address: Vec<IpAddr>,
    /// Frame sizes with FCS to try in turn: 64, 1518, imix (7 x 64, 4 x 570, 1 x 1518), 7a4d1g (letters of RFC 6985), rfc2544
    /// (the seven of its section 9.1). The smallest frame that holds the headers and a stamp when not given.
    #[arg(long, value_delimiter = ',', value_name = "SIZE,...")]
    size: Vec<String>,
    /// Sends from --rx back to --tx at the same time and rate, too, to where the packets came from.
    #[arg(long)]
    bidirectional: bool,
    /// Line rate, where the device tells none or another: 100G.
    #[arg(long, value_parser = rate::line, value_name = "BITS")]
    line_rate: Option<u64>,
    /// How long a trial waits for what is still under way; RFC 2544 asks for 2s.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1s", value_name = "TIME")]
    settle: Duration,
    /// Rest after each trial; RFC 2544 asks for 5s.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "0s", value_name = "TIME")]
    pause: Duration,
    /// What a sender that was held up catches up at full speed; what was due before is not sent, and counted.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "1ms", value_name = "TIME")]
    catch_up: Duration,
    /// Does not sum up received payloads: for receivers that are too slow with large frames.
    #[arg(long)]
    no_verify: bool,
    #[command(flatten)]
    machine: Machine,
}

#[derive(clap::Args)]
struct Machine {
    /// Cores of the sender and of the receiver; the last two there are when not given.
    #[arg(long, num_args = 1..=2, value_delimiter = ',', value_name = "TX,RX")]
    cores: Vec<usize>,
    /// Takes packet memory from hugepages.
    #[arg(long)]
    huge: bool,
    /// A further EAL option; may be given again: --eal=--iova-mode=va.
    #[arg(long, allow_hyphen_values = true, value_name = "OPTION")]
    eal: Vec<String>,
    /// Writes the result as JSON to a file, or to standard output.
    #[arg(long, num_args = 0..=1, default_missing_value = "-", value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ReflectArgs {
    /// Device that receives and sends.
    #[arg(long, value_name = "DEVICE")]
    on: Device,
    /// Addresses to answer for.
    #[arg(long, value_delimiter = ',', value_name = "ADDR,...")]
    address: Vec<IpAddr>,
    /// VLAN tag of what is received.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4094), value_name = "ID")]
    vlan: Option<u16>,
    /// Largest frame, with FCS.
    #[arg(long, default_value_t = 1518, value_parser = clap::value_parser!(u16).range(64..=16_018), value_name = "BYTES")]
    size: u16,
    /// Ends by itself after so long; without it, SIGTERM or SIGINT ends it.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    duration: Option<Duration>,
    #[command(flatten)]
    machine: Machine,
}

/// Who receives, if anybody.
#[derive(Clone)]
enum Receives {
    Nobody,
    On(Device),
}

fn receiver(text: &str) -> Result<Receives, String> {
    match text {
        "none" => Ok(Receives::Nobody),
        _ => text.parse().map(Receives::On).map_err(|e: forwarder::config::DeviceError| e.to_string()),
    }
}

impl Machine {
    fn cores(&self) -> Option<(usize, usize)> {
        self.cores.first().map(|tx| (*tx, self.cores.last().copied().unwrap_or(*tx)))
    }
}

impl Common {
    fn settings(&self) -> anyhow::Result<Settings> {
        let rx = match &self.rx {
            None => Some(self.tx.clone()),
            Some(Receives::On(device)) => Some(device.clone()),
            Some(Receives::Nobody) => None,
        };
        let flows = Flows {
            src: self.src,
            dst: self.dst,
            count: self.flows,
            hosts: self.hosts,
            proto: self.proto,
            vlan: self.vlan,
        };
        let mut sizes: Vec<Mix> = Vec::new();
        for size in &self.size {
            let list = if size == "rfc2544" { bench::pktgen::sizes::RFC_2544 } else { size };
            for size in list.split(',') {
                sizes.push(size.parse()?);
            }
        }
        if sizes.is_empty() {
            sizes.push(flows.smallest().to_string().parse()?);
        }
        let hosts: Vec<IpAddr> = flows.hosts().collect();
        // One device has the source's addresses; the destination is a far reflector's.
        let receives = match (&rx, self.rx_address.is_empty()) {
            (Some(rx), true) if *rx != self.tx => vec![self.dst.ip()],
            _ => self.rx_address.clone(),
        };
        Ok(Settings {
            setup: Setup {
                tx: self.tx.clone(),
                rx,
                vlans: (self.vlan, self.rx_vlan.map_or(self.vlan, |id| (id > 0).then_some(id))),
                mtu: 0,
                addresses: (hosts, receives),
                cores: self.machine.cores(),
                huge: self.machine.huge,
                eal: self.machine.eal.clone(),
                verify: !self.no_verify,
                catch_up: self.catch_up,
            },
            flows,
            sizes,
            dst_mac: self.dst_mac,
            gateway: self.gateway,
            line: self.line_rate,
            bidirectional: self.bidirectional,
            settle: self.settle,
            pause: self.pause,
        })
    }

    /// Everything that was chosen, for the record.
    fn told(&self, settings: &Settings) -> BTreeMap<String, serde_json::Value> {
        let (flows, line) = (&self.flows, self.line_rate);
        let all = serde_json::json!({
            "tx": self.tx.to_string(), "src": self.src, "dst": self.dst, "flows": flows, "hosts": self.hosts,
            "proto": format!("{:?}", self.proto).to_lowercase(), "vlan": self.vlan, "rx_vlan": self.rx_vlan,
            "dst_mac": self.dst_mac.map(|m| m.to_string()), "gateway": self.gateway, "rx_address": self.rx_address,
            "size": settings.sizes.iter().map(Mix::to_string).collect::<Vec<_>>(), "bidirectional": self.bidirectional, "line_rate": line,
            "settle_seconds": self.settle.as_secs_f64(), "pause_seconds": self.pause.as_secs_f64(),
            "verify": !self.no_verify, "catch_up_seconds": self.catch_up.as_secs_f64(), "huge": self.machine.huge, "cores": self.machine.cores, "eal": self.machine.eal,
        });
        all.as_object().map(|all| all.clone().into_iter().collect()).unwrap_or_default()
    }
}

impl SearchArgs {
    fn settings(&self) -> anyhow::Result<SearchSettings> {
        positive("--trial", self.trial)?;
        ensure!(
            (0.001..=50.0).contains(&self.resolution),
            "--resolution is {}; give 0.001 to 50 percent",
            self.resolution
        );
        let (trial, most, resolution, again) = (self.trial, self.max_rate, self.resolution, self.verify_loss);
        Ok(SearchSettings { trial, most, resolution, again })
    }

    fn told(&self) -> serde_json::Value {
        serde_json::json!({
            "trial_seconds": self.trial.as_secs_f64(), "max_rate": self.max_rate.to_string(),
            "resolution_percent": self.resolution, "verify_loss": self.verify_loss,
            "generator_tolerance_percent": search::TOLERANCE * 100.0,
        })
    }
}

fn positive(name: &str, time: Duration) -> anyhow::Result<()> {
    ensure!(!time.is_zero(), "{name} must not be 0");
    Ok(())
}

/// What is measured, how it is told in the record, and with what else.
fn task(command: &Command) -> anyhow::Result<Option<(&Common, Task, serde_json::Value)>> {
    Ok(Some(match command {
        Command::Reflect(_) => return Ok(None),
        Command::Run { common, rate, duration, count } => {
            positive("--duration", *duration)?;
            ensure!(*count != Some(0), "--count must not be 0");
            let end = count.map_or(End::After(*duration), End::Count);
            let told = serde_json::json!({
                "rate": rate.to_string(), "count": count,
                "duration_seconds": count.is_none().then_some(duration.as_secs_f64()),
            });
            (common, Task::Run { rate: *rate, end }, told)
        }
        Command::Throughput { common, search, latency_trials } => {
            let mut told = search.told();
            told["latency_trials"] = (*latency_trials).into();
            (common, Task::Throughput { search: search.settings()?, latency_trials: *latency_trials }, told)
        }
        Command::Loss { common, trial, max_rate, step } => {
            positive("--trial", *trial)?;
            ensure!((0.1..=50.0).contains(step), "--step is {step}; give 0.1 to 50 percent");
            let told = serde_json::json!({
                "trial_seconds": trial.as_secs_f64(), "max_rate": max_rate.to_string(), "step_percent": step,
            });
            (common, Task::Loss { trial: *trial, most: *max_rate, step: *step }, told)
        }
        Command::BackToBack { common, search, searches, longest, burst_resolution, throughput } => {
            positive("--longest", *longest)?;
            let mut told = search.told();
            told["searches"] = (*searches).into();
            told["longest_seconds"] = longest.as_secs_f64().into();
            told["burst_resolution_frames"] = (*burst_resolution).into();
            told["throughput"] = throughput.map(|t| t.to_string()).into();
            let task = Task::BackToBack {
                searches: *searches,
                longest: *longest,
                resolution: *burst_resolution,
                throughput: *throughput,
                search: search.settings()?,
            };
            (common, task, told)
        }
    }))
}

/// Catches SIGINT and SIGTERM: the first one asks to end, the second one ends.
fn interruption() -> anyhow::Result<StopFlag> {
    // Blocked before any thread starts, so that all threads inherit it and only the wait below sees them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().context("signals cannot be blocked")?;
    let flag = StopFlag::default();
    let asked = flag.clone();
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            asked.stop();
            if signals.wait().is_ok() {
                // Not by way of exit handlers: DPDK's would run under threads that still poll.
                _ = nix::sys::signal::raise(Signal::SIGKILL);
            }
        }
    });
    Ok(flag)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let interrupted = interruption()?;
    let Some((common, task, more)) = task(&args.command)? else {
        let Command::Reflect(args) = &*args.command else { bail!("there is nothing to do") };
        return reflect(args, &interrupted);
    };
    let settings = common.settings()?;
    let mut told = common.told(&settings);
    told.extend(more.as_object().cloned().unwrap_or_default());
    let (run, terminal) = (matches!(task, Task::Run { .. }), std::io::stderr().is_terminal());
    let mut watch = |news: News<'_>| match news {
        News::Second(second) if run || terminal => {
            let Interval { start, end, sent_packets, received_packets } = second;
            eprintln!("  {start:>4} - {end:>4} s: sent {sent_packets}, received {received_packets}");
        }
        // A run's only trial is its result; those of a search are news.
        News::Trial(step) if !run => eprintln!("{step}"),
        _ => {}
    };
    let outcome = measure(&settings, &task, told, &interrupted, &mut watch)?;
    write(common.machine.json.as_deref(), &outcome, || print!("{outcome}"))?;
    Ok(if outcome.end.partial { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Writes the result where it is asked for; the text goes to standard output unless JSON does.
fn write(json: Option<&Path>, result: &impl serde::Serialize, text: impl FnOnce()) -> anyhow::Result<()> {
    match json {
        Some(path) if path == Path::new("-") => println!("{}", serde_json::to_string_pretty(result)?),
        Some(path) => {
            text();
            result::write(path, result)?;
        }
        None => text(),
    }
    Ok(())
}

fn reflect(args: &ReflectArgs, interrupted: &StopFlag) -> anyhow::Result<ExitCode> {
    let setup = Setup {
        tx: args.on.clone(),
        rx: None,
        vlans: (args.vlan, None),
        mtu: args.size - 18,
        addresses: (args.address.clone(), Vec::new()),
        cores: args.machine.cores(),
        huge: args.machine.huge,
        eal: args.machine.eal.clone(),
        verify: true,
        catch_up: Duration::ZERO,
    };
    let ready = || eprintln!("reflecting on {}: ready", args.on);
    let did = reflect::run(setup, interrupted, args.duration, ready)?;
    write(args.machine.json.as_deref(), &did, || {
        let reflect::Reflected { packets, dropped_packets, missed_packets, corrupt, foreign } = did;
        println!(
            "reflected {packets} packets, dropped {dropped_packets}, missed {missed_packets}; {corrupt} were corrupt, \
             {foreign} foreign"
        );
    })?;
    Ok(ExitCode::SUCCESS)
}
