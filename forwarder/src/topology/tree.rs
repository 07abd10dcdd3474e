//! Made-up machines for tests: trees of files as /sys and /proc have them.

use std::fs;
use std::path::PathBuf;

use super::{CoreSet, Machine};
use crate::config::Config;

/// A folder with `sys` and `proc`, gone with its value.
pub(super) struct Tree(tempfile::TempDir);

/// Ports of the machine with two sockets: two on the first, one on the second.
pub(super) const NEAR: [&str; 2] = ["0000:41:00.0", "0000:41:00.1"];
pub(super) const FAR: &str = "0000:c1:00.0";

impl Tree {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Two sockets, each a node with four physical cores of two hyper-threads: cores 0-3 with 8-11, and 4-7 with 12-15.
    pub(super) fn two_sockets() -> Self {
        let tree = Self::machine(2, &[&[0, 8], &[1, 9], &[2, 10], &[3, 11]])
            .file("sys/devices/system/node/node0/cpulist", "0-3,8-11\n")
            .file("sys/devices/system/node/node1/cpulist", "4-7,12-15\n");
        for (address, node) in [(NEAR[0], 0), (NEAR[1], 0), (FAR, 1)] {
            tree.set(&format!("sys/bus/pci/devices/{address}/class"), "0x020000\n");
            tree.set(&format!("sys/bus/pci/devices/{address}/numa_node"), &format!("{node}\n"));
        }
        tree
    }

    /// One socket without NUMA nodes, of physical cores with these hyper-threads.
    pub(super) fn one_socket(physical: &[&[usize]]) -> Self {
        Self::machine(1, physical)
    }

    /// Further sockets repeat the first, with core numbers that are higher by the number of its physical cores.
    fn machine(sockets: usize, physical: &[&[usize]]) -> Self {
        let mut tree = Self::new();
        let mut all = Vec::new();
        for socket in 0..sockets {
            for threads in physical {
                let threads: Vec<usize> = threads.iter().map(|t| t + socket * physical.len()).collect();
                for thread in &threads {
                    let topology = format!("sys/devices/system/cpu/cpu{thread}/topology");
                    let list = threads.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
                    tree = tree
                        .file(&format!("{topology}/thread_siblings_list"), &format!("{list}\n"))
                        .file(&format!("{topology}/physical_package_id"), &format!("{socket}\n"));
                }
                all.extend(threads);
            }
            if sockets > 1 {
                let node = format!("sys/devices/system/node/node{socket}");
                let row: Vec<_> = (0..sockets).map(|s| if s == socket { "10" } else { "21" }).collect();
                tree = tree
                    .file(&format!("{node}/distance"), &format!("{}\n", row.join(" ")))
                    .file(&format!("{node}/meminfo"), &format!("Node {socket} MemTotal:       65536 kB\n"));
            }
        }
        let online = CoreSet::from_iter(all).to_string();
        tree.file("sys/devices/system/cpu/online", &format!("{online}\n"))
            .file("sys/devices/system/cpu/isolated", "\n")
            .file("proc/thread-self/cgroup", "0::/system.slice/s2ds.service\n")
            .file("sys/fs/cgroup/cpuset.cpus.effective", &format!("{online}\n"))
            .affinity(&online)
    }

    /// A file and what is in it.
    pub(super) fn file(self, path: &str, text: &str) -> Self {
        self.set(path, text);
        self
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The cores the process was started with.
    pub(super) fn affinity(self, list: &str) -> Self {
        self.file(
            "proc/thread-self/status",
            &format!("Name:\ts2ds\nCpus_allowed:\tffff\nCpus_allowed_list:\t{list}\n"),
        )
    }

    /// Cores isolated at boot, which leaves processes the others.
    pub(super) fn isolated(self, list: &str, others: &str) -> Self {
        self.file("sys/devices/system/cpu/isolated", &format!("{list}\n")).affinity(others)
    }

    pub(super) fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    pub(super) fn read(&self) -> Machine {
        Machine::read(&self.path()).unwrap()
    }
}

/// A configuration with a port p0, p1... for each device, `workers` being its section of that name and what else is to follow.
pub(super) fn config(devices: &[&str], workers: &str) -> Config {
    let port = |(i, device): (usize, &&str)| {
        let vlan = devices.iter().take(i).filter(|d| d == &device).count();
        let vlan = if vlan > 0 { format!("vlan = {vlan}\n") } else { String::new() };
        format!("[[port]]\nname = \"p{i}\"\naddresses = [\"10.{i}.0.1/24\"]\ndevice = {device:?}\n{vlan}")
    };
    let ports: String = devices.iter().enumerate().map(port).collect();
    Config::parse(&format!("{ports}[workers]\n{workers}\n"), "s2ds.toml").unwrap()
}
