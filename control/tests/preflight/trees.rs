//! Made-up hosts: what /sys, /proc, /etc and so on hold on machines of several kinds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use control::preflight::{Host, Question, Report, Told, check};
use forwarder::config::Config;

/// A folder that stands for `/`; gone with its value.
pub(crate) struct Tree(tempfile::TempDir);

const CPU: &str = "sys/devices/system/cpu";
const NODE: &str = "sys/devices/system/node";

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file, ended by a newline as the kernel's are.
    pub(crate) fn file(self, path: &str, text: &str) -> Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
        self
    }

    pub(crate) fn files(self, folder: &str, files: &[(&str, &str)]) -> Self {
        files.iter().fold(self, |tree, (name, text)| tree.file(&format!("{folder}/{name}"), text))
    }

    /// A link to something of this name; where it points is not looked at.
    pub(crate) fn link(self, path: &str, to: &str) -> Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(format!("../../{to}"), path).unwrap();
        self
    }

    pub(crate) fn without(self, path: &str) -> Self {
        let path = self.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        };
        self
    }

    pub(crate) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).unwrap().trim().to_owned()
    }

    /// Judges it.
    pub(crate) fn check(
        &self,
        config: Option<&str>,
        path: Option<control::preflight::Path>,
        told: &Told,
    ) -> Report {
        let config = config.map(|text| Config::parse(text, "s2ds.toml").unwrap());
        check(&Host::read(self.path()).unwrap(), &Question { config, path }, told)
    }

    /// Cores `0..cores`, spread evenly over nodes, with this governor and a deep sleep state.
    fn cores(mut self, cores: usize, nodes: usize, governor: &str) -> Self {
        self = self
            .file(&format!("{CPU}/online"), &format!("0-{}", cores - 1))
            .file(&format!("{CPU}/isolated"), "");
        for core in 0..cores {
            self = self
                .file(&format!("{CPU}/cpu{core}/topology/thread_siblings_list"), &core.to_string())
                .file(&format!("{CPU}/cpu{core}/cpufreq/scaling_governor"), governor)
                .files(
                    &format!("{CPU}/cpu{core}/cpuidle/state1"),
                    &[("name", "C1"), ("latency", "1"), ("disable", "0")],
                )
                .files(
                    &format!("{CPU}/cpu{core}/cpuidle/state2"),
                    &[("name", "C6"), ("latency", "133"), ("disable", "0")],
                );
        }
        for node in 0..nodes {
            let (first, each) = (node * cores / nodes, cores / nodes);
            let row: Vec<_> = (0..nodes).map(|n| if n == node { "10" } else { "21" }).collect();
            self = self.files(
                &format!("{NODE}/node{node}"),
                &[
                    ("cpulist", &format!("{first}-{}", first + each - 1)),
                    ("distance", &row.join(" ")),
                    ("meminfo", &format!("Node {node} MemTotal:       131072000 kB")),
                ],
            );
        }
        self
    }

    /// 2 MiB hugepages of a folder, none in use.
    pub(crate) fn hugepages(self, folder: &str, pages: u64) -> Self {
        let pages = pages.to_string();
        self.files(
            &format!("{folder}/hugepages-2048kB"),
            &[("nr_hugepages", &pages), ("free_hugepages", &pages)],
        )
    }

    /// A network function on the PCI bus: vendor and device, driver, PCIe link now and at best.
    pub(crate) fn nic(
        self,
        address: &str,
        id: (&str, &str),
        driver: &str,
        link: (&str, &str),
        best: (&str, &str),
    ) -> Self {
        let folder = format!("sys/bus/pci/devices/{address}");
        let tree = self
            .files(
                &folder,
                &[
                    ("class", "0x020000"),
                    ("vendor", &format!("0x{}", id.0)),
                    ("device", &format!("0x{}", id.1)),
                    ("numa_node", "-1"),
                    ("current_link_speed", link.0),
                    ("current_link_width", link.1),
                    ("max_link_speed", best.0),
                    ("max_link_width", best.1),
                ],
            )
            .link(&format!("{folder}/driver"), driver);
        match driver {
            "vfio-pci" => tree
                .file("sys/bus/pci/drivers/vfio-pci/new_id", "")
                .link(&format!("{folder}/iommu_group"), "17")
                .file(&format!("sys/kernel/iommu_groups/17/devices/{address}"), ""),
            _ => tree,
        }
    }

    /// A kernel interface on a network function.
    pub(crate) fn interface(
        self,
        name: &str,
        pci: &str,
        driver: &str,
        mtu: &str,
        speed: Option<&str>,
    ) -> Self {
        let folder = format!("sys/class/net/{name}");
        let up = if speed.is_some() { "up" } else { "down" };
        let tree = self
            .files(&folder, &[("mtu", mtu), ("operstate", up), ("address", "b8:3f:d2:00:00:01")])
            .link(&format!("{folder}/device/driver"), driver)
            .file(&format!("sys/bus/pci/devices/{pci}/net/{name}/mtu"), mtu);
        match speed {
            Some(speed) => tree.files(&folder, &[("speed", speed), ("carrier", "1")]),
            None => tree,
        }
    }

    /// Distribution's kernel on hardware of its own, everything at the distribution's defaults.
    fn debian(self) -> Self {
        self.file("proc/sys/kernel/osrelease", "6.1.0-39-amd64")
            .file("proc/cmdline", "BOOT_IMAGE=/boot/vmlinuz-6.1.0-39-amd64 root=/dev/sda1 ro quiet")
            .file(
                "proc/cpuinfo",
                "vendor_id\t: GenuineIntel\nflags\t\t: fpu tsc constant_tsc nonstop_tsc avx2",
            )
            .file("proc/meminfo", "MemTotal: 131072000 kB\nHugepagesize:       2048 kB")
            .file("proc/1/cgroup", "0::/init.scope")
            .file("proc/self/status", "CapEff:\t000001ffffffffff")
            .limits("8388608", "524288")
            .file(
                "proc/net/protocols",
                "protocol  size sockets\nPACKET    1600      0\nXDP       1088      0\nTCP       2304      4",
            )
            .file("proc/self/mounts", "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw,nosuid 0 0")
            .file("proc/net/route", "Iface\tDestination\tGateway")
            .files("sys/class/dmi/id", &[("sys_vendor", "Dell Inc."), ("product_name", "PowerEdge R7625")])
            .files(
                "sys/devices/system/clocksource/clocksource0",
                &[("current_clocksource", "tsc"), ("available_clocksource", "tsc hpet acpi_pm")],
            )
            .file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
            .file("sys/devices/system/cpu/nohz_full", "(null)")
            .file("etc/default/grub", "GRUB_CMDLINE_LINUX=\"\"")
            .files(
                "proc/sys/net/ipv4",
                &[
                    ("tcp_rmem", "4096\t131072\t6291456"),
                    ("tcp_wmem", "4096\t16384\t4194304"),
                    ("tcp_window_scaling", "1"),
                    ("tcp_sack", "1"),
                    ("tcp_timestamps", "1"),
                    ("tcp_congestion_control", "cubic"),
                    ("tcp_slow_start_after_idle", "1"),
                    ("tcp_mtu_probing", "0"),
                ],
            )
            .files(
                "proc/sys/net/core",
                &[
                    ("rmem_max", "212992"),
                    ("wmem_max", "212992"),
                    ("default_qdisc", "fq_codel"),
                    ("bpf_jit_enable", "1"),
                ],
            )
            .files("proc/sys/kernel", &[("unprivileged_bpf_disabled", "2"), ("numa_balancing", "1")])
    }

    pub(crate) fn limits(self, locked: &str, files: &str) -> Self {
        let row =
            |name: &str, soft: &str, hard: &str, unit: &str| format!("{name:<26}{soft:<21}{hard:<21}{unit}");
        let rows = [
            row("Limit", "Soft Limit", "Hard Limit", "Units"),
            row("Max open files", "1024", files, "files"),
            row("Max locked memory", locked, locked, "bytes"),
        ];
        self.file("proc/self/limits", &rows.join("\n"))
    }
}

/// A data transfer node that somebody set up with care: a ConnectX-6 Dx that stays with its driver, and an E810 bound to vfio-pci.
pub(crate) fn tuned() -> Tree {
    Tree::new()
        .debian()
        .cores(16, 1, "performance")
        .file("proc/cmdline", "root=/dev/sda1 intel_iommu=on iommu=pt isolcpus=managed_irq,domain,2-5 nohz_full=2-5 rcu_nocbs=2-5")
        .file(&format!("{CPU}/isolated"), "2-5")
        .file(&format!("{CPU}/nohz_full"), "2-5")
        .file("etc/tuned/active_profile", "network-latency")
        .hugepages("sys/kernel/mm/hugepages", 1024)
        .nic("0000:41:00.0", ("15b3", "101d"), "mlx5_core", ("16.0 GT/s PCIe", "16"), ("16.0 GT/s PCIe", "16"))
        .interface("ens1f0np0", "0000:41:00.0", "mlx5_core", "9000", Some("100000"))
        .file("sys/bus/pci/devices/0000:41:00.0/infiniband/mlx5_0/fw_ver", "22.39.1002")
        .file("sys/class/infiniband_verbs/uverbs0/ibdev", "mlx5_0")
        .file("usr/lib/x86_64-linux-gnu/libmlx5.so.1", "")
        .file("usr/lib/x86_64-linux-gnu/libibverbs.so.1", "")
        .nic("0000:a1:00.0", ("8086", "1592"), "vfio-pci", ("16.0 GT/s PCIe", "8"), ("16.0 GT/s PCIe", "16"))
        .file(
            "usr/share/misc/pci.ids",
            "# names\n15b3  Mellanox Technologies\n\t101d  MT2892 Family [ConnectX-6 Dx]\n8086  Intel Corporation\n\
             \t1592  Ethernet Controller E810-C for QSFP",
        )
        .files(
            "proc/sys/net/ipv4",
            &[
                ("tcp_rmem", "4096\t131072\t1073741824"),
                ("tcp_wmem", "4096\t65536\t1073741824"),
                ("tcp_slow_start_after_idle", "0"),
                ("tcp_mtu_probing", "1"),
            ],
        )
        .files("proc/sys/net/core", &[("rmem_max", "1073741824"), ("wmem_max", "1073741824"), ("default_qdisc", "fq")])
        .limits("unlimited", "524288")
}

/// Ports of the tuned node, with workers on two of its isolated cores.
pub(crate) const TUNED: &str = r#"
[[port]]
name = "lan"
device = "0000:41:00.0"
addresses = ["10.10.0.2/24"]
mtu = 9000
[[port]]
name = "wan"
device = "0000:a1:00.0"
addresses = ["192.0.2.10/28"]
mtu = 9000
[workers]
cores = [2, 3]
"#;

/// A laptop as it comes.
pub(crate) fn laptop() -> Tree {
    Tree::new()
        .debian()
        .cores(4, 1, "powersave")
        .files("sys/class/dmi/id", &[("sys_vendor", "LENOVO"), ("product_name", "21CBCTO1WW")])
        .files(
            "sys/devices/system/clocksource/clocksource0",
            &[("current_clocksource", "hpet"), ("available_clocksource", "hpet acpi_pm")],
        )
        .file("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")
        .hugepages("sys/kernel/mm/hugepages", 0)
        .file("proc/713/comm", "irqbalance")
        .nic("0000:00:1f.6", ("8086", "1a1c"), "e1000e", ("Unknown", "0"), ("Unknown", "0"))
        .interface("enp0s31f6", "0000:00:1f.6", "e1000e", "1500", Some("1000"))
        .file("proc/net/route", "Iface\tDestination\tGateway\nenp0s31f6\t00000000\t010200C0\t0003")
}

/// A port on the laptop's NIC as it is: bound to the kernel's driver.
pub(crate) const LAPTOP: &str = r#"
[[port]]
name = "lan"
device = "0000:00:1f.6"
addresses = ["10.0.0.1/24"]
[workers]
cores = [1]
"#;

/// A guest of KVM in a cloud.
pub(crate) fn guest() -> Tree {
    Tree::new()
        .debian()
        .cores(2, 1, "performance")
        .without(&format!("{CPU}/cpu0/cpufreq"))
        .without(&format!("{CPU}/cpu1/cpufreq"))
        .file(
            "proc/cpuinfo",
            "vendor_id\t: AuthenticAMD\nflags\t\t: fpu tsc constant_tsc nonstop_tsc hypervisor",
        )
        .files(
            "sys/class/dmi/id",
            &[("sys_vendor", "OpenStack Foundation"), ("product_name", "OpenStack Nova")],
        )
        .files(
            "sys/devices/system/clocksource/clocksource0",
            &[("current_clocksource", "kvm-clock"), ("available_clocksource", "kvm-clock tsc")],
        )
        .hugepages("sys/kernel/mm/hugepages", 512)
        .files(
            "sys/bus/pci/devices/0000:00:03.0",
            &[("class", "0x020000"), ("vendor", "0x1af4"), ("device", "0x1041"), ("numa_node", "-1")],
        )
        .link("sys/bus/pci/devices/0000:00:03.0/driver", "virtio-pci")
        .file("sys/bus/pci/devices/0000:00:03.0/virtio1/net/eth0/mtu", "1500")
        .files(
            "sys/class/net/eth0",
            &[
                ("mtu", "1500"),
                ("operstate", "up"),
                ("carrier", "1"),
                ("speed", "-1"),
                ("address", "fa:16:3e:00:00:01"),
            ],
        )
        .link("sys/class/net/eth0/device/driver", "virtio_net")
}

/// A container of Docker's on the tuned node, without rights.
pub(crate) fn container() -> Tree {
    tuned()
        .file("proc/1/cgroup", "0::/docker/1f8e2a")
        .file("proc/self/status", "CapEff:\t00000000a80425fb")
        .limits("65536", "1024")
}

/// Two processors; the NIC, a ConnectX-5 in a slot that is too narrow, hangs on the second.
pub(crate) fn two_nodes() -> Tree {
    Tree::new()
        .debian()
        .cores(16, 2, "schedutil")
        .hugepages("sys/devices/system/node/node0/hugepages", 1024)
        .hugepages("sys/devices/system/node/node1/hugepages", 0)
        .nic("0000:c1:00.0", ("15b3", "1017"), "mlx5_core", ("8.0 GT/s PCIe", "8"), ("8.0 GT/s PCIe", "16"))
        .file("sys/bus/pci/devices/0000:c1:00.0/numa_node", "1")
        .interface("ens5", "0000:c1:00.0", "mlx5_core", "1500", Some("100000"))
}

/// A port on the far NIC, with a worker that naps on a core of the first processor.
pub(crate) const FAR: &str = r#"
[[port]]
name = "wan"
device = "0000:c1:00.0"
addresses = ["192.0.2.10/28"]
[workers]
cores = [2]
idle = "adaptive"
"#;
