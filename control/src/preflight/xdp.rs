//! AF_XDP: the kernel's, bpffs, and drivers that spare the copy.

use forwarder::config::Device;

use super::Scene;
use super::finding::{Finding, Mend, Subject::Xdp};
use super::host::Interface;

/// Drivers that hand frames over without a copy: those of NICs that announce NETDEV_XDP_ACT_XSK_ZEROCOPY in the kernel's sources,
/// some of them only on recent kernels.
const ZERO_COPY: [&str; 10] =
    ["i40e", "ice", "igb", "igc", "idpf", "ixgbe", "mlx5_core", "gve", "nfp", "virtio_net"];

/// Largest MTU of a frame that lies in one page beside its headroom and the kernel's bookkeeping.
const MOST_MTU: u16 = 3498;

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let uses = |d: &&super::Seen<'_>| matches!(d.device, Device::AfXdp(_));
    let wanted = scene.devices.iter().any(|d| uses(&d));
    if scene.config.is_some() && !wanted {
        return;
    }
    out.push(sockets(scene, wanted));
    out.push(version(scene));
    out.push(bpffs(scene, wanted));
    out.extend(jit(scene));
    out.extend(unprivileged(scene));
    match scene.config {
        None => {
            let real = scene.host.interfaces.iter().filter(|i| i.real);
            out.extend(real.map(|i| driver(scene, i, i.name.clone(), false)));
        }
        Some(_) => {
            for seen in scene.devices.iter().filter(uses) {
                out.extend(seen.interface.map(|i| driver(scene, i, seen.title(), true)));
                if seen.mtu > MOST_MTU {
                    let finding = Finding::ok(Xdp, format!("MTU of {}", seen.title()), seen.mtu.to_string());
                    let why = "drivers refuse XDP with frames larger than a page";
                    out.push(finding.warning(format!("at most {MOST_MTU}"), why).likely());
                }
            }
        }
    }
}

/// The kernel lists the kinds of sockets it has.
fn sockets(scene: &Scene<'_>, wanted: bool) -> Finding {
    const WHAT: &str = "AF_XDP sockets";
    let protocols = scene.root.text("/proc/net/protocols");
    let listed = protocols.map(|t| t.lines().any(|l| l.split_whitespace().next() == Some("XDP")));
    let config = || scene.root.text(&format!("/boot/config-{}", scene.host.kernel));
    let built = listed.or_else(|| config().map(|t| t.lines().any(|l| l == "CONFIG_XDP_SOCKETS=y")));
    let Some(built) = built else {
        let why = "neither /proc/net/protocols nor the kernel's configuration can be read";
        return Finding::unknown(Xdp, WHAT, why, "zgrep XDP_SOCKETS /proc/config.gz");
    };
    if built {
        return Finding::ok(Xdp, WHAT, "yes");
    }
    let finding = Finding::ok(Xdp, WHAT, "not in this kernel");
    let why = "af_xdp: devices need a kernel with CONFIG_XDP_SOCKETS";
    match wanted {
        true => {
            finding.problem("yes", why).mend(Mend::by_hand("s2ds: use af_packet:IFACE, or another kernel"))
        }
        false => finding.warning("yes, where ports are af_xdp:", why),
    }
}

fn version(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "kernel's version for AF_XDP";
    match scene.host.kernel_is(5, 11) {
        None => Finding::unknown(Xdp, WHAT, "the kernel's release cannot be read", "uname -r"),
        Some(true) => Finding::ok(Xdp, WHAT, scene.host.kernel.as_str()).should("5.11 or later"),
        Some(false) => Finding::ok(Xdp, WHAT, scene.host.kernel.as_str())
            .warning("5.11 or later", "before it a socket does not poll the NIC itself (preferred busy poll)")
            .likely(),
    }
}

fn bpffs(scene: &Scene<'_>, wanted: bool) -> Finding {
    const WHAT: &str = "bpffs";
    let Some(mounts) = scene.root.text("/proc/self/mounts").or_else(|| scene.root.text("/proc/mounts"))
    else {
        return Finding::unknown(Xdp, WHAT, "/proc/mounts cannot be read", "findmnt -t bpf");
    };
    let at = mounts.lines().find_map(|l| {
        let mut fields = l.split_whitespace().skip(1);
        let place = fields.next()?;
        (fields.next()? == "bpf").then(|| place.to_owned())
    });
    if let Some(place) = at {
        return Finding::ok(Xdp, WHAT, format!("mounted on {place}"));
    }
    let finding = Finding::ok(Xdp, WHAT, "not mounted");
    let mend =
        Mend::by_hand("mount -t bpf bpf /sys/fs/bpf").lasting("systemd mounts it; else a line in /etc/fstab");
    let why = "libxdp pins its program there, to share an interface between programs";
    let should = if wanted { "on /sys/fs/bpf" } else { "on /sys/fs/bpf, where ports are af_xdp:" };
    finding.warning(should, why).likely().mend(mend)
}

fn jit(scene: &Scene<'_>) -> Option<Finding> {
    const WHAT: &str = "compiler of BPF programs";
    let on: u8 = scene.root.number("/proc/sys/net/core/bpf_jit_enable")?;
    let finding = Finding::ok(Xdp, WHAT, if on == 0 { "off" } else { "on" });
    Some(match on {
        0 => finding
            .warning("on", "the program that picks packets for the socket is interpreted, for each packet")
            .mend(Mend::sysctl("net.core.bpf_jit_enable", 1)),
        _ => finding,
    })
}

fn unprivileged(scene: &Scene<'_>) -> Option<Finding> {
    const WHAT: &str = "BPF for any user";
    let disabled: u8 = scene.root.number("/proc/sys/kernel/unprivileged_bpf_disabled")?;
    let finding = Finding::ok(Xdp, WHAT, if disabled == 0 { "allowed" } else { "refused" });
    Some(match disabled {
        0 => finding
            .warning("refused", "s2ds needs CAP_BPF and not this; open, it is a way into the kernel")
            .rule_of_thumb()
            .mend(Mend::sysctl("kernel.unprivileged_bpf_disabled", 2)),
        _ => finding,
    })
}

fn driver(_: &Scene<'_>, interface: &Interface, title: String, wanted: bool) -> Finding {
    let what = format!("zero copy on {title}");
    let driver = interface.driver.as_deref();
    match driver {
        Some(name) if ZERO_COPY.contains(&name) => {
            Finding::ok(Xdp, what, format!("driver {name} can, on kernels that have it")).likely()
        }
        _ => {
            let name = driver.map_or("virtual interface".to_owned(), |d| format!("driver {d}"));
            let finding = Finding::ok(Xdp, what, format!("{name}: frames are copied"));
            match wanted {
                true => finding
                    .warning("a NIC whose driver has it", "each frame is copied by the kernel, both ways")
                    .likely(),
                false => finding.should("no need without ports that are af_xdp:").likely(),
            }
        }
    }
}
