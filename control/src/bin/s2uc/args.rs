//! The command line.

use std::collections::HashMap;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use control::proto::gateway::Protocol;
use control::uc::uri::{HostPort, SessionUri, check_uid};
use forwarder::api::lease;
use ipnet::IpNet;

const AFTER: &str = "\
A token is taken from --token, else from the variable S2UC_TOKEN, else from what `s2uc login` stored for the server.
Options may be written with - or _ between words.

Exit codes:
  0   done
  1   failed
  2   wrong usage, or a request that the server does not understand
  3   refused: by policy, or for want of an identity
  4   no such session
  5   a server, or the forwarder behind it, cannot be reached or trusted
  6   exhausted: no listener, session or rate is left";

/// Asks SciStream's control servers for streams
#[derive(Debug, Parser)]
#[command(name = "s2uc", version, after_help = AFTER)]
pub(crate) struct Cli {
    /// Print JSON; a failure is printed so, too
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open a stream through both gateways
    Open(Open),
    /// End a stream at both gateways at once
    Close(Stream),
    /// Show a stream, and what it carried
    Status(Stream),
    /// Begin a stream's lease anew
    Renew {
        #[command(flatten)]
        stream: Stream,
        /// From now, such as 2h; left out: as long as before
        #[arg(long = "for", value_name = "TIME", value_parser = lease::parse)]
        lease: Option<u64>,
    },
    /// Let no new connection into a stream; it ends with its last one
    Drain(Stream),
    /// List sessions of a gateway, or of a stream's two
    List {
        #[command(flatten)]
        place: Place,
        /// Those of all owners; administrators only
        #[arg(long)]
        all: bool,
    },
    /// Tell every change of state of sessions, or of a stream until it ends
    Watch {
        #[command(flatten)]
        place: Place,
        /// Those of all owners; administrators only
        #[arg(long)]
        all: bool,
    },
    /// Store a token for a server; it is asked for, or read from the standard input or a file
    Login(AtProducer),
    /// Forget what is stored for a server
    Logout(AtProducer),
    /// See whether a server accepts the token
    CheckAuth(AtProducer),
    /// Reserve listeners on the producer's side, and connect them with the producer's ports
    InboundRequest {
        #[command(flatten)]
        server: AtProducer,
        #[command(flatten)]
        request: Request,
        /// Address of the producer
        #[arg(long, value_name = "IP")]
        remote_ip: IpAddr,
        /// Its ports
        #[arg(long, value_name = "PORT", value_delimiter = ',', required = true, value_parser = port())]
        receiver_ports: Vec<u16>,
    },
    /// Reserve listeners on the consumer's side, and connect them with the producer's gateway
    OutboundRequest {
        #[command(flatten)]
        server: AtConsumer,
        #[command(flatten)]
        request: Request,
        /// Taken and not needed
        #[arg(long, value_name = "IP")]
        remote_ip: Option<IpAddr>,
        /// Taken and not needed
        #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = port())]
        receiver_ports: Vec<u16>,
        /// The session, as inbound-request named it
        #[arg(value_parser = uid)]
        uid: String,
        /// Listeners of the producer's gateway, ADDR:PORT,ADDR:PORT...
        #[arg(value_name = "PROD_LSTN", value_delimiter = ',', required = true)]
        targets: Vec<SocketAddr>,
    },
    /// Reserve listeners on the producer's side for an application controller, which says hello
    ProdReq {
        #[command(flatten)]
        server: AtProducer,
        #[command(flatten)]
        request: Request,
    },
    /// End a session at one server
    Release {
        #[command(flatten)]
        server: AtProducer,
        /// The session
        #[arg(value_parser = uid)]
        uid: String,
    },
    /// Tell a server the targets of a session that waits for them: for application controllers
    Hello {
        #[command(flatten)]
        server: AtProducer,
        /// The session
        #[arg(value_parser = uid)]
        uid: String,
        /// Side of the session
        #[arg(long, value_enum, ignore_case = true, default_value = "PROD")]
        role: RoleArg,
        /// Where the stream goes, ADDR:PORT,ADDR:PORT...
        #[arg(long, value_name = "ADDR:PORT", value_delimiter = ',', required = true)]
        targets: Vec<SocketAddr>,
        /// Most tries, for a session that is not there yet
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
        tries: u32,
        /// Time between two tries
        #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = humantime::parse_duration)]
        interval: Duration,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// How to reach and convince servers.
#[derive(Debug, Clone, Args)]
pub(crate) struct Credentials {
    /// PEM file of the only certificates to trust; left out: those stored at login, or else the system's
    #[arg(long, env = "S2UC_SERVER_CERT", value_name = "FILE")]
    pub(crate) server_cert: Option<PathBuf>,
    /// File with the token
    #[arg(long, visible_alias = "token-file", value_name = "FILE")]
    pub(crate) token: Option<PathBuf>,
    /// Name that the token is stored under in place of the server's, such as the server's client id
    #[arg(long, value_name = "ID")]
    pub(crate) scope: Option<String>,
    /// PEM file of one's own certificate, for servers that ask for one
    #[arg(long, env = "S2UC_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    pub(crate) client_cert: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, env = "S2UC_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AtProducer {
    /// The control server
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:5000")]
    pub(crate) s2cs: HostPort,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AtConsumer {
    /// The control server
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:6000")]
    pub(crate) s2cs: HostPort,
    #[command(flatten)]
    pub(crate) credentials: Credentials,
}

#[derive(Debug, Args)]
pub(crate) struct Request {
    /// Listeners
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) num_conn: i32,
    /// Mbit/s to reserve; 0: none
    #[arg(long, value_name = "MBIT/S", default_value_t = 10000, value_parser = clap::value_parser!(i32).range(0..))]
    pub(crate) rate: i32,
    /// Use the uid of examples
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, default_value = "false",
          value_parser = BoolishValueParser::new())]
    pub(crate) mock: bool,
    /// The session's name; left out: a new one
    #[arg(long = "uid", id = "session", value_name = "UID", value_parser = uid, conflicts_with = "mock")]
    pub(crate) name: Option<String>,
}

/// Credentials for both gateways.
#[derive(Debug, Clone, Args)]
pub(crate) struct Both {
    #[command(flatten)]
    pub(crate) credentials: Credentials,
    /// PEM file to trust for the producer's gateway, in place of --server-cert
    #[arg(long, value_name = "FILE")]
    pub(crate) producer_ca: Option<PathBuf>,
    /// PEM file to trust for the consumer's gateway, in place of --server-cert
    #[arg(long, value_name = "FILE")]
    pub(crate) consumer_ca: Option<PathBuf>,
    /// File with the token for the producer's gateway, in place of --token
    #[arg(long, value_name = "FILE")]
    pub(crate) producer_token: Option<PathBuf>,
    /// File with the token for the consumer's gateway, in place of --token
    #[arg(long, value_name = "FILE")]
    pub(crate) consumer_token: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Stream {
    /// The stream, as `s2uc open` named it
    pub(crate) uri: SessionUri,
    /// Whose stream, where it is somebody else's; administrators only
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) owner: Option<String>,
    #[command(flatten)]
    pub(crate) both: Both,
}

/// A stream's two gateways, or one.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// A stream, as `s2uc open` named it
    pub(crate) uri: Option<SessionUri>,
    /// A control server, when no stream is named
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:5000", conflicts_with = "uri")]
    pub(crate) s2cs: HostPort,
    #[command(flatten)]
    pub(crate) both: Both,
}

#[derive(Debug, Args)]
pub(crate) struct Open {
    /// Control server of the producer's side
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) producer_gateway: HostPort,
    /// Control server of the consumer's side
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) consumer_gateway: HostPort,
    /// Where the producer listens; several make several listeners
    #[arg(long, value_name = "ADDR:PORT", value_delimiter = ',', required = true)]
    pub(crate) target: Vec<SocketAddr>,
    /// Where the consumer connects from; left out: what the consumer's site has configured
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', num_args = 1.., value_parser = prefix)]
    pub(crate) from: Vec<IpNet>,
    /// Where the consumer's gateway connects from; left out: the addresses that it tells
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', num_args = 1.., value_parser = prefix)]
    pub(crate) gateway_from: Vec<IpNet>,
    /// Transport of the stream
    #[arg(long, value_enum, default_value = "tcp")]
    pub(crate) proto: ProtoArg,
    /// Most connections at once to each target
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) conns: Option<u32>,
    /// Rate to reserve in either direction, such as 10G; a bare number is Mbit/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate: Option<u64>,
    /// Life of the stream without renewal, such as 2h; left out: the longest that is allowed
    #[arg(long = "for", value_name = "TIME", value_parser = lease::parse)]
    pub(crate) lease: Option<u64>,
    /// A note to keep with it
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) label: Vec<(String, String)>,
    /// The session's name; left out: a new one
    #[arg(long, value_name = "UID", value_parser = uid)]
    pub(crate) uid: Option<String>,
    /// Port of the producer's gateway to listen on
    #[arg(long, value_name = "NAME")]
    pub(crate) producer_path: Option<String>,
    /// Port of the consumer's gateway to listen on
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer_path: Option<String>,
    #[command(flatten)]
    pub(crate) both: Both,
}

impl Open {
    pub(crate) fn labels(&self) -> HashMap<String, String> {
        self.label.iter().cloned().collect()
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ProtoArg {
    Tcp,
    Udp,
    /// UDP
    Quic,
}

impl From<ProtoArg> for Protocol {
    fn from(proto: ProtoArg) -> Protocol {
        match proto {
            ProtoArg::Tcp => Protocol::Tcp,
            ProtoArg::Udp | ProtoArg::Quic => Protocol::Udp,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
pub(crate) enum RoleArg {
    Prod,
    Cons,
}

impl RoleArg {
    pub(crate) fn name(self) -> String {
        match self {
            RoleArg::Prod => "PROD".to_owned(),
            RoleArg::Cons => "CONS".to_owned(),
        }
    }
}

/// Options in the one spelling that clap knows: `--num_conn=5` as `--num-conn=5`.
pub(crate) fn one_spelling(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut options = true;
    args.map(|arg| match arg.to_str() {
        Some("--") => {
            options = false;
            arg
        }
        Some(text) if options && text.starts_with("--") => match text.split_once('=') {
            Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
            None => text.replace('_', "-").into(),
        },
        _ => arg,
    })
    .collect()
}

fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

fn uid(text: &str) -> Result<String, String> {
    check_uid(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().map(|address: IpAddr| IpNet::from(address));
    text.parse().or_else(|_| address()).map_err(|_| "write it like 10.1.0.0/16 or 10.1.2.3".to_owned())
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it like run=42".to_owned()),
    }
}

/// Mbit/s of a text such as `10G`, `2.5G`, `400M` or `400`.
fn rate(text: &str) -> Result<u64, String> {
    let wrong = || "write it like 10G or 400M, at least 1M".to_owned();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let factor = match unit {
        "" | "M" => 1.0,
        "G" => 1e3,
        "T" => 1e6,
        _ => return Err(wrong()),
    };
    let number: f64 = text[..text.len() - unit.len()].parse().map_err(|_| wrong())?;
    let rate = number * factor;
    // Up to there every whole number is exact.
    if !(1.0..=9e15).contains(&rate) || (rate - rate.round()).abs() > 1e-6 {
        return Err(wrong());
    }
    Ok(rate.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn rates_are_read_in_megabits_a_second() {
        for (text, mbps) in
            [("10G", 10_000), ("2.5G", 2_500), ("400M", 400), ("1", 1), ("0.1G", 100), ("1T", 1_000_000)]
        {
            assert_eq!(rate(text), Ok(mbps), "{text}");
        }
        for text in ["", "G", "0", "1.5M", "10K", "10GB", "-1", "1e9", "..", "99999999999T"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_names_of_options_are_respelled() {
        let args = ["s2uc", "--num_conn", "a_b", "--server_cert=a_b", "--", "--c_d"];
        let read = one_spelling(args.into_iter().map(OsString::from));
        assert_eq!(read, ["s2uc", "--num-conn", "a_b", "--server-cert=a_b", "--", "--c_d"]);
    }
}
