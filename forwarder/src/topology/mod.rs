//! Which cores the workers get: near the devices, not all of them, and said out loud.
//!
//! Facts come from /sys, or from hwloc when built with the feature `hwloc`.
#![forbid(unsafe_code)]

mod cores;
mod machine;
#[cfg(test)]
mod tree;

use std::fs;

pub use cores::CoreSet;
pub use machine::{Core, Hardware, Hugepages, Machine, MachineError, Node};
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
    /// The workers were not listed: there is only the first when a device does not steer packets.
    pub chosen: bool,
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
            let (most, why) = most_workers(config);
            let node = port_nodes.iter().flatten().next().copied();
            let cores = choose(&available, node, most, &core_node);
            notices.push(match cores.len() {
                n if n > 1 => format!(
                    "{n} workers if every device steers packets to them, else one; see s2ctl port list"
                ),
                _ if most > 1 => "one worker: this process has no more cores near the devices".to_owned(),
                _ => format!("one worker: {why}; list cores in workers.cores to have more"),
            });
            cores
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
    let chosen = config.workers.cores == Cores::Auto;
    Ok(Placement { main, workers, chosen, port_nodes, notices })
}

/// Most workers that `auto` takes: they poll, and the machine has other work.
const AUTO_MOST: usize = 4;

/// How many workers may serve these devices without being asked for, and why not more. Packets that a device puts in another
/// worker's queue have to be handed over, which takes more than it gives; what a device can do shows when it is opened.
fn most_workers(config: &Config) -> (usize, String) {
    let steers = |device: &Device| matches!(device, Device::Pci(_) | Device::Vdev(_));
    if let Some(p) = config.ports.iter().find(|p| !steers(&p.device)) {
        return (1, format!("port {}: {} does not steer packets to several", p.name, p.device));
    }
    let fewest = config.ports.iter().filter_map(|p| Some((usize::from(p.queues?), &p.name))).min();
    match fewest {
        Some((queues, name)) if queues < AUTO_MOST => {
            (queues.max(1), format!("port {name}: queues = {queues}"))
        }
        _ => (AUTO_MOST, String::new()),
    }
}

/// `auto`: cores near the devices, at most `most` and at least one.
///
/// The first core of a machine has most of the kernel's work and is left alone where there are others; so is the last one near
/// the devices, for everything that is not a worker.
fn choose(
    available: &[usize],
    node: Option<i32>,
    most: usize,
    core_node: &dyn Fn(usize) -> Option<i32>,
) -> Vec<usize> {
    let rest = available.get(1..).filter(|r| !r.is_empty()).unwrap_or(available);
    let near = |core: &&usize| node.is_some() && core_node(**core) == node;
    let near: Vec<usize> = rest.iter().filter(near).copied().collect();
    let cores = if near.is_empty() { rest } else { &near[..] };
    let take = most.min(cores.len().saturating_sub(1)).max(1);
    cores.iter().copied().take(take).collect()
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
pub fn device_node(device: &Device) -> Option<i32> {
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
pub fn core_node(core: usize) -> Option<i32> {
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
        assert_eq!(choose(&cores, Some(1), 1, &node), [8]);
        assert_eq!(choose(&cores, Some(0), 1, &node), [1]);
        assert_eq!(choose(&cores, None, 1, &node), [1]);
        assert_eq!(choose(&cores, Some(2), 1, &node), [1], "a node without cores of ours");
        assert_eq!(choose(&[5], Some(1), 1, &node), [5]);
        assert_eq!(choose(&[5], Some(1), 4, &node), [5]);
        assert_eq!(choose(&cores, Some(1), 4, &node), [8, 9, 10, 11]);
        assert_eq!(choose(&[0, 1, 2, 8, 9, 10], Some(1), 4, &node), [8, 9], "one is left");
        assert_eq!(choose(&[0, 1], None, 4, &node), [1]);
    }

    #[test]
    fn auto_takes_several_only_where_devices_may_steer() {
        let with = |devices: &[&str]| {
            let port = |(i, device): (usize, &&str)| {
                format!("[[port]]\nname = \"p{i}\"\naddresses = [\"10.{i}.0.1/24\"]\ndevice = {device}\n")
            };
            let text: String = devices.iter().enumerate().map(port).collect();
            most_workers(&Config::parse(&text, "s2ds.toml").unwrap())
        };
        let nic = "\"0000:01:00.0\"";
        assert_eq!(with(&[nic, "\"vdev:net_null0\""]).0, AUTO_MOST);
        let (most, why) = with(&[nic, "\"af_packet:eth1\""]);
        assert_eq!((most, why.as_str()), (1, "port p1: af_packet:eth1 does not steer packets to several"));
        let (most, why) = with(&[nic, "\"0000:02:00.0\"\nqueues = 2"]);
        assert_eq!((most, why.as_str()), (2, "port p1: queues = 2"));
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
