//! Facts of a host, read below a root: nothing is judged here.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use forwarder::config::Device;
use forwarder::topology::{HANDED_OVER, Machine, MachineError, SHARED};

use super::pcie::Link;

/// Files below a folder that stands for `/`.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// The files below this folder.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Where a path from the root is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    /// What a file holds, without the white space around it. None when it cannot be read or is empty.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.at(path)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        Some(text.trim().to_owned()).filter(|t| !t.is_empty())
    }

    /// The number in a file.
    pub fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The numbers in a file, as in `tcp_rmem`.
    pub fn numbers(&self, path: &str) -> Option<Vec<u64>> {
        self.text(path)?.split_whitespace().map(|n| n.parse().ok()).collect()
    }

    /// Names in a folder, in order.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Name of what a link points to.
    pub fn link(&self, path: &str) -> Option<String> {
        Some(fs::read_link(self.at(path)).ok()?.file_name()?.to_str()?.to_owned())
    }

    /// Is there something?
    pub fn has(&self, path: &str) -> bool {
        self.at(path).exists()
    }

    /// The word in brackets: the kernel marks the choice among several so, `always [madvise] never`. A word alone is one, too.
    pub fn chosen(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let marked = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word);
        marked.or(Some(text.as_str()).filter(|t| !t.contains(' '))).map(str::to_owned)
    }

    /// What follows a name and a colon in a file of lines.
    pub fn field(&self, path: &str, name: &str) -> Option<String> {
        let text = self.text(path)?;
        let value =
            text.lines().find_map(|l| l.split_once(':').filter(|(n, _)| n.trim() == name).map(|(_, v)| v));
        value.map(|v| v.trim().to_owned())
    }
}

/// A network function on the PCI bus.
#[derive(Debug, Clone, Default)]
pub struct Nic {
    /// Its address in full.
    pub address: String,
    /// Vendor and device number, `15b3:101d`.
    pub id: String,
    /// Its name in pci.ids, when that is installed.
    pub name: Option<String>,
    /// Driver it is bound to.
    pub driver: Option<String>,
    /// Kernel interfaces on it.
    pub interfaces: Vec<String>,
    /// NUMA node, when known.
    pub node: Option<i32>,
    /// Its PCIe link now.
    pub link: Option<Link>,
    /// What its PCIe link could be.
    pub best: Option<Link>,
    /// Number of its IOMMU group.
    pub group: Option<String>,
}

impl Nic {
    /// Do its driver in the kernel and the one of DPDK share the device? Then it stays bound to the kernel's.
    pub fn is_shared(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| SHARED.contains(&driver))
    }

    /// Is it bound to a driver that hands it to user space?
    pub fn is_handed_over(&self) -> bool {
        self.driver.as_deref().is_some_and(|driver| HANDED_OVER.contains(&driver))
    }

    /// Device without the function: functions of one card share its PCIe link.
    pub fn card(&self) -> &str {
        self.address.split_once('.').map_or(&self.address, |(card, _)| card)
    }

    /// Its address and name.
    pub fn title(&self) -> String {
        self.name.as_ref().map_or_else(|| self.address.clone(), |name| format!("{} {name}", self.address))
    }
}

/// A network interface of the kernel.
#[derive(Debug, Clone, Default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// Driver behind it; virtual interfaces have none.
    pub driver: Option<String>,
    /// Largest IP packet, in bytes.
    pub mtu: Option<u32>,
    /// Mbit/s of its link, when that is up and tells.
    pub mbits: Option<u64>,
    /// Has it a link?
    pub carrier: Option<bool>,
    /// Does the kernel have IPv4 routes over it?
    pub routed: bool,
    /// Is there hardware, or what the machine takes for it, behind it?
    pub real: bool,
}

/// The host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where everything else is read.
    pub root: Root,
    /// Cores, nodes, what is isolated.
    pub machine: Machine,
    /// Network functions on the PCI bus, by address.
    pub nics: Vec<Nic>,
    /// Interfaces of the kernel, by name.
    pub interfaces: Vec<Interface>,
    /// The kernel's release, `6.1.0-39-amd64`.
    pub kernel: String,
}

impl Host {
    /// Reads what is below `root`: `/`, or a made-up tree.
    ///
    /// # Errors
    /// Neither /sys nor /proc tells which cores there are.
    pub fn read(root: &Path) -> Result<Self, MachineError> {
        let machine = Machine::read(root)?;
        let root = Root::new(root);
        Ok(Self {
            machine,
            nics: nics(&root),
            interfaces: interfaces(&root),
            kernel: root.text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            root,
        })
    }

    /// The network function with this address.
    pub fn nic(&self, address: &str) -> Option<&Nic> {
        self.nics.iter().find(|n| n.address == address)
    }

    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// The network function behind a port, when it is known.
    pub fn nic_of(&self, device: &Device) -> Option<&Nic> {
        let on = |interface: &str| self.nics.iter().find(|n| n.interfaces.iter().any(|i| i == interface));
        match device {
            Device::Pci(address) => self.nic(address),
            Device::AfPacket(name) | Device::AfXdp(name) => on(name),
            _ => {
                let text = device.to_string();
                let mac = text.strip_prefix("mac:")?;
                on(&self.interfaces.iter().find(|i| i.mac.eq_ignore_ascii_case(mac) && i.real)?.name)
            }
        }
    }

    /// Is the kernel at least of this version?
    pub fn kernel_is(&self, major: u32, minor: u32) -> Option<bool> {
        let mut parts = self.kernel.split(|c: char| !c.is_ascii_digit()).map_while(|p| p.parse().ok());
        Some((parts.next()?, parts.next()?) >= (major, minor))
    }

    /// Does a program of this name run (as /proc's `comm` has it)?
    pub fn runs(&self, program: &str) -> bool {
        let is = |pid: &String| {
            pid.bytes().all(|b| b.is_ascii_digit())
                && self.root.text(&format!("/proc/{pid}/comm")).as_deref() == Some(program)
        };
        self.root.names("/proc").iter().any(is)
    }
}

/// The command that adds words to the kernel's command line, as this distribution does it.
pub(super) fn boot_words(root: &Root, words: &str) -> String {
    if root.has("/usr/sbin/grubby") || root.has("/sbin/grubby") {
        return format!("grubby --update-kernel=ALL --args=\"{words}\" && reboot");
    }
    if root.has("/etc/default/grub") {
        let edit = format!("sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{words} /' /etc/default/grub");
        return format!("{edit} && update-grub && reboot");
    }
    format!("# add to the kernel's command line, and reboot: {words}")
}

fn nics(root: &Root) -> Vec<Nic> {
    const FOLDER: &str = "/sys/bus/pci/devices";
    let nic = |address: String| {
        let at = |file: &str| format!("{FOLDER}/{address}/{file}");
        root.text(&at("class")).filter(|class| class.starts_with("0x02"))?;
        let id = |file| root.text(&at(file)).map(|t| t.trim_start_matches("0x").to_owned());
        let (vendor, device) = (id("vendor").unwrap_or_default(), id("device").unwrap_or_default());
        // A virtio device is a further level.
        let mut interfaces = root.names(&at("net"));
        for name in root.names(&at("")).iter().filter(|n| n.starts_with("virtio")) {
            interfaces.extend(root.names(&at(&format!("{name}/net"))));
        }
        Some(Nic {
            name: pci_name(root, &vendor, &device),
            id: format!("{vendor}:{device}"),
            driver: root.link(&at("driver")),
            interfaces,
            node: root.number(&at("numa_node")).filter(|n| *n >= 0),
            link: Link::read(root, &at("current_link_speed"), &at("current_link_width")),
            best: Link::read(root, &at("max_link_speed"), &at("max_link_width")),
            group: root.link(&at("iommu_group")),
            address,
        })
    };
    root.names(FOLDER).into_iter().filter_map(nic).collect()
}

/// The name that pci.ids has: vendors begin at the line's start, devices after one tab.
fn pci_name(root: &Root, vendor: &str, device: &str) -> Option<String> {
    let file = ["/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"]
        .iter()
        .find_map(|p| fs::File::open(root.at(p)).ok())?;
    let mut lines = BufReader::new(file).lines().map_while(Result::ok);
    lines.find(|l| l.starts_with(vendor) && !vendor.is_empty())?;
    let mut devices = lines.take_while(|l| l.starts_with('\t') || l.starts_with('#'));
    let name = devices.find_map(|l| Some(l.strip_prefix('\t')?.strip_prefix(device)?.trim().to_owned()))?;
    // `MT2892 Family [ConnectX-6 Dx]`: what people say is in the brackets.
    let inner = name.rsplit_once('[').and_then(|(_, rest)| rest.strip_suffix(']'));
    Some(inner.unwrap_or(&name).to_owned())
}

fn interfaces(root: &Root) -> Vec<Interface> {
    const FOLDER: &str = "/sys/class/net";
    let routes = root.text("/proc/net/route").unwrap_or_default();
    let interface = |name: String| {
        let at = |file: &str| format!("{FOLDER}/{name}/{file}");
        // A file besides, bonding_masters, stands among the interfaces.
        root.text(&at("mtu"))?;
        Some(Interface {
            mac: root.text(&at("address")).unwrap_or_default(),
            driver: root.link(&at("device/driver")),
            mtu: root.number(&at("mtu")),
            // -1 while the link is down or does not tell.
            mbits: root.number(&at("speed")),
            // Reading it fails while the interface is down.
            carrier: match root.text(&at("operstate")).as_deref() {
                Some("down") => Some(false),
                _ => root.number(&at("carrier")).map(|c: u8| c == 1),
            },
            routed: routes.lines().skip(1).any(|l| l.split_whitespace().next() == Some(name.as_str())),
            real: root.has(&at("device")),
            name,
        })
    };
    root.names(FOLDER).into_iter().filter_map(interface).collect()
}
