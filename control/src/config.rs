//! Configuration of `s2cs`: TOML, overridden by the command line, every default filled in, every value checked.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forwarder::api::{self, rate, table::Table};
use serde::Deserialize;

use crate::file::{self, FileError, Ports, duration, within};
use crate::identity::{ProviderConfig, Secret};

/// Where the configuration is when the command line names none.
pub const DEFAULT_FILE: &str = "/etc/scistream/s2cs.toml";

/// The configuration of `s2cs`. Paths are absolute or relative to the working directory, no longer to the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    #[serde(default)]
    pub server: Server,
    /// The forwarder that is programmed.
    #[serde(default)]
    pub forwarder: Forwarder,
    /// Where sessions listen.
    #[serde(default)]
    pub listeners: Listeners,
    /// Bounds of sessions that are not yet active.
    #[serde(default)]
    pub sessions: Sessions,
    /// Mbit/s that sessions may reserve at each port of the forwarder, by the port's name; a port that is not here
    /// has its link's speed.
    #[serde(default, deserialize_with = "capacities")]
    pub capacity: BTreeMap<String, u64>,
    /// Durable state.
    #[serde(default)]
    pub state: State,
    /// Audit log.
    #[serde(default)]
    pub audit: Audit,
    /// Metrics and health.
    #[serde(default)]
    pub metrics: Metrics,
    /// Who may do what.
    #[serde(default)]
    pub policy: Policy,
    /// Ways to prove an identity, in the order in which they are tried.
    #[serde(default)]
    pub identity: Vec<ProviderConfig>,
    /// Where relative paths of `identity` begin: the file's directory.
    #[serde(skip)]
    pub directory: PathBuf,
    /// Serve callers without identity, from the command line only.
    #[serde(skip)]
    pub insecure_no_authentication: bool,
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Address and port of both services; port 0 takes any, which the first line of output tells.
    pub listen: SocketAddr,
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// TLS connections at once, at least 1.
    #[serde(deserialize_with = "within::<1, 1_000_000, _>")]
    pub connections: u32,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 5000).into(),
            certificate: "server.crt".into(),
            key: "server.key".into(),
            connections: 4096,
        }
    }
}

/// `[forwarder]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forwarder {
    /// Control socket of s2ds.
    pub socket: PathBuf,
    /// Flows named `OWNER:...` belong to this s2cs. 1 to 16 characters of `A-Za-z0-9._-`.
    pub owner: String,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self { socket: api::DEFAULT_SOCKET.into(), owner: "s2cs".to_owned() }
    }
}

/// `[listeners]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listeners {
    /// TCP and UDP port numbers.
    pub ports: Ports,
    /// Ports of the forwarder, by name, for sessions on the producer's side; the first is the default. Not empty.
    pub producer: Vec<String>,
    /// The same for sessions on the consumer's side.
    pub consumer: Vec<String>,
    /// Only these of the ports' addresses; empty: all of them.
    pub addresses: Vec<IpAddr>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self {
            ports: Ports { first: 5100, last: 5200 },
            producer: vec!["wan".to_owned()],
            consumer: vec!["lan".to_owned()],
            addresses: Vec::new(),
        }
    }
}

/// `[sessions]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sessions {
    /// `req` calls that wait for `hello`, in all, at least 1.
    #[serde(deserialize_with = "within::<1, 1_000_000, _>")]
    pub pending: u32,
    /// The same of one user, at least 1.
    #[serde(deserialize_with = "within::<1, 1_000_000, _>")]
    pub pending_per_user: u32,
    /// How long `req` waits for `hello`, 1 second to 1 hour.
    #[serde(deserialize_with = "duration::<3600, _>")]
    pub hello: Duration,
    /// How long `update` may come after `hello`, 1 second to 1 hour.
    #[serde(deserialize_with = "duration::<3600, _>")]
    pub update: Duration,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            pending: 4096,
            pending_per_user: 64,
            hello: Duration::from_secs(180),
            update: Duration::from_secs(60),
        }
    }
}

/// `[state]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// The database.
    pub file: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self { file: "/var/lib/scistream/s2cs.redb".into() }
    }
}

/// `[audit]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// One JSON line a decision; none: to the log.
    pub file: Option<PathBuf>,
}

/// `[metrics]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// A loopback address and port for `/metrics` and `/healthz`; none: not served.
    #[serde(deserialize_with = "loopback")]
    pub listen: Option<SocketAddr>,
}

/// `[policy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Rules, see [`crate::policy`].
    pub file: PathBuf,
}

impl Default for Policy {
    fn default() -> Self {
        Self { file: "policy.toml".into() }
    }
}

/// Command line of `s2cs` as users know it, in both spellings. Each option overrides the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Port that clients connect to
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Address that sessions listen on, one of the forwarder's; 0.0.0.0 and :: mean all
    #[arg(long, alias = "listener_ip", value_name = "IP")]
    pub listener_ip: Option<IpAddr>,
    /// Ports that sessions listen on
    #[arg(long, alias = "port_range", value_name = "FIRST-LAST")]
    pub port_range: Option<Ports>,
    /// Certificate chain, PEM
    #[arg(long, alias = "server_crt", value_name = "FILE")]
    pub server_crt: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, alias = "server_key", value_name = "FILE")]
    pub server_key: Option<PathBuf>,
    /// Let users of Globus Auth in: this server's client there
    #[arg(long, alias = "client_id", value_name = "ID")]
    pub client_id: Option<String>,
    /// Secret of that client; better in the environment, where other users do not see it
    #[arg(
        long,
        alias = "client_secret",
        value_name = "SECRET",
        env = "S2CS_CLIENT_SECRET",
        hide_env_values = true
    )]
    pub client_secret: Option<Secret>,
    /// Control socket of s2ds
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Serve callers who prove no identity. Whoever reaches the port may do what policy allows to everybody
    #[arg(long, alias = "insecure_no_authentication")]
    pub insecure_no_authentication: bool,
}

impl Config {
    /// Reads the file, fills defaults in, lets `options` override, and checks the whole. Without a path it is
    /// [`DEFAULT_FILE`], if that is there; otherwise options and defaults make the configuration.
    ///
    /// # Errors
    /// A sentence that names the file, the place and the mend.
    pub fn load(path: Option<&Path>, options: &Options) -> Result<Self, FileError> {
        let (path, text) = match path {
            Some(path) => (path, file::read(path)?),
            None if Path::new(DEFAULT_FILE).exists() => {
                (Path::new(DEFAULT_FILE), file::read(Path::new(DEFAULT_FILE))?)
            }
            None => (Path::new(DEFAULT_FILE), String::new()),
        };
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, &path.display().to_string(), directory, options)
    }

    /// As [`Config::load`], from a text called `name`, whose relative paths begin at `directory`.
    ///
    /// # Errors
    /// A sentence that names the text, the place and the mend.
    pub fn parse(text: &str, name: &str, directory: &Path, options: &Options) -> Result<Self, FileError> {
        let mut config: Self = file::from_toml(text, name)?;
        config.resolve(directory);
        config
            .apply(options)
            .and_then(|()| config.check())
            .map_err(|message| FileError::whole(name, message))?;
        Ok(config)
    }

    fn resolve(&mut self, directory: &Path) {
        self.directory = directory.to_owned();
        for path in [
            &mut self.server.certificate,
            &mut self.server.key,
            &mut self.forwarder.socket,
            &mut self.state.file,
            &mut self.policy.file,
        ]
        .into_iter()
        .chain(&mut self.audit.file)
        {
            *path = directory.join(&*path);
        }
    }

    fn apply(&mut self, options: &Options) -> Result<(), String> {
        let set = |path: &mut PathBuf, option: &Option<PathBuf>| {
            if let Some(option) = option {
                path.clone_from(option);
            }
        };
        set(&mut self.server.certificate, &options.server_crt);
        set(&mut self.server.key, &options.server_key);
        set(&mut self.forwarder.socket, &options.socket);
        if let Some(port) = options.port {
            self.server.listen.set_port(port);
        }
        if let Some(ports) = options.port_range {
            self.listeners.ports = ports;
        }
        if let Some(address) = options.listener_ip {
            self.listeners.addresses = vec![address];
        }
        self.insecure_no_authentication = options.insecure_no_authentication;
        if let Some(id) = &options.client_id {
            let secret = options.client_secret.clone().ok_or_else(|| {
                "--client_id needs the client's secret; give it in the environment as S2CS_CLIENT_SECRET"
                    .to_owned()
            })?;
            let globus = ProviderConfig::globus(id.clone(), secret);
            self.identity.retain(|provider| provider.name() != globus.name());
            self.identity.insert(0, globus);
        }
        Ok(())
    }

    /// What no single value shows.
    fn check(&mut self) -> Result<(), String> {
        let owner = &self.forwarder.owner;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if owner.is_empty() || owner.len() > 16 || !owner.chars().all(plain) {
            return Err(format!("forwarder.owner: {owner:?} must be 1 to 16 characters of A-Za-z0-9._-"));
        }
        for (key, ports) in [("producer", &self.listeners.producer), ("consumer", &self.listeners.consumer)] {
            if ports.is_empty() || ports.iter().any(String::is_empty) {
                return Err(format!(
                    "listeners.{key}: name at least one port of the forwarder, as in s2ds.toml"
                ));
            }
            if ports.iter().collect::<BTreeSet<_>>().len() < ports.len() {
                return Err(format!("listeners.{key}: names a port twice"));
            }
        }
        // An unspecified address stands for all of them, as upstream's default does.
        if self.listeners.addresses.iter().any(IpAddr::is_unspecified) {
            self.listeners.addresses.clear();
        }
        let known = || self.listeners.producer.iter().chain(&self.listeners.consumer);
        if let Some(port) = self.capacity.keys().find(|port| !known().any(|k| k == *port)) {
            return Err(format!("capacity.{port}: no session listens there; name a port of [listeners]"));
        }
        if self.sessions.pending_per_user > self.sessions.pending {
            return Err("sessions.pending_per_user: must not be above sessions.pending".to_owned());
        }
        Ok(())
    }

    /// What would run, as tables for people. Shows no secret.
    pub fn describe(&self) -> String {
        let mut table = Table::new(&["KEY", "VALUE"]);
        let mut row = |key: &str, value: String| table.row([key.to_owned(), value]);
        let path = |path: &Path| path.display().to_string();
        let time = |time: Duration| humantime::format_duration(time).to_string();
        row("server.listen", self.server.listen.to_string());
        row("server.certificate", path(&self.server.certificate));
        row("server.key", path(&self.server.key));
        row("server.connections", self.server.connections.to_string());
        row("forwarder.socket", path(&self.forwarder.socket));
        row("forwarder.owner", self.forwarder.owner.clone());
        row("listeners.ports", self.listeners.ports.to_string());
        row("listeners.producer", self.listeners.producer.join(", "));
        row("listeners.consumer", self.listeners.consumer.join(", "));
        let addresses: Vec<_> = self.listeners.addresses.iter().map(IpAddr::to_string).collect();
        row(
            "listeners.addresses",
            if addresses.is_empty() { "all".to_owned() } else { addresses.join(", ") },
        );
        row("sessions.pending", self.sessions.pending.to_string());
        row("sessions.pending_per_user", self.sessions.pending_per_user.to_string());
        row("sessions.hello", time(self.sessions.hello));
        row("sessions.update", time(self.sessions.update));
        for (port, mbits) in &self.capacity {
            row(&format!("capacity.{port}"), rate::show(*mbits));
        }
        row("state.file", path(&self.state.file));
        row("audit.file", self.audit.file.as_deref().map_or_else(|| "to the log".to_owned(), path));
        row("metrics.listen", self.metrics.listen.map_or_else(|| "none".to_owned(), |a| a.to_string()));
        row("policy.file", path(&self.policy.file));
        let providers: Vec<_> = self.identity.iter().map(ProviderConfig::name).collect();
        let everybody = "none: everybody who reaches the port is let in".to_owned();
        row("identity", if self.insecure_no_authentication { everybody } else { providers.join(", ") });
        table.to_string()
    }
}

fn capacities<'de, D: serde::Deserializer<'de>>(d: D) -> Result<BTreeMap<String, u64>, D::Error> {
    #[derive(Deserialize)]
    struct Rate(#[serde(deserialize_with = "rate::deserialize")] Option<u64>);
    let rates = BTreeMap::<String, Rate>::deserialize(d)?;
    Ok(rates.into_iter().filter_map(|(port, rate)| Some((port, rate.0?))).collect())
}

fn loopback<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    let address = SocketAddr::deserialize(d)?;
    match address.ip().to_canonical().is_loopback() {
        true => Ok(Some(address)),
        false => Err(serde::de::Error::custom(format!(
            "{address} is not on loopback, and metrics are for this machine only; write \"127.0.0.1:9464\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: &str = "[[identity]]\nkind = \"tokens\"\nname = \"site\"\nfile = \"t\"\n";

    fn parse(text: &str, options: &Options) -> Result<Config, String> {
        Config::parse(text, "s2cs.toml", Path::new("/etc/x"), options).map_err(|e| e.to_string())
    }

    fn good(text: &str) -> Config {
        parse(&format!("{text}\n{IDENTITY}"), &Options::default()).unwrap()
    }

    #[test]
    fn the_example_loads_and_says_the_defaults() {
        let text = include_str!("../../docs/s2cs.example.toml");
        let mut example = parse(text, &Options::default()).unwrap();
        assert_eq!(example.identity.len(), 4);
        assert_eq!(example.capacity["wan"], 100_000);
        // What the example says beyond the defaults.
        example.capacity.clear();
        example.listeners.addresses.clear();
        example.audit.file = None;
        example.metrics.listen = None;
        example.identity.truncate(1);
        let defaults = good("");
        assert_eq!(example.describe(), defaults.describe());
    }

    #[test]
    fn paths_begin_at_the_file() {
        let config = good("[audit]\nfile = \"a\"\n[state]\nfile = \"/s\"");
        assert_eq!(config.audit.file.as_deref(), Some(Path::new("/etc/x/a")));
        assert_eq!(config.state.file, Path::new("/s"));
        assert_eq!(config.server.key, Path::new("/etc/x/server.key"));
        assert_eq!(config.forwarder.socket, Path::new(api::DEFAULT_SOCKET));
        assert_eq!(config.directory, Path::new("/etc/x"));
    }

    #[test]
    fn options_override_the_file() {
        let options = Options {
            port: Some(6000),
            listener_ip: Some([192, 0, 2, 1].into()),
            port_range: Some(Ports { first: 1, last: 2 }),
            server_crt: Some("c".into()),
            client_id: Some("me".to_owned()),
            client_secret: Some("hush".to_owned().into()),
            ..Options::default()
        };
        let config = parse(IDENTITY, &options).unwrap();
        assert_eq!(config.server.listen.to_string(), "0.0.0.0:6000");
        assert_eq!(config.listeners.addresses, [IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(config.listeners.ports, Ports { first: 1, last: 2 });
        assert_eq!(config.server.certificate, Path::new("c"));
        let names: Vec<_> = config.identity.iter().map(ProviderConfig::name).collect();
        assert_eq!(names, ["globus", "site"]);
        assert!(!format!("{config:?}{}{options:?}", config.describe()).contains("hush"));
        let all = Options { listener_ip: Some(Ipv4Addr::UNSPECIFIED.into()), ..Options::default() };
        assert!(parse(IDENTITY, &all).unwrap().listeners.addresses.is_empty());
        let alone = Options { client_id: Some("me".to_owned()), ..Options::default() };
        assert!(parse(IDENTITY, &alone).unwrap_err().contains("S2CS_CLIENT_SECRET"));
    }

    #[test]
    fn each_bad_value_is_named_with_its_place() {
        for (text, place, words) in [
            ("[server]\nlisten = \"x\"", "s2cs.toml:2:10: ", "socket address"),
            ("[server]\nport = 1", "s2cs.toml:2:1: ", "unknown field `port`"),
            ("[server]\nconnections = 0", "s2cs.toml:2:15: ", "from 1 to 1000000"),
            ("\n[listeners]\nports = \"9-8\"", "s2cs.toml:3:9: ", "backwards"),
            ("[listeners]\nports = \"0-8\"", "s2cs.toml:2:9: ", "1 to 65535"),
            ("[sessions]\npending = 0", "s2cs.toml:2:11: ", "from 1"),
            ("[sessions]\nhello = \"2h\"", "s2cs.toml:2:9: ", "from 1s to 1h"),
            ("[sessions]\nhello = \"soon\"", "s2cs.toml:2:9: ", "duration"),
            ("[capacity]\nwan = \"2P\"", "s2cs.toml:2:7: ", "rate"),
            ("[capacity]\nwan = 0", "s2cs.toml:2:7: ", "rate"),
            ("[metrics]\nlisten = \"0.0.0.0:1\"", "s2cs.toml:2:10: ", "loopback"),
            ("what = 1", "s2cs.toml:1:1: ", "unknown field `what`"),
            ("[forwarder]\nowner = \"a:b\"", "s2cs.toml: ", "forwarder.owner"),
            ("[listeners]\nproducer = []", "s2cs.toml: ", "listeners.producer"),
            ("[listeners]\nconsumer = [\"a\", \"a\"]", "s2cs.toml: ", "twice"),
            ("[capacity]\nother = 1", "s2cs.toml: ", "capacity.other"),
            ("[sessions]\npending = 1", "s2cs.toml: ", "pending_per_user"),
        ] {
            let error = parse(&format!("{text}\n{IDENTITY}"), &Options::default()).unwrap_err();
            assert!(error.starts_with(place) && error.contains(words), "{text:?} gave {error:?}");
        }
    }
}
