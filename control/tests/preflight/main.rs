//! Preflight on made-up hosts: what is found on each, what mends it, and what mending leaves.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cli;
#[path = "../common/mod.rs"]
mod common;
mod path;
mod trees;

use std::collections::BTreeMap;

use control::preflight::{Confidence, Finding, Host, Report, Root, Severity, Told, fix};
use trees::{FAR, LAPTOP, TUNED, container, guest, laptop, tuned, two_nodes};

#[track_caller]
fn find<'a>(report: &'a Report, what: &str) -> &'a Finding {
    let all = || report.findings.iter().map(|f| f.what.as_str()).collect::<Vec<_>>().join("\n");
    report.findings.iter().find(|f| f.what == what).unwrap_or_else(|| panic!("no {what:?} among\n{}", all()))
}

/// Severity and a part of what is, of each finding named.
#[track_caller]
fn shows(report: &Report, wanted: &[(&str, Severity, &str)]) {
    for (what, severity, is) in wanted {
        let found = find(report, what);
        assert!(
            found.severity == *severity && found.is.contains(is),
            "{what}: wanted {severity} {is:?}: {found:#?}"
        );
        // What is not as it should be says why, and what to do about what can be mended.
        assert!(*severity == Severity::Ok || !found.why.is_empty(), "{found:#?}");
        assert!(*severity < Severity::Warning || found.should != found.is, "{found:#?}");
    }
}

fn bad(report: &Report) -> Vec<&Finding> {
    report.findings.iter().filter(|f| f.severity >= Severity::Warning).collect()
}

/// What ethtool and s2ds say of the tuned node.
fn told() -> Told {
    let both = |interface: &str| {
        (
            interface.to_owned(),
            format!("Pause parameters for {interface}:\nAutonegotiate:\toff\nRX:\t\ton\nTX:\t\ton\n\n"),
        )
    };
    let mut port = common::port();
    (port.device, port.speed) = ("0000:a1:00.0".to_owned(), Some(100_000));
    Told { ports: Some(vec![port]), pause: BTreeMap::from([both("ens1f0np0")]), ..Told::default() }
}

#[test]
fn a_host_that_was_set_up_with_care_has_nothing_to_mend() {
    let path = control::preflight::Path { rtt: 0.020, rate: 100e9 };
    let report = tuned().check(Some(TUNED), Some(path), &told());
    assert_eq!(bad(&report), Vec::<&Finding>::new());
    shows(
        &report,
        &[
            ("driver of port lan (0000:41:00.0)", Severity::Ok, "mlx5_core"),
            ("driver of port wan (0000:a1:00.0)", Severity::Ok, "vfio-pci"),
            ("firmware of port lan (0000:41:00.0)", Severity::Ok, "22.39.1002"),
            ("PCIe of port lan (0000:41:00.0)", Severity::Ok, "Gen4 x16, about 214 Gbit/s"),
            ("PCIe of port wan (0000:a1:00.0)", Severity::Ok, "Gen4 x8, about 107 Gbit/s"),
            ("IOMMU", Severity::Ok, "iommu=pt"),
            ("IOMMU group of 0000:a1:00.0", Severity::Ok, "its own"),
            ("isolated cores (isolcpus)", Severity::Ok, "2-5"),
            ("cores without ticks (nohz_full)", Severity::Ok, "2-5"),
            ("cores without RCU callbacks (rcu_nocbs)", Severity::Ok, "2-5"),
            ("link of port wan (0000:a1:00.0)", Severity::Ok, "up, 100 Gbit/s, says s2ds"),
            ("pause frames of port lan (0000:41:00.0)", Severity::Ok, "RX on, TX on"),
            ("pause frames of port wan (0000:a1:00.0)", Severity::Unknown, "unknown"),
            ("link speeds, Gbit/s", Severity::Ok, "lan 100, wan 100"),
            ("MTUs of ports", Severity::Ok, "lan 9000, wan 9000"),
            ("MTU of the path", Severity::Unknown, "unknown"),
            ("profile of tuned", Severity::Ok, "network-latency"),
        ],
    );
    let probe = &find(&report, "MTU of the path").mend.as_ref().unwrap().command;
    assert!(probe.starts_with("ping -M do -s 8972 "), "{probe}");
    // No s2ds and no ethtool: what they would have told is unknown, not wrong. Whether 8 of 16 lanes are enough depends on it.
    let alone = tuned().check(Some(TUNED), None, &Told::default());
    let whats: Vec<&str> = bad(&alone).iter().map(|f| f.what.as_str()).collect();
    assert_eq!(whats, ["PCIe of port wan (0000:a1:00.0)"]);
    shows(&alone, &[("link of port wan (0000:a1:00.0)", Severity::Unknown, "unknown")]);
}

#[test]
fn cores_that_s2ds_would_choose_are_judged() {
    let auto = TUNED.split("[workers]").next().unwrap();
    let report = tuned().check(Some(auto), None, &told());
    assert_eq!(bad(&report), Vec::<&Finding>::new(), "it takes isolated ones");
    let elsewhere = tuned().file("sys/devices/system/cpu/isolated", "");
    let report = elsewhere.check(Some(auto), None, &told());
    shows(&report, &[("isolated cores (isolcpus)", Severity::Warning, "none")]);
    assert_eq!(find(&report, "isolated cores (isolcpus)").should, find(&report, "cores of workers").is);
}

#[test]
fn in_general_nics_are_named() {
    let report = tuned().check(None, None, &Told::default());
    shows(
        &report,
        &[
            ("0000:41:00.0 ConnectX-6 Dx", Severity::Ok, "[15b3:101d] driver mlx5_core, interface ens1f0np0"),
            ("0000:a1:00.0 Ethernet Controller E810-C for QSFP", Severity::Ok, "[8086:1592] driver vfio-pci"),
            // Nobody says how fast its link is.
            ("PCIe of 0000:a1:00.0", Severity::Warning, "Gen4 x8"),
            ("PCIe of 0000:41:00.0", Severity::Ok, "Gen4 x16"),
            ("zero copy on ens1f0np0", Severity::Ok, "mlx5_core"),
        ],
    );
}

#[test]
fn a_laptop_as_it_comes_lacks_much() {
    let report = laptop().check(Some(LAPTOP), None, &Told::default());
    shows(
        &report,
        &[
            ("virtual machine", Severity::Ok, "LENOVO"),
            ("clock source", Severity::Warning, "hpet"),
            ("hugepages", Severity::Problem, "0 MiB"),
            ("transparent hugepages", Severity::Warning, "never"),
            ("driver of port lan (0000:00:1f.6)", Severity::Problem, "e1000e"),
            ("IOMMU", Severity::Problem, "off"),
            ("vfio-pci", Severity::Problem, "not loaded"),
            ("cores of workers", Severity::Ok, "1"),
            ("link of port lan (0000:00:1f.6)", Severity::Ok, "up, 1 Gbit/s"),
            ("isolated cores (isolcpus)", Severity::Warning, "none"),
            ("irqbalance", Severity::Warning, "running"),
            ("frequency governor", Severity::Warning, "powersave"),
            // Polling workers do not sleep.
            ("sleep states (C-states)", Severity::Ok, "C6, 133 us"),
        ],
    );
    let mend = |what: &str| find(&report, what).mend.clone().unwrap().command;
    let bind = mend("driver of port lan (0000:00:1f.6)");
    assert!(bind.starts_with("# the kernel has routes over enp0s31f6"), "{bind}");
    assert!(bind.ends_with("dpdk-devbind.py -b vfio-pci 0000:00:1f.6"), "{bind}");
    let boot = mend("isolated cores (isolcpus)");
    assert!(boot.contains("isolcpus=managed_irq,domain,1 nohz_full=1 rcu_nocbs=1"), "{boot}");
    assert!(mend("IOMMU").contains("intel_iommu=on iommu=pt"), "{}", mend("IOMMU"));
    // The kernel's driver of an interface that s2ds shares would be told, as well.
    let shared =
        LAPTOP.replace("0000:00:1f.6", "af_packet:enp0s31f6").replace("[workers]", "mtu = 9000\n[workers]");
    let report = laptop().check(Some(&shared), None, &Told::default());
    shows(
        &report,
        &[
            ("MTU of port lan (af_packet:enp0s31f6)", Severity::Problem, "1500"),
            ("routes of port lan (af_packet:enp0s31f6)", Severity::Warning, "routes"),
            ("link of port lan (af_packet:enp0s31f6)", Severity::Ok, "up, 1 Gbit/s"),
            ("pause frames of port lan (af_packet:enp0s31f6)", Severity::Unknown, ""),
        ],
    );
    assert!(report.findings.iter().all(|f| f.what != "IOMMU"), "an interface of the kernel needs none");
}

#[test]
fn what_is_not_there_is_named() {
    let missing = TUNED.replace("0000:41:00.0", "0000:99:00.0").replace("[2, 3]", "[2, 99]");
    let report = tuned().check(Some(&missing), None, &told());
    let driver = find(&report, "driver of port lan (0000:99:00.0)");
    assert!(driver.severity == Severity::Problem && driver.should.contains("ConnectX-6 Dx"), "{driver:?}");
    let cores = find(&report, "cores of workers");
    assert!(cores.severity == Severity::Problem && cores.why.contains("99"), "{cores:?}");

    let other = TUNED.replace("0000:41:00.0", "af_xdp:eth9").replace("0000:a1:00.0", "tap:s2");
    let report = tuned().without("proc/net/protocols").check(Some(&other), None, &Told::default());
    shows(
        &report,
        &[
            ("interface of port lan (af_xdp:eth9)", Severity::Problem, "none"),
            ("device of port wan (tap:s2)", Severity::Problem, "/dev/net/tun"),
            ("AF_XDP sockets", Severity::Unknown, "unknown"),
            ("MTU of port lan (af_xdp:eth9)", Severity::Warning, "9000"),
        ],
    );
    let without = tuned().file("proc/net/protocols", "TCP 1 2").check(Some(&other), None, &Told::default());
    shows(&without, &[("AF_XDP sockets", Severity::Problem, "not in this kernel")]);
}

#[test]
fn a_virtual_machine_is_told() {
    let report = guest().check(None, None, &Told::default());
    shows(
        &report,
        &[
            ("virtual machine", Severity::Warning, "OpenStack Nova"),
            ("container", Severity::Ok, "no"),
            ("clock source", Severity::Ok, "kvm-clock"),
            ("frequency governor", Severity::Ok, "not the kernel's"),
            ("0000:00:03.0", Severity::Ok, "virtio-pci, interface eth0"),
            ("hugepages", Severity::Ok, "1024 MiB, 1024 free"),
        ],
    );
    assert_eq!(find(&report, "virtual machine").confidence, Confidence::Certain);
    // By its name alone it is a guess.
    let flags = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu tsc constant_tsc nonstop_tsc";
    let report = guest().file("proc/cpuinfo", flags).check(None, None, &Told::default());
    assert_eq!(find(&report, "virtual machine").confidence, Confidence::Likely);
}

#[test]
fn a_container_is_told_by_any_of_its_signs() {
    let report = container().check(Some(TUNED), None, &told());
    shows(
        &report,
        &[
            ("container", Severity::Warning, "docker"),
            ("capabilities of this user", Severity::Warning, "lacks CAP_IPC_LOCK"),
            ("locked memory (ulimit -l)", Severity::Warning, "0 MiB"),
            ("open files (ulimit -n)", Severity::Warning, "1024"),
        ],
    );
    for (file, text, name) in [
        ("run/systemd/container", "systemd-nspawn", "systemd-nspawn"),
        ("proc/1/environ", "PATH=/bin\0container=lxc\0TERM=linux", "lxc"),
        ("run/.containerenv", "", "podman"),
        (".dockerenv", "", "docker"),
        ("proc/1/cgroup", "0::/kubepods.slice/pod1", "kubepods"),
    ] {
        let report = tuned().file(file, text).check(None, None, &Told::default());
        shows(&report, &[("container", Severity::Warning, name)]);
    }
}

#[test]
fn a_nic_on_the_other_node_is_told() {
    let report = two_nodes().check(Some(FAR), None, &Told::default());
    shows(
        &report,
        &[
            ("NUMA node of port wan (0000:c1:00.0)", Severity::Warning, "1"),
            ("PCIe of port wan (0000:c1:00.0)", Severity::Warning, "Gen3 x8, about 54 Gbit/s"),
            ("hugepages of node 0", Severity::Ok, "2048 MiB"),
            ("hugepages of node 1", Severity::Problem, "0 MiB"),
            ("automatic NUMA balancing", Severity::Warning, "on"),
            // The libraries are missing.
            ("driver of port wan (0000:c1:00.0)", Severity::Problem, "mlx5_core"),
            ("isolated cores (isolcpus)", Severity::Ok, "none"),
            ("sleep states (C-states)", Severity::Warning, "C6"),
        ],
    );
    let node = find(&report, "NUMA node of port wan (0000:c1:00.0)");
    assert!(node.should.contains("core 2 is on node 0, distance 21"), "{node:?}");
    assert!(node.mend.as_ref().unwrap().command.contains("8-15"), "{node:?}");
    assert_eq!(find(&report, "PCIe of port wan (0000:c1:00.0)").should, "Gen3 x16 or Gen4 x8");
    let unknown = two_nodes().file("sys/bus/pci/devices/0000:c1:00.0/numa_node", "-1");
    shows(
        &unknown.check(Some(FAR), None, &Told::default()),
        &[("NUMA node of port wan (0000:c1:00.0)", Severity::Unknown, "")],
    );
}

#[test]
fn a_group_that_is_shared_cannot_be_handed_over() {
    let other = "sys/bus/pci/devices/0000:a0:01.0";
    let bridge = tuned()
        .file("sys/kernel/iommu_groups/17/devices/0000:a0:01.0", "")
        .file(&format!("{other}/class"), "0x060400")
        .link(&format!("{other}/driver"), "pcieport");
    let group = |tree: &trees::Tree| {
        find(&tree.check(Some(TUNED), None, &Told::default()), "IOMMU group of 0000:a1:00.0").clone()
    };
    assert_eq!(group(&bridge).severity, Severity::Ok);
    let disk = bridge.file(&format!("{other}/class"), "0x010802").without(&format!("{other}/driver"));
    assert_eq!(group(&disk).severity, Severity::Ok, "nothing drives it");
    let disk = disk.link(&format!("{other}/driver"), "nvme");
    let found = group(&disk);
    assert!(found.severity == Severity::Problem && found.is.contains("0000:a0:01.0 (nvme)"), "{found:?}");
}

#[test]
fn two_ports_of_a_card_share_its_slot() {
    let best = ("16.0 GT/s PCIe", "16");
    let tree = tuned().nic("0000:41:00.1", ("15b3", "101d"), "mlx5_core", best, best).interface(
        "ens1f1np1",
        "0000:41:00.1",
        "mlx5_core",
        "9000",
        Some("100000"),
    );
    let config = TUNED.replace("0000:a1:00.0", "0000:41:00.1");
    let slot = |tree: &trees::Tree| {
        let report = tree.check(Some(&config), None, &Told::default());
        report.findings.into_iter().find(|f| f.what == "ports on card 0000:41:00")
    };
    assert_eq!(slot(&tree), None, "Gen4 x16 carries both");
    let narrow = tree.files("sys/bus/pci/devices/0000:41:00.0", &[("current_link_speed", "8.0 GT/s PCIe")]);
    let found = slot(&narrow).unwrap();
    assert!(found.severity == Severity::Warning && found.should.contains("Gen4 x16"), "{found:?}");
}

#[test]
fn pause_frames_one_way_are_told() {
    let mut told = told();
    told.pause.insert("ens1f0np0".to_owned(), "Pause parameters for x:\nRX:\toff\nTX:\ton\n".to_owned());
    let report = tuned().check(Some(TUNED), None, &told);
    shows(&report, &[("pause frames of port lan (0000:41:00.0)", Severity::Warning, "RX off, TX on")]);
}

#[test]
fn mtus_and_speeds_of_ports_are_compared() {
    let differs = TUNED.replacen("mtu = 9000", "mtu = 1500", 1);
    let tree = tuned().file("sys/class/net/ens1f0np0/speed", "25000");
    let report = tree.check(Some(&differs), None, &told());
    shows(
        &report,
        &[
            ("MTUs of ports", Severity::Warning, "lan 1500, wan 9000"),
            ("link speeds, Gbit/s", Severity::Warning, "lan 25, wan 100"),
        ],
    );
}

#[test]
fn hugepages_in_use_by_s2ds_are_not_missed() {
    let used = tuned().file("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "8");
    shows(&used.check(Some(TUNED), None, &Told::default()), &[("hugepages", Severity::Problem, "16 free")]);
    shows(&used.check(Some(TUNED), None, &told()), &[("hugepages", Severity::Ok, "s2ds runs")]);
    let none = TUNED.to_owned() + "[eal]\nhuge = false\n";
    shows(&used.check(Some(&none), None, &told()), &[("hugepages", Severity::Warning, "not used")]);
}

#[test]
fn safe_mends_take_and_only_they_write() {
    let tree = two_nodes();
    let before = tree.check(Some(FAR), None, &Told::default());
    let root = Root::new(tree.path());
    let mut done = Vec::new();
    for finding in &before.findings {
        let Some(mend) = &finding.mend else { continue };
        let fix = fix(&root, &finding.what, mend);
        assert_eq!(fix.done, mend.safe, "{fix:?}");
        if fix.done {
            done.push(finding.what.as_str());
        }
    }
    assert_eq!(
        done,
        ["hugepages of node 1", "automatic NUMA balancing", "frequency governor", "sleep states (C-states)"]
    );
    let governor = &find(&before, "frequency governor").mend.as_ref().unwrap().command;
    assert!(governor.starts_with("for c in 2; do echo performance > "), "as it is done: {governor}");
    assert_eq!(tree.text("proc/sys/kernel/numa_balancing"), "0");
    assert_eq!(tree.text("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor"), "performance");
    assert_eq!(tree.text("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor"), "schedutil", "no worker's");
    assert_eq!(tree.text("sys/devices/system/cpu/cpu2/cpuidle/state2/disable"), "1");
    assert_eq!(tree.text("sys/devices/system/cpu/cpu2/cpuidle/state1/disable"), "0", "it wakes up in time");
    // A kernel gives the pages that it took; a file does not.
    let pages = tree.text("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages");
    let tree = tree.file("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", &pages);
    let after = tree.check(Some(FAR), None, &Told::default());
    for what in done {
        assert_eq!(find(&after, what).severity, Severity::Ok, "{what}");
    }
}

#[test]
fn a_mend_that_does_not_take_says_so() {
    let tree = laptop();
    let finding = |tree: &trees::Tree| {
        find(&tree.check(Some(LAPTOP), None, &Told::default()), "transparent hugepages").clone()
    };
    let mend = finding(&tree).mend.unwrap();
    assert!(mend.safe);
    let gone = tree.without("sys/kernel/mm/transparent_hugepage/enabled");
    let fix = fix(&Root::new(gone.path()), "thp", &mend);
    assert!(!fix.done && fix.result.contains("cannot be written"), "{fix:?}");
    assert!(!gone.path().join("sys/kernel/mm/transparent_hugepage/enabled").exists());
}

#[test]
fn names_in_sys_are_only_names() {
    // An operator of a tree without anything still gets a report; one without cores gets a sentence.
    let empty = tempfile::tempdir().unwrap();
    let error = Host::read(empty.path()).unwrap_err().to_string();
    assert!(error.contains("mount /sys and /proc"), "{error}");
    std::fs::create_dir_all(empty.path().join("sys/devices/system/cpu")).unwrap();
    std::fs::write(empty.path().join("sys/devices/system/cpu/online"), "0-1\n").unwrap();
    let host = Host::read(empty.path()).unwrap();
    let report = control::preflight::check(&host, &control::preflight::Question::default(), &Told::default());
    for what in ["kernel", "clock source", "hugepages", "locked memory (ulimit -l)", "bpffs"] {
        let found = find(&report, what);
        assert_eq!(found.severity, Severity::Unknown, "{found:?}");
        assert!(!found.mend.as_ref().unwrap().command.is_empty(), "{found:?}");
    }
    assert!(report.worst() < Severity::Problem);
}

#[test]
fn hugepages_are_counted_as_s2ds_counts_them() {
    let need = |config: Option<&str>| -> u64 {
        let report = laptop().check(config, None, &Told::default());
        let should = find(&report, "hugepages").should.clone();
        should.split(' ').next().and_then(|mb| mb.parse().ok()).unwrap_or_else(|| panic!("{should}"))
    };
    let ring = LAPTOP.replacen("[[port]]\n", "[[port]]\nrx_descriptors = 9216\n", 1);
    assert_ne!(ring, LAPTOP);
    // A worker's ring of 8,192 buffers more, 2 KiB each and half a KiB beside that, is 20 MiB.
    let (plain, more) = (need(Some(LAPTOP)), need(Some(&ring)));
    assert!((19..=21).contains(&(more - plain)), "{plain} and {more} MiB");
    // In general: four workers, two ports, 9000 bytes.
    assert!(need(None) > 8 * plain, "{} MiB", need(None));
}
