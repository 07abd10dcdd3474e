//! What kind of machine it is: hardware of its own, a virtual one, a container; and what its clock is.

use forwarder::config::Idle;

use super::Scene;
use super::finding::{Finding, Mend, Subject::Machine};

pub(super) fn check(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    out.push(kernel(scene));
    out.push(virtual_machine(scene));
    out.push(container(scene));
    out.push(clock_source(scene));
    out.extend(time_stamp_counter(scene));
}

fn kernel(scene: &Scene<'_>) -> Finding {
    match scene.host.kernel.as_str() {
        "" => Finding::unknown(Machine, "kernel", "/proc/sys/kernel/osrelease cannot be read", "uname -r"),
        release => Finding::ok(Machine, "kernel", release),
    }
}

fn virtual_machine(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "virtual machine";
    let root = scene.root;
    let dmi = |file: &str| root.text(&format!("/sys/class/dmi/id/{file}"));
    let names: Vec<String> = ["sys_vendor", "product_name"].iter().filter_map(|f| dmi(f)).collect();
    let named = names.join(" ");
    let flags = root.field("/proc/cpuinfo", "flags").unwrap_or_default();
    let hypervisor =
        root.text("/sys/hypervisor/type").or_else(|| root.text("/proc/device-tree/hypervisor/compatible"));
    let known = ["KVM", "QEMU", "VMware", "VirtualBox", "Xen", "HVM domU", "Virtual Machine", "OpenStack"];
    let by_name = known.iter().any(|k| named.contains(k));
    let by_flag = flags.split_whitespace().any(|f| f == "hypervisor") || hypervisor.is_some();
    if !by_flag && !by_name {
        let is = if named.is_empty() { "no".to_owned() } else { format!("no: {named}") };
        return Finding::ok(Machine, WHAT, is).likely();
    }
    let by = hypervisor.or(Some(named).filter(|n| !n.is_empty()));
    let is = by.map_or_else(|| "yes".to_owned(), |by| format!("yes: {by}"));
    let finding = Finding::ok(Machine, WHAT, is).warning(
        "hardware of its own, or a NIC (or its virtual function) passed through and virtual CPUs pinned",
        "the hypervisor may stop a polling worker for milliseconds; what the host's clock, power and NUMA do is hidden from here",
    );
    let naps = scene.config.is_some_and(|c| c.workers.idle == Idle::Adaptive);
    let mend = Mend::by_hand("s2ds: set `idle = \"adaptive\"` in [workers] where CPUs are shared");
    let finding = if naps { finding } else { finding.mend(mend) };
    if by_flag { finding } else { finding.likely() }
}

fn container(scene: &Scene<'_>) -> Finding {
    const WHAT: &str = "container";
    let root = scene.root;
    let environment = root.text("/proc/1/environ").unwrap_or_default();
    let said = environment.split('\0').find_map(|v| v.strip_prefix("container=").map(str::to_owned));
    let groups = root.text("/proc/1/cgroup").unwrap_or_default();
    let by_group =
        ["docker", "kubepods", "containerd", "libpod", "lxc"].iter().find(|n| groups.contains(**n));
    let file = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let by_file =
        file.iter().find(|(path, _)| root.has(path)).map(|(path, name)| format!("{name} ({path} exists)"));
    let sure = root.text("/run/systemd/container").or(said);
    let is_sure = sure.is_some();
    let Some(name) = sure.or_else(|| by_group.map(|n| (*n).to_owned())).or(by_file) else {
        return Finding::ok(Machine, WHAT, "no").likely();
    };
    let finding = Finding::ok(Machine, WHAT, format!("yes: {name}")).warning(
        "none, or one that was given what s2ds needs",
        "/dev/vfio, hugepages, capabilities and cores come from outside, and settings of the kernel are the host's",
    );
    let give = "docker run --device /dev/vfio --cap-add IPC_LOCK --cap-add NET_ADMIN --ulimit memlock=-1 --cpuset-cpus CORES ...";
    let finding = finding.mend(Mend::by_hand(give));
    if is_sure { finding } else { finding.likely() }
}

fn clock_source(scene: &Scene<'_>) -> Finding {
    const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";
    const WHAT: &str = "clock source";
    let (now, all) = (format!("{FOLDER}/current_clocksource"), format!("{FOLDER}/available_clocksource"));
    let Some(source) = scene.root.text(&now) else {
        return Finding::unknown(Machine, WHAT, format!("{now} cannot be read"), format!("cat {now}"));
    };
    // Those of hypervisors read the counter, too; arch_sys_counter is ARM's.
    if ["tsc", "kvm-clock", "arch_sys_counter"].contains(&source.as_str())
        || source.starts_with("hyperv_clocksource_tsc")
    {
        return Finding::ok(Machine, WHAT, source);
    }
    let finding = Finding::ok(Machine, WHAT, source).warning(
        "tsc",
        "reading the time takes a microsecond and more from other sources: TCP's ends and schedules of senders suffer",
    );
    let offered = scene.root.text(&all).is_some_and(|all| all.split_whitespace().any(|s| s == "tsc"));
    match offered {
        // The kernel may have had reasons, and takes it back when it sees one: people decide.
        true => finding.mend(Mend::by_hand(format!("echo tsc > {now}"))),
        false => {
            finding.mend(Mend::by_hand("dmesg | grep -i -e tsc -e clocksource   # why the kernel gave it up"))
        }
    }
}

/// s2ds takes its time from the counter.
fn time_stamp_counter(scene: &Scene<'_>) -> Option<Finding> {
    const WHAT: &str = "time stamp counter";
    let flags = scene.root.field("/proc/cpuinfo", "flags")?;
    let missing: Vec<&str> = ["constant_tsc", "nonstop_tsc"]
        .into_iter()
        .filter(|w| !flags.split_whitespace().any(|f| f == *w))
        .collect();
    if missing.is_empty() {
        return Some(Finding::ok(Machine, WHAT, "constant, does not stop"));
    }
    Some(Finding::ok(Machine, WHAT, format!("without {}", missing.join(", "))).warning(
        "constant_tsc and nonstop_tsc",
        "s2ds measures timers, leases and residence with it: they drift as the core changes its frequency or sleeps",
    ))
}
