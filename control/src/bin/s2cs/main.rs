//! `s2cs`: SciStream's control server.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use control::certificate::Certificate;
use control::config::{Config, Options};
use control::identity::tokens::TokenFile;
use control::identity::{Authenticator, ProviderConfig};
use control::init::{self, Existing};
use control::policy::Policy;
use forwarder::api::table::Table;
use forwarder::manual;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

mod args;

use args::{Check, Cli, Command, Serve, Token};

/// Exit code of `policy check` for a request that would be refused.
const REFUSED: u8 = 3;

fn main() -> ExitCode {
    if let Some(code) = manual::written_if_asked(Cli::command, "8") {
        return code;
    }
    // The first there is stays, and nobody was before us.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            _ = writeln!(io::stderr(), "s2cs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        None => return run_server(&cli.serve),
        Some(Command::Init { directory, names, force, keep, owner }) => {
            let existing = match (force, keep) {
                (true, _) => Existing::Replace,
                (_, true) => Existing::Keep,
                _ => Existing::Refuse,
            };
            print(&init::init(&directory, &names, existing, owner.as_deref())?.to_string())?;
        }
        Some(Command::Policy(args::Policy::Check(check))) => return check_policy(&check),
        Some(Command::Token(token)) => change_tokens(token)?,
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "s2cs", &mut script);
            io::stdout().write_all(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_server(serve: &Serve) -> Result<ExitCode> {
    start_log(serve);
    let config = Config::load(serve.config.as_deref(), &serve.options)?;
    if serve.check {
        print(&describe(&config)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Calls are short, and most cores of the machine are the forwarder's.
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("the asynchronous runtime cannot start")?
        .block_on(self::serve(config))?;
    Ok(ExitCode::SUCCESS)
}

/// Serves until told to stop.
async fn serve(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            // Without it, only a signal of the other kind stops us.
            Ok(()) = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("told to stop; sessions go on");
    };
    let ready = |address| {
        // Nobody may be reading.
        _ = print(&format!("s2cs: serving on {address}\n"));
    };
    control::server::run(config, stop, ready).await
}

/// To stderr, with RUST_LOG if that is set.
fn start_log(serve: &Serve) {
    let level = if serve.verbose { "s2cs=debug,control=debug,info" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    if serve.log_json {
        log.json().init();
    } else {
        log.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init();
    }
}

/// Reads all that the configuration names, and tells what would run.
fn describe(config: &Config) -> Result<String> {
    let policy = Policy::load(&config.policy.file)?;
    let certificate = Certificate::load(&config.server.certificate, &config.server.key)?;
    if !config.insecure_no_authentication {
        Authenticator::new(&config.identity, &config.directory)?;
    }

    let mut server = Table::new(&["NAMES", "EXPIRES"]);
    server.row([
        certificate.names.join(", "),
        humantime::format_rfc3339_seconds(certificate.expires).to_string(),
    ]);
    let mut identities = Table::new(&["NAME", "KIND"]);
    for provider in &config.identity {
        let kind = match provider {
            ProviderConfig::Introspection(_) => "introspection",
            ProviderConfig::Jwt(_) => "jwt",
            ProviderConfig::Certificate(_) => "certificate",
            ProviderConfig::Tokens(_) => "tokens",
        };
        identities.row([provider.name().to_owned(), kind.to_owned()]);
    }
    let mut text = format!("Configuration\n{}\nCertificate\n{server}\n", config.describe());
    if config.insecure_no_authentication {
        text.push_str("Identities\nnone is asked for: everybody who reaches the port is let in\n");
    } else {
        text.push_str(&format!("Identities\n{identities}"));
    }
    text.push_str(&format!("\nPolicy\n{}", policy.describe()));
    let known: Vec<_> = config.identity.iter().map(ProviderConfig::name).collect();
    let mut notices = policy.strange_issuers(&known);
    let left = certificate.expires.duration_since(SystemTime::now()).unwrap_or_default();
    if left < Duration::from_secs(14 * 86_400) {
        notices.push(
            "the certificate has expired or does so within 14 days; renew it, as clients refuse one that has"
                .to_owned(),
        );
    }
    for notice in notices {
        text.push_str(&format!("\nNotice: {notice}\n"));
    }
    Ok(text)
}

fn check_policy(check: &Check) -> Result<ExitCode> {
    let path = match &check.policy {
        Some(policy) => policy.clone(),
        None => Config::load(check.config.as_deref(), &Options::default())?.policy.file,
    };
    let explanation = Policy::load(&path)?.explain(&check.principal(), &check.ask());
    print(&if check.json { serde_json::to_string(&explanation)? + "\n" } else { explanation.to_string() })?;
    Ok(if explanation.grant.is_some() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

fn change_tokens(token: Token) -> Result<()> {
    match token {
        Token::Add { file, name, groups, expires } => {
            let mut tokens = TokenFile::load(file.path)?;
            let secret = tokens.add(&name, groups, expires)?;
            tokens.save()?;
            print(&format!("{}\n", secret.expose()))
        }
        Token::Remove { file, name } => {
            let mut tokens = TokenFile::load(file.path)?;
            tokens.remove(&name)?;
            Ok(tokens.save()?)
        }
        Token::List { file } => {
            let mut table = Table::new(&["NAME", "GROUPS", "CREATED", "EXPIRES"]);
            let time = |time: Option<SystemTime>| {
                time.map_or_else(
                    || "-".to_owned(),
                    |time| humantime::format_rfc3339_seconds(time).to_string(),
                )
            };
            for token in TokenFile::load(file.path)?.tokens() {
                table.row([
                    token.name.clone(),
                    token.groups.join(", "),
                    time(token.created),
                    time(token.expires),
                ]);
            }
            print(&table.to_string())
        }
    }
}

fn print(text: &str) -> Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// The reader of our output has enough, as `head` does.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}
