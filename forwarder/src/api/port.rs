//! What `port_show` tells: a port in full.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::{Count, PortInfo};

/// A port in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDetail {
    /// What `port_list` tells.
    pub port: PortInfo,
    /// The IPv6 link-local address made from the MAC address, which every port has.
    pub link_local: Ipv6Addr,
    /// The device behind it.
    pub device: DeviceDetail,
    /// One entry a worker.
    pub queues: Vec<PortQueue>,
}

/// A device: what it is, what it can do, and what of it is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDetail {
    /// DPDK's bus: `pci` or `vdev`.
    pub bus: String,
    /// Its name there, for `pci` the address.
    pub place: String,
    /// The kernel's interface, when it has one.
    pub interface: Option<String>,
    /// Firmware version, when the driver tells.
    pub firmware: Option<String>,
    /// The link in full.
    pub link: LinkDetail,
    /// Largest MTU it carries, in bytes, when the driver tells.
    pub max_mtu: Option<u16>,
    /// Most queue pairs it has.
    pub max_queues: u16,
    /// Receive descriptors of each queue.
    pub rx_descriptors: Descriptors,
    /// Send descriptors of each queue.
    pub tx_descriptors: Descriptors,
    /// Why packets come to their workers as they do.
    pub steering_why: String,
    /// What is done by the device and what is not, and why.
    pub offloads: Vec<Offload>,
    /// The driver's own counters by DPDK's names (`rte_eth_xstats`): those not zero, or all when asked for. Those of one queue are
    /// here, too.
    pub xstats: BTreeMap<String, u64>,
}

/// State of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkDetail {
    /// Both directions at once; none when there is no link.
    pub full_duplex: Option<bool>,
    /// Speed and duplex were agreed with the other end, not set; none when there is no link.
    pub autoneg: Option<bool>,
    /// Changes are told by the device at once; else it is asked once a second.
    pub interrupt: bool,
    /// How often it went up or down since start.
    pub changes: u64,
    /// Seconds since it last did.
    pub changed_ago: Option<u64>,
}

/// Descriptors of a queue: how many frames its ring has room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    /// In use.
    pub used: u16,
    /// Most that the device takes; none when the driver names no limit.
    pub most: Option<u16>,
}

/// Work that a device could do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offload {
    /// What it is.
    pub name: String,
    /// Who does it.
    pub by: OffloadBy,
    /// Why, in a sentence.
    pub why: String,
}

/// Who does a piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffloadBy {
    /// The device or its driver.
    Hardware,
    /// The forwarder.
    Software,
    /// Nobody: it is not wanted.
    Off,
}

/// One queue pair of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortQueue {
    /// Its number, and that of the worker it belongs to.
    pub queue: usize,
    /// Frames the worker received.
    pub rx: Count,
    /// Frames the device took from the worker.
    pub tx: Count,
    /// Of those received, frames dropped for any reason.
    pub dropped: u64,
    /// The driver's own counters of the queue, such as `rx_errors`; empty when it has none.
    pub device: BTreeMap<String, u64>,
}
