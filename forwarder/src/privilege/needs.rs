//! What devices and EAL need of the machine: capabilities and files. Found out by trying, but for what the manuals of drivers say.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use caps::Capability;

use super::capabilities::Set;
use crate::config::{Config, Device};
use crate::dpdk;

/// What is done with a file or, in a folder, with all files in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// Read, and load as a library.
    Read,
    /// Read and write.
    Write,
    /// Read, write and control by ioctl.
    Device,
    /// Everything with files and sockets, making and removing too.
    Own,
    /// Remove.
    Remove,
}

/// A file or folder that is needed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileNeed {
    pub(super) path: PathBuf,
    pub(super) access: Access,
}

impl fmt::Display for FileNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Device => "device",
            Access::Own => "all",
            Access::Remove => "remove",
        };
        write!(f, "{} ({how})", self.path.display())
    }
}

/// What is needed while the process runs, to open a port again too.
#[derive(Debug, Default)]
pub(super) struct Needs {
    pub(super) capabilities: Set,
    /// Sorted, each once.
    pub(super) files: Vec<FileNeed>,
    /// A device loads BPF programs.
    pub(super) bpf: bool,
}

/// Libraries, drivers among them; facts about the machine; random numbers; names of users and groups, for the control socket.
const READ: &[&str] = &[
    "/usr",
    "/lib",
    "/lib64",
    "/sys",
    "/proc",
    "/dev/urandom",
    "/dev/random",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
    "/etc/libibverbs.d",
    "/var/lib/sss/mc",
];

/// Kernel drivers that give a device's memory to user space.
const DEVICES: &[&str] =
    &["/dev/null", "/dev/zero", "/dev/vfio", "/dev/infiniband", "/dev/net/tun", "/dev/vhost-net"];

impl Needs {
    /// Of these ports and EAL options on the machine whose files are below `root`. `runtime` is EAL's folder.
    pub(super) fn of(config: &Config, eal_args: &[String], root: &Path, runtime: &Path) -> Self {
        let mut needs = Self::default();
        for path in READ {
            needs.file(path, Access::Read);
        }
        for path in DEVICES {
            needs.file(path, Access::Device);
        }
        // Threads get their names there.
        needs.file("/proc/self/task", Access::Write);
        needs.file(runtime, Access::Own);
        for mount in hugetlbfs(root) {
            needs.file(mount, Access::Own);
        }
        if let Some(library) = eal_library(root) {
            needs.file(library, Access::Read);
        }
        needs.file(folder(&config.service.socket), Access::Remove);
        for port in &config.ports {
            needs.device(&port.device, root);
        }
        needs.eal(eal_args, root);
        for path in &config.privileges.files {
            needs.file(path, Access::Own);
        }
        needs.files.sort();
        needs.files.dedup();
        needs
    }

    fn file(&mut self, path: impl AsRef<Path>, access: Access) {
        self.files.push(FileNeed { path: path.as_ref().to_owned(), access });
    }

    fn device(&mut self, device: &Device, root: &Path) {
        use Capability::{CAP_CHOWN, CAP_IPC_LOCK, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN};
        match device {
            // The driver starts by setting the interface's promiscuous flag to what it was told.
            Device::AfPacket(_) => self.capabilities.extend([CAP_NET_RAW, CAP_NET_ADMIN]),
            // Finding the loaded program by its number takes CAP_SYS_ADMIN, which has CAP_BPF in it; packet memory is locked.
            Device::AfXdp(_) => {
                self.capabilities.extend([CAP_NET_RAW, CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_IPC_LOCK]);
                self.bpf = true;
                self.file("/sys/fs/bpf", Access::Own);
            }
            Device::Tap(_) => self.capabilities.extend([CAP_NET_ADMIN]),
            Device::Memif(socket) => self.file(folder(socket), Access::Own),
            Device::Vhost(socket) => {
                self.file(folder(&socket.path), Access::Own);
                // Its owner may give it to a group of its own only.
                self.capabilities.extend(socket.group.as_ref().map(|_| CAP_CHOWN));
            }
            // Beside it is written what was sent.
            Device::Pcap(file) => self.file(folder(file), Access::Own),
            Device::Vdev(text) => self.vdev(text),
            Device::Pci(address) => self.pci(address, root),
            // Each device that may have the address is looked at.
            Device::Mac(mac) => {
                let sighting = dpdk::sight(&root.join("sys"), *mac);
                let shared = sighting.interface.map(|i| i.pci);
                shared.iter().chain(&sighting.candidates).for_each(|address| self.pci(address, root));
            }
        }
    }

    fn pci(&mut self, address: &str, root: &Path) {
        use Capability::{
            CAP_DAC_OVERRIDE, CAP_IPC_LOCK, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_SYS_RAWIO,
        };
        let device = root.join("sys/bus/pci/devices").join(address);
        let driver = fs::read_link(device.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
        let group = fs::read_to_string(device.join("iommu_group/name")).unwrap_or_default();
        match driver {
            // Mapping memory for the device locks it. Without an IOMMU the device sees physical addresses, which the kernel
            // tells to CAP_SYS_ADMIN alone, and its file is opened by CAP_SYS_RAWIO alone.
            "vfio-pci" if group.trim() != "vfio-noiommu" => self.capabilities.extend([CAP_IPC_LOCK]),
            "vfio-pci" => self.capabilities.extend([CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RAWIO]),
            // As DPDK's guide of these drivers asks for.
            "mlx4_core" | "mlx5_core" => self.capabilities.extend([CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK]),
            // Physical addresses, I/O ports, and files that are root's.
            _ => {
                let all = [CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RAWIO, CAP_DAC_OVERRIDE];
                self.capabilities.extend(all);
                self.file(device, Access::Device);
                for n in 0..16 {
                    self.file(format!("/dev/uio{n}"), Access::Device);
                }
            }
        }
    }

    /// DPDK's own text: the driver's name tells what it is, and every path in it is a file or socket that it uses.
    fn vdev(&mut self, text: &str) {
        use Capability::{CAP_IPC_LOCK, CAP_NET_ADMIN, CAP_NET_RAW};
        let name = text.split(',').next().unwrap_or_default();
        let interface =
            text.split(',').any(|a| a.split_once('=').is_some_and(|(key, _)| key.contains("iface")));
        let starts = |wanted: &str| name.starts_with(wanted);
        if ["net_null", "net_ring", "net_memif", "net_vhost"].into_iter().any(starts) {
            // Memory and sockets only.
        } else if starts("net_af_packet") {
            self.device(&Device::AfPacket(String::new()), Path::new("/"));
        } else if starts("net_af_xdp") {
            self.device(&Device::AfXdp(String::new()), Path::new("/"));
        } else if starts("net_tap") {
            self.capabilities.extend([CAP_NET_ADMIN]);
        } else if starts("net_pcap") {
            self.capabilities.extend(interface.then_some(CAP_NET_RAW));
        } else {
            self.capabilities.extend([CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK]);
        }
        for value in text.split(',').filter_map(|a| a.split_once('=')).map(|(_, value)| value) {
            self.path(value);
        }
    }

    /// A device's file itself, and of any other the folder, since it may be made or made anew.
    fn path(&mut self, value: &str) {
        let path = Path::new(value);
        if path.starts_with("/dev") {
            self.file(path, Access::Device);
        } else if path.is_absolute() {
            self.file(folder(path), Access::Own);
        }
    }

    /// EAL options of the operator's: devices among them, and paths.
    fn eal(&mut self, args: &[String], root: &Path) {
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            let (name, value) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value)),
                _ if arg.starts_with("--") || arg.len() < 3 => (arg, None),
                _ => (arg.get(..2).unwrap_or(arg), arg.get(2..)),
            };
            let mut value = || value.or_else(|| args.next()).unwrap_or_default();
            match name {
                "--vdev" => self.vdev(value()),
                "-a" | "--allow" => match value().split(',').next().unwrap_or_default() {
                    address if address.len() == "81:00.0".len() => self.pci(&format!("0000:{address}"), root),
                    address => self.pci(address, root),
                },
                "-d" => self.file(value(), Access::Read),
                "--huge-dir" => self.file(value(), Access::Own),
                _ => {}
            }
        }
    }
}

/// The folder that a path is in.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where hugepages are mounted.
fn hugetlbfs(root: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string(root.join("proc/mounts")).unwrap_or_default();
    let fields = mounts.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    fields.filter(|f| f.get(2) == Some(&"hugetlbfs")).filter_map(|f| f.get(1).map(PathBuf::from)).collect()
}

/// The folder that EAL was loaded from; its drivers are below.
fn eal_library(root: &Path) -> Option<PathBuf> {
    let maps = fs::read_to_string(root.join("proc/self/maps")).ok()?;
    let line = maps.lines().find(|l| l.contains("/librte_eal.so"))?;
    line.find('/').and_then(|at| Path::new(&line[at..]).parent()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::list;
    use super::*;

    fn needs(devices: &[&str], args: &[&str], root: &Path) -> Needs {
        let port = |(i, device): (usize, &&str)| {
            format!("[[port]]\nname = \"p{i}\"\ndevice = \"{device}\"\naddresses = [\"10.{i}.0.1/24\"]\n")
        };
        let text: String = devices.iter().enumerate().map(port).collect();
        let config = Config::parse(&text, "test.toml").unwrap();
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        Needs::of(&config, &args, root, Path::new("/run/dpdk"))
    }

    #[test]
    fn each_kind_of_device_needs_its_own() {
        for (device, capabilities, path, access) in [
            ("af_packet:lan", "CAP_NET_ADMIN CAP_NET_RAW", "/run/dpdk", Access::Own),
            (
                "af_xdp:lan",
                "CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_SYS_ADMIN",
                "/sys/fs/bpf",
                Access::Own,
            ),
            ("tap:t0", "CAP_NET_ADMIN", "/dev/net/tun", Access::Device),
            ("memif:/run/m/x.sock", "none", "/run/m", Access::Own),
            ("vhost:/run/v/x.sock", "none", "/run/v", Access::Own),
            ("vhost:/run/v/x.sock,group=daemon", "CAP_CHOWN", "/run/v", Access::Own),
            ("pcap:/data/x.pcap", "none", "/data", Access::Own),
            ("vdev:net_null0,no-rx=1", "none", "/etc/passwd", Access::Read),
            ("vdev:net_pcap0,iface=lan", "CAP_NET_RAW", "/run/scistream", Access::Remove),
            ("vdev:net_pcap_a,rx_pcap=/data/in/x.pcap", "none", "/data/in", Access::Own),
            (
                "vdev:net_virtio_user0,path=/dev/vhost-x",
                "CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK",
                "/dev/vhost-x",
                Access::Device,
            ),
        ] {
            let needs = needs(&[device], &[], Path::new("/"));
            assert_eq!(list(&needs.capabilities), capabilities, "{device}");
            let wanted = FileNeed { path: path.into(), access };
            assert!(needs.files.contains(&wanted), "{device}: {:?}", needs.files);
        }
    }

    #[test]
    fn a_nic_needs_what_its_kernel_driver_asks() {
        let root = tempfile::tempdir().unwrap();
        let devices = root.path().join("sys/bus/pci/devices");
        for (address, driver, group) in [
            ("0000:01:00.0", "vfio-pci", "mem"),
            ("0000:02:00.0", "vfio-pci", "vfio-noiommu\n"),
            ("0000:03:00.0", "mlx5_core", "mem"),
            ("0000:04:00.0", "uio_pci_generic", "mem"),
        ] {
            fs::create_dir_all(devices.join(address).join("iommu_group")).unwrap();
            fs::write(devices.join(address).join("iommu_group/name"), group).unwrap();
            std::os::unix::fs::symlink(format!("../drivers/{driver}"), devices.join(address).join("driver"))
                .unwrap();
        }
        let of = |devices: &[&str], args: &[&str]| list(&needs(devices, args, root.path()).capabilities);
        assert_eq!(of(&["0000:01:00.0"], &[]), "CAP_IPC_LOCK");
        assert_eq!(of(&["0000:02:00.0"], &[]), "CAP_IPC_LOCK CAP_SYS_RAWIO CAP_SYS_ADMIN");
        assert_eq!(of(&["0000:03:00.0"], &[]), "CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK");
        assert_eq!(of(&["0000:04:00.0"], &[]), "CAP_DAC_OVERRIDE CAP_IPC_LOCK CAP_SYS_RAWIO CAP_SYS_ADMIN");
        assert_eq!(of(&["vdev:net_null0"], &["-a", "01:00.0,x=1"]), "CAP_IPC_LOCK");
        assert_eq!(of(&["vdev:net_null0"], &["--vdev=net_tap0,iface=t"]), "CAP_NET_ADMIN");
        assert_eq!(
            of(&["vdev:net_null0"], &["--vdev", "net_af_packet0,iface=t"]),
            "CAP_NET_ADMIN CAP_NET_RAW"
        );
    }

    #[test]
    fn mounts_and_options_name_folders() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(
            root.path().join("proc/mounts"),
            "a /dev/hugepages hugetlbfs rw 0 0\nb /tmp tmpfs rw 0 0\n",
        )
        .unwrap();
        let maps = "7f00-7f01 r--p 00000000 fd:00 1   /opt/dpdk/lib/librte_eal.so.23.0\n";
        fs::write(root.path().join("proc/self/maps"), maps).unwrap();
        let needs = needs(&["vdev:net_null0"], &["-d/opt/pmds", "--huge-dir", "/mnt/huge"], root.path());
        for (path, access) in [
            ("/dev/hugepages", Access::Own),
            ("/mnt/huge", Access::Own),
            ("/opt/dpdk/lib", Access::Read),
            ("/opt/pmds", Access::Read),
        ] {
            assert!(
                needs.files.contains(&FileNeed { path: path.into(), access }),
                "{path}: {:?}",
                needs.files
            );
        }
        assert!(!needs.files.iter().any(|f| f.path.starts_with("/tmp")));
    }
}
