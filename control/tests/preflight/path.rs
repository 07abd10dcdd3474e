//! Windows and loss over a path.

use control::preflight::{Path, Severity, Told, fix};

use super::{find, shows};
use crate::trees::{TUNED, laptop, tuned};

const PATH: Path = Path { rtt: 0.020, rate: 100e9 };

#[test]
fn a_path_of_20_ms_and_100_gbits() {
    let report = laptop().check(None, Some(PATH), &Told::default());
    let facts = report.path.as_ref().unwrap();
    assert_eq!((facts.bandwidth_delay, facts.buffer, facts.connections), (250e6, 500e6, 1));
    // tcp_wmem holds 4 MiB, half of which is window: 2 MiB in 20 ms.
    let here = facts.here.unwrap();
    assert!((here - 2_097_152.0 * 8.0 / 0.020).abs() < 1.0, "{here}");
    let mtus: Vec<_> = facts.by_mtu.iter().map(|m| (m.mtu, m.mss, m.mss_v6, m.packets.round())).collect();
    assert_eq!(mtus, [(1500, 1448, 1428, 172_652.0), (9000, 8948, 8928, 27_939.0)]);
    for m in &facts.by_mtu {
        assert!(m.reno_loss < m.cubic_loss && m.reno_recovery > m.cubic_recovery, "{m:?}");
    }
    shows(
        &report,
        &[
            ("one connection, by tcp_rmem and tcp_wmem", Severity::Warning, "838.9 Mbit/s"),
            ("buffers that programs may ask for", Severity::Warning, "212992"),
            ("tcp_window_scaling", Severity::Ok, "on"),
            ("congestion control", Severity::Ok, "cubic"),
            ("queue of new interfaces (default_qdisc)", Severity::Warning, "fq_codel"),
            ("slow start after a pause", Severity::Warning, "on"),
            ("search for the path's MTU", Severity::Warning, "off"),
        ],
    );
}

#[test]
fn what_is_written_lets_a_connection_fill_the_path() {
    let tree = laptop().files("proc/sys/net/ipv4", &[("tcp_sack", "0"), ("tcp_congestion_control", "reno")]);
    let before = tree.check(None, Some(PATH), &Told::default());
    let root = control::preflight::Root::new(tree.path());
    let of_path = |f: &&control::preflight::Finding| f.subject == control::preflight::Subject::Path;
    let mended: Vec<_> =
        before.findings.iter().filter(of_path).filter_map(|f| Some((f, f.safe_mend()?))).collect();
    assert_eq!(mended.len(), 7, "{mended:#?}");
    for (finding, mend) in mended {
        assert!(fix(&root, &finding.what, mend).done, "{finding:?}");
    }
    assert_eq!(tree.text("proc/sys/net/ipv4/tcp_rmem"), "4096 131072 500000000");
    assert_eq!(tree.text("proc/sys/net/ipv4/tcp_wmem"), "4096 16384 500000000");
    let after = tree.check(None, Some(PATH), &Told::default());
    let bad: Vec<_> = after.findings.iter().filter(of_path).filter(|f| f.severity > Severity::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(after.path.unwrap().here.unwrap() >= 99e9);
}

#[test]
fn what_no_window_carries_takes_several_connections() {
    let path = Path { rtt: 0.119, rate: 200e9 };
    let report = tuned().check(Some(TUNED), Some(path), &Told::default());
    let facts = report.path.as_ref().unwrap();
    assert_eq!(facts.connections, 3, "72 Gbit/s each");
    let found = find(&report, "one connection, by tcp_rmem and tcp_wmem");
    // The kernel takes no more.
    assert!(found.mend.as_ref().unwrap().command.contains("2147483647"), "{found:?}");
    shows(&report, &[("rate of port lan (0000:41:00.0)", Severity::Warning, "100.0 Gbit/s")]);
}
