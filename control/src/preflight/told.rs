//! What only programs can tell: `ethtool`, and a running s2ds.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use forwarder::api::{PortInfo, Reply, Request};

use super::host::Host;
use crate::client::Client;

/// What was told. Empty where nobody could be asked.
#[derive(Debug, Clone, Default)]
pub struct Told {
    /// Ports of a running s2ds; none when none answers.
    pub ports: Option<Vec<PortInfo>>,
    /// What `ethtool -a` prints, by interface.
    pub pause: BTreeMap<String, String>,
    /// What `ethtool -i` prints, by interface.
    pub drivers: BTreeMap<String, String>,
}

impl Told {
    /// Asks `ethtool` about the kernel's interfaces that have hardware behind them, and s2ds about its ports if it answers on the
    /// socket. Both only read.
    pub fn ask(host: &Host, socket: &Path) -> Self {
        let ports = Client::connect(socket).and_then(|mut c| c.call(Request::PortList)).ok();
        let ports = ports.and_then(|reply| match reply {
            Reply::Ports { ports } => Some(ports),
            _ => None,
        });
        let real: Vec<&str> = host.interfaces.iter().filter(|i| i.real).map(|i| i.name.as_str()).collect();
        let ethtool = |option: &str| {
            real.iter().filter_map(|i| Some(((*i).to_owned(), printed("ethtool", &[option, i])?))).collect()
        };
        Self { ports, pause: ethtool("-a"), drivers: ethtool("-i") }
    }

    /// Whether pause frames are heeded and sent on an interface.
    pub fn pause(&self, interface: &str) -> Option<(bool, bool)> {
        let text = self.pause.get(interface)?;
        let on = |name: &str| value(text, name).map(|v| v == "on");
        Some((on("RX")?, on("TX")?))
    }

    /// Firmware version of what is behind an interface.
    pub fn firmware(&self, interface: &str) -> Option<String> {
        let version = value(self.drivers.get(interface)?, "firmware-version")?;
        Some(version.to_owned()).filter(|v| !v.is_empty() && v != "N/A")
    }
}

fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|l| l.split_once(':').filter(|(n, _)| n.trim() == name)).map(|(_, v)| v.trim())
}

fn printed(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
