//! A site: s2cs as its operator starts it, before a [`Forwarder`], with three users.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tonic::transport::{Certificate, Channel, ClientTlsConfig};

use super::forwarder::Forwarder;

const S2CS: &str = env!("CARGO_BIN_EXE_s2cs");

/// What differs between sites.
pub(crate) struct Settings {
    /// Range of ports for listeners.
    pub(crate) ports: &'static str,
    /// How long `req` waits for `hello`, and `update` may take after it.
    pub(crate) wait: &'static str,
    /// What sessions may reserve, on each port.
    pub(crate) capacity: &'static str,
    /// Ports of the forwarder that producers' sessions listen on, first choice first.
    pub(crate) producer: &'static [&'static str],
}

impl Default for Settings {
    fn default() -> Self {
        Self { ports: "5100-5999", wait: "180s", capacity: "100G", producer: &["wan"] }
    }
}

/// s2cs and what is behind it.
pub(crate) struct Site {
    // Ends before its forwarder does.
    server: Server,
    pub(crate) forwarder: Forwarder,
    dir: tempfile::TempDir,
    tokens: Vec<(&'static str, String)>,
}

impl Site {
    /// Makes CA, certificate, tokens of `alice`, `bob` and the administrator `root`, policy and configuration, and starts s2cs.
    pub(crate) fn new(settings: &Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let forwarder = Forwarder::new();
        run(&["init", path(dir.path())]);
        let file = dir.path().join("tokens.toml");
        let tokens = ["alice", "bob", "root"].map(|user| {
            let said = run(&["token", "add", "--file", path(&file), user]);
            (user, said.trim().to_owned())
        });
        fs::write(dir.path().join("policy.toml"), POLICY).unwrap();
        fs::write(dir.path().join("s2cs.toml"), config(settings, &forwarder.socket(), "127.0.0.1:0"))
            .unwrap();
        let server = Server::start(dir.path());
        Self { server, forwarder, dir, tokens: tokens.into() }
    }

    /// Where it serves.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// A new connection.
    pub(crate) async fn channel(&self) -> Channel {
        // The first there is stays.
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = Certificate::from_pem(fs::read(self.ca()).unwrap());
        let tls = ClientTlsConfig::new().ca_certificate(ca).domain_name("localhost");
        let endpoint = Channel::from_shared(format!("https://{}", self.address())).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    /// The root of trust for clients.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// A user's token.
    pub(crate) fn token(&self, user: &str) -> &str {
        self.tokens.iter().find(|(name, _)| *name == user).map(|(_, token)| token.as_str()).unwrap()
    }

    /// Everything s2cs wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// One of its files: `policy.toml`, `audit.jsonl`...
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Puts another text in the place of one of its files, as editors do: whole, by a rename.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        fs::write(self.file("new"), text).unwrap();
        fs::rename(self.file("new"), self.file(name)).unwrap();
    }

    /// Where `/metrics` and `/healthz` are.
    pub(crate) fn metrics(&self) -> SocketAddr {
        let log = self.log();
        let line = log.lines().rfind(|l| l.contains("serving /metrics")).unwrap();
        line.split("address=").nth(1).unwrap().trim().parse().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// A new one in the place of the killed.
    pub(crate) fn start(&mut self) {
        self.server = Server::start(self.dir.path());
    }

    /// SIGKILL, and a new one in its place.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        self.start();
    }
}

struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts it and waits until it says where it serves, and that its forwarder is programmed.
    fn start(dir: &Path) -> Self {
        let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let before = log.metadata().unwrap().len() as usize;
        let mut child = Command::new(S2CS)
            .args(["--config", path(&dir.join("s2cs.toml"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let said = fs::read_to_string(dir.join("log")).unwrap().split_off(before);
            let ready = said
                .lines()
                .filter(|l| said.contains('\n') && l.contains("serving on "))
                .find_map(|l| l.split("serving on ").nth(1)?.split_whitespace().next()?.parse().ok());
            if let Some(address) = ready.filter(|_| said.contains(": in step with the forwarder")) {
                return Self { child, address };
            }
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < end, "s2cs does not serve ({ended:?}): {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Runs s2cs to its end, with success; gives what it printed.
pub(crate) fn run(args: &[&str]) -> String {
    let output = Command::new(S2CS).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What everybody may whose token is in the file, and who may do more.
pub(crate) const POLICY: &str = r#"
[defaults]
producer_sources = ["10.82.0.0/24"]
consumer_sources = ["10.81.0.0/24"]

[[rule]]
name = "administrators"
users = ["root@site"]
administrator = true

[[rule]]
name = "users"
users = ["alice@site", "bob@site"]
roles = ["producer", "consumer"]
protocols = ["tcp", "udp"]
targets = ["10.81.0.0/24:*", "10.82.0.0/24:*", "[fd81::/64]:*", "[fd82::/64]:*"]
sources = ["10.81.0.0/24", "10.82.0.0/24", "fd81::/64", "fd82::/64"]
listeners = 16
connections = 64
sessions = 1000
rate = "100G"
police = true
lease = "1h"
"#;

fn config(settings: &Settings, socket: &Path, listen: &str) -> String {
    let Settings { ports, wait, capacity, producer } = settings;
    format!(
        r#"
[server]
listen = "{listen}"
certificate = "server.crt"
key = "server.key"
[forwarder]
socket = {socket:?}
[listeners]
ports = "{ports}"
producer = {producer:?}
consumer = ["lan"]
[sessions]
pending_per_user = 1000
hello = "{wait}"
update = "{wait}"
[capacity]
lan = "{capacity}"
wan = "{capacity}"
[state]
file = "s2cs.redb"
[audit]
file = "audit.jsonl"
[metrics]
listen = "127.0.0.1:0"
[policy]
file = "policy.toml"
[[identity]]
kind = "tokens"
name = "site"
file = "tokens.toml"
"#
    )
}
