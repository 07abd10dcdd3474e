//! IOMMU and vfio: what lets a program have a device, and keeps the device to the program's memory.

use forwarder::config::Device;

use super::Scene;
use super::finding::{Finding, Mend, Subject::Devices};
use super::host::Nic;
use super::host::boot_words;

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let nics: Vec<&Nic> = match scene.config {
        None => scene.nics(),
        Some(_) => {
            let by_pci = |d: &&super::Seen<'_>| !matches!(d.device, Device::AfPacket(_) | Device::AfXdp(_));
            scene.devices.iter().filter(by_pci).filter_map(|d| d.nic).collect()
        }
    };
    // Shared devices need neither.
    let need: Vec<&Nic> = nics.into_iter().filter(|n| !n.is_shared()).collect();
    if need.is_empty() {
        return;
    }
    // Other drivers hand devices over without, at the machine's risk.
    let wanted = scene.config.is_some()
        && need.iter().any(|n| n.driver.as_deref() == Some("vfio-pci") || !n.is_handed_over());
    out.push(iommu(scene, wanted));
    out.push(module(scene, wanted));
    for nic in &need {
        out.extend(group(scene, nic));
    }
}

fn iommu(scene: &Scene<'_>, wanted: bool) -> Finding {
    const WHAT: &str = "IOMMU";
    const UNSAFE: &str = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    let root = scene.root;
    if !root.names("/sys/kernel/iommu_groups").is_empty() {
        let through = scene.host.machine.cmdline.split_whitespace().any(|w| w == "iommu=pt");
        return Finding::ok(Devices, WHAT, if through { "on, iommu=pt" } else { "on" });
    }
    let intel = root.field("/proc/cpuinfo", "vendor_id").as_deref() == Some("GenuineIntel");
    let words = if intel { "intel_iommu=on iommu=pt" } else { "iommu=pt" };
    let boot = boot_words(root, words) + "   # and VT-d or AMD-Vi in the BIOS";
    if matches!(root.text(UNSAFE).as_deref(), Some("Y" | "1")) {
        let why = "vfio runs without it: a NIC that goes astray can write anywhere in memory";
        return Finding::ok(Devices, WHAT, "off, vfio in no-IOMMU mode")
            .warning("on", why)
            .mend(Mend::by_hand(boot));
    }
    let finding = Finding::ok(Devices, WHAT, "off, or this machine has none");
    let why = "vfio-pci takes no device without one, except in its no-IOMMU mode";
    let without = "# none to be had, as in many virtual machines: modprobe vfio enable_unsafe_noiommu_mode=1";
    match wanted {
        true => finding.problem("on", why),
        false => finding.warning("on, where NICs are bound to vfio-pci", why),
    }
    .likely()
    .mend(Mend::by_hand(format!(
        "{boot}
{without}"
    )))
}

fn module(scene: &Scene<'_>, wanted: bool) -> Finding {
    const WHAT: &str = "vfio-pci";
    if scene.root.has("/sys/bus/pci/drivers/vfio-pci") {
        return Finding::ok(Devices, WHAT, "loaded");
    }
    let mend =
        Mend::by_hand("modprobe vfio-pci").lasting("echo vfio-pci > /etc/modules-load.d/scistream.conf");
    let finding = Finding::ok(Devices, WHAT, "not loaded");
    let why = "the driver that hands a device to a program; without it nothing can be bound";
    match wanted {
        true => finding.problem("loaded", why),
        false => finding.warning("loaded, where NICs are bound to it", why),
    }
    .mend(mend)
}

/// A group is handed over whole: the kernel's drivers must have let go of every device in it, bridges apart.
fn group(scene: &Scene<'_>, nic: &Nic) -> Option<Finding> {
    if nic.driver.as_deref() != Some("vfio-pci") {
        return None;
    }
    let group = nic.group.as_deref()?;
    let folder = format!("/sys/kernel/iommu_groups/{group}/devices");
    let others: Vec<String> = scene
        .root
        .names(&folder)
        .into_iter()
        .filter(|address| *address != nic.address)
        .filter_map(|address| {
            let device = format!("/sys/bus/pci/devices/{address}");
            let bridge = scene.root.text(&format!("{device}/class")).is_some_and(|c| c.starts_with("0x06"));
            let driver =
                scene.root.link(&format!("{device}/driver")).filter(|d| d != "vfio-pci" && d != "pcieport");
            driver.filter(|_| !bridge).map(|driver| format!("{address} ({driver})"))
        })
        .collect();
    let what = format!("IOMMU group of {}", nic.address);
    if others.is_empty() {
        return Some(Finding::ok(Devices, what, format!("{group}, its own")));
    }
    let why =
        "a group is handed to one program whole; vfio refuses one whose devices the kernel still drives";
    let finding = Finding::ok(Devices, what, format!("{group}, with {}", others.join(", ")));
    Some(finding.problem("no device that the kernel drives", why).mend(Mend::by_hand(format!(
        "dpdk-devbind.py -u {}   # if nothing needs them; or another slot, or ACS in the BIOS",
        others.iter().filter_map(|o| o.split(' ').next()).collect::<Vec<_>>().join(" ")
    ))))
}
