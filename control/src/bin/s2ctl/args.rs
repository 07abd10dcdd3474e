//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use control::args::ProtoArg;
use forwarder::api::{self, FlowSpec, MssClamp, Request, lease, rate};
use ipnet::IpNet;

const EXIT_CODES: &str = "\
Exit codes:
  0   done; explain: the packet would be forwarded
  1   the forwarder or s2ctl failed
  2   wrong usage, or a request that the forwarder does not accept
  3   no such flow or port
  4   conflict: the name or the listen address is taken
  5   permission denied
  6   s2ds cannot be reached
  7   full: a table of the forwarder, or too many clients
  8   s2ds and s2ctl speak different versions
  10  explain: the packet would be dropped
  11  preflight: something keeps s2ds from working";

/// Operates a running s2ds through its control socket.
#[derive(Debug, Parser)]
#[command(name = "s2ctl", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Control socket of s2ds
    #[arg(long, global = true, env = "S2DS_SOCKET", default_value = api::DEFAULT_SOCKET, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Print replies as JSON, one a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Flows: add, replace, delete, drain, renew, show, list
    #[command(subcommand)]
    Flow(Flow),
    /// Connections
    #[command(subcommand)]
    Conn(Conn),
    /// Ports
    #[command(subcommand)]
    Port(Port),
    /// Counters of workers, queues and drops
    Stats {
        /// Go on, and show rates
        #[arg(long)]
        watch: bool,
        /// Time between two readings
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval, requires = "watch")]
        interval: Duration,
    },
    /// What would become of a packet, and why
    Explain {
        /// Port it arrives at
        #[arg(long, value_name = "NAME")]
        port: String,
        /// Its protocol
        #[arg(long, value_enum)]
        proto: ProtoArg,
        /// Its source
        #[arg(long, value_name = "ADDR:PORT")]
        src: SocketAddr,
        /// Its destination
        #[arg(long, value_name = "ADDR:PORT")]
        dst: SocketAddr,
    },
    /// The whole state at one moment
    Snapshot,
    /// Is this host set up so that s2ds works, and works well? Needs no running s2ds
    Preflight(Preflight),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Flow {
    /// Install a new flow
    Add(Spec),
    /// Put another flow in place of the one with this name
    Replace(Spec),
    /// Remove a flow and its connections at once
    #[command(visible_alias = "delete")]
    Del(Named),
    /// Admit nothing new; the flow goes with its last connection
    Drain(Named),
    /// One flow in full
    Show(Named),
    /// Begin a flow's lease anew
    Renew {
        #[command(flatten)]
        flow: Named,
        /// New lease; left out: the one it has
        #[arg(long, value_name = "TIME", value_parser = lease::parse)]
        lease: Option<u64>,
    },
    /// All flows
    List,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The flow's name
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Unique name, 1 to 64 characters of A-Za-z0-9._:@-
    name: String,
    /// TCP, or UDP, which carries QUIC
    #[arg(long, value_enum)]
    proto: ProtoArg,
    /// Address of the forwarder, and port, that clients open
    #[arg(long, value_name = "ADDR:PORT")]
    listen: SocketAddr,
    /// Where the stream goes
    #[arg(long, value_name = "ADDR:PORT")]
    target: SocketAddr,
    /// Source prefixes that may open connections
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', required = true)]
    from: Vec<IpNet>,
    /// Most connections at once
    #[arg(long, value_name = "N")]
    max_conns: Option<u32>,
    /// Largest TCP segment the ends may announce, in bytes, or auto: what fits the MTUs of both ports
    #[arg(long, value_name = "BYTES|auto")]
    mss_clamp: Option<MssClamp>,
    /// Let clients open the listen address from behind other ports, too
    #[arg(long)]
    hairpin: bool,
    /// Bits a second that pass in each direction, such as 500M or 10G
    #[arg(long, value_name = "RATE", value_parser = rate::parse)]
    rate: Option<u64>,
    /// How long the flow lives without renewal, such as 1h or 90s
    #[arg(long, value_name = "TIME", value_parser = lease::parse)]
    lease: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Conn {
    /// Connections with their four endpoints
    List {
        /// Only this flow's
        #[arg(long, value_name = "NAME")]
        flow: Option<String>,
        /// Most to show
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Port {
    /// Ports with their counters and neighbors
    List,
    /// One port in full: its device and link, what the device does and why not more, queues, counters
    Show {
        /// The port's name
        name: String,
        /// Also those of the driver's counters that are zero
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Preflight {
    /// Configuration of s2ds: its ports, cores and memory are checked; left out: the host in general
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Round-trip time of the path that streams take, such as 20ms: adds what the ends of a TCP connection need
    #[arg(long, value_name = "TIME", value_parser = rtt, requires = "rate")]
    pub(crate) rtt: Option<Duration>,
    /// What one TCP connection shall carry over that path, such as 100G
    #[arg(long, value_name = "RATE", value_parser = rate::parse, requires = "rtt")]
    pub(crate) rate: Option<u64>,
    /// Mend what is safe, after asking for each: settings of the running kernel that a restart undoes
    #[arg(long)]
    pub(crate) fix: bool,
    /// With --fix: do not ask
    #[arg(long, requires = "fix")]
    pub(crate) yes: bool,
    /// Read and mend the /sys and /proc below this folder instead of the machine's
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub(crate) root: Option<PathBuf>,
}

impl From<Spec> for FlowSpec {
    fn from(spec: Spec) -> FlowSpec {
        let Spec { name, proto, listen, target, from, max_conns, mss_clamp, hairpin, rate, lease } = spec;
        FlowSpec {
            name,
            proto: proto.into(),
            listen,
            target,
            from,
            max_conns,
            mss_clamp,
            hairpin,
            rate,
            lease,
        }
    }
}

impl From<Flow> for Request {
    fn from(flow: Flow) -> Request {
        match flow {
            Flow::Add(spec) => Request::FlowAdd { spec: spec.into() },
            Flow::Replace(spec) => Request::FlowReplace { spec: spec.into() },
            Flow::Del(Named { name }) => Request::FlowDelete { name },
            Flow::Drain(Named { name }) => Request::FlowDrain { name },
            Flow::Show(Named { name }) => Request::FlowShow { name },
            Flow::Renew { flow: Named { name }, lease } => Request::LeaseRenew { name, lease },
            Flow::List => Request::FlowList,
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if !interval.is_zero() => Ok(interval),
        _ => Err("write it like \"1s\" or \"500ms\", more than zero".to_owned()),
    }
}

fn rtt(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(10);
    match humantime::parse_duration(text) {
        Ok(rtt) if !rtt.is_zero() && rtt <= most => Ok(rtt),
        _ => Err("write it like \"20ms\" or \"500us\", more than zero and at most 10s".to_owned()),
    }
}
