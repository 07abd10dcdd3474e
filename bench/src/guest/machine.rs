//! What the guest's machine is made of, in QEMU's words.

use std::fmt;
use std::path::{Path, PathBuf};

use super::wire::Wire;

/// A kind of emulated NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// Intel 82576, 1 Gbit/s.
    Igb,
    /// Intel 82574, 1 Gbit/s.
    E1000e,
    /// VMware's.
    Vmxnet3,
    /// The open standard of virtual machines, at its version 1.
    Virtio,
    /// The same for the guest's own kernel, behind [`Backend::VhostUser`].
    #[value(name = "vhost-user")]
    #[serde(rename = "vhost-user")]
    Vhost,
}

impl Model {
    /// All.
    pub const ALL: [Model; 5] = [Model::Igb, Model::E1000e, Model::Vmxnet3, Model::Virtio, Model::Vhost];

    /// Its name here.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Model::Igb => "igb",
            Model::E1000e => "e1000e",
            Model::Vmxnet3 => "vmxnet3",
            Model::Virtio => "virtio",
            Model::Vhost => "vhost-user",
        }
    }

    /// The device in QEMU, with what it needs to be.
    fn device(self) -> &'static str {
        match self {
            Model::Igb => "igb",
            Model::E1000e => "e1000e",
            Model::Vmxnet3 => "vmxnet3",
            Model::Virtio => "virtio-net-pci,disable-legacy=on,iommu_platform=on",
            Model::Vhost => "virtio-net-pci",
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a NIC's cable leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backend {
    /// To a socket of this process: a datagram is a frame, as it is. See [`super::Guest::wire`].
    Frames,
    /// To a tap interface of the namespace that QEMU runs in. It may be moved to another one once the guest runs.
    Tap {
        /// Its name; it exists, with `vnet_hdr`, and with `multi_queue` when there are several queues.
        name: String,
        /// Pairs of queues.
        queues: u16,
    },
    /// To another process by vhost-user; it listens there, and when it has gone is called every second until it is back. Needs
    /// [`Machine::shared_memory`] and [`Model::Vhost`].
    VhostUser {
        /// Path of its socket.
        socket: PathBuf,
        /// Pairs of queues.
        queues: u16,
    },
}

/// An emulated NIC, on a PCI Express port of its own.
#[derive(Debug, Clone)]
pub struct Nic {
    /// Which.
    pub model: Model,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its cable.
    pub backend: Backend,
    /// Further properties of QEMU's device, such as `rss=on,hash=on`.
    pub options: String,
}

/// A virtual machine.
#[derive(Debug, Clone)]
pub struct Machine {
    /// MiB.
    pub memory: u32,
    /// Hugepages of 2 MiB, out of `memory`.
    pub hugepages: u32,
    /// Processors. One thread of this machine runs all of them in turn.
    pub processors: u16,
    /// Other processes may map its memory, which vhost-user needs.
    pub shared_memory: bool,
    /// There are two NUMA nodes: processor 0 is on the first, all others and every NIC are on the second; each has half of the
    /// memory and of the hugepages.
    pub two_nodes: bool,
    /// There is an IOMMU: programs of the guest may have devices of their own by vfio-pci.
    pub iommu: bool,
    /// Its NICs.
    pub nics: Vec<Nic>,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            memory: 1024,
            hugepages: 0,
            processors: 2,
            shared_memory: false,
            two_nodes: false,
            iommu: false,
            nics: Vec::new(),
        }
    }
}

/// Slot of the root bus where the NICs' ports begin; each slot has eight functions.
const FIRST_SLOT: usize = 0x10;

/// Number of the PCI bus that belongs to the second NUMA node.
const FAR_BUS: u8 = 0x80;

/// Ids in QEMU of a NIC and of its cable.
pub(super) fn id(nic: usize) -> String {
    format!("nic{nic}")
}

fn netdev_id(nic: usize) -> String {
    format!("cable{nic}")
}

impl Machine {
    /// PCI address of the port that a NIC is behind.
    pub(super) fn port_address(&self, nic: usize) -> String {
        let bus = if self.two_nodes { FAR_BUS } else { 0 };
        format!("0000:{bus:02x}:{:02x}.{}", FIRST_SLOT + nic / 8, nic % 8)
    }

    /// QEMU's arguments, for sockets in `dir`; `wires` has the ends of cables that lead to frames.
    pub(super) fn arguments(
        &self,
        kernel: &Path,
        image: &Path,
        dir: &Path,
        wires: &[Option<Wire>],
    ) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |text: &str| args.extend(text.split_whitespace().map(str::to_owned));
        // One thread for all processors: with one each, QEMU's translator now and then fails.
        add(
            "-accel tcg,thread=single -cpu max,la57=off -display none -nodefaults -no-user-config -no-reboot",
        );
        add(&format!("-m {} -smp {}", self.memory, self.processors));
        if self.shared_memory {
            add(&format!("-object memory-backend-memfd,id=memory,size={}M,share=on", self.memory));
            add("-machine q35,memory-backend=memory");
        } else {
            add("-machine q35");
        }
        if self.two_nodes {
            let half = self.memory / 2;
            for (node, processors) in [(0, "0".to_owned()), (1, format!("1-{}", self.processors - 1))] {
                add(&format!("-object memory-backend-ram,id=memory{node},size={half}M"));
                add(&format!("-numa node,nodeid={node},cpus={processors},memdev=memory{node}"));
            }
            add("-numa dist,src=0,dst=1,val=21");
            add(&format!("-device pxb-pcie,id=far,bus=pcie.0,bus_nr={FAR_BUS},numa_node=1"));
        }
        if self.iommu {
            add("-device intel-iommu");
        }
        let socket = |name: &str| format!("unix:{},server=on,wait=off", dir.join(name).display());
        add(&format!("-serial file:{}", dir.join("kernel.log").display()));
        add(&format!("-serial {} -qmp {}", socket("console"), socket("qmp")));
        let iommu = if self.iommu { " intel_iommu=on iommu=pt" } else { "" };
        let pages = if self.hugepages > 0 { format!(" hugepages={}", self.hugepages) } else { String::new() };
        // A busy machine may give a guest no tick when its kernel tries the timer, which then gives up.
        args.extend([
            "-kernel".into(),
            kernel.to_string_lossy().into_owned(),
            "-initrd".into(),
            image.to_string_lossy().into_owned(),
            "-append".into(),
            format!("console=ttyS0 quiet panic=-1 mitigations=off no_timer_check{pages}{iommu}"),
        ]);
        for (i, nic) in self.nics.iter().enumerate() {
            args.extend(nic.port(i, if self.two_nodes { "far" } else { "pcie.0" }));
            args.extend(nic.cable(i, wires.get(i).and_then(Option::as_ref)));
            args.extend(["-device".into(), nic.device(i)]);
        }
        args
    }
}

impl Nic {
    fn port(&self, i: usize, bus: &str) -> Vec<String> {
        let (slot, function) = (FIRST_SLOT + i / 8, i % 8);
        let port = format!(
            "pcie-root-port,id=port{i},bus={bus},addr={slot:#x}.{function},multifunction=on,chassis={}",
            i + 1
        );
        vec!["-device".into(), port]
    }

    fn cable(&self, i: usize, wire: Option<&Wire>) -> Vec<String> {
        let id = netdev_id(i);
        let netdev = |text: String| vec!["-netdev".to_owned(), text];
        match &self.backend {
            Backend::Frames => wire.map(|w| netdev(w.netdev(&id))).unwrap_or_default(),
            Backend::Tap { name, queues } => {
                netdev(format!("tap,id={id},ifname={name},script=no,downscript=no,vhost=off,queues={queues}"))
            }
            Backend::VhostUser { socket, queues } => {
                let mut args = vec![
                    "-chardev".to_owned(),
                    format!("socket,id=plug{i},path={},reconnect=1", socket.display()),
                ];
                args.extend(netdev(format!("vhost-user,id={id},chardev=plug{i},queues={queues}")));
                args
            }
        }
    }

    /// The device as `-device` takes it, and the monitor's `device_add`.
    pub(super) fn device(&self, i: usize) -> String {
        let mac: Vec<String> = self.mac.iter().map(|b| format!("{b:02x}")).collect();
        let mut text = format!(
            "{},id={},netdev={},mac={},bus=port{i},romfile=",
            self.model.device(),
            id(i),
            netdev_id(i),
            mac.join(":")
        );
        let queues = match &self.backend {
            Backend::Frames => 1,
            Backend::Tap { queues, .. } | Backend::VhostUser { queues, .. } => *queues,
        };
        if queues > 1 && matches!(self.model, Model::Virtio | Model::Vhost) {
            text += &format!(",mq=on,vectors={}", 2 * queues + 2);
        }
        if !self.options.is_empty() {
            text += &format!(",{}", self.options);
        }
        text
    }
}

pub(super) fn wire_path(dir: &Path, nic: usize) -> PathBuf {
    dir.join(format!("wire{nic}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_told_to_qemu() {
        let nic = Nic {
            model: Model::Virtio,
            mac: [0x52, 0x54, 0, 0, 0, 0xa],
            backend: Backend::Tap { name: "t0".into(), queues: 2 },
            options: "rss=on".into(),
        };
        let text = nic.device(9);
        assert_eq!(
            text,
            "virtio-net-pci,disable-legacy=on,iommu_platform=on,id=nic9,netdev=cable9,\
             mac=52:54:00:00:00:0a,bus=port9,romfile=,mq=on,vectors=6,rss=on"
        );
        let machine = Machine::default();
        assert_eq!(machine.port_address(9), "0000:00:11.1");
        assert_eq!(Machine { two_nodes: true, ..machine }.port_address(9), "0000:80:11.1");
    }
}
