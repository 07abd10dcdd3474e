//! What there is to say about a placement: what was chosen, and what is not as it should be.

use super::cores::CoreSet;
use super::machine::Machine;
use super::rule::{self, Quiet};
use super::{Placement, WorkerPlace};
use crate::config::{Config, Device};

/// Sentences. `wanted` are how many workers there may be at most, and why not more, where they were chosen.
pub(super) fn of(
    config: &Config,
    machine: &Machine,
    placement: &Placement,
    wanted: Option<(usize, String)>,
) -> Vec<String> {
    let mut notices = Vec::new();
    match wanted {
        Some((most, why)) => notices.push(number(machine, placement, most, &why)),
        None => outside(machine, placement, &mut notices),
    }
    main(machine, placement, &mut notices);
    hyper_threads(machine, placement, &mut notices);
    quiet(machine, placement, &mut notices);
    ports(config, machine, placement, &mut notices);
    memory(config, machine, placement, &mut notices);
    notices
}

/// How many workers were chosen.
fn number(machine: &Machine, placement: &Placement, most: usize, why: &str) -> String {
    let kinds: Vec<Quiet> = placement.workers.iter().map(|w| Quiet::of(machine, w.core)).collect();
    let kind = match kinds.first() {
        Some(kind) if *kind != Quiet::No => format!(" {}", kind.word()),
        _ => String::new(),
    };
    match kinds.len() {
        n if n > 1 => {
            format!("{n} workers if every device steers packets to them, else one; see s2ctl port list")
        }
        _ if most > 1 => format!("one worker: this process has no more{kind} cores near the devices"),
        _ => format!("one worker: {why}; list cores in workers.cores to have more"),
    }
}

/// Listed cores that somebody kept the process off.
fn outside(machine: &Machine, placement: &Placement, notices: &mut Vec<String>) {
    let listed: CoreSet = placement.cores().into_iter().collect();
    let outside = listed.without(&machine.available());
    if !outside.is_empty() {
        notices.push(format!(
            "{} in workers.cores: outside of the CPU affinity this process was started with ({}), and used all the same",
            named(&outside),
            machine.affinity
        ));
    }
}

fn main(machine: &Machine, placement: &Placement, notices: &mut Vec<String>) {
    let main = placement.main;
    let sibling = |w: &&WorkerPlace| machine.siblings(w.core).contains(main);
    if placement.workers.iter().any(|w| w.core == main) {
        notices.push(format!(
            "core {main} serves a worker and everything else: the worker will be interrupted; leave a core out of workers.cores"
        ));
    } else if let Some(worker) = placement.workers.iter().find(sibling) {
        notices.push(format!(
            "core {main} serves everything that is not a worker, and is a hyper-thread of the physical core of the worker on core \
             {}, which is slower while that has work: there is no other core",
            worker.core
        ));
    }
}

fn hyper_threads(machine: &Machine, placement: &Placement, notices: &mut Vec<String>) {
    let numbered = || placement.workers.iter().enumerate();
    for (index, worker) in numbered() {
        let siblings = machine.siblings(worker.core);
        for (other, second) in numbered().skip(index + 1).filter(|(_, w)| siblings.contains(w.core)) {
            notices.push(format!(
                "workers {index} and {other} share a physical core (cores {} and {} are its hyper-threads), and each gets little more \
                 than half of it; list cores of different ones",
                worker.core, second.core
            ));
        }
        let open = siblings.without(&machine.isolated);
        if machine.isolated.contains(worker.core) && !open.is_empty() {
            notices.push(format!(
                "core {} of worker {index} is isolated, but its hyper-thread sibling {open} is not: what runs there slows the worker; \
                 add it to isolcpus= or take it offline",
                worker.core
            ));
        }
    }
}

/// Workers on ordinary cores while there are better ones.
fn quiet(machine: &Machine, placement: &Placement, notices: &mut Vec<String>) {
    let workers = &placement.workers;
    let Some(least) = workers.iter().map(|w| Quiet::of(machine, w.core)).max() else { return };
    let used: CoreSet = workers.iter().map(|w| w.core).collect();
    for (kind, all) in [(Quiet::Isolated, &machine.isolated), (Quiet::NohzFull, &machine.nohz_full)] {
        let idle = all.and(&machine.available()).without(&used);
        if least <= kind || idle.is_empty() {
            continue;
        }
        let less = workers.iter().map(|w| w.core).filter(|c| Quiet::of(machine, *c) > kind);
        let less = named(&less.collect());
        let node = |core: usize| machine.core_node(core);
        let is_near = |core: usize| workers.iter().any(|w| node(w.core) == node(core));
        let what = kind.word();
        let has_near = idle.iter().any(is_near);
        let idle = format!("{} {}", named(&idle), if idle.len() == 1 { "is" } else { "are" });
        notices.push(match has_near {
            true => format!("workers on {less} can be interrupted, while {idle} {what}"),
            false => format!(
                "workers on {less} can be interrupted; {idle} {what}, but not on the workers' NUMA node"
            ),
        });
        return;
    }
}

/// Which ports are near the workers, and which are not.
fn ports(config: &Config, machine: &Machine, placement: &Placement, notices: &mut Vec<String>) {
    let home = rule::home(config, machine);
    for (port, place) in config.ports.iter().zip(&placement.ports) {
        let Some(node) = place.node else {
            if matches!(port.device, Device::Mac(_)) && machine.nodes.len() > 1 {
                notices.push(format!(
                    "port {}: on which NUMA node the device with this MAC address is shows only when it is opened; name its PCI \
                     address instead",
                    port.name
                ));
            }
            continue;
        };
        let far: CoreSet =
            placement.workers.iter().filter(|w| w.node.is_some_and(|n| n != node)).map(|w| w.core).collect();
        let name = &port.name;
        if far.is_empty() {
            notices.push(format!("port {name}: device and workers are on NUMA node {node}"));
            continue;
        }
        let mend = match home {
            Some(home) if home != node => format!(
                "each worker polls every port, and other ports are on node {home}: put the NICs into slots of one node"
            ),
            _ if rule::near(machine, Some(node)).is_empty() => {
                format!("let this process use cores of node {node}")
            }
            _ => format!("use cores of node {node} in workers.cores"),
        };
        notices.push(format!(
            "port {name}: its device is on NUMA node {node}, but workers on {} are not: every packet crosses the interconnect; \
             {mend}",
            named(&far)
        ));
    }
}

fn named(cores: &CoreSet) -> String {
    format!("{} {cores}", if cores.len() == 1 { "core" } else { "cores" })
}

fn memory(config: &Config, machine: &Machine, placement: &Placement, notices: &mut Vec<String>) {
    for (port, place) in config.ports.iter().zip(&placement.ports) {
        if let (Some(node), Some(pool)) = (place.node, place.pool)
            && node != pool
        {
            notices.push(format!(
                "port {}: NUMA node {node} of its device has no memory; its packets lie on node {pool}",
                port.name
            ));
        }
    }
    if !config.eal.huge && machine.nodes.len() > 1 {
        notices.push(
            "without hugepages ([eal] huge = false) packets lie where the system puts them, whatever the NUMA node".to_owned(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::place;
    use super::super::tree::{FAR, NEAR, Tree, config};

    fn said(tree: &Tree, devices: &[&str], workers: &str) -> Vec<String> {
        place(&config(devices, workers), &tree.read()).unwrap().notices
    }

    #[test]
    fn all_is_well_near_the_devices() {
        let tree = Tree::two_sockets();
        assert_eq!(
            said(&tree, &[FAR], ""),
            [
                "3 workers if every device steers packets to them, else one; see s2ctl port list",
                "port p0: device and workers are on NUMA node 1"
            ]
        );
        assert_eq!(said(&tree, &[FAR], "cores = [4]"), ["port p0: device and workers are on NUMA node 1"]);
        assert_eq!(said(&tree, &["vdev:net_null0"], "cores = [4]"), [""; 0]);
    }

    #[test]
    fn the_number_of_workers_is_explained() {
        let first = |tree: &Tree, device: &str| said(tree, &[device], "").swap_remove(0);
        let few = Tree::two_sockets().affinity("4-5");
        assert_eq!(first(&few, FAR), "one worker: this process has no more cores near the devices");
        let isolated = Tree::two_sockets().isolated("6,14", "0-5,7-13,15");
        assert_eq!(
            first(&isolated, FAR),
            "one worker: this process has no more isolated cores near the devices"
        );
        assert_eq!(
            first(&few, "tap:t0"),
            "one worker: port p0: tap:t0 does not steer packets to several; list cores in workers.cores to have more"
        );
    }

    #[test]
    fn listed_cores_are_taken_and_judged() {
        let none = "vdev:net_null0";
        let tree = Tree::two_sockets();
        assert_eq!(
            said(&tree, &[none], "cores = [1, 9]"),
            [
                "workers 0 and 1 share a physical core (cores 1 and 9 are its hyper-threads), and each gets little more than half of it; \
              list cores of different ones"
            ]
        );
        let isolated = Tree::two_sockets().isolated("2-3,11", "0-1,4-10,12-15");
        assert_eq!(
            said(&isolated, &[none], "cores = [1, 3]"),
            ["workers on core 1 can be interrupted, while cores 2,11 are isolated"]
        );
        assert_eq!(
            said(&isolated, &[none], "cores = [5]"),
            [
                "workers on core 5 can be interrupted; cores 2-3,11 are isolated, but not on the workers' NUMA node"
            ]
        );
        assert_eq!(
            said(&isolated, &[none], "cores = [2]"),
            [
                "core 2 of worker 0 is isolated, but its hyper-thread sibling 10 is not: what runs there slows the worker; add it to \
              isolcpus= or take it offline"
            ]
        );
        let nohz = Tree::two_sockets().file("sys/devices/system/cpu/nohz_full", "2-3\n");
        assert_eq!(
            said(&nohz, &[none], "cores = [1]"),
            ["workers on core 1 can be interrupted, while cores 2-3 are nohz_full"]
        );
        assert_eq!(
            said(&Tree::two_sockets().affinity("0-3"), &[none], "cores = [2, 4]"),
            [
                "core 4 in workers.cores: outside of the CPU affinity this process was started with (0-3), and used all the same"
            ]
        );
    }

    #[test]
    fn the_main_core_is_told_when_it_is_in_a_workers_way() {
        let none = "vdev:net_null0";
        assert_eq!(
            said(&Tree::one_socket(&[&[0]]), &[none], "cores = [0]"),
            [
                "core 0 serves a worker and everything else: the worker will be interrupted; leave a core out of workers.cores"
            ]
        );
        assert_eq!(
            said(&Tree::one_socket(&[&[0, 1]]), &[none], "cores = [1]"),
            [
                "core 0 serves everything that is not a worker, and is a hyper-thread of the physical core of the worker on core 1, which \
              is slower while that has work: there is no other core"
            ]
        );
    }

    #[test]
    fn what_crosses_the_interconnect_is_told() {
        let tree = Tree::two_sockets();
        let two = said(&tree, &[NEAR[0], FAR], "");
        assert_eq!(two[1], "port p0: device and workers are on NUMA node 0");
        assert_eq!(
            two[2],
            "port p1: its device is on NUMA node 1, but workers on cores 1-3 are not: every packet crosses the interconnect; each \
             worker polls every port, and other ports are on node 0: put the NICs into slots of one node"
        );
        assert_eq!(
            said(&tree, &[FAR], "cores = [1, 4]"),
            [
                "port p0: its device is on NUMA node 1, but workers on core 1 are not: every packet crosses the interconnect; use cores \
              of node 1 in workers.cores"
            ]
        );
    }

    #[test]
    fn a_device_that_is_not_found_before_it_is_opened_is_told() {
        let of = |tree: &Tree| said(tree, &["mac:52:54:00:00:00:01"], "cores = [1]");
        assert_eq!(
            of(&Tree::two_sockets()),
            [
                "port p0: on which NUMA node the device with this MAC address is shows only when it is opened; name its PCI address \
              instead"
            ]
        );
        assert_eq!(of(&Tree::one_socket(&[&[0], &[1]])), [""; 0]);
    }

    #[test]
    fn memory_that_is_elsewhere_is_told() {
        let tree =
            Tree::two_sockets().file("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 0 kB\n");
        let said = said(&tree, &[FAR], "cores = [4]\n[eal]\nhuge = false");
        assert_eq!(
            said[1..],
            [
                "port p0: NUMA node 1 of its device has no memory; its packets lie on node 0",
                "without hugepages ([eal] huge = false) packets lie where the system puts them, whatever the NUMA node"
            ]
        );
    }
}
