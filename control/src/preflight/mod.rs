//! `s2ctl preflight`: is this host set up so that s2ds works, and works well?
//!
//! [`Host::read`] collects facts below a root, `/` or a made-up tree; what only programs can tell comes as [`Told`]. [`check`]
//! judges them and touches nothing. A [`Finding`] says what is, what should be, why, how sure that is, and what mends it; [`fix()`]
//! does what is safe. docs/operations.md, section Preflight, names the sources of the advice.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use forwarder::api::PortInfo;
use forwarder::config::{Config, Cores, Device, PortConfig};
use forwarder::topology::{self, CoreSet, Placement};
use serde::Serialize;

mod devices;
mod finding;
mod fix;
mod host;
mod iommu;
mod machine;
mod memory;
mod network;
mod path;
pub mod pcie;
mod power;
mod processor;
mod rights;
pub mod told;
mod xdp;

pub use finding::{Confidence, Finding, Mend, Severity, Subject, Write};
pub use fix::{Fix, fix};
pub use host::{Host, Interface, Nic, Root};
pub use path::{ByMtu, Path, PathFacts};
pub use told::Told;

/// What is asked about a host.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// The configuration s2ds shall run with; without one the host is looked at in general.
    pub config: Option<Config>,
    /// The path that streams take.
    pub path: Option<Path>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was looked at, by subject.
    pub findings: Vec<Finding>,
    /// What the path needs and allows, when one was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathFacts>,
    /// How many findings there are of each severity.
    pub summary: BTreeMap<Severity, usize>,
}

impl Report {
    /// The worst of the findings.
    pub fn worst(&self) -> Severity {
        self.findings.iter().map(|f| f.severity).max().unwrap_or(Severity::Ok)
    }
}

/// Judges a host.
pub fn check(host: &Host, question: &Question, told: &Told) -> Report {
    let scene = Scene::new(host, question.config.as_ref(), told);
    let mut findings = Vec::new();
    machine::check(&scene, &mut findings);
    memory::check(&scene, &mut findings);
    devices::check(&scene, &mut findings);
    iommu::check(&scene, &mut findings);
    processor::check(&scene, &mut findings);
    power::check(&scene, &mut findings);
    network::check(&scene, &mut findings);
    xdp::check(&scene, &mut findings);
    rights::check(&scene, &mut findings);
    let path = question.path.map(|path| path::check(&scene, path, &mut findings));
    findings.sort_by_key(|f| f.subject);
    let kinds = [Severity::Problem, Severity::Warning, Severity::Unknown, Severity::Ok];
    let count = |kind| (kind, findings.iter().filter(|f| f.severity == kind).count());
    Report { summary: kinds.map(count).into(), path, findings }
}

/// What the checks look at.
struct Scene<'a> {
    host: &'a Host,
    root: &'a Root,
    config: Option<&'a Config>,
    told: &'a Told,
    /// The configuration's devices, each with the ports on it.
    devices: Vec<Seen<'a>>,
    /// Where s2ds would place workers and packets; none without a configuration, or when it would refuse.
    placement: Option<Placement>,
    /// Cores of the workers; empty when that is not known.
    workers: CoreSet,
}

/// A device of the configuration.
struct Seen<'a> {
    /// Names of its ports.
    names: String,
    device: &'a Device,
    /// Largest MTU of its ports.
    mtu: u16,
    nic: Option<&'a Nic>,
    /// The kernel's interface that it is, or that is on it.
    interface: Option<&'a Interface>,
    /// Gbit/s of its link, when anybody tells.
    gbits: Option<f64>,
}

impl<'a> Scene<'a> {
    fn new(host: &'a Host, config: Option<&'a Config>, told: &'a Told) -> Self {
        let devices = config.map(|c| c.devices().collect::<Vec<_>>()).unwrap_or_default();
        let placement = config.and_then(|c| topology::place(c, &host.machine).ok());
        let listed = || match &config?.workers.cores {
            Cores::List(cores) => Some(cores.clone()),
            Cores::Auto => None,
        };
        let workers = placement.as_ref().map(Placement::cores).or_else(listed).unwrap_or_default();
        Self {
            devices: devices.iter().filter_map(|ports| Seen::new(host, told, ports)).collect(),
            workers: workers.into_iter().collect(),
            placement,
            host,
            root: &host.root,
            config,
            told,
        }
    }

    /// The network functions that matter: those of the configuration, or all.
    fn nics(&self) -> Vec<&'a Nic> {
        match self.config {
            None => self.host.nics.iter().collect(),
            Some(_) => self.devices.iter().filter_map(|d| d.nic).collect(),
        }
    }
}

impl<'a> Seen<'a> {
    fn new(host: &'a Host, told: &Told, ports: &[&'a PortConfig]) -> Option<Self> {
        let first = *ports.first()?;
        let nic = host.nic_of(&first.device);
        let interface = match &first.device {
            Device::AfPacket(name) | Device::AfXdp(name) => host.interface(name),
            _ => nic.and_then(|n| host.interface(n.interfaces.first()?)),
        };
        let running = told.ports.iter().flatten().find(|p: &&PortInfo| p.device == first.device.to_string());
        let mbits = running.and_then(|p| p.speed.map(u64::from)).or(interface.and_then(|i| i.mbits));
        Some(Self {
            names: ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", "),
            device: &first.device,
            mtu: ports.iter().map(|p| p.mtu).max()?,
            nic,
            interface,
            gbits: mbits.map(|m| m as f64 / 1000.0),
        })
    }

    /// `port lan (0000:81:00.0)`.
    fn title(&self) -> String {
        format!("port {} ({})", self.names, self.device)
    }
}
