//! What a result has to say about where it was measured.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde::Serialize;

use super::Options;
use super::row::{Settings, cores};

/// Free hugepages that make every program use them, in KiB: more than any of them needs.
const HUGE_KB: u64 = 1 << 20;

/// The machine and the settings.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Facts {
    /// `measured`; `quick` when nothing was.
    pub label: &'static str,
    /// UTC.
    pub date: String,
    pub machine: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub cpu: String,
    pub kernel: String,
    /// Of the core that was measured.
    pub governor: String,
    /// Processes that wanted a core in the minute before: above 0.5 the machine was not quiet.
    pub load: f64,
    pub tsc_hz: Option<u64>,
    pub hugepages: bool,
    pub dpdk: String,
    pub versions: BTreeMap<&'static str, String>,
    /// Of this repository.
    pub commit: String,
    pub core: usize,
    pub burst: usize,
    pub rounds: usize,
    pub packets: u64,
    /// Bytes of a packet where a row does not say: `1500` for all rows but those with larger ones.
    pub mtu: u16,
}

impl Facts {
    pub(super) fn gather(options: &Options, settings: &Settings) -> Self {
        let read = |path: &str| fs::read_to_string(path).ok().map(|t| t.trim().to_owned());
        let unknown = || "unknown".to_owned();
        let governor = format!("/sys/devices/system/cpu/cpu{}/cpufreq/scaling_governor", options.core);
        let load = read("/proc/loadavg").and_then(|t| t.split_whitespace().next()?.parse().ok());
        let package = |name| text_of("dpkg-query", &["-W", "-f=${Version}", name]);
        let dirty = if text_of("git", &["status", "--porcelain"]).is_empty() { "" } else { "-dirty" };
        let commit = match text_of("git", &["rev-parse", "--short=12", "HEAD"]) {
            none if none.is_empty() => unknown(),
            commit => commit + dirty,
        };
        Self {
            label: if options.quick { "quick" } else { "measured" },
            date: text_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            machine: read("/sys/class/dmi/id/product_name").unwrap_or_else(unknown),
            cores: cores(),
            memory_gib: meminfo("MemTotal:") >> 20,
            cpu: cpu(),
            kernel: text_of("uname", &["-sr"]),
            governor: read(&governor).unwrap_or_else(|| "not the machine's to choose".to_owned()),
            load: load.unwrap_or(f64::NAN),
            tsc_hz: None,
            hugepages: settings.huge,
            dpdk: text_of("pkg-config", &["--modversion", "libdpdk"]),
            versions: BTreeMap::from([
                ("s2bench", env!("CARGO_PKG_VERSION").to_owned()),
                ("testpmd", package("dpdk")),
                ("l3fwd", package("dpdk-doc")),
            ]),
            commit,
            core: options.core,
            burst: forwarder::io::BURST,
            rounds: options.rounds,
            packets: options.packets,
            mtu: 1500,
        }
    }
}

/// Whether there are hugepages for ours and for every peer.
pub(super) fn hugepages() -> bool {
    meminfo("HugePages_Free:") * meminfo("Hugepagesize:") >= HUGE_KB
}

fn meminfo(key: &str) -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown processor", |(_, name)| name.trim()).to_owned()
}

/// What a program prints; empty when it cannot run.
pub(super) fn text_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output
        .ok()
        .filter(|o| o.status.success())
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}
