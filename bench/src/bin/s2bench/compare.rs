//! The command `s2bench compare`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use bench::compare::plan::Choice;
use bench::compare::{self, Approach, Ground, Options, Stop, Traffic};
use bench::result::Label;
use bench::stream::Carrier;
use bench::topology::{self, Family};

/// Seconds of a run.
const DURATION: Duration = Duration::from_secs(5);
/// The same of a quick one.
const QUICK: Duration = Duration::from_secs(3);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// One round of short runs without a WAN: shows that it works and what to expect.
    #[arg(long)]
    quick: bool,
    /// Rounds; in each, everything runs once [default: 5, quick: 1].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    rounds: Option<u16>,
    /// How long a stream is measured [default: 5s, quick: 3s].
    #[arg(long, value_parser = duration, value_name = "TIME")]
    duration: Option<Duration>,
    /// Seconds that it runs before: TCP's slow start is every approach's own, and rare beside it is what a relay adds.
    #[arg(long, short = 'O', default_value_t = 1, value_parser = clap::value_parser!(u32).range(..=3600), value_name = "SECONDS")]
    omit: u32,
    /// Who is compared; all when not given.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME,...")]
    approaches: Vec<Approach>,
    /// Profiles to send; when not given, one at a pace and one as fast as it goes.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    profiles: Vec<String>,
    /// A file with further profiles.
    #[arg(long, value_name = "FILE")]
    profile_file: Option<PathBuf>,
    /// What carries the streams; TCP and UDP when not given, what is not paced over TCP alone.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "CARRIER,...")]
    carriers: Vec<Carrier>,
    /// Paths between the gateways: `none`, or presets of `s2bench wan` [default: none,starlight-dallas, quick: none].
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    paths: Vec<String>,
    /// Further options of `s2bench wan` for every path but `none`: "--rate 1G --loss 0.001%".
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        value_name = "OPTIONS"
    )]
    wan: String,
    /// Connections at a time; the profile's number when not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    connections: Option<u16>,
    /// IP family of the streams.
    #[arg(long, value_enum, default_value = "v4")]
    family: Family,
    /// Largest IP packet of every link, in bytes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..=9600))]
    mtu: u16,
    /// Cores of the consumer's gateway and of the producer's; the WAN runs on the latter. The first and the last that may be
    /// used when not given.
    #[arg(long, num_args = 1, value_parser = cores, value_name = "A,B")]
    cores: Option<[usize; 2]>,
    /// Priority of source and sink under SCHED_FIFO, where permitted; what relays has one less. So the approaches are measured, and
    /// not what else the machine does. 0 for none.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=99), value_name = "N")]
    priority: u8,
    /// Prints how each approach would be set up, and runs nothing.
    #[arg(long)]
    settings: bool,
    /// Writes the result as JSON, to standard output without a name; a file is written after each round.
    #[arg(long, num_args = 0..=1, default_missing_value = "-", value_name = "FILE")]
    json: Option<PathBuf>,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text).map_err(|e| e.to_string())? {
        time if time < Duration::from_millis(100) => Err("a run takes 100ms or more".to_owned()),
        time => Ok(time),
    }
}

fn cores(text: &str) -> Result<[usize; 2], String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|n| n.trim().parse()).collect();
    match numbers.as_deref() {
        Ok(&[near, far]) => Ok([near, far]),
        _ => Err("two core numbers are needed, such as 0,1".to_owned()),
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    topology::enter_user_namespace().map_err(anyhow::Error::msg)?;
    compare::check_tools()?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let choice = Choice {
        profiles: args.profiles.clone(),
        file: args.profile_file.clone(),
        carriers: args.carriers.clone(),
        paths: args.paths.clone(),
        wan: args.wan.clone(),
        quick: args.quick,
    };
    let usable = topology::cores();
    let cores = args.cores.unwrap_or([usable[0], usable[usable.len() - 1]]);
    for core in cores {
        ensure!(usable.contains(&core), "core {core} is not among those that may be used: {usable:?}");
    }
    let to_stdout = args.json.as_ref().is_some_and(|file| file.as_os_str() == "-");
    let options = Options {
        title: format!("s2bench {}", words.join(" ")),
        cells: choice.cells(args.mtu)?,
        approaches: match &args.approaches[..] {
            [] => Approach::all().to_vec(),
            chosen => chosen.to_vec(),
        },
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 5 }).into(),
        ground: Ground {
            family: args.family,
            mtu: args.mtu,
            cores,
            priority: compare::permitted_priority(args.priority),
        },
        traffic: Traffic {
            duration: args.duration.unwrap_or(if args.quick { QUICK } else { DURATION }),
            omit: args.omit,
            connections: args.connections,
            profiles: args.profile_file.clone(),
            label: if args.quick { Label::Quick } else { Label::Measured },
        },
        file: args.json.clone().filter(|_| !to_stdout),
    };
    if args.settings {
        print!("{}", compare::settings(&options));
        return Ok(ExitCode::SUCCESS);
    }
    let series = compare::run(&options, &Stop::by_signals()?)?;
    if to_stdout {
        println!("{}", serde_json::to_string_pretty(&series)?);
    } else {
        println!("{}", compare::table(&series));
    }
    if let Some(error) = series.error.as_ref().filter(|_| series.partial) {
        eprintln!("s2bench: the result is partial: {error}");
    }
    Ok(if series.partial { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
