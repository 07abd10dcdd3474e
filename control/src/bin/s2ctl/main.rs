//! `s2ctl`: the operator's tool for the forwarder on this machine.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use control::client::{Client, ClientError};
use forwarder::api::{ApiError, ErrorCode, Reply, Request, Stats};
use forwarder::config::ConfigError;
use forwarder::manual;

mod args;
mod port;
mod preflight;
mod show;

use args::{Cli, Command, Conn, Port};

/// Exit code of `explain` for a packet that would be dropped.
const DROPPED: u8 = 10;

fn main() -> ExitCode {
    if let Some(code) = manual::written_if_asked(Cli::command, "1") {
        return code;
    }
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone too the exit code has to say it alone.
            _ = writeln!(io::stderr(), "s2ctl: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let request = match cli.command {
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "s2ctl", &mut script);
            io::stdout().write_all(&script)?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Flow(flow) => flow.into(),
        Command::Conn(Conn::List { flow, limit }) => Request::ConnectionList { flow, limit },
        Command::Port(Port::List) => Request::PortList,
        Command::Port(Port::Show { name, all }) => Request::PortShow { name, all },
        Command::Stats { watch, interval } => {
            let mut client = Client::connect(&cli.socket)?;
            if watch {
                return watch_stats(&mut client, interval, cli.json);
            }
            return print(&client.call(Request::Stats)?, cli.json);
        }
        Command::Explain { port, proto, src, dst } => {
            Request::Explain { port, proto: proto.into(), src, dst }
        }
        Command::Snapshot => Request::Snapshot,
        Command::Preflight(args) => return preflight::run(&args, &cli.socket, cli.json),
    };
    print(&Client::connect(&cli.socket)?.call(request)?, cli.json)
}

fn print(reply: &Reply, json: bool) -> anyhow::Result<ExitCode> {
    let text = if json { serde_json::to_string(reply)? + "\n" } else { show::reply(reply) };
    io::stdout().write_all(text.as_bytes())?;
    Ok(match reply {
        Reply::Explained { explanation } if explanation.verdict != "forward" => ExitCode::from(DROPPED),
        _ => ExitCode::SUCCESS,
    })
}

/// Reads the counters again and again until interrupted or until nobody reads the output.
fn watch_stats(client: &mut Client, interval: Duration, json: bool) -> anyhow::Result<ExitCode> {
    let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[2J" } else { "" };
    let mut before: Option<(Stats, Instant)> = None;
    loop {
        let reply = client.call(Request::Stats)?;
        let now = Instant::now();
        let Reply::Stats { stats } = &reply else {
            anyhow::bail!("s2ds answered `stats` with something else")
        };
        if json {
            print(&reply, true)?;
        } else {
            let since = before.as_ref().map(|(stats, at)| (stats, now - *at));
            let text = format!("{clear}{}\n", show::stats(stats, since));
            io::stdout().write_all(text.as_bytes())?;
        }
        io::stdout().flush()?;
        before = Some((stats.clone(), now));
        std::thread::sleep(interval);
    }
}

/// The reader of our output has enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ClientError>() {
        None if error.is::<ConfigError>() => 2,
        None => 1,
        Some(ClientError::Api(ApiError { code, .. })) => match code {
            ErrorCode::Internal => 1,
            ErrorCode::BadRequest => 2,
            ErrorCode::NotFound => 3,
            ErrorCode::Conflict => 4,
            ErrorCode::Denied => 5,
            ErrorCode::Full => 7,
            ErrorCode::Version => 8,
        },
        Some(ClientError::Permission { .. }) => 5,
        Some(ClientError::NotRunning { .. } | ClientError::Broken { .. } | ClientError::Foreign { .. }) => 6,
    }
}
