//! Hugepages by node, transparent ones, and the kernel's moving of memory between nodes.

use forwarder::engine::HANDOVER;
use forwarder::flow::fragments::{HELD_FRIENDS, HELD_STRANGERS};
use forwarder::io::TX_BATCH;

use super::Scene;
use super::finding::{Finding, Mend, Subject::Memory, Write};

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    hugepages(scene, out);
    out.push(transparent(scene));
    out.extend(balancing(scene));
}

/// Workers that are reckoned with where it is not known: the most that `cores = "auto"` takes.
const AUTO_MOST: usize = 4;

/// MiB of packet memory that s2ds takes, about: it says itself at start how much it lacks.
fn needed_mb(scene: &Scene<'_>) -> u64 {
    const DESCRIPTORS: usize = 1024;
    const CACHES: usize = 2 * 256 + 2048;
    /// Headers of an mbuf and of its pool.
    const BESIDES: usize = 512;
    const DEVICES_MB: usize = 16;
    let workers = if scene.workers.is_empty() { AUTO_MOST } else { scene.workers.len() };
    let devices = scene.devices.len().max(2);
    let ports = scene.config.map_or(2, |c| c.ports.len());
    let mtu = scene.devices.iter().map(|d| usize::from(d.mtu)).max().unwrap_or(9000);
    let frame = (mtu + 88).max(2048).next_multiple_of(1024);
    let each = devices * 2 * DESCRIPTORS + ports * TX_BATCH + CACHES + HELD_FRIENDS + HELD_STRANGERS;
    let buffers = workers * each + workers * (workers - 1) * HANDOVER;
    (buffers * (frame + BESIDES)).div_ceil(1 << 20).saturating_add(DEVICES_MB) as u64
}

/// Hugepages of a place: MiB in all and free, of all sizes.
struct Pages {
    /// `hugepages`, or `hugepages of node 1`.
    what: String,
    /// Folder with one subfolder a size.
    folder: String,
    total_mb: u64,
    free_mb: u64,
    known: bool,
}

impl Pages {
    fn read(scene: &Scene<'_>, what: String, folder: String) -> Self {
        let size = |name: &String| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok();
        let mut pages = Self { what, total_mb: 0, free_mb: 0, known: false, folder };
        for name in scene.root.names(&pages.folder) {
            let Some(kb) = size(&name) else { continue };
            let count = |file: &str| scene.root.number::<u64>(&format!("{}/{name}/{file}", pages.folder));
            let (Some(total), Some(free)) = (count("nr_hugepages"), count("free_hugepages")) else {
                continue;
            };
            let mb = |pages: u64| pages.saturating_mul(kb) / 1024;
            (pages.total_mb, pages.free_mb) = (pages.total_mb + mb(total), pages.free_mb + mb(free));
            pages.known = true;
        }
        pages
    }
}

fn hugepages(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    if scene.config.is_some_and(|c| !c.eal.huge) {
        out.push(Finding::ok(Memory, "hugepages", "not used: [eal] huge = false").warning(
            "huge = true, the default",
            "ordinary pages cost misses of the address cache on every packet, and devices behind vfio cannot use them",
        ));
        return;
    }
    let need = needed_mb(scene);
    let nodes: Vec<i32> = scene.host.machine.nodes.iter().filter(|n| n.memory_kb > 0).map(|n| n.id).collect();
    let folder = |node: &i32| format!("/sys/devices/system/node/node{node}/hugepages");
    let by_node = |node: &i32| Pages::read(scene, format!("hugepages of node {node}"), folder(node));
    let places: Vec<(Option<i32>, Pages)> = match nodes.as_slice() {
        [] | [_] => {
            vec![(None, Pages::read(scene, "hugepages".to_owned(), "/sys/kernel/mm/hugepages".to_owned()))]
        }
        many => many.iter().map(|n| (Some(*n), by_node(n))).collect(),
    };
    let free: u64 = places.iter().map(|(_, p)| p.free_mb).sum();
    // Where packet memory belongs: near the devices, else anywhere.
    let wanted: Vec<i32> = scene.devices.iter().filter_map(|d| d.nic?.node).collect();
    let mut begged = false;
    for (node, pages) in &places {
        if !pages.known {
            let file = "/proc/meminfo";
            let why = format!("{} has no sizes: the kernel may lack CONFIG_HUGETLBFS", pages.folder);
            out.push(Finding::unknown(Memory, &pages.what, why, format!("grep -i huge {file}")).likely());
            continue;
        }
        let is = format!("{} MiB, {} free", pages.total_mb, pages.free_mb);
        let finding = Finding::ok(Memory, &pages.what, is);
        let near = node.is_none_or(|n| wanted.contains(&n));
        let should = format!("{need} MiB free, about");
        if scene.told.ports.is_some() && pages.total_mb > pages.free_mb {
            out.push(Finding::ok(Memory, &pages.what, format!("{is}, s2ds runs", is = finding.is)).likely());
        } else if pages.free_mb >= need || node.is_some() && !near && free >= need {
            out.push(finding.should(should).likely());
        } else if free < need && !begged && (near || wanted.is_empty()) {
            begged = true;
            let why = "s2ds keeps packets in hugepages and does not start with less; `huge = false` in [eal] does without, slower";
            out.push(finding.problem(should, why).likely().mend(reserve(scene, pages, need)));
        } else if near && node.is_some() {
            let why = "a device is on this node: packets in another node's memory cross the interconnect";
            out.push(finding.warning(should, why).likely().mend(reserve(scene, pages, need)));
        } else {
            out.push(finding.should("none needed here"));
        }
    }
}

/// Reserves what is missing, and keeps what others have.
fn reserve(scene: &Scene<'_>, pages: &Pages, need: u64) -> Mend {
    // What /proc/sys/vm/nr_hugepages counts, x86's 2 MiB and others.
    let kb = scene.root.field("/proc/meminfo", "Hugepagesize");
    let kb: u64 = kb.and_then(|v| v.split_whitespace().next()?.parse().ok()).unwrap_or(2048);
    let name = format!("{}/hugepages-{kb}kB/nr_hugepages", pages.folder);
    let now: u64 = scene.root.number(&name).unwrap_or(0);
    let more = need.saturating_sub(pages.free_mb).saturating_mul(1024).div_ceil(kb);
    let lasting = match scene.host.machine.nodes.len() {
        0 | 1 => format!("echo 'vm.nr_hugepages = {}' >> /etc/sysctl.d/90-scistream.conf", now + more),
        _ => "write it at boot, before memory is fragmented: the package's unit does, or a line in /etc/tmpfiles.d".to_owned(),
    };
    Mend::echo(name, now + more).lasting(lasting)
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
