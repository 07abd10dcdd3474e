//! The rule by which cores are chosen. The module's documentation tells it in words.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::cores::CoreSet;
use super::machine::Machine;
use crate::config::{Config, Device};

/// Most workers that `auto` takes: they poll, and the machine has other work.
pub(super) const AUTO_MOST: usize = 4;

/// How well the kernel keeps its own work off a core, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Quiet {
    /// Nothing runs there unasked.
    Isolated,
    /// Others may run there, but without them no timer ticks.
    NohzFull,
    /// Nothing was done for it.
    No,
}

impl Quiet {
    pub(super) fn of(machine: &Machine, core: usize) -> Self {
        match core {
            _ if machine.isolated.contains(core) => Self::Isolated,
            _ if machine.nohz_full.contains(core) => Self::NohzFull,
            _ => Self::No,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::NohzFull => "nohz_full",
            Self::No => "ordinary",
        }
    }
}

/// How many workers may serve these devices without being asked for, and why not more. Packets that a device puts in another
/// worker's queue have to be handed over, which takes more than it gives; what a device can do shows when it is opened.
pub(super) fn most_workers(config: &Config) -> (usize, String) {
    let steers = |device: &Device| matches!(device, Device::Pci(_) | Device::Mac(_) | Device::Vdev(_));
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

/// The NUMA node to work on: of those that have devices and available cores the one with the fastest devices, as far as the
/// speed of all is known, else with the most, else with the first in the configuration. None when there is none such.
pub(super) fn home(config: &Config, machine: &Machine) -> Option<i32> {
    let available = machine.available();
    let devices = config.devices().filter_map(|ports| machine.hardware(&ports.first()?.device));
    let devices: Vec<(i32, Option<u64>)> = devices.filter_map(|d| Some((d.node?, d.mbits))).collect();
    let all_known = devices.iter().all(|(_, mbits)| mbits.is_some());
    let mut nodes: BTreeMap<i32, (u64, usize, Reverse<usize>)> = BTreeMap::new();
    for (place, (node, mbits)) in devices.into_iter().enumerate() {
        let (speed, count, _) = nodes.entry(node).or_insert((0, 0, Reverse(place)));
        *speed += mbits.filter(|_| all_known).unwrap_or(0);
        *count += 1;
    }
    let has_cores = |node: &i32| available.iter().any(|c| machine.core_node(c) == Some(*node));
    nodes.into_iter().filter(|(node, _)| has_cores(node)).max_by_key(|(_, weight)| *weight).map(|(n, _)| n)
}

/// Available cores near the devices: those of the node, or all where there is none.
pub(super) fn near(machine: &Machine, node: Option<i32>) -> CoreSet {
    machine.available().iter().filter(|c| node.is_none() || machine.core_node(*c) == node).collect()
}

/// Cores for at most `most` workers, and at least one, among the available ones `near` the devices; quietest first, and of one
/// kind, because every worker has an equal share of the packets and the slowest delays its own. One of a physical core's
/// hyper-threads serves, the others rest. A physical core is left for everything else where there are two.
pub(super) fn workers(machine: &Machine, near: &CoreSet, most: usize) -> Vec<usize> {
    let quiet = |core: &usize| (Quiet::of(machine, *core), *core == 0, *core);
    let mut physical: Vec<usize> = Vec::new();
    for core in near.iter() {
        let best = machine.siblings(core).and(near).iter().chain([core]).min_by_key(quiet).unwrap_or(core);
        if !physical.contains(&best) {
            physical.push(best);
        }
    }
    // The first core of a machine has most of the kernel's work, and it shares its physical core.
    let is_first = |core: &usize| *core == 0 || machine.siblings(*core).contains(0);
    physical.sort_by_key(|core| (is_first(core), quiet(core)));
    let quietest = physical.iter().map(|core| Quiet::of(machine, *core)).min();
    let take = most.min(physical.len().saturating_sub(1)).max(1);
    physical.into_iter().filter(|core| Some(Quiet::of(machine, *core)) == quietest).take(take).collect()
}

/// The core for everything that is not a worker: not a worker's, not a hyper-thread of one's physical core, on the first
/// worker's node, not one that was made quiet for workers; in this order of importance.
pub(super) fn main(machine: &Machine, workers: &[usize]) -> usize {
    let node = workers.first().and_then(|c| machine.core_node(*c));
    let shares = |core: usize| workers.iter().any(|w| machine.siblings(*w).contains(core));
    let rank = |core: &usize| {
        let quiet = Reverse(Quiet::of(machine, *core));
        (workers.contains(core), shares(*core), machine.core_node(*core) != node, quiet, *core)
    };
    let available = machine.available();
    available.iter().min_by_key(rank).or(workers.first().copied()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::tree::{FAR, NEAR, Tree, config};
    use super::*;

    fn list(text: &str) -> CoreSet {
        CoreSet::parse(text).unwrap()
    }

    /// Workers and main core on a node.
    fn chosen(tree: Tree, node: Option<i32>, most: usize) -> (Vec<usize>, usize) {
        let machine = tree.read();
        let workers = workers(&machine, &near(&machine, node), most);
        let main = main(&machine, &workers);
        (workers, main)
    }

    #[test]
    fn whole_cores_near_the_devices_serve_and_one_is_left() {
        assert_eq!(chosen(Tree::two_sockets(), Some(1), 4), (vec![4, 5, 6], 7));
        assert_eq!(chosen(Tree::two_sockets(), Some(1), 2), (vec![4, 5], 6));
        assert_eq!(chosen(Tree::two_sockets(), Some(0), 4), (vec![1, 2, 3], 0), "the first core last");
        assert_eq!(chosen(Tree::two_sockets(), None, 4), (vec![1, 2, 3, 4], 0));
        let flat: [&[usize]; 6] = [&[0], &[1], &[2], &[3], &[4], &[5]];
        assert_eq!(chosen(Tree::one_socket(&flat), None, 4), (vec![1, 2, 3, 4], 0));
        assert_eq!(chosen(Tree::one_socket(&flat[..2]), None, 4), (vec![1], 0));
    }

    #[test]
    fn hyper_threads_are_shared_only_where_there_is_nothing_else() {
        assert_eq!(chosen(Tree::one_socket(&[&[0, 1]]), None, 4), (vec![1], 0));
        assert_eq!(chosen(Tree::one_socket(&[&[0]]), None, 4), (vec![0], 0));
        let pairs: [&[usize]; 2] = [&[0, 1], &[2, 3]];
        assert_eq!(chosen(Tree::one_socket(&pairs), None, 4), (vec![2], 0));
        // On the devices' node there is one physical core: main goes to another node rather than to its sibling.
        assert_eq!(chosen(Tree::two_sockets().affinity("1,4,12"), Some(1), 4), (vec![4], 1));
        // A process that may use one hyper-thread of each.
        assert_eq!(chosen(Tree::two_sockets().affinity("12-15"), Some(1), 4), (vec![12, 13, 14], 15));
    }

    #[test]
    fn quiet_cores_serve_first_and_others_do_not_join_them() {
        let isolated = || Tree::two_sockets().isolated("2-3,10-11", "0-1,4-9,12-15");
        assert_eq!(chosen(isolated(), Some(0), 4), (vec![2, 3], 0));
        assert_eq!(chosen(isolated(), Some(1), 4), (vec![4, 5, 6], 7), "near comes before quiet");
        // The isolated hyper-thread of a physical core is the one to take.
        let second = Tree::two_sockets().isolated("10", "0-9,11-15");
        assert_eq!(chosen(second, Some(0), 4), (vec![10], 0));
        let nohz = || Tree::two_sockets().file("sys/devices/system/cpu/nohz_full", "1-2\n");
        assert_eq!(chosen(nohz(), Some(0), 4), (vec![1, 2], 0));
        assert_eq!(chosen(nohz().isolated("3", "0-2,4-15"), Some(0), 4), (vec![3], 0));
        // All of the node is isolated: main takes one there.
        let node = Tree::two_sockets().isolated("4-7,12-15", "0-3,8-11");
        assert_eq!(chosen(node, Some(1), 4), (vec![4, 5, 6], 7));
    }

    #[test]
    fn the_node_with_the_fastest_devices_is_home() {
        let home_of = |tree: Tree, devices: &[&str]| home(&config(devices, ""), &tree.read());
        let tree = Tree::two_sockets;
        assert_eq!(home_of(tree(), &[FAR, NEAR[0], NEAR[1]]), Some(0), "more devices");
        assert_eq!(home_of(tree(), &[FAR, NEAR[0]]), Some(1), "the first");
        assert_eq!(home_of(tree(), &["vdev:net_null0", FAR]), Some(1));
        assert_eq!(home_of(tree(), &["vdev:net_null0"]), None);
        let link = |tree: Tree, device: &str, speed: &str| {
            let folder = format!("sys/bus/pci/devices/{device}");
            tree.file(&format!("{folder}/max_link_speed"), speed)
                .file(&format!("{folder}/max_link_width"), "16")
        };
        let known = link(link(tree(), NEAR[0], "8.0 GT/s PCIe"), FAR, "32.0 GT/s PCIe");
        assert_eq!(home_of(known, &[NEAR[0], FAR]), Some(1), "the faster");
        let unknown = link(tree(), FAR, "32.0 GT/s PCIe");
        assert_eq!(home_of(unknown, &[NEAR[0], NEAR[1], FAR]), Some(0), "one speed tells nothing");
        assert_eq!(home_of(tree().affinity("0-3"), &[FAR, NEAR[0]]), Some(0), "no cores there");
        assert_eq!(near(&tree().affinity("0-3").read(), None), list("0-3"));
    }

    #[test]
    fn auto_takes_several_only_where_devices_may_steer() {
        let (nic, other) = ("0000:01:00.0", "0000:02:00.0");
        assert_eq!(most_workers(&config(&[nic, "vdev:net_null0"], "")).0, AUTO_MOST);
        let (most, why) = most_workers(&config(&[nic, "af_packet:eth1"], ""));
        assert_eq!((most, why.as_str()), (1, "port p1: af_packet:eth1 does not steer packets to several"));
        let mut two = config(&[nic, other], "");
        two.ports[1].queues = Some(2);
        let (most, why) = most_workers(&two);
        assert_eq!((most, why.as_str()), (2, "port p1: queues = 2"));
    }
}
