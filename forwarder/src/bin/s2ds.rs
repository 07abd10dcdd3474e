//! `s2ds`: SciStream's data server. Reads a configuration, relays packets, and stops when told to.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use clap::{CommandFactory, Parser};
use forwarder::config::{Config, Sandbox};
use forwarder::privilege::Plan;
use forwarder::server::Server;
use forwarder::topology::{self, Machine, Placement};
use forwarder::{manual, notify};
use nix::sys::signal::{SigSet, Signal};

/// SciStream data server: relays TCP, UDP and QUIC streams between two networks, rewriting packets in place.
#[derive(Debug, Parser)]
#[command(
    name = "s2ds",
    version,
    override_usage = "s2ds [EAL OPTIONS --] --config FILE [--socket PATH] [--sandbox MODE] [--check]"
)]
struct Args {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Control socket, instead of the configuration's.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Refuse, log or allow what is not needed, instead of the configuration's: on, log or off.
    #[arg(long, value_name = "MODE")]
    sandbox: Option<Sandbox>,
    /// Validate the configuration and print what would run. Touches no device.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    if let Some(code) = manual::written_if_asked(Args::command, "8") {
        return code;
    }
    let (eal_args, args) = split(std::env::args().collect());
    match run(eal_args, Args::parse_from(args)) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("s2ds: {e}");
            notify::status(&e.to_string());
            ExitCode::FAILURE
        }
    }
}

/// DPDK's custom: EAL options before `--`, the program's after it. Without `--` all are the program's.
fn split(all: Vec<String>) -> (Vec<String>, Vec<String>) {
    match all.iter().position(|a| a == "--") {
        None => (Vec::new(), all),
        Some(at) => {
            let own = all.iter().take(1).chain(&all[at + 1..]).cloned().collect();
            (all[1..at].to_vec(), own)
        }
    }
}

fn run(eal_args: Vec<String>, args: Args) -> Result<ExitCode> {
    check_processor()?;
    let mut config = Config::load(&args.config)?;
    if let Some(socket) = args.socket {
        config.service.socket = socket;
    }
    if let Some(sandbox) = args.sandbox {
        config.privileges.sandbox = sandbox;
    }
    let machine = Machine::here()?;
    let placement = topology::place(&config, &machine)?;
    if args.check {
        print!("{}", config.describe());
        println!("Placement\n{}", topology::table(&config, &machine, &placement));
        print_cores(&placement);
        print!("{}", Plan::new(&config, &eal_args)?.describe());
        return Ok(ExitCode::SUCCESS);
    }
    for notice in config.notices.iter().chain(&placement.notices) {
        eprintln!("s2ds: {notice}");
    }

    // Blocked before any thread starts, so that all threads inherit it and only the wait below sees them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| anyhow!("signals cannot be blocked: {e}"))?;

    let socket = config.service.socket.clone();
    let server = Server::start(config, &placement, eal_args)?;
    let workers = server.cores().iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let ready = format!("ready; workers on cores {workers}, control socket {}", socket.display());
    eprintln!("s2ds: {ready}");
    notify::ready(&ready);

    let signal = signals.wait().map_err(|e| anyhow!("signals cannot be waited for: {e}"))?;
    eprintln!("s2ds: {signal}: stopping");
    notify::stopping(&format!("{signal}: stopping"));
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            eprintln!("s2ds: stopped at once by a second signal");
            // The socket is a name in the file system: nobody else would remove it.
            _ = std::fs::remove_file(&socket);
            // Not by way of exit handlers: DPDK's would run under workers that still poll.
            _ = nix::sys::signal::raise(Signal::SIGKILL);
        }
    });
    let stats = server.gateway().clone();
    let clean = server.stop();
    let stats = stats.stats();
    let dropped: u64 = stats.drops.values().sum();
    eprintln!(
        "s2ds: received {} = sent {} + held {} + dropped {dropped}; originated {}",
        stats.received, stats.sent, stats.held, stats.originated
    );
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_cores(placement: &Placement) {
    println!("Cores");
    println!("  main    {}", placement.main);
    for (i, core) in placement.cores().iter().enumerate() {
        println!("  worker {i} on core {core}, queue {i} of every port");
    }
    for notice in &placement.notices {
        println!("  {notice}");
    }
}

/// The program is compiled for a processor with AVX2 and BMI2; on an older one it would end with an illegal instruction.
fn check_processor() -> Result<()> {
    #[cfg(target_arch = "x86_64")]
    {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let Some(flags) = info.lines().find(|l| l.starts_with("flags")) else { return Ok(()) };
        let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
        let built_for = [("avx2", cfg!(target_feature = "avx2")), ("bmi2", cfg!(target_feature = "bmi2"))];
        if let Some((missing, _)) = built_for.iter().find(|(flag, needed)| *needed && !has(flag)) {
            bail!(
                "this processor lacks {missing}, which this build uses; build with RUSTFLAGS=\"-C target-cpu=x86-64-v2\""
            );
        }
    }
    Ok(())
}
