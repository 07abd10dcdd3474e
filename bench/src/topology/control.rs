//! The control network beside a [`Relay`]: a user's host, and on each gateway an s2cs that the user can reach.
//!
//! ```text
//! consumer == consumer gateway (s2ds) == producer gateway (s2ds) == producer
//!             10.84.1.1:5000 (s2cs)      10.84.2.1:5000 (s2cs)
//!                      \                    /
//!                   10.84.1.2    10.84.2.2
//!                           user (s2uc)
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::{Gateway, Netns, Process, Relay, TopologyError, find_binary};

/// How long s2cs may take to come up.
const START: Duration = Duration::from_secs(30);
/// How long s2uc may take; it has a limit of its own.
const USER: Duration = Duration::from_secs(240);
/// None of the ports that sessions listen on is one of the relay's own flows'.
const SETTINGS: &str = r#"
[listeners]
ports = "5100-5199"
[capacity]
lan = "100G"
wan = "100G"
"#;

/// The user's host and both control servers. They end with the relay's gateways, if not before.
#[derive(Debug)]
pub struct Control {
    /// The consumer's side.
    pub consumer: Server,
    /// The producer's side.
    pub producer: Server,
    /// Where s2uc runs. It cannot reach any network but the control network.
    pub user: Netns,
    dir: PathBuf,
    token: String,
}

/// The s2cs of a gateway.
#[derive(Debug)]
pub struct Server {
    process: Process,
    config: PathBuf,
    address: String,
}

/// What differs between the sides. Prefixes and targets are written as in a policy's TOML.
struct Side {
    address: &'static str,
    user: &'static str,
    role: &'static str,
    /// Sources of sessions whose user names none.
    default: &'static str,
    targets: &'static str,
    sources: &'static str,
}

/// Consumers' hosts are the first half of their network, as in the relay's own flows.
const CONSUMER: Side = Side {
    address: "10.84.1.1",
    user: "10.84.1.2",
    role: "consumer",
    default: r#"["10.81.0.0/27", "fd81::/123"]"#,
    targets: r#"["10.82.0.2:*", "[fd82::2]:*"]"#,
    sources: r#"["10.81.0.0/24", "fd81::/64"]"#,
};
const PRODUCER: Side = Side {
    address: "10.84.2.1",
    user: "10.84.2.2",
    role: "producer",
    default: r#"["10.82.0.1/32", "fd82::1/128"]"#,
    targets: r#"["10.83.0.0/24:*", "[fd83::/64]:*"]"#,
    sources: r#"["10.82.0.0/24", "fd82::/64"]"#,
};

impl Side {
    /// Whoever reserves a rate is held to it; others are not held to any.
    fn policy(&self) -> String {
        let Side { role, default, targets, sources, .. } = self;
        let mut text = format!("[defaults]\n{role}_sources = {default}\n");
        for (name, rate) in [("free", ""), ("reserved", "rate = \"10G\"\npolice = true\n")] {
            let _ = write!(
                text,
                "[[rule]]\nname = \"{name}\"\nusers = [\"operator@site\"]\nroles = [\"{role}\"]\n\
                 protocols = [\"tcp\", \"udp\"]\ntargets = {targets}\nsources = {sources}\n{rate}"
            );
        }
        text
    }
}

impl Control {
    /// Joins a user's host with both gateways, makes what both sites need with `s2cs init`, and starts both s2cs.
    pub fn start(relay: &Relay) -> Result<Control, TopologyError> {
        let user = relay.consumer.sibling("user")?;
        let dir = user.dir().join("control");
        let names = [CONSUMER.address, PRODUCER.address];
        let token = init(&user, &dir, &names)?;
        let serve = |gateway: &Gateway, side: &Side, device: &str| {
            gateway.netns.join("control", &user, device, 1500)?;
            gateway.netns.ip(&format!("address add {}/24 dev control", side.address))?;
            gateway.netns.ip("link set control up")?;
            user.ip(&format!("address add {}/24 dev {device}", side.user))?;
            user.ip(&format!("link set {device} up"))?;
            Server::start(gateway, &dir, &format!("{}:5000", side.address), &side.policy(), SETTINGS)
        };
        let consumer = serve(&relay.consumer_gateway, &CONSUMER, "near")?;
        let producer = serve(&relay.producer_gateway, &PRODUCER, "far")?;
        Ok(Control { consumer, producer, user, dir, token })
    }

    /// Runs s2uc on the user's host, who is logged in at both sites; `--json` is added and read.
    pub fn s2uc(&self, args: &[&str]) -> Result<Value, TopologyError> {
        let said = self.spawn_s2uc(&[args, &["--json"]].concat())?.finished(USER)?.stdout;
        serde_json::from_str(&said).map_err(|e| {
            TopologyError::io(format!("read what `s2uc {}` printed: {said:?}", args.join(" ")))(e.into())
        })
    }

    /// Starts s2uc on the user's host.
    pub fn spawn_s2uc(&self, args: &[&str]) -> Result<Process, TopologyError> {
        let (ca, home) = (self.dir.join("ca.crt"), self.dir.join("user"));
        let env = [
            ("S2UC_TOKEN", &*self.token),
            ("S2UC_SERVER_CERT", &*ca.to_string_lossy()),
            ("XDG_CONFIG_HOME", &*home.to_string_lossy()),
        ];
        self.user.spawn_with(&find_binary("s2uc")?, args, &env)
    }

    /// Opens a stream from the consumer's side to `target` with `s2uc open` and further arguments.
    pub fn open(&self, target: &str, args: &[&str]) -> Result<Stream, TopologyError> {
        let (producer, consumer) = (self.producer.address(), self.consumer.address());
        let gateways = ["open", "--producer-gateway", producer, "--consumer-gateway", consumer];
        let told = self.s2uc(&[&gateways[..], &["--target", target], args].concat())?;
        let listens = |side: &str| address(&told[side]["session"]["listeners"][0]["address"]);
        Ok(Stream {
            uri: told["uri"].as_str().unwrap_or_default().to_owned(),
            connect: address(&told["connect"][0])?,
            listens: [listens("consumer")?, listens("producer")?],
        })
    }
}

/// A stream that a user has opened.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Its name.
    pub uri: String,
    /// Where the consumer connects to.
    pub connect: SocketAddr,
    /// Where it listens at the consumer's and at the producer's gateway.
    pub listens: [SocketAddr; 2],
}

fn address(told: &Value) -> Result<SocketAddr, TopologyError> {
    told.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| {
        TopologyError::io(format!("find an address in what s2uc printed: {told}"))(
            ErrorKind::InvalidData.into(),
        )
    })
}

/// Makes what a site needs in `dir` with `s2cs init`, the certificate for further `names`; gives the token of `operator@site`.
pub(crate) fn init(netns: &Netns, dir: &Path, names: &[&str]) -> Result<String, TopologyError> {
    let place = dir.to_string_lossy();
    let mut args = vec!["init", &place];
    args.extend(names.iter().flat_map(|name| ["--name", *name]));
    netns.output(find_binary("s2cs")?, &args, START)?;
    let secret = dir.join("token");
    let token =
        fs::read_to_string(&secret).map_err(TopologyError::io(format!("read {}", secret.display())))?;
    Ok(token.trim().to_owned())
}

impl Server {
    /// Starts s2cs on a gateway, in a directory that [`init`] has made, and waits until it serves at `address`. `settings` are
    /// further sections of its configuration.
    pub(crate) fn start(
        gateway: &Gateway,
        dir: &Path,
        address: &str,
        policy: &str,
        settings: &str,
    ) -> Result<Server, TopologyError> {
        let (name, socket) = (gateway.netns.name(), gateway.socket());
        let config = dir.join(format!("{name}.toml"));
        let text = format!(
            r#"
[server]
listen = "{address}"
[forwarder]
socket = {socket:?}
[state]
file = "{name}.redb"
[audit]
file = "{name}-audit.jsonl"
[policy]
file = "{name}-policy.toml"
[[identity]]
kind = "tokens"
name = "site"
file = "tokens.toml"
{settings}"#
        );
        for (path, text) in [(&dir.join(format!("{name}-policy.toml")), policy), (&config, &text)] {
            fs::write(path, text).map_err(TopologyError::io(format!("write {}", path.display())))?;
        }
        let process = launch(gateway, &config)?;
        Ok(Server { process, config, address: address.to_owned() })
    }

    /// Where it serves, `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its gateway, whatever became of the one before, and waits until it serves.
    pub fn restart(&mut self, gateway: &Gateway) -> Result<(), TopologyError> {
        self.process.kill();
        self.process = launch(gateway, &self.config)?;
        Ok(())
    }
}

fn launch(gateway: &Gateway, config: &Path) -> Result<Process, TopologyError> {
    let mut process = gateway.netns.spawn(find_binary("s2cs")?, &["--config", &config.to_string_lossy()])?;
    process.wait_for("serving on", START)?;
    Ok(process)
}
