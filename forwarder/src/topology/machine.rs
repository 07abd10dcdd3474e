//! What the computer is made of, as far as it matters to where things run: facts from /sys and /proc, and nothing decided.
//!
//! All paths are below a root, so that tests read trees they made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::cores::CoreSet;
use crate::config::Device;
use crate::wire::Mac;

/// The facts. What the kernel does not tell is empty or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Cores that are online, by number.
    pub cores: Vec<Core>,
    /// NUMA nodes that are online, by number; none when the kernel knows none.
    pub nodes: Vec<Node>,
    /// Cores the calling thread may run on now.
    pub affinity: CoreSet,
    /// Cores of the process's cpuset, when that can be read.
    pub cpuset: Option<CoreSet>,
    /// Cores without load balancing (`isolcpus=`, isolated cpusets): nothing runs there unasked.
    pub isolated: CoreSet,
    /// Cores without a timer tick while one task runs (`nohz_full=`).
    pub nohz_full: CoreSet,
    /// Cores whose RCU callbacks run elsewhere (`rcu_nocbs=`, and all of `nohz_full`).
    pub rcu_nocbs: CoreSet,
    /// The kernel's command line.
    pub cmdline: String,
    /// PCI devices, by address in full.
    pub pci: BTreeMap<String, Hardware>,
    /// Network interfaces of the network namespace that /sys shows, by name.
    pub interfaces: BTreeMap<String, Hardware>,
}

/// A core: what the kernel calls a CPU, which is one hyper-thread of a physical core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// Its number.
    pub id: usize,
    /// Its NUMA node, when known.
    pub node: Option<i32>,
    /// The processor package (socket) it is in, when known.
    pub package: Option<i32>,
    /// The hyper-threads of its physical core, itself included.
    pub threads: CoreSet,
}

/// A NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: i32,
    /// Its cores.
    pub cores: CoreSet,
    /// Distance to each node, itself included, in the firmware's measure (ACPI SLIT: 10 is local).
    pub distances: BTreeMap<i32, u32>,
    /// Its memory, in KiB. There are nodes without.
    pub memory_kb: u64,
    /// Its hugepages, by page size in KiB.
    pub hugepages: BTreeMap<u64, Hugepages>,
}

/// Hugepages of one size, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hugepages {
    /// Reserved, those in use included.
    pub total: u64,
    /// Reserved and not in use.
    pub free: u64,
}

/// Where a device is plugged in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hardware {
    /// NUMA node, when known.
    pub node: Option<i32>,
    /// Mbit/s that can pass at most: an interface's link speed, or what a NIC's PCIe link carries.
    pub mbits: Option<u64>,
    /// MAC address of a real interface.
    pub mac: Option<[u8; 6]>,
    /// A NIC that the kernel has left to programs (vfio-pci, uio), so that it does not know its MAC address.
    pub handed_over: bool,
}

/// Why the machine cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("neither {cores} nor {status} tells which cores there are; mount /sys and /proc")]
pub struct MachineError {
    cores: String,
    status: String,
}

impl Machine {
    /// The machine this process runs on.
    ///
    /// # Errors
    /// Neither /sys nor /proc tells which cores there are.
    pub fn here() -> Result<Self, MachineError> {
        let machine = Self::read(Path::new("/"))?;
        #[cfg(feature = "hwloc")]
        let machine = super::hwloc::refine(machine);
        Ok(machine)
    }

    /// The machine whose /sys and /proc are in this folder.
    ///
    /// # Errors
    /// Neither tells which cores there are.
    pub fn read(root: &Path) -> Result<Self, MachineError> {
        let cpu = root.join("sys/devices/system/cpu");
        let (online_file, status_file) = (cpu.join("online"), root.join("proc/thread-self/status"));
        let affinity = value(&status_file, "Cpus_allowed_list:").and_then(|list| CoreSet::parse(&list));
        let online = cores(&online_file).or_else(|| affinity.clone()).ok_or_else(|| MachineError {
            cores: online_file.display().to_string(),
            status: status_file.display().to_string(),
        })?;
        let nodes = nodes(&root.join("sys/devices/system/node"));
        let cmdline = text(&root.join("proc/cmdline")).unwrap_or_default();
        let argument = |name: &str| argument(&cmdline, name).and_then(|list| boot_list(list, &online));
        let nohz_full =
            cores(&cpu.join("nohz_full")).or_else(|| argument("nohz_full")).unwrap_or_default().and(&online);
        // Cores of isolated cpusets are not always among those isolated at boot.
        let partitions = cores(&root.join("sys/fs/cgroup/cpuset.cpus.isolated")).unwrap_or_default();
        let isolated = cores(&cpu.join("isolated")).unwrap_or_default().or(&partitions).and(&online);
        Ok(Self {
            cores: online.iter().map(|id| core(&cpu, id, &nodes)).collect(),
            affinity: affinity.unwrap_or_else(|| online.clone()),
            cpuset: cpuset(root),
            isolated,
            rcu_nocbs: argument("rcu_nocbs").unwrap_or_default().or(&nohz_full),
            nohz_full,
            pci: pci(&root.join("sys/bus/pci/devices")),
            interfaces: interfaces(&root.join("sys/class/net")),
            nodes,
            cmdline,
        })
    }

    /// Cores that are online.
    #[must_use]
    pub fn online(&self) -> CoreSet {
        self.cores.iter().map(|c| c.id).collect()
    }

    /// Cores this process can have a thread pinned to: those of its cpuset. The affinity it was started with does not bind it.
    #[must_use]
    pub fn permitted(&self) -> CoreSet {
        let online = self.online();
        let own = self.cpuset.as_ref().map(|set| set.and(&online));
        own.filter(|own| !own.is_empty()).unwrap_or(online)
    }

    /// Cores this process is meant to use.
    ///
    /// The kernel starts all processes outside of isolated cores, so an affinity of just the others is nobody's will, and the
    /// isolated ones are meant, too. A narrower one was set by somebody (taskset, CPUAffinity= of a unit) and is kept to.
    #[must_use]
    pub fn available(&self) -> CoreSet {
        let permitted = self.permitted();
        let unasked = permitted.without(&self.isolated);
        let chosen = permitted.and(&self.affinity);
        let nobody_chose = unasked.is_within(&self.affinity) && !unasked.is_empty();
        if nobody_chose || chosen.is_empty() { permitted } else { chosen }
    }

    /// A core that is online.
    #[must_use]
    pub fn core(&self, id: usize) -> Option<&Core> {
        self.cores.iter().find(|c| c.id == id)
    }

    /// NUMA node of a core, when known.
    #[must_use]
    pub fn core_node(&self, core: usize) -> Option<i32> {
        self.core(core)?.node
    }

    /// The other hyper-threads of a core's physical core.
    #[must_use]
    pub fn siblings(&self, core: usize) -> CoreSet {
        let own = CoreSet::from_iter([core]);
        self.core(core).map(|c| c.threads.without(&own)).unwrap_or_default()
    }

    /// A NUMA node that is online.
    #[must_use]
    pub fn node(&self, id: i32) -> Option<&Node> {
        self.nodes.iter().find(|n| n.id == id)
    }

    /// Distance between two NUMA nodes (10 is local), when known.
    #[must_use]
    pub fn distance(&self, from: i32, to: i32) -> Option<u32> {
        self.node(from)?.distances.get(&to).copied()
    }

    /// The node with memory that is nearest to this one, which is this one where it has some.
    #[must_use]
    pub fn memory_near(&self, node: i32) -> Option<i32> {
        let with_memory = self.nodes.iter().filter(|n| n.memory_kb > 0);
        let by_distance = |n: &&Node| (n.id != node, self.distance(node, n.id).unwrap_or(u32::MAX), n.id);
        with_memory.min_by_key(by_distance).map(|n| n.id)
    }

    /// Where the device behind a port is plugged in, when it is a real one and that can be told. Where one is that is named by a MAC
    /// address that the kernel does not know can be told only when all that it may be are on one node.
    #[must_use]
    pub fn hardware(&self, device: &Device) -> Option<Hardware> {
        match device {
            Device::Pci(address) => self.pci.get(address).copied(),
            Device::Mac(mac) => self.with_mac(*mac),
            Device::AfPacket(interface) | Device::AfXdp(interface) => self.interfaces.get(interface).copied(),
            _ => None,
        }
    }

    fn with_mac(&self, mac: [u8; 6]) -> Option<Hardware> {
        if let Some(known) = self.interfaces.values().find(|i| i.mac == Some(mac)) {
            return Some(*known);
        }
        let mut nodes = self.pci.values().filter(|d| d.handed_over).map(|d| d.node);
        let node = nodes.next()?;
        nodes.all(|n| n == node).then_some(Hardware { node, ..Hardware::default() })
    }
}

fn core(cpu: &Path, id: usize, nodes: &[Node]) -> Core {
    let topology = cpu.join(format!("cpu{id}/topology"));
    let threads = cores(&topology.join("thread_siblings_list"))
        .or_else(|| cores(&topology.join("core_cpus_list")))
        .filter(|threads| threads.contains(id));
    Core {
        id,
        node: nodes.iter().find(|n| n.cores.contains(id)).map(|n| n.id),
        package: number(&topology.join("physical_package_id")),
        threads: threads.unwrap_or_else(|| CoreSet::from_iter([id])),
    }
}

fn nodes(folder: &Path) -> Vec<Node> {
    let number = |name: &str| name.strip_prefix("node")?.parse::<i32>().ok();
    let mut ids: Vec<i32> = names(folder).iter().filter_map(|name| number(name)).collect();
    ids.sort_unstable();
    let node = |id: &i32| {
        let folder = folder.join(format!("node{id}"));
        // One column a node that is online.
        let row = text(&folder.join("distance")).unwrap_or_default();
        let columns = row.split_whitespace().filter_map(|d| d.parse().ok());
        Node {
            id: *id,
            cores: cores(&folder.join("cpulist")).unwrap_or_default(),
            distances: ids.iter().copied().zip(columns).collect(),
            memory_kb: value(&folder.join("meminfo"), &format!("Node {id} MemTotal:"))
                .and_then(|v| v.split_whitespace().next()?.parse().ok())
                .unwrap_or(0),
            hugepages: hugepages(&folder.join("hugepages")),
        }
    };
    ids.iter().map(node).collect()
}

/// Reads a folder of hugepages, such as /sys/kernel/mm/hugepages or a node's: its subfolders are named like `hugepages-2048kB`.
#[must_use]
pub fn hugepages(folder: &Path) -> BTreeMap<u64, Hugepages> {
    let size = |name: &str| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok();
    let pages = |name: String| {
        let count = |file: &str| number(&folder.join(&name).join(file)).unwrap_or(0);
        Some((size(&name)?, Hugepages { total: count("nr_hugepages"), free: count("free_hugepages") }))
    };
    names(folder).into_iter().filter_map(pages).collect()
}

/// Kernel drivers that leave a device to programs.
pub const HANDED_OVER: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Kernel drivers that DPDK works beside (bifurcated): the device keeps its interface.
pub const SHARED: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];

fn pci(folder: &Path) -> BTreeMap<String, Hardware> {
    const NETWORK: &str = "0x02";
    let hardware = |address: String| {
        let folder = folder.join(&address);
        let network = text(&folder.join("class")).is_some_and(|class| class.starts_with(NETWORK));
        let mbits = network.then(|| pcie_mbits(&folder)).flatten();
        let driver = fs::read_link(folder.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        let handed_over = network && driver.is_some_and(|d| HANDED_OVER.contains(&d));
        (address, Hardware { node: numa_node(&folder), mbits, mac: None, handed_over })
    };
    names(folder).into_iter().map(hardware).collect()
}

/// What the PCIe link carries one way, without the line code (8b/10b up to 5 GT/s, 128b/130b and denser above).
fn pcie_mbits(folder: &Path) -> Option<u64> {
    let speed: f64 = text(&folder.join("max_link_speed"))?.split_whitespace().next()?.parse().ok()?;
    let lanes: f64 = number(&folder.join("max_link_width"))?;
    let code = if speed > 5.0 { 128.0 / 130.0 } else { 0.8 };
    let mbits = speed * lanes * code * 1000.0;
    (mbits >= 1.0).then_some(mbits as u64)
}

fn interfaces(folder: &Path) -> BTreeMap<String, Hardware> {
    let hardware = |name: String| {
        let folder = folder.join(&name);
        // -1 while the link is down.
        let mbits = number(&folder.join("speed")).filter(|speed: &i64| *speed > 0);
        let mbits = mbits.and_then(|speed| u64::try_from(speed).ok());
        // A virtio interface's device hangs on a PCI device.
        let device = folder.join("device");
        let node = numa_node(&device).or_else(|| numa_node(&fs::canonicalize(device).ok()?.join("..")));
        // A bridge or a VLAN, which is no device, may repeat the address of the device below.
        let real = folder.join("device").exists();
        let mac = text(&folder.join("address")).filter(|_| real).and_then(|mac| mac.parse::<Mac>().ok());
        (name, Hardware { node, mbits, mac: mac.map(|mac| mac.0), handed_over: false })
    };
    names(folder).into_iter().map(hardware).collect()
}

/// -1 stands for none.
fn numa_node(device: &Path) -> Option<i32> {
    number(&device.join("numa_node")).filter(|node| *node >= 0)
}

/// The cores of the process's cgroup (version 2), else of its cpuset (version 1): of the nearest folder that tells, because a group
/// without a controller of its own goes by its parent, and a container sees its group as the root.
fn cpuset(root: &Path) -> Option<CoreSet> {
    let groups = text(&root.join("proc/thread-self/cgroup"))?;
    let groups = || groups.lines().filter_map(|l| l.split_once(':')?.1.split_once(':'));
    let is_v1 = |controllers: &str| controllers.split(',').any(|c| c == "cpuset");
    let v2 = groups().find(|(controllers, _)| controllers.is_empty());
    let v1 = groups().find(|(controllers, _)| is_v1(controllers));
    let nearest = |mount: &str, file: &str, group: &str| {
        let group = Path::new(group.trim_start_matches('/'));
        let found = |g: &Path| cores(&root.join(mount).join(g).join(file)).filter(|set| !set.is_empty());
        group.ancestors().find_map(found)
    };
    let v1 = v1.and_then(|(_, group)| {
        nearest("sys/fs/cgroup/cpuset", "cpuset.effective_cpus", group)
            .or_else(|| nearest("sys/fs/cgroup/cpuset", "cpuset.cpus", group))
    });
    v1.or_else(|| nearest("sys/fs/cgroup", "cpuset.cpus.effective", v2?.1))
}

/// The value of an argument of the kernel's; of several the last.
fn argument<'a>(cmdline: &'a str, name: &str) -> Option<&'a str> {
    cmdline.split_whitespace().filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).next_back()
}

/// A list on the kernel's command line may say `all`, or `N` for the last core.
fn boot_list(list: &str, online: &CoreSet) -> Option<CoreSet> {
    if list == "all" {
        return Some(online.clone());
    }
    let last = online.iter().last().unwrap_or(0).to_string();
    CoreSet::parse(&list.replace('N', &last)).map(|cores| cores.and(online))
}

fn cores(file: &Path) -> Option<CoreSet> {
    CoreSet::parse(&text(file)?)
}

fn number<T: std::str::FromStr>(file: &Path) -> Option<T> {
    text(file)?.parse().ok()
}

/// What follows a name in a file of lines.
fn value(file: &Path, name: &str) -> Option<String> {
    text(file)?.lines().find_map(|line| Some(line.trim_start().strip_prefix(name)?.trim().to_owned()))
}

fn text(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::{FAR, NEAR, Tree};
    use super::*;

    fn list(text: &str) -> CoreSet {
        CoreSet::parse(text).unwrap()
    }

    #[test]
    fn cores_nodes_and_hyper_threads_are_read() {
        let node = "sys/devices/system/node/node1";
        let machine = Tree::two_sockets()
            .file(&format!("{node}/hugepages/hugepages-2048kB/nr_hugepages"), "512\n")
            .file(&format!("{node}/hugepages/hugepages-2048kB/free_hugepages"), "500\n")
            .file("sys/devices/system/node/nodes_are_not_this", "")
            .read();
        assert_eq!(machine.online(), list("0-15"));
        let core = machine.core(13).unwrap();
        assert_eq!((core.node, core.package, core.threads.to_string().as_str()), (Some(1), Some(1), "5,13"));
        assert_eq!(machine.siblings(13), list("5"));
        assert_eq!((machine.distance(0, 1), machine.distance(1, 1)), (Some(21), Some(10)));
        let node = machine.node(1).unwrap();
        assert_eq!((node.memory_kb, node.cores.to_string().as_str()), (65536, "4-7,12-15"));
        assert_eq!(node.hugepages[&2048], Hugepages { total: 512, free: 500 });
        assert_eq!(machine.pci[NEAR[1]].node, Some(0));
        assert_eq!(machine.hardware(&Device::Pci(FAR.to_owned())).unwrap().node, Some(1));
    }

    #[test]
    fn isolated_cores_are_available_though_processes_start_outside_of_them() {
        let machine = Tree::two_sockets().isolated("2-3,6-7", "0-1,4-5,8-15").read();
        assert_eq!(
            (machine.affinity.to_string().as_str(), machine.available()),
            ("0-1,4-5,8-15", list("0-15"))
        );

        // Somebody chose these, isolated ones among them or not.
        for chosen in ["0-1,4-5,8-14", "2-3", "0-7"] {
            let machine = Tree::two_sockets().isolated("2-3,6-7", chosen).read();
            assert_eq!((machine.available(), machine.permitted()), (list(chosen), list("0-15")));
        }
        // All that the cpuset has is isolated.
        let machine = Tree::two_sockets()
            .isolated("2-3", "2-3")
            .file("sys/fs/cgroup/system.slice/s2ds.service/cpuset.cpus.effective", "2-3\n")
            .read();
        assert_eq!(machine.available(), list("2-3"));
        // What cannot be, as of a cpuset that was changed while it was read, leaves something to run on.
        assert_eq!(Tree::two_sockets().affinity("40").read().available(), list("0-15"));
        let gone = Tree::two_sockets().file("sys/fs/cgroup/cpuset.cpus.effective", "40\n").read();
        assert_eq!((gone.permitted(), gone.available()), (list("0-15"), list("0-15")));
    }

    #[test]
    fn the_cpuset_bounds_all() {
        let below = "sys/fs/cgroup/system.slice/cpuset.cpus.effective";
        let machine = Tree::two_sockets().isolated("2-3,6-7", "0-1").file(below, "0-3\n").read();
        assert_eq!((machine.cpuset.clone(), machine.available()), (Some(list("0-3")), list("0-3")));

        // Version 1, and a group that a container sees as the root.
        let groups = "7:cpuset:/docker/1f\n4:cpu,cpuacct:/x\n0::/\n";
        let v1 = |file: &str| {
            let tree = Tree::two_sockets().file("proc/thread-self/cgroup", groups);
            tree.file(&format!("sys/fs/cgroup/cpuset/{file}"), "4-5\n").read().permitted()
        };
        assert_eq!(v1("cpuset.effective_cpus"), list("4-5"));
        assert_eq!(v1("cpuset.cpus"), list("4-5"));

        let blind = Tree::two_sockets().file("proc/thread-self/cgroup", "").read();
        assert_eq!((blind.cpuset.clone(), blind.permitted()), (None, list("0-15")));
    }

    #[test]
    fn cores_that_the_kernel_spares_are_read() {
        let cmdline = "quiet nohz_full=1 nohz_full=2-7 rcu_nocbs=12-N root=/dev/sda\n";
        let tree = Tree::two_sockets().file("proc/cmdline", cmdline);
        let machine = tree.read();
        assert_eq!((machine.nohz_full, machine.rcu_nocbs), (list("2-7"), list("2-7,12-15")));
        // The kernel's own word counts more, and a kernel without says `(null)`.
        let tree = tree.file("sys/devices/system/cpu/nohz_full", "(null)\n");
        let machine = tree.file("sys/fs/cgroup/cpuset.cpus.isolated", "5\n").read();
        assert_eq!((machine.nohz_full, machine.isolated), (CoreSet::default(), list("5")));
        let machine = Tree::new().file("proc/cmdline", "rcu_nocbs=all").affinity("0-1").read();
        assert_eq!(machine.rcu_nocbs, list("0-1"));
    }

    #[test]
    fn memory_is_found_near_a_node_that_has_none() {
        let node = "sys/devices/system/node";
        let tree = Tree::two_sockets().file(&format!("{node}/node1/meminfo"), "Node 1 MemTotal: 0 kB\n");
        let machine = tree
            .file(&format!("{node}/node1/distance"), "40 10 21\n")
            .file(&format!("{node}/node2/meminfo"), "Node 2 MemTotal: 1 kB\n")
            .read();
        assert_eq!([0, 1, 2].map(|n| machine.memory_near(n)), [Some(0), Some(2), Some(2)]);
        assert_eq!(Tree::one_socket(&[&[0]]).read().memory_near(0), None);
    }

    #[test]
    fn devices_tell_node_and_speed() {
        let pci = format!("sys/bus/pci/devices/{}", NEAR[0]);
        let machine = Tree::two_sockets()
            .file(&format!("{pci}/max_link_speed"), "16.0 GT/s PCIe\n")
            .file(&format!("{pci}/max_link_width"), "16\n")
            .file("sys/class/net/eth0/device/numa_node", "1\n")
            .file("sys/class/net/eth0/speed", "100000\n")
            .file("sys/class/net/eth1/device/numa_node", "-1\n")
            .file("sys/class/net/eth1/speed", "-1\n")
            .file("sys/class/net/virt/device/../numa_node", "0\n")
            .read();
        let none = Hardware::default();
        assert_eq!(machine.pci[NEAR[0]], Hardware { node: Some(0), mbits: Some(252_061), ..none });
        assert_eq!(machine.pci[NEAR[1]], Hardware { node: Some(0), ..none });
        let interface = |name: &str| machine.hardware(&Device::AfXdp(name.to_owned()));
        assert_eq!(interface("eth0"), Some(Hardware { node: Some(1), mbits: Some(100_000), ..none }));
        assert_eq!(interface("eth1"), Some(Hardware::default()));
        assert_eq!(interface("absent"), None);
        assert_eq!(machine.hardware(&Device::Tap("t".to_owned())), None);
    }

    #[test]
    fn a_mac_address_is_found_as_far_as_that_tells_a_node() {
        let driver = |tree: &Tree, address: &str, driver: &str| {
            let link = tree.path().join(format!("sys/bus/pci/devices/{address}/driver"));
            std::os::unix::fs::symlink(format!("../../drivers/{driver}"), link).unwrap();
        };
        let tree = Tree::two_sockets()
            .file("sys/class/net/eth0/device/numa_node", "1\n")
            .file("sys/class/net/eth0/address", "52:54:00:00:00:01\n")
            .file("sys/class/net/br0/address", "52:54:00:00:00:02\n");
        let node = |tree: &Tree, mac: &str| {
            tree.read().hardware(&mac.parse().unwrap()).map(|hardware| hardware.node)
        };
        let [of_kernel, other] = ["mac:52:54:00:00:00:01", "mac:52:54:00:00:00:02"];
        assert_eq!((node(&tree, of_kernel), node(&tree, other)), (Some(Some(1)), None));
        driver(&tree, NEAR[0], "vfio-pci");
        driver(&tree, NEAR[1], "uio_pci_generic");
        assert_eq!((node(&tree, of_kernel), node(&tree, other)), (Some(Some(1)), Some(Some(0))));
        driver(&tree, FAR, "vfio-pci");
        assert_eq!(node(&tree, other), None, "it may be on either");
    }

    #[test]
    fn a_machine_without_sys_or_proc_is_refused() {
        let error = Machine::read(&Tree::new().path()).unwrap_err().to_string();
        assert!(error.contains("cpu/online") && error.contains("thread-self/status"), "{error}");
    }

    #[test]
    fn this_machine_is_read() {
        let machine = Machine::here().unwrap();
        let own = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        let own: CoreSet = (0..nix::sched::CpuSet::count()).filter(|c| own.is_set(*c) == Ok(true)).collect();
        assert_eq!(machine.affinity, own);
        assert!(own.is_within(&machine.permitted()) && own.is_within(&machine.online()), "{machine:?}");
        assert!(machine.nodes.iter().all(|n| n.cores.is_within(&machine.online())), "{machine:?}");
    }
}
