//! The commands `s2bench source`, `s2bench sink` and `s2bench profiles`.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bench::emulate::profile::{self, Bytes, Changes, Rate, Time};
use bench::emulate::report::Text;
use bench::emulate::sink as emulated;
use bench::result::{self, Run};
use bench::size;
use bench::stream::quic::Rebind;
use bench::stream::sink::Sink;
use bench::stream::source::{Served, Source};
use bench::stream::udp::{BODY, Shape};
use bench::stream::{Carrier, Order};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::{runtime, stopped};

#[derive(Args)]
pub(crate) struct SourceArgs {
    /// Address and port to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// What carries the streams.
    #[arg(long, value_enum, default_value = "tcp")]
    proto: Carrier,
    /// Stops by itself after so long; without it, SIGTERM or SIGINT stops it.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Prints what was served as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct SinkArgs {
    /// Address and port of the source, or of the gateway before it.
    #[arg(long, value_name = "ADDR:PORT")]
    connect: SocketAddr,
    /// What carries the streams.
    #[arg(long, value_enum, default_value = "tcp")]
    proto: Carrier,
    /// Emulates an instrument instead of moving bytes: one of `s2bench profiles`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["bytes", "reverse", "duplex", "verify", "seed", "connections", "rebind_after", "max_loss", "timeout"])]
    profile: Option<String>,
    /// Bytes of each connection in each direction used: 200M, 1Gi.
    #[arg(long, value_parser = size::parse, default_value = "200M", value_name = "SIZE")]
    bytes: u64,
    /// Sends bytes to the source instead of fetching them.
    #[arg(long)]
    reverse: bool,
    /// Fetches and sends at once.
    #[arg(long, conflicts_with = "reverse")]
    duplex: bool,
    /// Compares every byte at both ends.
    #[arg(long)]
    verify: bool,
    /// Chooses the bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Connections at a time; 1, or the profile's, when not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    parallel: Option<u16>,
    /// Connections in all; as many as --parallel when not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    connections: Option<u64>,
    /// Local address to come from.
    #[arg(long, value_name = "ADDR")]
    bind: Option<IpAddr>,
    /// QUIC: changes the local address or port once so many bytes have passed.
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    rebind_after: Option<u64>,
    /// QUIC: the address to change to; without it only the port changes.
    #[arg(long, requires = "rebind_after", value_name = "ADDR")]
    rebind_to: Option<IpAddr>,
    /// UDP without a profile: pace of each direction, in bits a second, 100M when not given. With a profile, over any carrier:
    /// of all connections together, in bits a second, messages a second (1000/s), or max.
    #[arg(long, value_name = "RATE")]
    rate: Option<Rate>,
    /// UDP: bytes of payload in a datagram; 1400, or the profile's, when not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(i64::from(*BODY.start())..=i64::from(*BODY.end())), value_name = "BYTES")]
    datagram: Option<u16>,
    /// UDP: percent of the datagrams that may be lost.
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    max_loss: f64,
    /// Gives up after so long.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "60s", value_name = "TIME")]
    timeout: Duration,
    /// Writes the result as JSON to a file, or prints it.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    json: Option<PathBuf>,
    #[command(flatten)]
    emulate: EmulateArgs,
}

#[derive(Args)]
#[command(next_help_heading = "With --profile")]
struct EmulateArgs {
    /// Reads profiles of a file too.
    #[arg(long, requires = "profile", value_name = "FILE")]
    profiles: Option<PathBuf>,
    /// How long, instead of the profile's.
    #[arg(long, requires = "profile", value_name = "TIME")]
    duration: Option<Time>,
    /// Seconds at the beginning that the sums leave out, such as TCP's slow start; the stream runs for so much longer.
    #[arg(long, short = 'O', requires = "profile", value_parser = clap::value_parser!(u32).range(..=3600), default_value_t = 0, hide_default_value = true, value_name = "SECONDS")]
    omit: u32,
    /// Bytes of a message, instead of the profile's.
    #[arg(long, requires = "profile", value_name = "SIZE")]
    message: Option<Bytes>,
    /// Deadline of each message, instead of the profile's.
    #[arg(long, requires = "profile", value_name = "TIME")]
    deadline: Option<Time>,
    /// Silence that counts as a stall, instead of the profile's.
    #[arg(long, requires = "profile", value_name = "TIME")]
    stall: Option<Time>,
    /// Buffers of the sockets, over TCP at both ends, else here; the system's choice when not given.
    #[arg(long, requires = "profile", value_parser = size::parse, value_name = "SIZE")]
    socket_buffer: Option<u64>,
    /// Takes the clocks of source and sink for different ones even where both seem to run on one machine: restored from one
    /// snapshot, say.
    #[arg(long, requires = "profile")]
    own_clock: bool,
    /// Watches this machine's cores for times in which they run nobody, taken away by a virtual machine's host, say, and tells
    /// delays without the messages that met one, too. Wants a real-time priority above everything that is measured (chrt -f), or
    /// it counts waiting for other programs as well. Not with a profile that has no pace.
    #[arg(long, requires = "profile")]
    hiccups: bool,
    /// Writes an event a line as JSON while it runs - start, each second's interval, end - to a file, or prints them (-).
    #[arg(long, requires = "profile", value_name = "FILE")]
    json_stream: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ProfilesArgs {
    /// Reads profiles of a file too.
    #[arg(long, value_name = "FILE")]
    profiles: Option<PathBuf>,
    /// Prints them as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn source(args: &SourceArgs) -> anyhow::Result<ExitCode> {
    let served = Arc::new(Served::default());
    runtime()?.block_on(async {
        let source = Source::bind(args.listen, args.proto).await?;
        eprintln!("listening on {} ({})", source.address(), args.proto);
        let stop = stopped(args.timeout)?;
        tokio::select! {
            result = source.serve(served.clone()) => result.map_err(anyhow::Error::from),
            () = stop => Ok(()),
        }
    })?;
    let (streams, failed, down, up) =
        (served.streams(), served.failed(), served.meter.down(), served.meter.up());
    if args.json {
        let report =
            serde_json::json!({"streams": streams, "failed": failed, "bytes_down": down, "bytes_up": up});
        println!("{report}");
    } else {
        println!("served {streams} streams, {down} bytes down, {up} bytes up; {failed} failed");
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn sink(args: SinkArgs) -> anyhow::Result<ExitCode> {
    if [args.bind, args.rebind_to].into_iter().flatten().any(|a| a.is_ipv4() != args.connect.is_ipv4()) {
        bail!("--bind and --rebind-to need addresses of the same IP family as --connect {}", args.connect);
    }
    match &args.profile {
        Some(name) => emulate(name, &args),
        None => bytes(args),
    }
}

/// A stream of known bytes.
fn bytes(args: SinkArgs) -> anyhow::Result<ExitCode> {
    if args.rebind_after.is_some() && args.proto != Carrier::Quic {
        bail!(
            "--rebind-after needs --proto quic: {} has no way to change a connection's address",
            args.proto
        );
    }
    let rate = match args.rate {
        None => 100_000_000,
        Some(Rate::Bits(0)) => bail!("--rate must not be 0"),
        Some(Rate::Bits(rate)) => rate,
        Some(rate) => bail!("--rate {rate} needs --profile; without one, give bits a second: 100M"),
    };
    let parallel = args.parallel.unwrap_or(1);
    let unspecified = if args.connect.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let to = args.rebind_to.or(args.bind).unwrap_or(unspecified);
    let sink = Sink {
        to: args.connect,
        carrier: args.proto,
        local: args.bind,
        order: Order {
            seed: args.seed,
            down: if args.reverse { 0 } else { args.bytes },
            up: if args.reverse || args.duplex { args.bytes } else { 0 },
            verify: args.verify,
        },
        connections: args.connections.unwrap_or(parallel.into()),
        parallel: parallel.into(),
        rebind: args.rebind_after.map(|after| Rebind { after, to: SocketAddr::new(to, 0) }),
        shape: Shape { body: args.datagram.unwrap_or(1400), rate },
        max_loss: args.max_loss,
        timeout: args.timeout,
    };
    let report = runtime()?.block_on(sink.run())?;
    match args.json.as_deref() {
        None => println!("{report}"),
        Some(path) if path == Path::new("-") => println!("{}", serde_json::to_string(&report)?),
        Some(path) => result::write(path, &report)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A scientific stream.
fn emulate(name: &str, args: &SinkArgs) -> anyhow::Result<ExitCode> {
    let more = &args.emulate;
    let changes = Changes {
        message: more.message,
        rate: args.rate,
        deadline: more.deadline,
        stall: more.stall,
        connections: args.parallel.map(u32::from),
        duration: more.duration,
        datagram: args.datagram,
    };
    let standard = Some(Path::new("-"));
    if args.json.as_deref() == standard && more.json_stream.as_deref() == standard {
        bail!("--json and --json-stream would both print to standard output; give one of them a file");
    }
    let profile = profile::named(name, more.profiles.as_deref())?.changed(&changes);
    profile.schedule().map_err(|why| anyhow::anyhow!("profile {name} as changed here: {why}"))?;
    let seconds = profile.duration.0.as_secs_f64().ceil() as u64 + u64::from(more.omit);
    let sink = emulated::Sink {
        to: args.connect,
        carrier: args.proto,
        local: args.bind,
        name: name.to_owned(),
        profile,
        omit: more.omit,
        socket_buffer: more.socket_buffer,
        own_clock: more.own_clock,
        hiccups: more.hiccups,
    };
    let stop = stop_on_signal()?;
    let mut lines = more.json_stream.as_deref().map(Lines::open).transpose()?;
    let bar = ProgressBar::new(seconds);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}")?);
    let run = sink.run(&stop, |progress| match progress {
        emulated::Progress::Start(start) => Lines::tell(&mut lines, "start", start),
        emulated::Progress::Interval(interval) => {
            bar.set_position(interval.sum.end.round() as u64);
            let sum = &interval.sum;
            bar.set_message(format!("{:.1} Mbit/s, {} lost", sum.bits_per_second * 1e-6, sum.lost_packets));
            Lines::tell(&mut lines, "interval", interval);
        }
    })?;
    bar.finish_and_clear();
    Lines::tell(&mut lines, "end", &run.end);
    // Among events, text would be in the way.
    if args.json.is_some() || more.json_stream.as_deref() != standard {
        told(&run, args.json.as_deref())?;
    }
    if let Some(e) = lines.and_then(|l| l.failed) {
        bail!("cannot write the events: {e}; is the disk full?");
    }
    Ok(if run.end.partial { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Writes or prints the result. What cannot be written is printed, so that it is not lost.
fn told(run: &Run, json: Option<&Path>) -> anyhow::Result<()> {
    match json {
        None => print!("{}", Text(run)),
        Some(path) if path == Path::new("-") => println!("{}", serde_json::to_string_pretty(run)?),
        Some(path) => {
            let written = result::write(path, run);
            if written.is_err() {
                print!("{}", Text(run));
            }
            written?;
        }
    }
    if json.is_some()
        && let Some(e) = &run.end.error
    {
        eprintln!("s2bench: {e}");
    }
    Ok(())
}

/// Events, one a line, as iperf3 --json-stream has them.
struct Lines {
    out: Box<dyn std::io::Write>,
    failed: Option<std::io::Error>,
}

impl Lines {
    fn open(path: &Path) -> anyhow::Result<Lines> {
        let out: Box<dyn std::io::Write> = if path == Path::new("-") {
            Box::new(std::io::stdout())
        } else {
            Box::new(std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        };
        Ok(Lines { out, failed: None })
    }

    /// A line that cannot be written stops no measurement; the first failure is kept.
    fn tell(lines: &mut Option<Lines>, event: &str, data: &impl Serialize) {
        let Some(lines) = lines.as_mut().filter(|l| l.failed.is_none()) else { return };
        let line = serde_json::json!({"event": event, "data": data});
        lines.failed = writeln!(lines.out, "{line}").and_then(|()| lines.out.flush()).err();
    }
}

/// What SIGINT and SIGTERM set.
fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let (set, runtime) = (Arc::clone(&stop), runtime()?);
    // Caught from here on, not only once the thread runs.
    let first = {
        let _inside = runtime.enter();
        stopped(None)?
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(first);
        set.store(true, Ordering::Relaxed);
        let second = async {
            stopped(None)?.await;
            anyhow::Ok(())
        };
        if runtime.block_on(second).is_ok() {
            // Whoever asks twice does not want to wait for a result.
            std::process::exit(130);
        }
    })?;
    Ok(stop)
}

pub(crate) fn profiles(args: &ProfilesArgs) -> anyhow::Result<ExitCode> {
    let profiles = profile::all(args.profiles.as_deref())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&profiles)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = std::io::stdout().lock();
    for (name, profile) in profiles {
        let rate = match profile.bits_per_second() {
            Ok(Some(bits)) => format!("{:.3} Mbit/s", bits * 1e-6),
            _ => "as fast as possible".to_owned(),
        };
        let connections = profile.connections;
        writeln!(
            out,
            "{name:<14} {rate:>20}, {connections} connection{}, {}\n{:14} {}",
            if connections == 1 { "" } else { "s" },
            profile.duration,
            "",
            profile.description
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
