//! The command `s2bench wan`.

use std::fmt::Display;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::wan::config::{Config, DIRECTIONS, Resting};
use bench::wan::netem::{Applied, Plan};
use bench::wan::preset::Preset;
use bench::wan::run::Running;
use bench::wan::shape::Asked;
use bench::wan::verify;
use bench::{result, size};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use serde::Serialize;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// File with the links (TOML); docs/wan.example.toml shows all there is.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["a", "b", "preset"])]
    config: Option<PathBuf>,
    /// One end of the one link: af_packet:IFACE, af_xdp:IFACE, a PCI address, vdev:DPDK-DEVICE.
    #[arg(long, value_name = "DEVICE", requires = "b", required_unless_present_any = ["config", "verify"])]
    a: Option<String>,
    /// Its other end.
    #[arg(long, value_name = "DEVICE", requires = "a")]
    b: Option<String>,
    /// The path that it stands for, which gives it the delay.
    #[arg(long, value_enum, value_name = "PATH")]
    preset: Option<Preset>,
    /// What the link does in both directions.
    #[command(flatten)]
    each: Asked,
    /// Chooses the fate of packets: the same seed and the same packets meet the same fate. 1 without a file.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Cores of the workers, among which the links are dealt out; the last one that there is.
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    cores: Vec<usize>,
    /// What a worker does when nothing is to do: adaptive unless the file says otherwise.
    #[arg(long, value_enum)]
    idle: Option<Resting>,
    /// Takes packet memory from hugepages.
    #[arg(long)]
    huge: bool,
    /// Most packet memory: 4Gi; 2Gi unless the file says otherwise.
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    memory: Option<u64>,
    /// Has the kernel do it: tc's netem on both interfaces, joined by a bridge until the end.
    #[arg(long, conflicts_with = "verify")]
    netem: bool,
    /// Opens no device, and holds each thing that is asked for against what it does on this machine; all of them when none is.
    #[arg(long, conflicts_with_all = ["config", "a", "duration"])]
    verify: bool,
    /// Ends by itself after so long; without it, SIGTERM or SIGINT ends it.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    duration: Option<Duration>,
    /// Tells that often on standard error what passes.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME", conflicts_with_all = ["netem", "verify"])]
    interval: Option<Duration>,
    /// Writes what became of the packets as JSON, to a file or (-) to standard output.
    #[arg(long, num_args = 0..=1, default_missing_value = "-", value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Args {
    fn config(&self) -> Result<Config> {
        let mut config = match (&self.config, &self.a, &self.b) {
            (Some(_), ..) if self.each != Asked::default() => {
                bail!(
                    "a link's delay, rate and so on belong into the file when there is one; take the options away"
                )
            }
            (Some(file), ..) => Config::load(file)?,
            (None, Some(a), Some(b)) => Config::single([a, b], self.preset, &self.each)?,
            _ => bail!("name the link's ends with --a and --b, or a file with --config"),
        };
        config.seed = self.seed.unwrap_or(config.seed);
        config.idle = self.idle.map_or(config.idle, Into::into);
        config.huge |= self.huge;
        config.memory = self.memory.unwrap_or(config.memory);
        if !self.cores.is_empty() {
            config.cores.clone_from(&self.cores);
        }
        config.check()?;
        Ok(config)
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.verify {
        return verify(args);
    }
    let config = args.config()?;
    if args.netem {
        return netem(args, &config);
    }
    let signals = Signals::block()?;
    let running = Running::start(config)?;
    for link in &running.config().links {
        eprintln!("s2bench wan: {link}");
    }
    let cores = running.cores().iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    eprintln!("s2bench wan: worker on core {cores}, seed {}: ready", running.config().seed);
    watch(&running, &signals, args)?;
    tell(&running.stop()?, args.json.as_deref())
}

/// Waits for the end, and tells from time to time what passes.
fn watch(running: &Running, signals: &Signals, args: &Args) -> Result<()> {
    let Some(interval) = args.interval.filter(|i| !i.is_zero()) else {
        return signals.wait(args.duration).map(drop);
    };
    let end = args.duration.map(|duration| Instant::now() + duration);
    let (mut before, mut since) = (running.glance(), Instant::now());
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero())
            || signals.wait(Some(left.unwrap_or(interval).min(interval)))?
        {
            return Ok(());
        }
        let (now, seconds) = (running.glance(), since.elapsed().as_secs_f64());
        since = Instant::now();
        let ways = running.config().links.iter().flat_map(|link| DIRECTIONS.map(|way| (&link.name, way)));
        for ((name, way), (now, before)) in ways.zip(now.iter().zip(&before)) {
            let mbits = |now: u64, before: u64| (now - before) as f64 * 8.0 / seconds / 1e6;
            eprintln!(
                "s2bench wan: {name} {way}: in {:.3} Mbit/s, out {:.3} Mbit/s, held {}, dropped {}",
                mbits(now.received_bytes, before.received_bytes),
                mbits(now.sent_bytes, before.sent_bytes),
                now.held,
                now.dropped - before.dropped
            );
        }
        before = now;
    }
}

fn netem(args: &Args, config: &Config) -> Result<ExitCode> {
    if args.json.is_some() {
        bail!("netem does not tell what became of which packet; take --json away, and see `tc -s qdisc`");
    }
    let plan = Plan::of(config, std::process::id())?;
    let signals = Signals::block()?;
    let applied = Applied::of(plan)?;
    for link in &config.links {
        eprintln!("s2bench wan: {link}");
    }
    eprintln!(
        "s2bench wan: by the kernel's netem, which draws its own chances (--seed means nothing to it): ready"
    );
    signals.wait(args.duration)?;
    applied.end()?;
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &Args) -> Result<ExitCode> {
    let mut asked = args.each.clone();
    asked.delay = asked.delay.or(args.preset.map(Preset::one_way));
    let idle = args.idle.unwrap_or_default().into();
    let verified = verify::run(&asked, idle, args.seed.unwrap_or(1), args.cores.first().copied())?;
    tell(&verified, args.json.as_deref())?;
    Ok(if verified.held() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(report: &(impl Display + Serialize), json: Option<&Path>) -> Result<ExitCode> {
    match json {
        Some(path) if path.as_os_str() == "-" => println!("{}", serde_json::to_string_pretty(report)?),
        Some(path) => {
            println!("{report}");
            result::write(path, report)?;
        }
        None => println!("{report}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// SIGTERM and SIGINT, kept for [`Signals::wait`].
struct Signals(SignalFd);

impl Signals {
    /// Before any thread starts, so that all inherit it.
    fn block() -> Result<Signals> {
        let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        set.thread_block().context("signals cannot be blocked")?;
        Ok(Signals(SignalFd::new(&set).context("signals cannot be waited for")?))
    }

    /// Waits for one, or for the end of `limit`. True when one came.
    fn wait(&self, limit: Option<Duration>) -> Result<bool> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
            // Up, so that it does not wake before the end; an hour at a time, which poll can count.
            let ms = left.map_or(3_600_000, |left| left.as_micros().div_ceil(1000).min(3_600_000) as i32);
            let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(e) => return Err(e).context("signals cannot be waited for"),
            }
        }
    }
}
