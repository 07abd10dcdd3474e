//! Which cores the workers get: near the devices, not all of them, and said out loud.
//!
//! Facts come from /sys, or from hwloc when built with the feature `hwloc`.
#![forbid(unsafe_code)]

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::config::{Config, Cores, Device};

/// Where everything runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Core of EAL, of the control socket and of everything that is not a worker.
    pub main: usize,
    /// One worker a core.
    pub workers: Vec<usize>,
    /// NUMA node of each port's device, in configuration order, when known.
    pub port_nodes: Vec<Option<i32>>,
    /// Sentences about what is not as it should be, and about what was chosen.
    pub notices: Vec<String>,
}

/// Why there is no placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PlacementError {
    #[error("{at}: workers.cores: core {core} is not available to this process; available are {available}")]
    NoSuchCore { at: String, core: usize, available: String },
    #[error("the cores available to this process cannot be found out: {0}")]
    Unknown(String),
}

/// Places the workers of a configuration on this machine.
///
/// # Errors
/// A listed core is not available.
pub fn place(config: &Config) -> Result<Placement, PlacementError> {
    let available = available_cores()?;
    let port_nodes: Vec<Option<i32>> = config.ports.iter().map(|p| device_node(&p.device)).collect();
    let mut notices = Vec::new();
    let workers = match &config.workers.cores {
        Cores::List(cores) => {
            if let Some(core) = cores.iter().find(|c| !available.contains(c)) {
                let at = config.workers.cores_at.clone();
                return Err(PlacementError::NoSuchCore { at, core: *core, available: list(&available) });
            }
            cores.clone()
        }
        Cores::Auto => {
            choose(&available, port_nodes.iter().flatten().next().copied(), &core_node).into_iter().collect()
        }
    };
    // On the workers' node, because the tables they use are filled from here.
    let node = workers.first().and_then(|c| core_node(*c));
    let free = || available.iter().copied().filter(|c| !workers.contains(c));
    let main =
        free().find(|c| core_node(*c) == node).or(free().next()).or(available.first().copied()).unwrap_or(0);
    if workers.contains(&main) {
        notices.push(format!(
            "core {main} serves a worker and everything else: the worker will be interrupted; leave a core out of workers.cores"
        ));
    }
    for (p, node) in config.ports.iter().zip(&port_nodes) {
        let Some(node) = node else { continue };
        let far: Vec<usize> =
            workers.iter().copied().filter(|c| core_node(*c).is_some_and(|n| n != *node)).collect();
        if far.is_empty() {
            notices.push(format!("port {}: device and workers are on NUMA node {node}", p.name));
        } else {
            notices.push(format!(
                "port {}: its device is on NUMA node {node}, but workers on cores {} are not: every packet crosses the \
                 interconnect; use cores of node {node} in workers.cores",
                p.name,
                list(&far)
            ));
        }
    }
    Ok(Placement { main, workers, port_nodes, notices })
}

/// `auto`: one worker near the devices. More are the operator's to ask for: replies that the device puts in another worker's
/// queue have to be handed over, which costs more than it gains until the device steers them.
///
/// The first core of a machine has most of the kernel's work and is left alone where there are others.
fn choose(available: &[usize], node: Option<i32>, core_node: &dyn Fn(usize) -> Option<i32>) -> Option<usize> {
    let rest = available.get(1..).filter(|r| !r.is_empty()).unwrap_or(available);
    let near = |core: &&usize| node.is_some() && core_node(**core) == node;
    rest.iter().find(near).or(rest.first()).copied()
}

/// Cores this process may run on.
fn available_cores() -> Result<Vec<usize>, PlacementError> {
    let unknown = |e: nix::errno::Errno| PlacementError::Unknown(e.to_string());
    let set = sched_getaffinity(Pid::from_raw(0)).map_err(unknown)?;
    Ok((0..CpuSet::count()).filter(|c| set.is_set(*c).unwrap_or(false)).collect())
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// NUMA node of the device behind a port, when it is a real one.
fn device_node(device: &Device) -> Option<i32> {
    let path = match device {
        Device::Pci(address) if address.matches(':').count() == 1 => {
            format!("/sys/bus/pci/devices/0000:{address}/numa_node")
        }
        Device::Pci(address) => format!("/sys/bus/pci/devices/{address}/numa_node"),
        Device::AfPacket(interface) | Device::AfXdp(interface) => {
            format!("/sys/class/net/{interface}/device/numa_node")
        }
        _ => return None,
    };
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|n| *n >= 0)
}

/// NUMA node of a core.
fn core_node(core: usize) -> Option<i32> {
    #[cfg(feature = "hwloc")]
    return node_from_hwloc(core);
    #[cfg(not(feature = "hwloc"))]
    node_from_sys(core)
}

#[cfg_attr(all(feature = "hwloc", not(test)), allow(dead_code))]
fn node_from_sys(core: usize) -> Option<i32> {
    let entries = fs::read_dir(format!("/sys/devices/system/cpu/cpu{core}")).ok()?;
    entries.flatten().find_map(|e| e.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

#[cfg(feature = "hwloc")]
fn node_from_hwloc(core: usize) -> Option<i32> {
    use std::sync::OnceLock;

    use hwlocality::Topology;
    use hwlocality::object::types::ObjectType;
    static TOPOLOGY: OnceLock<Option<Topology>> = OnceLock::new();
    let topology = TOPOLOGY.get_or_init(|| Topology::new().ok()).as_ref()?;
    let unit = topology.objects_with_type(ObjectType::PU).find(|o| o.os_index() == Some(core))?;
    unit.nodeset()?.first_set().map(|n| usize::from(n) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_stays_near_the_device_and_leaves_a_core() {
        let node = |core: usize| Some(if core < 8 { 0 } else { 1 });
        let cores: Vec<usize> = (0..16).collect();
        assert_eq!(choose(&cores, Some(1), &node), Some(8));
        assert_eq!(choose(&cores, Some(0), &node), Some(1));
        assert_eq!(choose(&cores, None, &node), Some(1));
        assert_eq!(choose(&cores, Some(2), &node), Some(1), "a node without cores of ours");
        assert_eq!(choose(&[5], Some(1), &node), Some(5));
    }

    #[cfg(feature = "hwloc")]
    #[test]
    fn hwloc_and_sys_agree() {
        for core in available_cores().unwrap() {
            // A kernel without NUMA has no node folders; hwloc then has one node.
            assert_eq!(node_from_hwloc(core), Some(node_from_sys(core).unwrap_or(0)), "core {core}");
        }
    }

    #[test]
    fn a_listed_core_must_exist() {
        let own = available_cores().unwrap();
        let with = |core: usize| {
            let port = "[[port]]\nname = \"p\"\ndevice = \"af_packet:eth9\"\naddresses = [\"10.0.0.1/24\"]\n";
            Config::parse(&format!("{port}[workers]\ncores = [{core}]"), "s2ds.toml").unwrap()
        };
        let error = place(&with(1023)).unwrap_err().to_string();
        assert!(error.starts_with("s2ds.toml:6: workers.cores: core 1023 is not available"), "{error}");
        assert_eq!(place(&with(own[0])).unwrap().workers, [own[0]]);
    }
}
