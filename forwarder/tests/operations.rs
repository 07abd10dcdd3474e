//! docs/operations.md tells of every drop reason, and of none that there is not.

use std::collections::BTreeSet;

use forwarder::engine::DropReason;

const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// The rows of the section on drop reasons, each as its cells; heads of tables are none.
fn rows() -> Vec<Vec<&'static str>> {
    let is_it = |section: &&str| section.starts_with("Drop reasons\n");
    let section = OPERATIONS.split("\n## ").find(is_it).unwrap_or_default();
    let cells = |line: &'static str| line.trim_matches('|').split(" | ").map(str::trim).collect();
    section.lines().filter(|line| line.starts_with("| `")).map(cells).collect()
}

#[test]
fn every_drop_reason_has_a_row_and_every_row_a_drop_reason() {
    let rows = rows();
    let names: Vec<&str> = rows.iter().map(|cells| cells[0].trim_matches('`')).collect();
    let told: BTreeSet<&str> = names.iter().copied().collect();
    let counted: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    let missing: Vec<_> = counted.difference(&told).collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
    let unknown: Vec<_> = told.difference(&counted).collect();
    assert!(unknown.is_empty(), "no such reason: {unknown:?}");
    assert_eq!(names.len(), told.len(), "told twice: {names:?}");
}

#[test]
fn every_row_says_what_a_reason_means_and_what_to_do() {
    for cells in rows() {
        assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "{cells:?}");
    }
}
