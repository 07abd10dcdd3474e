//! `s2bench core` from outside: every row yields a figure, and one that cannot says why without stopping the others.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Command, Output};

use bench::core::{GOALS, Need, ROWS, Unit};
use serde_json::Value;

fn core(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_s2bench"))
        .args(["core", "--core", "0"])
        .args(args)
        // Where l3fwd would be built: no directory, even for root.
        .env("XDG_CACHE_HOME", "/dev/null")
        .output()
        .unwrap()
}

/// A quick run's result file, and what was printed.
fn quick(name: &str, args: &[&str]) -> (Value, String, bool) {
    let file = std::env::temp_dir().join(format!("s2bench-core-{name}-{}.json", std::process::id()));
    let output = core(&[&["--quick", "--json", file.to_str().unwrap()], args].concat());
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|e| panic!("{e}; {}", String::from_utf8_lossy(&output.stderr)));
    std::fs::remove_file(&file).unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    (serde_json::from_str(&text).unwrap(), printed, output.status.success())
}

#[test]
fn a_quick_run_yields_every_row_that_needs_no_peer() {
    let (result, printed, success) = quick("all", &[]);
    assert!(success, "{printed}");
    let rows = result["rows"].as_array().unwrap();
    assert_eq!(rows.len(), ROWS.len());
    for (row, said) in ROWS.iter().zip(rows) {
        assert_eq!(said["name"], row.name);
        assert!(printed.contains(row.title), "{} is not in: {printed}", row.title);
        let figures = said["figures"].as_array().unwrap();
        match said["not_run"].as_str() {
            // Nothing may be lost, and the best dip is none: these may be 0, and noise makes a dip negative.
            None if matches!(row.unit, Unit::Packets | Unit::Percent) => {
                assert!(figures.len() == 1 && figures[0].as_f64().unwrap().is_finite(), "{said}");
            }
            None => assert!(figures.len() == 1 && figures[0].as_f64().unwrap() > 0.0, "{said}"),
            Some(reason) => {
                assert!(!row.needs.is_empty() && figures.is_empty(), "{said}");
                assert!(reason.contains("--against") || reason.starts_with("needs"), "{reason}");
            }
        }
    }
    let part = |row: &str, part: &str| {
        let said = rows.iter().find(|r| r["name"] == row).unwrap();
        said["parts"][part][0].as_f64().unwrap_or_else(|| panic!("{row} has no {part}: {said}"))
    };
    assert!(part("admissions", "admitted") > 0.0 && part("admissions", "expired") > 0.0);
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert!(part("workers", "one") > 0.0 && part("workers", "two") > 0.0);
        assert!(part("changes", "changes_a_second") > 0.0);
        assert_eq!(part("changes", "lost"), 0.0);
        assert!(part("ledger", "changes") > 0.0 && part("ledger", "packets") > 0.0);
        let ledger = rows.iter().find(|r| r["name"] == "ledger").unwrap();
        assert_eq!(ledger["figures"][0], 0.0, "{ledger}");
    }
    let start = &result["start"];
    assert_eq!(start["label"], "quick");
    assert!(start["tsc_hz"].as_u64().unwrap() > 0 && start["dpdk"].is_string(), "{start}");
    assert_eq!(result["goals"].as_array().unwrap().len(), GOALS.len());
    // Quick figures are no figures: no verdict is printed.
    assert!(!printed.contains(" met") && !printed.contains("missed"), "{printed}");
    assert!(result["projection"].as_array().unwrap().iter().all(|p| p["label"] == "projected"));
}

#[test]
fn a_peer_that_cannot_be_had_is_named_and_stops_nobody() {
    let (result, printed, success) = quick("peer", &["--against", "l3fwd"]);
    assert!(!success, "a row failed: {printed}");
    let rows = result["rows"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|r| r["name"] == name).unwrap();
    for name in ["l3fwd", "replay-l3fwd"] {
        let reason = row(name)["failed"][0].as_str().unwrap();
        assert!(reason.contains("l3fwd") && reason.contains("/dev/null"), "{reason}");
    }
    assert_eq!(row("hot")["figures"].as_array().unwrap().len(), 1);
    assert!(row("testpmd-io")["not_run"].as_str().unwrap().contains("--against testpmd"));
    let goal =
        result["goals"].as_array().unwrap().iter().find(|g| g["measure"].as_str().unwrap().contains("l3fwd"));
    assert_eq!(goal.unwrap()["verdict"], "not-measured");
}

#[test]
fn a_row_over_a_kernel_device_tells_what_passed_in_both() {
    for name in ["af-packet", "af-xdp"] {
        let row = ROWS.iter().find(|r| r.name == name).unwrap();
        if let Some(missing) = row.needs.iter().find_map(|need: &Need| need.missing()) {
            eprintln!("skipped: {name} {missing}");
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{name} was skipped: it {missing}");
            continue;
        }
        let output = core(&["--quick", "--row", name]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let figure = &said["figure"];
        let packets = [&figure["value"], &figure["parts"]["testpmd"], &figure["parts"]["offered"]];
        assert!(packets.iter().all(|n| n.as_f64().is_some_and(|n| n > 0.0)), "{said}");
    }
}

#[test]
fn a_row_that_does_not_exist_is_told_those_that_do() {
    let output = core(&["--row", "nothing"]);
    assert!(!output.status.success());
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let reason = said["failed"].as_str().unwrap();
    assert!(reason.contains("nothing") && reason.contains("replay-l3fwd"), "{reason}");
}
