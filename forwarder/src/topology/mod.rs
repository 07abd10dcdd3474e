//! Where everything runs: which cores get the workers, and on which NUMA nodes packets lie.
//!
//! [`Machine`] has the facts, [`place`] decides, `s2ds --check` prints what was decided ([`table`]) and what to say about it.
//!
//! The architecture sets the frame: each worker polls one queue of every device, queue n being worker n's. Within it:
//!
//! 1. **Home** is the NUMA node of the devices; of several nodes the one with the fastest devices, or most. What the devices of the
//!    other nodes receive and send crosses the interconnect, whichever cores are chosen.
//! 2. **Workers** (`cores = "auto"`) are available cores of home: isolated ones where there are some, else `nohz_full` ones, else
//!    any; never two hyper-threads of one physical core; the first core of the machine last; as many as the devices can steer
//!    packets to, at most four; and one physical core is left. The hyper-threads beside them are for nobody.
//! 3. **The main core** has everything else. It is no worker's and no hyper-thread beside one, on home and not isolated as far as
//!    that can be had.
//! 4. **Packets** that a device receives lie on its node, or on the nearest one that has memory: one pool a node. What a worker
//!    makes itself is taken from the pool nearest to it.
//!
//! Cores that are listed are taken as they are, checked, and what speaks against them is said.
#![forbid(unsafe_code)]

mod cores;
#[cfg(feature = "hwloc")]
mod hwloc;
mod machine;
mod notices;
mod rule;
mod table;
#[cfg(test)]
mod tree;

pub use cores::CoreSet;
pub use machine::{Core, HANDED_OVER, Hardware, Hugepages, Machine, MachineError, Node, SHARED, hugepages};
pub use table::table;

use crate::config::{Config, Cores, PortConfig};

/// Where everything runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Core of EAL, of the control socket and of everything that is not a worker.
    pub main: usize,
    /// The workers, by index.
    pub workers: Vec<WorkerPlace>,
    /// The workers were not listed: there is only the first when a device does not steer packets.
    pub chosen: bool,
    /// The ports, in configuration order.
    pub ports: Vec<PortPlace>,
    /// Sentences about what is not as it should be, and about what was chosen.
    pub notices: Vec<String>,
}

/// Where a worker runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerPlace {
    /// Its core.
    pub core: usize,
    /// That core's NUMA node, when known.
    pub node: Option<i32>,
    /// Node of the pool of the packets it makes itself, one of the ports'.
    pub pool: Option<i32>,
}

/// Where a port's device is plugged in, and its packets lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortPlace {
    /// NUMA node of the device, when known.
    pub node: Option<i32>,
    /// Node of the pool it receives into; none leaves it to the system.
    pub pool: Option<i32>,
}

/// Why there is no placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PlacementError {
    #[error(
        "{at}: workers.cores: core {core} is not available to this process; available are {available}{why}"
    )]
    NoSuchCore { at: String, core: usize, available: CoreSet, why: &'static str },
}

/// Places the workers and the packets of a configuration on a machine.
///
/// # Errors
/// A listed core is offline, or not in this process's cpuset.
pub fn place(config: &Config, machine: &Machine) -> Result<Placement, PlacementError> {
    let home = rule::home(config, machine);
    let (cores, wanted) = match &config.workers.cores {
        Cores::List(cores) => {
            check(cores, config, machine)?;
            (cores.clone(), None)
        }
        Cores::Auto => {
            let (most, why) = rule::most_workers(config);
            (rule::workers(machine, &rule::near(machine, home), most), Some((most, why)))
        }
    };
    let node = |port: &PortConfig| machine.hardware(&port.device).and_then(|h| h.node);
    let nodes: Vec<Option<i32>> = config.ports.iter().map(node).collect();
    let of_devices: Vec<Option<i32>> = nodes.iter().map(|n| machine.memory_near((*n)?)).collect();
    // Packets of virtual devices lie with the others'.
    let worker_node = cores.first().and_then(|c| machine.core_node(*c));
    let beside = nearest(machine, &of_devices, worker_node);
    let ports = nodes.iter().zip(&of_devices);
    let ports = ports.map(|(node, pool)| PortPlace { node: *node, pool: pool.or(beside) }).collect();
    let workers = cores.iter().map(|core| {
        let node = machine.core_node(*core);
        WorkerPlace { core: *core, node, pool: nearest(machine, &of_devices, node) }
    });
    let mut placement = Placement {
        main: rule::main(machine, &cores),
        workers: workers.collect(),
        chosen: wanted.is_some(),
        ports,
        notices: Vec::new(),
    };
    placement.notices = notices::of(config, machine, &placement, wanted);
    Ok(placement)
}

impl Placement {
    /// Cores and ports of which no NUMA node is known.
    #[must_use]
    pub fn on_cores(main: usize, workers: &[usize], ports: usize) -> Self {
        let worker = |core: &usize| WorkerPlace { core: *core, ..WorkerPlace::default() };
        Self {
            main,
            workers: workers.iter().map(worker).collect(),
            ports: vec![PortPlace::default(); ports],
            ..Self::default()
        }
    }

    /// The workers' cores.
    #[must_use]
    pub fn cores(&self) -> Vec<usize> {
        self.workers.iter().map(|w| w.core).collect()
    }

    /// Nodes of the pools, each once, in the order of the ports.
    #[must_use]
    pub fn pools(&self) -> Vec<Option<i32>> {
        let mut pools = Vec::new();
        for port in &self.ports {
            if !pools.contains(&port.pool) {
                pools.push(port.pool);
            }
        }
        pools
    }
}

/// Of these nodes the nearest to `node`, of equals the first; none when none is known.
fn nearest(machine: &Machine, nodes: &[Option<i32>], node: Option<i32>) -> Option<i32> {
    let distance = |to: &i32| {
        let known = node.and_then(|node| machine.distance(node, *to)).unwrap_or(u32::MAX);
        (Some(*to) != node, known)
    };
    nodes.iter().flatten().copied().min_by_key(distance)
}

fn check(cores: &[usize], config: &Config, machine: &Machine) -> Result<(), PlacementError> {
    let permitted = machine.permitted();
    let Some(core) = cores.iter().copied().find(|c| !permitted.contains(*c)) else { return Ok(()) };
    let why = match machine.core(core) {
        Some(_) => " (the process's cpuset)",
        None => "",
    };
    let at = config.workers.cores_at.clone();
    Err(PlacementError::NoSuchCore { at, core, available: permitted, why })
}

#[cfg(test)]
mod tests {
    use super::tree::{FAR, NEAR, Tree, config};
    use super::*;

    #[test]
    fn packets_lie_with_the_devices_and_workers_use_what_is_nearest() {
        let machine = Tree::two_sockets().read();
        let placed = |devices: &[&str], workers: &str| {
            let placement = place(&config(devices, workers), &machine).unwrap();
            let ports: Vec<_> = placement.ports.iter().map(|p| (p.node, p.pool)).collect();
            let workers: Vec<_> = placement.workers.iter().map(|w| (w.core, w.pool)).collect();
            (ports, workers, placement.pools())
        };
        let (zero, one) = (Some(0), Some(1));
        assert_eq!(
            placed(&[NEAR[0], FAR], "cores = [1, 5]"),
            (vec![(zero, zero), (one, one)], vec![(1, zero), (5, one)], vec![zero, one])
        );
        assert_eq!(
            placed(&[NEAR[0], NEAR[1]], "cores = [5]"),
            (vec![(zero, zero); 2], vec![(5, zero)], vec![zero]),
            "there is no pool on the worker's node"
        );
        assert_eq!(
            placed(&[FAR, "vdev:net_null0", NEAR[0]], "cores = [1]"),
            (vec![(one, one), (None, zero), (zero, zero)], vec![(1, zero)], vec![one, zero]),
            "a virtual device's packets lie near the worker"
        );
        let none = placed(&["vdev:net_null0", "vdev:net_null1"], "cores = [1]");
        assert_eq!(none, (vec![(None, None); 2], vec![(1, None)], vec![None]));
    }

    #[test]
    fn packets_lie_beside_a_node_without_memory() {
        let memory = "sys/devices/system/node/node1/meminfo";
        let machine = Tree::two_sockets().file(memory, "Node 1 MemTotal: 0 kB\n").read();
        let placement = place(&config(&[FAR], "cores = [5]"), &machine).unwrap();
        assert_eq!(placement.ports, [PortPlace { node: Some(1), pool: Some(0) }]);
    }

    #[test]
    fn a_listed_core_must_be_online_and_in_the_cpuset() {
        let machine = Tree::two_sockets().file("sys/fs/cgroup/cpuset.cpus.effective", "0-3\n").read();
        let of = |cores: &str| place(&config(&[FAR], &format!("cores = [{cores}]")), &machine);
        let error = of("1, 99").unwrap_err().to_string();
        assert!(error.starts_with("s2ds.toml:6: workers.cores: core 99 is not available"), "{error}");
        assert!(error.ends_with("available are 0-3"), "{error}");
        let error = of("1, 4").unwrap_err().to_string();
        assert!(error.ends_with("available are 0-3 (the process's cpuset)"), "{error}");
        assert_eq!(of("3, 1").unwrap().cores(), [3, 1]);
    }

    #[test]
    fn it_works_on_this_machine() {
        let machine = Machine::here().unwrap();
        let placement = place(&config(&["vdev:net_null0"], ""), &machine).unwrap();
        assert!(placement.cores().iter().all(|c| machine.available().contains(*c)), "{placement:?}");
        assert!(!placement.workers.is_empty() && placement.chosen, "{placement:?}");
    }
}
