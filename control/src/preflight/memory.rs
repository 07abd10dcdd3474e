//! Hugepages by node, transparent ones, and the kernel's moving of memory between nodes.

use std::collections::BTreeMap;

use forwarder::config::Config;
use forwarder::pools::Plan;
use forwarder::topology::{self, Hugepages, Node, Placement};

use super::Scene;
use super::finding::{Finding, Mend, Subject::Memory, Write};

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    hugepages(scene, out);
    out.push(transparent(scene));
    out.extend(balancing(scene));
}

/// MiB of packet memory of each pool and its NUMA node; s2ds says itself at start how much it lacks.
fn needs(scene: &Scene<'_>) -> Vec<(Option<i32>, u64)> {
    let plan = match (scene.config, &scene.placement) {
        (Some(config), Some(placement)) => Plan::new(config, placement),
        _ => in_general(),
    };
    plan.pools.iter().map(|pool| (pool.node, plan.memory_mb(*pool) as u64)).collect()
}

/// Without a configuration: two NICs with jumbo frames, and as many workers as `cores = "auto"` takes at most.
fn in_general() -> Plan {
    const TEXT: &str = "[[port]]\nname = \"lan\"\ndevice = \"0000:01:00.0\"\nmtu = 9000\naddresses = [\"10.1.0.1/24\"]\n\
                        [[port]]\nname = \"wan\"\ndevice = \"0000:01:00.1\"\nmtu = 9000\naddresses = [\"10.2.0.1/24\"]\n";
    let config = Config::parse(TEXT, "two ports").unwrap_or_default();
    Plan::new(&config, &Placement::on_cores(0, &[1, 2, 3, 4], config.ports.len()))
}

/// Where hugepages are: a node, or the whole machine where it has one at most.
struct Place {
    node: Option<i32>,
    /// Folder with one subfolder a size.
    folder: String,
    sizes: BTreeMap<u64, Hugepages>,
}

impl Place {
    fn what(&self) -> String {
        self.node.map_or_else(|| "hugepages".to_owned(), |node| format!("hugepages of node {node}"))
    }

    /// MiB of some of its pages.
    fn mb(&self, pages: impl Fn(&Hugepages) -> u64) -> u64 {
        self.sizes.iter().map(|(kb, p)| pages(p).saturating_mul(*kb) / 1024).sum()
    }
}

fn places(scene: &Scene<'_>) -> Vec<Place> {
    let nodes: Vec<_> = scene.host.machine.nodes.iter().filter(|n| n.memory_kb > 0).collect();
    if nodes.len() < 2 {
        let folder = "/sys/kernel/mm/hugepages".to_owned();
        return vec![Place { node: None, sizes: topology::hugepages(&scene.root.at(&folder)), folder }];
    }
    let folder = |id: i32| format!("/sys/devices/system/node/node{id}/hugepages");
    let place = |n: &&Node| Place { node: Some(n.id), folder: folder(n.id), sizes: n.hugepages.clone() };
    nodes.iter().map(place).collect()
}

fn hugepages(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    if scene.config.is_some_and(|c| !c.eal.huge) {
        let why = "ordinary pages cost misses of the address cache on every packet, and devices behind vfio cannot use them";
        let finding = Finding::ok(Memory, "hugepages", "not used: [eal] huge = false");
        out.push(finding.warning("huge = true, the default", why));
        return;
    }
    let (needs, places) = (needs(scene), places(scene));
    let sum = |wanted: &dyn Fn(Option<i32>) -> bool| -> u64 {
        needs.iter().filter(|(node, _)| wanted(*node)).map(|(_, mb)| mb).sum()
    };
    let free_in_all: u64 = places.iter().map(|p| p.mb(|h| h.free)).sum();
    // What may lie anywhere, as the packets of virtual devices do: asked of the first when nobody has it.
    let mut anywhere = Some(sum(&|node| node.is_none())).filter(|need| *need > 0 && free_in_all < *need);
    for place in &places {
        let what = place.what();
        if place.sizes.is_empty() {
            let why = format!("{} has no sizes: the kernel may lack CONFIG_HUGETLBFS", place.folder);
            out.push(Finding::unknown(Memory, what, why, "grep -i huge /proc/meminfo"));
            continue;
        }
        let need = match place.node {
            None => sum(&|_| true),
            node => sum(&|n| n == node) + anywhere.take().unwrap_or(0),
        };
        let (total, free) = (place.mb(|h| h.total), place.mb(|h| h.free));
        let is = format!("{total} MiB, {free} free");
        let should = format!("{need} MiB free");
        out.push(match need {
            0 => Finding::ok(Memory, what, is).should("none needed here"),
            _ if scene.told.ports.is_some() && total > free => {
                Finding::ok(Memory, what, is + ", s2ds runs").should("what s2ds has").likely()
            }
            _ if free >= need => Finding::ok(Memory, what, is).should(should).likely(),
            _ => {
                let why = "s2ds keeps packets in hugepages, beside the devices, and does not start with less; `huge = false` in [eal] \
                           does without, slower";
                Finding::ok(Memory, what, is).problem(should, why).likely().mend(reserve(scene, place, need - free))
            }
        });
    }
}

/// Reserves what is missing, and keeps what others have.
fn reserve(scene: &Scene<'_>, place: &Place, missing_mb: u64) -> Mend {
    // The size that /proc/sys/vm/nr_hugepages counts: 2 MiB on x86, others elsewhere.
    let kb = scene.root.field("/proc/meminfo", "Hugepagesize");
    let kb: u64 = kb.and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or(2048);
    let now = place.sizes.get(&kb).map_or(0, |h| h.total);
    let pages = now + missing_mb.saturating_mul(1024).div_ceil(kb);
    let file = format!("{}/hugepages-{kb}kB/nr_hugepages", place.folder);
    let lasting = match place.node {
        None => format!("echo 'vm.nr_hugepages = {pages}' >> /etc/sysctl.d/90-scistream.conf"),
        Some(_) => format!("echo 'w {file} - - - - {pages}' >> /etc/tmpfiles.d/scistream.conf"),
    };
    Mend::echo(file, pages).lasting(lasting)
}

fn transparent(scene: &Scene<'_>) -> Finding {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    const WHAT: &str = "transparent hugepages";
    let Some(choice) = scene.root.chosen(FILE) else {
        return Finding::unknown(Memory, WHAT, format!("{FILE} cannot be read"), format!("cat {FILE}"));
    };
    let finding = Finding::ok(Memory, WHAT, choice.as_str());
    if choice != "never" {
        return finding.should("madvise or always");
    }
    let why =
        "connection tables ask for them: with many connections every lookup misses the address cache without";
    finding.warning("madvise", why).rule_of_thumb().mend(Mend::echo(FILE, "madvise"))
}

/// Only where there are nodes to move memory between.
fn balancing(scene: &Scene<'_>) -> Option<Finding> {
    const FILE: &str = "/proc/sys/kernel/numa_balancing";
    const WHAT: &str = "automatic NUMA balancing";
    if scene.host.machine.nodes.len() < 2 {
        return None;
    }
    let on = scene.root.number::<u8>(FILE)? != 0;
    let finding = Finding::ok(Memory, WHAT, if on { "on" } else { "off" });
    let why = "the kernel unmaps pages to see who uses them: a worker faults on its tables now and then, for microseconds";
    Some(match on {
        false => finding,
        true => finding.warning("off", why).rule_of_thumb().mend(Mend::sysctl("kernel.numa_balancing", 0)),
    })
}

/// One text for many files.
pub(super) fn same(files: impl IntoIterator<Item = String>, text: &str) -> Vec<Write> {
    files.into_iter().map(|file| Write { file, text: text.to_owned() }).collect()
}
