//! Where the forwarder runs and keeps its packets, on a guest with two NUMA nodes.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::frames::Frames;
use super::relay::CONFIG;
use super::report::Found;
use crate::guest::Guest;

/// The node of the NICs.
const NODE: i32 = 1;
/// MiB of packets at the least, for two ports and a worker.
const PACKETS: u64 = 10;

pub(super) fn placement(f: &mut Frames) -> Result<Found> {
    let mut cores = Vec::new();
    for name in ["lan", "wan"] {
        let node = f.relay.port(name)?.numa_node;
        ensure!(node == Some(NODE), "port list tells of node {node:?} for {name}, not {NODE}");
    }
    let guest = &mut *f.relay.guest;
    // The running one has its cores by its configuration; what the rule would take is asked beside it.
    let auto = "/run/auto.toml";
    guest.ok(&format!("sed 's/^cores = .*/cores = \"auto\"/' {CONFIG} >{auto}"))?;
    let said = guest.ok(&format!("s2ds --config {auto} --check"))?;
    let (_, table) = said.split_once("Placement\n").context("`s2ds --check` says nothing of placement")?;
    for name in ["lan", "wan"] {
        let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let row = rows.find(|row| row.first() == Some(&name) && row.len() > 9);
        let row = row.with_context(|| format!("`s2ds --check` has no row for {name}: {table}"))?;
        // PORT DEVICE NODE QUEUE WORKER CORE CORE-NODE SIBLINGS ISOLATED POOL-NODE
        let (node, core, core_node, pool) = (row[2], row[5], row[6], row[9]);
        ensure!([node, core_node, pool] == ["1"; 3], "not all of {name} is on node {NODE}: {table}");
        cores.push(core.to_owned());
    }
    ensure!(cores.iter().all(|core| core != "0"), "core 0 is on the other node: {table}");
    let used = [used(guest, 0)?, used(guest, NODE)?];
    ensure!(used[1] >= PACKETS && used[0] < used[1], "{used:?} MiB of hugepages are used on the two nodes");

    // Its exit status is about all that it finds.
    let said = guest.ok(&format!("s2ctl preflight --config {auto} --json; true"))?;
    let report: Value = serde_json::from_str(&said).with_context(|| format!("preflight writes {said}"))?;
    let findings = report["findings"].as_array().context("preflight has no findings")?;
    let nodes: Vec<&Value> = findings
        .iter()
        .filter(|f| f["what"].as_str().is_some_and(|w| w.starts_with("NUMA node of port")))
        .collect();
    ensure!(nodes.len() == 2, "preflight looks at {} ports' nodes: {said}", nodes.len());
    ensure!(nodes.iter().all(|f| f["severity"] == "ok"), "preflight finds the node amiss: {nodes:?}");
    Ok(Found::Holds(format!(
        "workers on core {} of node {NODE}, {} MiB of packets in its hugepages and {} MiB on the other node",
        cores[0], used[1], used[0]
    )))
}

/// MiB of a node's hugepages in use.
fn used(guest: &mut Guest, node: i32) -> Result<u64> {
    let pages = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
    let text = guest.ok(&format!("cat {pages}/nr_hugepages {pages}/free_hugepages"))?;
    let counts: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    let [all, free] = counts[..] else { anyhow::bail!("{pages} has {text}") };
    Ok(2 * all.saturating_sub(free))
}
