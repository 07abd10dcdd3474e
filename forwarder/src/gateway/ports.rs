//! Ports as their operator sees them.

use std::collections::BTreeMap;

use super::{Gateway, error};
use crate::api::{
    ApiError, ConflictInfo, Count, DeviceDetail, ErrorCode, NeighborInfo, PortDetail, PortInfo, PortQueue,
};
use crate::flow::Steering;
use crate::flow::set::CountPair;
use crate::flow::steering::How;
use crate::io::PortIndex;
use crate::neighbor::{Contested, Neighbor};

impl Gateway {
    /// How a port's packets come to their workers. Devices that do not tell, as in tests, do nothing about it.
    fn steering(&self, port: usize) -> How {
        let told = self.net.ports[port].steering.as_ref().map(Steering::how);
        told.unwrap_or(if self.workers.len() > 1 { How::HandOver } else { How::OneWorker })
    }

    /// Every port, in configuration order.
    pub(super) fn ports(&self) -> Result<Vec<PortInfo>, ApiError> {
        let (neighbors, claims) = self.neighbors()?;
        let info = |(i, config): (usize, &crate::config::PortConfig)| {
            let status = self.devices.get(i).map(|d| d.status()).unwrap_or_default();
            let sum = |pick: fn(&crate::counters::QueueCounters) -> &CountPair| Count {
                packets: self.workers.iter().map(|w| pick(&w.counters.queues[i]).packets.get()).sum(),
                bytes: self.workers.iter().map(|w| pick(&w.counters.queues[i]).bytes.get()).sum(),
            };
            let neighbor = |r: &Neighbor| NeighborInfo {
                address: r.address,
                mac: r.mac.map(|m| m.to_string()),
                state: r.state.to_string(),
            };
            let conflict = |c: &Contested| ConflictInfo {
                address: c.address,
                mac: c.mac.to_string(),
                times: c.times,
                ago: c.ago / 1000,
            };
            PortInfo {
                name: config.name.clone(),
                device: config.device.to_string(),
                driver: status.driver,
                mac: self.net.ports[i].mac.to_string(),
                addresses: config.addresses.clone(),
                mtu: config.mtu,
                vlan: config.vlan,
                outer_vlan: config.outer_vlan,
                gateway: config.gateway.clone(),
                queues: status.queues,
                steering: self.steering(i).to_string(),
                handed_over: self.workers.iter().map(|w| w.counters.queues[i].handed_over.get()).sum(),
                numa_node: status.numa_node,
                link: status.link,
                speed: status.speed,
                failure: status.failure,
                rx: sum(|q| &q.rx),
                tx: sum(|q| &q.tx),
                rx_missed: status.rx_missed,
                tx_errors: status.tx_errors,
                neighbors: neighbors.iter().filter(|r| usize::from(r.port) == i).map(neighbor).collect(),
                conflicts: claims.iter().filter(|c| usize::from(c.port) == i).map(conflict).collect(),
            }
        };
        Ok(self.config.ports.iter().enumerate().map(info).collect())
    }

    /// One port in full; `all` keeps those of the driver's counters that are zero.
    pub(super) fn port(&self, index: PortIndex, all: bool) -> Result<PortDetail, ApiError> {
        let i = usize::from(index);
        // The list knows the next hops only of all ports together.
        let port = self.ports()?.into_iter().nth(i);
        let port = port.ok_or_else(|| error(ErrorCode::NotFound, "there is no such port; see port list"))?;
        let mut device: DeviceDetail = self.devices.get(i).map(|d| d.detail()).unwrap_or_default();
        let queues = self.workers.iter().map(|worker| {
            let counters = &worker.counters.queues[i];
            let count = |pair: &CountPair| Count { packets: pair.packets.get(), bytes: pair.bytes.get() };
            PortQueue {
                queue: worker.index,
                rx: count(&counters.rx),
                tx: count(&counters.tx),
                dropped: counters.dropped_all(),
                device: of_queue(&device.xstats, worker.index),
            }
        });
        let queues = queues.collect();
        device.xstats.retain(|_, value| all || *value > 0);
        Ok(PortDetail { port, link_local: self.net.ports[i].link_local, device, queues })
    }
}

/// The driver's counters of one queue, without its number: DPDK names them like `rx_q0_errors`.
fn of_queue(xstats: &BTreeMap<String, u64>, queue: usize) -> BTreeMap<String, u64> {
    let (rx, tx) = (format!("rx_q{queue}_"), format!("tx_q{queue}_"));
    let own = |(name, value): (&String, &u64)| {
        let of = |prefix: &str, kind: &str| Some(format!("{kind}_{}", name.strip_prefix(prefix)?));
        Some((of(&rx, "rx").or_else(|| of(&tx, "tx"))?, *value))
    };
    xstats.iter().filter_map(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queues_counters_are_found_by_its_number() {
        let names = ["rx_q1_errors", "tx_q1_bytes", "rx_q11_errors", "rx_q0_errors", "rx_good_packets"];
        let xstats: BTreeMap<String, u64> = names.iter().map(|n| (*n).to_owned()).zip(1..).collect();
        let expected = [("rx_errors".to_owned(), 1), ("tx_bytes".to_owned(), 2)];
        assert_eq!(of_queue(&xstats, 1), expected.into());
    }
}
