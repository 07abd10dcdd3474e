//! Limits and capabilities of who runs this, who is not always who runs s2ds.

use forwarder::config::Device;

use super::Scene;
use super::finding::{Finding, Mend, Subject::Rights};

/// Capabilities by their bits, with why s2ds wants them.
const CAP_NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const CAP_NET_RAW: (u32, &str) = (13, "CAP_NET_RAW");
const CAP_IPC_LOCK: (u32, &str) = (14, "CAP_IPC_LOCK");
const CAP_BPF: (u32, &str) = (39, "CAP_BPF");

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    out.push(capabilities(scene));
    out.push(locked_memory(scene));
    out.push(open_files(scene));
}

fn effective(scene: &Scene<'_>) -> Option<u64> {
    u64::from_str_radix(&scene.root.field("/proc/self/status", "CapEff")?, 16).ok()
}

fn capabilities(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "capabilities of this user";
    let Some(have) = effective(scene) else {
        return Finding::unknown(Rights, WHAT, "/proc/self/status cannot be read", "capsh --print");
    };
    let mut want = Vec::new();
    for seen in &scene.devices {
        match seen.device {
            Device::AfPacket(_) => want.push(CAP_NET_RAW),
            Device::AfXdp(_) => want.extend([CAP_NET_RAW, CAP_NET_ADMIN, CAP_BPF]),
            Device::Tap(_) => want.push(CAP_NET_ADMIN),
            Device::Pci(_) => want.push(CAP_IPC_LOCK),
            _ => {}
        }
    }
    want.sort_unstable();
    want.dedup();
    let lacking: Vec<&str> =
        want.iter().filter(|(bit, _)| have >> bit & 1 == 0).map(|(_, name)| *name).collect();
    let all: Vec<&str> = want.iter().map(|(_, name)| *name).collect();
    if want.is_empty() {
        let root = [CAP_NET_ADMIN, CAP_NET_RAW, CAP_IPC_LOCK].iter().all(|(bit, _)| have >> bit & 1 == 1);
        let is = if root { "those of root" } else { "an ordinary user's" };
        return Finding::ok(Rights, WHAT, is)
            .should("what the ports' devices need; s2ds may run as another user");
    }
    if lacking.is_empty() {
        return Finding::ok(Rights, WHAT, format!("has {}", all.join(", ")));
    }
    let why = "s2ds started by this user could not open its devices; its service has capabilities of its own";
    let tells = "systemctl show s2ds -p AmbientCapabilities -p CapabilityBoundingSet";
    let finding = Finding::ok(Rights, WHAT, format!("lacks {}", lacking.join(", ")));
    finding.warning(all.join(", "), why).likely().mend(Mend::by_hand(tells))
}

/// Soft and hard limit of a row in /proc/self/limits; unlimited is the largest number.
fn limit(scene: &Scene<'_>, name: &str) -> Option<(u64, u64)> {
    let text = scene.root.text("/proc/self/limits")?;
    let rest = text.lines().find_map(|l| l.strip_prefix(name))?;
    let mut numbers =
        rest.split_whitespace().map(|n| if n == "unlimited" { Some(u64::MAX) } else { n.parse().ok() });
    Some((numbers.next()??, numbers.next()??))
}

fn shown(limit: u64, unit: u64, name: &str) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { format!("{}{name}", limit / unit) }
}

fn locked_memory(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "locked memory (ulimit -l)";
    let Some((soft, _)) = limit(scene, "Max locked memory") else {
        return Finding::unknown(Rights, WHAT, "/proc/self/limits cannot be read", "ulimit -l");
    };
    let finding = Finding::ok(Rights, WHAT, shown(soft, 1 << 20, " MiB"));
    if soft == u64::MAX {
        return finding;
    }
    if effective(scene).is_some_and(|caps| caps >> CAP_IPC_LOCK.0 & 1 == 1) {
        return finding.should("any: CAP_IPC_LOCK is not bound by it");
    }
    let why = "vfio locks all packet memory for the device; s2ds started by this user would be refused it";
    finding.warning("unlimited", why).likely().mend(
        Mend::by_hand("ulimit -l unlimited")
            .lasting("LimitMEMLOCK=infinity in s2ds.service, or /etc/security/limits.d"),
    )
}

fn open_files(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "open files (ulimit -n)";
    /// EAL holds one for each hugepage, and raises the soft limit to the hard one by itself.
    const LEAST: u64 = 4096;
    let Some((_, hard)) = limit(scene, "Max open files") else {
        return Finding::unknown(Rights, WHAT, "/proc/self/limits cannot be read", "ulimit -Hn");
    };
    let finding = Finding::ok(Rights, WHAT, format!("up to {}", shown(hard, 1, "")));
    if hard >= LEAST {
        return finding.should(format!("up to {LEAST} or more"));
    }
    let why = "DPDK opens one for each hugepage of packet memory";
    finding
        .warning(format!("up to {LEAST} or more"), why)
        .likely()
        .mend(Mend::by_hand(format!("ulimit -Hn {LEAST}")).lasting("LimitNOFILE=65536 in s2ds.service"))
}
