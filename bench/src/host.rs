//! The machine a result was measured on.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Facts of a machine, and of this program on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Host {
    /// UTC, when the measurement began.
    pub date: String,
    pub machine: String,
    /// Cores this process may use.
    pub cores: usize,
    pub memory_gib: u64,
    pub cpu: String,
    pub kernel: String,
    /// Frequency governor of the first core of those that were measured on.
    pub governor: String,
    /// Processes that wanted a core in the minute before: above 0.5 the machine was not quiet. None where it cannot be told.
    pub load: Option<f64>,
    /// NUMA nodes.
    pub numa_nodes: usize,
    /// Of libdpdk.
    pub dpdk: String,
    /// Of s2bench.
    pub version: String,
    /// Of this repository.
    pub commit: String,
}

impl Host {
    /// Looks at this machine; `core` is one of those measured on.
    #[must_use]
    pub fn gather(core: usize) -> Host {
        let read = |path: &str| fs::read_to_string(path).ok().map(|t| t.trim().to_owned());
        let unknown = || "unknown".to_owned();
        let governor = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        let load = read("/proc/loadavg").and_then(|t| t.split_whitespace().next()?.parse().ok());
        let dirty = if text_of("git", &["status", "--porcelain"]).is_empty() { "" } else { "-dirty" };
        let commit = match text_of("git", &["rev-parse", "--short=12", "HEAD"]) {
            none if none.is_empty() => unknown(),
            commit => commit + dirty,
        };
        let node = |e: &fs::DirEntry| {
            e.file_name().to_str().and_then(|n| n.strip_prefix("node")?.parse::<u32>().ok()).is_some()
        };
        let nodes = fs::read_dir("/sys/devices/system/node").map(|d| d.flatten().filter(node).count());
        Host {
            date: text_of("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"]),
            machine: read("/sys/class/dmi/id/product_name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: meminfo("MemTotal:") >> 20,
            cpu: cpu(),
            kernel: text_of("uname", &["-sr"]),
            governor: read(&governor).unwrap_or_else(|| "not the machine's to choose".to_owned()),
            load,
            numa_nodes: nodes.unwrap_or(1).max(1),
            dpdk: text_of("pkg-config", &["--modversion", "libdpdk"]),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit,
        }
    }
}

/// A figure of /proc/meminfo in its unit; 0 where it is not told.
pub(crate) fn meminfo(key: &str) -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown processor", |(_, name)| name.trim()).to_owned()
}

/// Version of an installed Debian package; empty when it is not installed.
pub(crate) fn package(name: &str) -> String {
    text_of("dpkg-query", &["-W", "-f=${Version}", name])
}

/// What a program prints; empty when it cannot run.
pub(crate) fn text_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output
        .ok()
        .filter(|o| o.status.success())
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
        .unwrap_or_default()
}
