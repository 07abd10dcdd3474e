//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand, ValueEnum};
use control::args::ProtoArg;
use control::config::Options;
use control::file::parse_prefix;
use control::identity::Principal;
use control::policy::{Ask, Role};
use forwarder::api::{lease, rate};
use ipnet::IpNet;

const EXIT_CODES: &str = "\
Exit codes:
  0  done; policy check: granted
  1  s2cs failed, or its configuration is wrong
  2  wrong usage
  3  policy check: refused";

/// SciStream control server: lets users open streams through the forwarder on this machine, as far as policy goes.
#[derive(Debug, Parser)]
#[command(name = "s2cs", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) serve: Serve,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Without a subcommand: serve.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Configuration (TOML); left out: /etc/scistream/s2cs.toml, if it is there
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: Options,
    /// Log what happens in detail
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Log as JSON, one line an event
    #[arg(long, alias = "log_json")]
    pub(crate) log_json: bool,
    /// Validate configuration, policy, certificate and identities, and print what would run
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a development CA, certificate, policy, token and configuration
    Init {
        /// Directory for them
        #[arg(default_value = ".")]
        directory: PathBuf,
        /// Further host name or address of this server, for its certificate
        #[arg(long = "name", value_name = "HOST")]
        names: Vec<String>,
        /// Replace what is there
        #[arg(long, conflicts_with = "keep")]
        force: bool,
        /// Leave what is there, and make what is missing
        #[arg(long)]
        keep: bool,
        /// User who is to own the key and the tokens' file, such as the one that s2cs runs as; left out: you
        #[arg(long, value_name = "USER")]
        owner: Option<String>,
    },
    /// Rules: what they would decide
    #[command(subcommand)]
    Policy(Policy),
    /// Tokens of this site's own users: add, remove, list
    #[command(subcommand)]
    Token(Token),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Explain what would be decided about a request
    Check(Box<Check>),
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Policy file
    #[arg(long, value_name = "FILE", required_unless_present = "config", conflicts_with = "config")]
    pub(crate) policy: Option<PathBuf>,
    /// Configuration that names the policy file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The user, such as alice@site
    #[arg(long = "as", value_name = "SUBJECT")]
    subject: String,
    /// A further name of the user, such as an e-mail address
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// A group of the user
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Identity provider that has proved the user; left out: what follows @ in the subject
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Side of the session
    #[arg(long, value_enum)]
    role: RoleArg,
    /// TCP, or UDP, which carries QUIC
    #[arg(long, value_enum, default_value = "tcp")]
    proto: ProtoArg,
    /// Where the stream goes
    #[arg(long = "target", value_name = "ADDR:PORT")]
    targets: Vec<SocketAddr>,
    /// Source prefixes that are to connect; left out: the site's defaults
    #[arg(long = "from", value_name = "PREFIX", value_delimiter = ',', value_parser = parse_prefix)]
    sources: Vec<IpNet>,
    /// Listeners; left out: one a target
    #[arg(long, alias = "num_conn", value_name = "N")]
    listeners: Option<u32>,
    /// Connections at once through each listener
    #[arg(long = "conns", value_name = "N")]
    connections: Option<u32>,
    /// Rate to reserve, such as 10G, or in Mbit/s
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    rate: Option<u64>,
    /// How long the session is to live, such as 2h
    #[arg(long = "for", value_name = "TIME", value_parser = lease::parse)]
    lease: Option<u64>,
    /// Print the explanation as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Check {
    pub(crate) fn principal(&self) -> Principal {
        let after_at = self.subject.rsplit_once('@').map_or("", |(_, issuer)| issuer);
        Principal {
            subject: self.subject.clone(),
            issuer: self.issuer.clone().unwrap_or_else(|| after_at.to_owned()),
            names: self.names.clone(),
            groups: self.groups.clone(),
            expires: None,
        }
    }

    pub(crate) fn ask(&self) -> Ask {
        let one_a_target = u32::try_from(self.targets.len().max(1)).unwrap_or(u32::MAX);
        Ask {
            role: self.role.into(),
            proto: self.proto.into(),
            targets: self.targets.clone(),
            sources: Some(self.sources.clone()).filter(|sources| !sources.is_empty()),
            listeners: self.listeners.unwrap_or(one_a_target),
            connections: self.connections,
            rate: self.rate,
            lease: self.lease.map(Duration::from_secs),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token for a user and print it: the only copy
    Add {
        #[command(flatten)]
        file: TokenPath,
        /// The user
        name: String,
        /// A group of the user
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// When it ends, such as 30d from now; left out: never
        #[arg(long, value_name = "TIME", value_parser = from_now)]
        expires: Option<SystemTime>,
    },
    /// Take a user's token away
    Remove {
        #[command(flatten)]
        file: TokenPath,
        /// The user
        name: String,
    },
    /// Show who has tokens
    List {
        #[command(flatten)]
        file: TokenPath,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenPath {
    /// File of hashed tokens, as an identity of kind tokens in the configuration names it
    #[arg(long = "file", value_name = "FILE")]
    pub(crate) path: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    #[value(alias = "PROD", alias = "prod")]
    Producer,
    #[value(alias = "CONS", alias = "cons")]
    Consumer,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Role {
        match role {
            RoleArg::Producer => Role::Producer,
            RoleArg::Consumer => Role::Consumer,
        }
    }
}

fn from_now(text: &str) -> Result<SystemTime, String> {
    let seconds =
        lease::parse(text).map_err(|_| format!("{text:?} is not a duration; write it like \"30d\""))?;
    let end = SystemTime::now().checked_add(Duration::from_secs(seconds));
    end.ok_or_else(|| format!("{text:?} is too far away; leave it out for a token without end"))
}
