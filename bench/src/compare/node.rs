//! A gateway at work for an approach: what was set up on it, and the process that relays, if one does.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::approach::Approach;
use super::setup::{Gate, Setup, port};
use crate::stream::Carrier;
use crate::topology::{Family, Gateway, Netns, Place, Process, find_binary};

/// How long a program may take until it listens.
const READY: Duration = Duration::from_secs(10);
/// What `nft` may take.
const TOOL: Duration = Duration::from_secs(20);

/// One gateway at work.
#[derive(Debug)]
pub(super) enum Node {
    /// The kernel forwards.
    Kernel { _netns: Netns },
    /// A program relays. It ends before its namespace.
    Program { process: Process, _netns: Netns },
    /// s2ds relays.
    S2ds(Box<Gateway>),
}

/// What stunnel's ends share in one run: certificate and key, in PEM.
#[derive(Debug)]
pub(super) struct Tls {
    certificate: String,
    key: String,
}

impl Tls {
    /// A throw-away certificate.
    pub(super) fn make() -> Result<Tls> {
        let made = rcgen::generate_simple_self_signed(vec!["s2bench".to_owned()])
            .context("cannot make a certificate for stunnel")?;
        Ok(Tls { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }
}

impl Node {
    /// Makes a namespace with the devices `lan` and `wan` a gateway of the approach. `gate.dir` exists.
    pub(super) fn start(gate: &Gate, approach: Approach, netns: Netns, tls: Option<&Tls>) -> Result<Node> {
        let dir = Path::new(&gate.dir);
        match gate.setup(approach) {
            Setup::S2ds { config } => {
                for device in ["lan", "wan"] {
                    netns.silence(device)?;
                }
                Ok(Node::S2ds(Box::new(Gateway::start(netns, &config)?)))
            }
            Setup::Kernel { route, rules } => {
                addresses(&netns, gate)?;
                netns.sysctl(gate.forwarding(), "1")?;
                if let Some(route) = route {
                    netns.ip(&route)?;
                }
                if let Some(rules) = rules {
                    let file = write(dir, "rules.nft", &rules)?;
                    netns.output("nft", &["-f", &file.to_string_lossy()], TOOL)?;
                }
                Ok(Node::Kernel { _netns: netns })
            }
            Setup::Program { files, command } => {
                addresses(&netns, gate)?;
                if let Some(Tls { certificate, key }) = tls {
                    write(dir, "stunnel.crt", certificate)?;
                    let both = write(dir, "stunnel.pem", &format!("{key}{certificate}"))?;
                    // It warns of a key that others could read, wherever it is.
                    fs::set_permissions(both, fs::Permissions::from_mode(0o600))
                        .context("cannot guard a key")?;
                }
                for (name, text) in files {
                    write(dir, name, &text)?;
                }
                let (program, args) = command.split_first().context("internal: a setup without a command")?;
                let program = match program.as_str() {
                    "s2bench" => find_binary("s2bench")?.to_string_lossy().into_owned(),
                    tool => tool.to_owned(),
                };
                let core = gate.core.to_string();
                let mut line = vec!["-c", &core, &program];
                line.extend(args.iter().map(String::as_str));
                let mut process = netns.spawn("taskset", &line)?;
                listening(&mut process, &netns, gate.carrier)
                    .with_context(|| format!("{approach} at the {}", gate.side.name()))?;
                Ok(Node::Program { process, _netns: netns })
            }
        }
    }

    /// The process that relays.
    pub(super) fn process(&self) -> Option<&Process> {
        match self {
            Node::Kernel { .. } => None,
            Node::Program { process, .. } => Some(process),
            Node::S2ds(gateway) => Some(&gateway.process),
        }
    }

    /// The same, to ask whether it has ended.
    pub(super) fn process_mut(&mut self) -> Option<&mut Process> {
        match self {
            Node::Kernel { .. } => None,
            Node::Program { process, .. } => Some(process),
            Node::S2ds(gateway) => Some(&mut gateway.process),
        }
    }
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let file = dir.join(name);
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Gives a device an address and brings it up.
pub(super) fn address(netns: &Netns, device: &str, place: Place, family: Family) -> Result<()> {
    let nodad = if family == Family::V6 { "nodad" } else { "" };
    let address = place.prefixed(family);
    netns.ip(&format!("address add {address} dev {device} {nodad}\nlink set {device} up"))?;
    Ok(())
}

fn addresses(netns: &Netns, gate: &Gate) -> Result<()> {
    address(netns, "lan", gate.side.lan(), gate.family)?;
    address(netns, "wan", gate.side.wan(), gate.family)
}

/// Waits until somebody in a namespace listens on the carrier's port.
fn listening(process: &mut Process, netns: &Netns, carrier: Carrier) -> Result<()> {
    let end = Instant::now() + READY;
    let (protocol, state) = if carrier == Carrier::Tcp { ("tcp", "0A") } else { ("udp", "07") };
    loop {
        let tables = netns.run(move || {
            let table = |v| fs::read_to_string(format!("/proc/thread-self/net/{protocol}{v}"));
            ["", "6"].map(|v| table(v).unwrap_or_default()).concat()
        })?;
        if has_listener(&tables, port(carrier), state) {
            return Ok(());
        }
        if let Some(status) = process.ended()? {
            bail!("it ended at its start ({status}): {}", process.said());
        }
        if Instant::now() >= end {
            bail!("it does not listen on port {} after {READY:?}: {}", port(carrier), process.said());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a table like /proc/net/tcp has a socket of this port in this state.
fn has_listener(table: &str, port: u16, state: &str) -> bool {
    let port = format!(":{port:04X}");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, local, _, its, ..] if local.ends_with(&port) && its == state)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_told_from_a_connection() {
        let table = "  sl  local_address rem_address   st tx_queue\n\
                     \x20  0: 0100510A:14B5 00000000:0000 0A 0:0\n\
                     \x20  1: 0100510A:1500 0200510A:9000 01 0:0\n";
        assert!(has_listener(table, 5301, "0A"));
        assert!(!has_listener(table, 5376, "0A"));
        assert!(!has_listener(table, 5302, "0A"));
    }
}
