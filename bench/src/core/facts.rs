//! What a result has to say about where it was measured.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Options;
use super::row::Settings;
use crate::host::{Host, meminfo, package};

/// Free hugepages that make every program use them, in KiB: more than any of them needs.
const HUGE_KB: u64 = 1 << 20;

/// The machine and the settings.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Facts {
    /// `measured`; `quick` when nothing was.
    pub label: &'static str,
    #[serde(flatten)]
    pub host: Host,
    pub tsc_hz: Option<u64>,
    pub hugepages: bool,
    /// Of the peers.
    pub versions: BTreeMap<&'static str, String>,
    pub core: usize,
    pub burst: usize,
    pub rounds: usize,
    pub packets: u64,
    /// Bytes of a packet where a row does not say: `1500` for all rows but those with larger ones.
    pub mtu: u16,
}

impl Facts {
    pub(super) fn gather(options: &Options, settings: &Settings) -> Self {
        Self {
            label: if options.quick { "quick" } else { "measured" },
            host: Host::gather(options.core),
            tsc_hz: None,
            hugepages: settings.huge,
            versions: BTreeMap::from([("testpmd", package("dpdk")), ("l3fwd", package("dpdk-doc"))]),
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
