//! Where a MAC address is, as far as the kernel knows.
//!
//! A device that the kernel has let go of (vfio-pci, uio) shows no MAC address in /sys: only its driver in DPDK can read it. Such
//! devices are candidates, to be looked at one after the other.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use crate::config::Device;
use crate::topology::{HANDED_OVER, SHARED};

/// May DPDK use a device that is bound to this kernel driver?
pub(super) fn is_usable(driver: &str) -> bool {
    HANDED_OVER.contains(&driver) || SHARED.contains(&driver)
}

/// An interface of the kernel's that has the address, on a PCI device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// PCI address of its device.
    pub(crate) pci: String,
    /// Kernel driver of the device.
    pub(crate) driver: String,
}

/// What /sys tells about a MAC address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// The interface that has it.
    pub(crate) interface: Option<Interface>,
    /// PCI addresses of network devices whose MAC address the kernel does not know, in order.
    pub(crate) candidates: Vec<String>,
}

/// Looks for a MAC address; `sys` is /sys.
pub(crate) fn sight(sys: &Path, mac: [u8; 6]) -> Sighting {
    let wanted = Device::Mac(mac).to_string();
    let wanted = wanted.trim_start_matches("mac:");
    let interfaces = list(&sys.join("class/net"));
    let interface = interfaces.into_iter().find_map(|name| {
        let folder = sys.join("class/net").join(&name);
        let has = fs::read_to_string(folder.join("address")).ok()?.trim().eq_ignore_ascii_case(wanted);
        // A virtual interface - a bridge, a VLAN, a bond - may repeat the address of the device below.
        let device = fs::canonicalize(folder.join("device")).ok().filter(|_| has)?;
        // Of virtio and others the device is a child of the PCI function.
        let pci = device.ancestors().find_map(|a| match a.file_name()?.to_str()?.parse().ok()? {
            Device::Pci(address) => Some((address, a.to_owned())),
            _ => None,
        });
        let (pci, folder) = pci?;
        Some(Interface { name, pci, driver: driver(&folder).unwrap_or_default() })
    });
    let devices = sys.join("bus/pci/devices");
    let is_candidate = |address: &String| {
        let folder = devices.join(address);
        // PCI class 02: network controllers.
        let network = fs::read_to_string(folder.join("class")).is_ok_and(|class| class.starts_with("0x02"));
        network && driver(&folder).is_some_and(|driver| HANDED_OVER.contains(&driver.as_str()))
    };
    let candidates = list(&devices).into_iter().filter(is_candidate).collect();
    Sighting { interface, candidates }
}

/// The kernel driver that a device is bound to; `folder` is the device's.
pub(super) fn driver(folder: &Path) -> Option<String> {
    let link = fs::read_link(folder.join("driver")).ok()?;
    link.file_name().and_then(OsStr::to_str).map(str::to_owned)
}

/// Names in a folder, in order.
fn list(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A made-up /sys: PCI devices with class and driver, interfaces with address and the device below /sys/devices.
    fn sys(pci: &[(&str, &str, &str)], interfaces: &[(&str, &str, Option<&str>)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let sys = root.path();
        for folder in ["bus/pci/devices", "class/net", "devices/pci0"] {
            fs::create_dir_all(sys.join(folder)).unwrap();
        }
        for (address, class, driver) in pci {
            let folder = sys.join("devices/pci0").join(address);
            fs::create_dir_all(folder.join("virtio0")).unwrap();
            fs::write(folder.join("class"), format!("{class}\n")).unwrap();
            if !driver.is_empty() {
                symlink(format!("../../../bus/pci/drivers/{driver}"), folder.join("driver")).unwrap();
            }
            symlink(&folder, sys.join("bus/pci/devices").join(address)).unwrap();
        }
        for (name, mac, device) in interfaces {
            let folder = sys.join("class/net").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("address"), format!("{mac}\n")).unwrap();
            if let Some(device) = device {
                symlink(sys.join("devices/pci0").join(device), folder.join("device")).unwrap();
            }
        }
        root
    }

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    #[test]
    fn devices_that_the_kernel_let_go_of_are_candidates() {
        let root = sys(
            &[
                ("0000:03:00.0", "0x020000", "uio_pci_generic"),
                ("0000:01:00.0", "0x020000", "vfio-pci"),
                ("0000:02:00.0", "0x010802", "vfio-pci"),
                ("0000:04:00.0", "0x020000", "igb"),
                ("0000:05:00.0", "0x020000", ""),
                ("0000:06:00.0", "0x028000", "igb_uio"),
            ],
            &[("eth0", "52:54:00:12:34:57", Some("0000:04:00.0"))],
        );
        let sighting = sight(root.path(), MAC);
        assert_eq!(sighting.interface, None);
        assert_eq!(sighting.candidates, ["0000:01:00.0", "0000:03:00.0", "0000:06:00.0"]);
    }

    #[test]
    fn an_interface_leads_to_its_device_and_driver() {
        let root = sys(
            &[("0000:04:00.0", "0x020000", "igb"), ("0000:07:00.0", "0x020000", "virtio-pci")],
            &[
                ("br0", "52:54:00:12:34:56", None),
                ("eth0", "52:54:00:12:34:56", Some("0000:04:00.0")),
                ("eth1", "52:54:00:AB:00:01", Some("0000:07:00.0/virtio0")),
            ],
        );
        let found = |mac| sight(root.path(), mac).interface.map(|i| (i.name, i.pci, i.driver));
        let igb = ("eth0".to_owned(), "0000:04:00.0".to_owned(), "igb".to_owned());
        assert_eq!(found(MAC), Some(igb), "not the bridge, which has no device");
        let virtio = ("eth1".to_owned(), "0000:07:00.0".to_owned(), "virtio-pci".to_owned());
        assert_eq!(
            found([0x52, 0x54, 0, 0xab, 0, 1]),
            Some(virtio),
            "through the virtio device, in capitals"
        );
        assert_eq!(found([2; 6]), None);
    }

    #[test]
    fn a_machine_without_pci_has_nothing() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(sight(root.path(), MAC), Sighting::default());
    }
}
