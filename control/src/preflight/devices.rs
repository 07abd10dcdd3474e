//! NICs: what drives them, what their slots carry, their firmware and their NUMA nodes.

use forwarder::config::{Device, VhostSocket};

use super::finding::{Finding, Mend, Subject::Devices};
use super::host::Nic;
use super::pcie::Link;
use super::{Scene, Seen};

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    match scene.config {
        Some(_) => scene.devices.iter().for_each(|d| port(scene, d, out)),
        None => in_general(scene, out),
    }
    shared_slots(scene, out);
}

/// Without a configuration: what there is.
fn in_general(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    if scene.host.nics.is_empty() {
        let why =
            "without a NIC on the PCI bus there are only the kernel's interfaces, over af_packet and af_xdp";
        let none = Finding::ok(Devices, "NICs", "none on the PCI bus")
            .warning("one or two ports for s2ds alone", why);
        out.push(none.mend(Mend::by_hand("lspci -nn | grep -i -e ethernet -e network")));
    }
    for nic in &scene.host.nics {
        let interface = nic.interfaces.first().and_then(|i| scene.host.interface(i));
        let on = interface.map_or_else(String::new, |i| format!(", interface {}", i.name));
        let driver = nic.driver.as_deref().unwrap_or("none");
        out.push(Finding::ok(Devices, nic.title(), format!("[{}] driver {driver}{on}", nic.id)));
        let what = |what: &str| format!("{what} of {}", nic.address);
        out.extend(slot(what("PCIe"), nic, interface.and_then(|i| Some(i.mbits? as f64 / 1000.0))));
        out.extend(node(scene, what("NUMA node"), nic));
        firmware(scene, nic, &nic.address, out);
    }
}

fn port(scene: &Scene<'_>, seen: &Seen<'_>, out: &mut Vec<Finding>) {
    let is_pci = matches!(seen.device, Device::Pci(_)) || seen.device.to_string().starts_with("mac:");
    if is_pci {
        out.push(driver(scene, seen));
    }
    out.extend(made(scene, seen));
    let Some(nic) = seen.nic else { return };
    out.extend(slot(format!("PCIe of {}", seen.title()), nic, seen.gbits));
    out.extend(node(scene, format!("NUMA node of {}", seen.title()), nic));
    firmware(scene, nic, &seen.title(), out);
}

/// Devices that s2ds makes itself.
fn made(scene: &Scene<'_>, seen: &Seen<'_>) -> Option<Finding> {
    let what = format!("device of {}", seen.title());
    match seen.device {
        Device::Tap(_) if scene.root.has("/dev/net/tun") => {
            Some(Finding::ok(Devices, what, "/dev/net/tun is there"))
        }
        Device::Tap(_) => {
            let finding = Finding::ok(Devices, what, "/dev/net/tun is missing");
            let why = "TAP interfaces are made through it";
            Some(finding.problem("there", why).mend(Mend::by_hand("modprobe tun")))
        }
        Device::Memif(path) | Device::Vhost(VhostSocket { path, .. }) => {
            let folder = path.parent().filter(|f| !f.as_os_str().is_empty())?.display().to_string();
            if scene.root.has(&folder) {
                return Some(Finding::ok(Devices, what, format!("{folder} is there")));
            }
            let finding = Finding::ok(Devices, what, format!("{folder} is missing"));
            let why = "the socket is made in it";
            Some(finding.problem("there", why).mend(Mend::by_hand(format!("mkdir -p {folder}"))))
        }
        _ => None,
    }
}

fn driver(scene: &Scene<'_>, seen: &Seen<'_>) -> Finding {
    let what = format!("driver of {}", seen.title());
    let Some(nic) = seen.nic else {
        // One that was handed over has no interface whose MAC address could be seen.
        if seen.device.to_string().starts_with("mac:") && scene.host.nics.iter().any(Nic::is_handed_over) {
            let why = "no interface of the kernel has this MAC address; one of the NICs it does not see may";
            return Finding::unknown(Devices, what, why, "s2ctl port list   # while s2ds runs");
        }
        let all: Vec<String> = scene.host.nics.iter().map(Nic::title).collect();
        let there = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
        let finding = Finding::ok(Devices, what, "this machine has no such NIC");
        return finding
            .problem(format!("one of: {there}"), "the port has no device")
            .mend(Mend::by_hand("dpdk-devbind.py --status-dev net"));
    };
    let finding = Finding::ok(Devices, what, nic.driver.as_deref().unwrap_or("none"));
    match nic.driver.as_deref() {
        Some("vfio-pci") => finding,
        _ if nic.is_shared() => user_space_driver(scene, nic, finding),
        Some("uio_pci_generic" | "igb_uio") => finding
            .warning(
                "vfio-pci",
                "nothing keeps the device out of other memory, and it has no interrupts for link changes",
            )
            .mend(bind(scene, nic)),
        _ => finding
            .problem("vfio-pci", "DPDK's driver can only have a device that the kernel's has let go of")
            .mend(bind(scene, nic)),
    }
}

/// With a word of warning where the kernel still uses the interface.
fn bind(scene: &Scene<'_>, nic: &Nic) -> Mend {
    let used = nic.interfaces.iter().filter_map(|i| scene.host.interface(i)).find(|i| i.routed);
    let bind = format!("modprobe vfio-pci && dpdk-devbind.py -b vfio-pci {}", nic.address);
    let command = match used {
        Some(i) => format!("# the kernel has routes over {}: are you logged in over it?\n{bind}", i.name),
        None => bind,
    };
    Mend::by_hand(command).lasting(format!("driverctl set-override {} vfio-pci", nic.address))
}

/// NVIDIA's and Microsoft's devices stay with the kernel; DPDK's drivers reach them through rdma-core's libraries.
fn user_space_driver(scene: &Scene<'_>, nic: &Nic, finding: Finding) -> Finding {
    let library = match nic.driver.as_deref() {
        Some("mlx4_core") => "libmlx4.so.1",
        Some("mana") => "libmana.so.1",
        _ => "libmlx5.so.1",
    };
    let root = scene.root;
    let folders = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    ];
    let installed = folders
        .iter()
        .any(|f| root.has(&format!("{f}/{library}")) && root.has(&format!("{f}/libibverbs.so.1")));
    if !installed {
        return finding
            .problem(
                format!("with {library} and libibverbs.so.1"),
                "DPDK's driver reaches the device through rdma-core",
            )
            .likely()
            .mend(Mend::by_hand("apt-get install rdma-core ibverbs-providers"));
    }
    if root.names("/sys/class/infiniband_verbs").is_empty() {
        return finding
            .problem(
                "with a device in /sys/class/infiniband_verbs",
                "the kernel's RDMA modules are not loaded",
            )
            .mend(
                Mend::by_hand("modprobe -a ib_uverbs mlx5_ib")
                    .lasting("echo mlx5_ib > /etc/modules-load.d/scistream.conf"),
            );
    }
    finding.should("stays: DPDK shares it, no vfio")
}

/// What the slot carries against what the link does.
fn slot(what: String, nic: &Nic, gbits: Option<f64>) -> Option<Finding> {
    // Emulated NICs and those in the processor have no link to tell of.
    let link = nic.link?;
    let finding = Finding::ok(Devices, what, link.to_string());
    let below = nic.best.filter(|best| best.coded_gbits() > link.coded_gbits() * 1.01);
    if let Some(gbits) = gbits.filter(|g| !link.carries(*g)) {
        let why = format!("its link does {gbits:.0} Gbit/s, the slot cannot carry that");
        let look = format!(
            "lspci -vv -s {} | grep -e LnkCap -e LnkSta   # another slot or riser, or the BIOS's setting",
            nic.address
        );
        return Some(finding.warning(Link::wanted(gbits), why).likely().mend(Mend::by_hand(look)));
    }
    if let Some(best) = below {
        let enough = gbits.is_some();
        let finding = match enough {
            true => {
                return Some(finding.should(format!(
                    "enough; the NIC could do Gen{} x{}",
                    best.generation(),
                    best.lanes
                )));
            }
            false => finding,
        };
        let why = "the slot gives less than the NIC can; whether that is enough depends on its link's speed";
        let look = format!("lspci -vv -s {} | grep -e LnkCap -e LnkSta", nic.address);
        return Some(finding.warning(best.to_string(), why).likely().mend(Mend::by_hand(look)));
    }
    Some(match gbits {
        Some(gbits) => finding.should(format!("{} for {gbits:.0} Gbit/s", Link::wanted(gbits))).likely(),
        None => finding.should("as much as the NIC can do"),
    })
}

/// Several ports on one card: each may fit the slot, and both not.
fn shared_slots(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let mut cards: Vec<&str> = scene.devices.iter().filter_map(|d| Some(d.nic?.card())).collect();
    cards.dedup();
    for card in cards {
        let on: Vec<&Seen<'_>> =
            scene.devices.iter().filter(|d| d.nic.is_some_and(|n| n.card() == card)).collect();
        let (Some(link), true) = (on.iter().find_map(|d| d.nic?.link), on.len() > 1) else { continue };
        let sum: f64 = on.iter().filter_map(|d| d.gbits).sum();
        let most = on.iter().filter_map(|d| d.gbits).fold(0.0, f64::max);
        if sum > 0.0 && link.carries(most) && !link.carries(sum) {
            let why = "its ports share the slot: what one receives while another receives adds up; a stream one way fits";
            let finding = Finding::ok(Devices, format!("ports on card {card}"), link.to_string());
            out.push(finding.warning(format!("{} for {sum:.0} Gbit/s", Link::wanted(sum)), why).likely());
        }
    }
}

fn node(scene: &Scene<'_>, what: String, nic: &Nic) -> Option<Finding> {
    let machine = &scene.host.machine;
    if machine.nodes.len() < 2 {
        return None;
    }
    let Some(node) = nic.node else {
        let why = "the firmware does not tell, so workers and memory may be placed far away";
        let finding =
            Finding::unknown(Devices, what, why, format!("lspci -vv -s {} | grep NUMA", nic.address));
        return Some(finding);
    };
    let far: Vec<(usize, i32)> = scene
        .workers
        .iter()
        .filter_map(|c| Some((c, machine.core_node(c)?)))
        .filter(|(_, n)| *n != node)
        .collect();
    let finding = Finding::ok(Devices, what, node.to_string());
    let Some((core, other)) = far.first() else {
        return Some(match scene.workers.is_empty() {
            true => finding.should("the workers' node"),
            false => finding.should("the workers' node, as it is"),
        });
    };
    let distance =
        machine.distance(node, *other).map_or_else(String::new, |d| format!(", distance {d} (10 is local)"));
    let near: Vec<String> = machine.node(node).map(|n| n.cores.to_string()).into_iter().collect();
    let why = "every packet crosses the interconnect between the processors, twice";
    let mut finding =
        finding.warning(format!("the workers' node: core {core} is on node {other}{distance}"), why);
    finding = finding.mend(Mend::by_hand(format!("s2ds: [workers] cores from {}", near.join(""))));
    Some(finding)
}

/// From `ethtool -i`, which asks the kernel's driver.
fn firmware(scene: &Scene<'_>, nic: &Nic, title: &str, out: &mut Vec<Finding>) {
    let what = format!("firmware of {title}");
    // The RDMA devices of shared NICs tell it without a program.
    let folder = format!("/sys/bus/pci/devices/{}/infiniband", nic.address);
    let names = scene.root.names(&folder);
    if let Some(version) = names.iter().find_map(|d| scene.root.text(&format!("{folder}/{d}/fw_ver"))) {
        out.push(Finding::ok(Devices, what, version));
        return;
    }
    let told = nic.interfaces.iter().find_map(|i| scene.told.firmware(i));
    let finding = match (told, nic.is_handed_over(), nic.interfaces.first()) {
        (Some(version), ..) => Finding::ok(Devices, what, version),
        (None, true, _) => {
            let why = "the kernel's driver tells it before the device is bound to another";
            Finding::unknown(Devices, what, why, "dpdk-telemetry.py   # then /ethdev/info,N while s2ds runs")
        }
        // Emulated NICs have none.
        (None, false, _) if nic.id.starts_with("1af4:") => return,
        (None, false, Some(interface)) => Finding::unknown(
            Devices,
            what,
            "ethtool is not installed, or the driver does not tell",
            format!("ethtool -i {interface}"),
        ),
        (None, false, None) => return,
    };
    out.push(finding);
}
