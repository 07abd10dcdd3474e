//! What the measured cycles mean for a NIC that is not here: cores for a line rate, with the driver's cost added.

use serde::{Deserialize, Serialize};

use super::report::Series;
use crate::result::Label;

/// Bytes on the wire besides the IP packet: Ethernet header and FCS, preamble, and the gap between frames (IEEE 802.3).
const WIRE: f64 = 18.0 + 8.0 + 12.0;
/// Cycles a packet that mlx5's receive and send of DPDK take. An estimate; docs/benchmarking.md tells from what.
pub(super) const DRIVER: f64 = 50.0;
/// Cycles a packet of a whole IPv4 router with that driver (VPP on a ConnectX-6 Dx, published): the driver alone takes less.
pub(super) const DRIVER_MOST: f64 = 111.0;

/// Both, for those who explain the table: the estimate and the published bound.
pub const DRIVER_CYCLES: (f64, f64) = (DRIVER, DRIVER_MOST);

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Projected {
    /// [`Label::Projected`].
    pub label: Label,
    /// Line rate in Gbit/s, one direction.
    pub gbits: u32,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// Million packets a second at that rate.
    pub mpps: f64,
    /// Our measured cycles a packet.
    pub relay_cycles: f64,
    /// Cores for the relay and the driver as estimated.
    pub cores: f64,
    /// The same with the driver's cost at most.
    pub cores_most: f64,
}

/// The table, for cores like the measured one. Empty when there is nothing to project from.
pub(super) fn project(all: &[Series], tsc_hz: Option<u64>) -> Vec<Projected> {
    let Some(hz) = tsc_hz else { return Vec::new() };
    let mut table = Vec::new();
    for gbits in [100, 200, 400] {
        for (mtu, row) in [(1500, "mtu-1500"), (9000, "mtu-9000")] {
            let Some(relay_cycles) = all.iter().find(|s| s.name == row).and_then(Series::best) else {
                continue;
            };
            let pps = f64::from(gbits) * 1e9 / 8.0 / (f64::from(mtu) + WIRE);
            let cores = |driver: f64| pps * (relay_cycles + driver) / hz as f64;
            table.push(Projected {
                label: Label::Projected,
                gbits,
                mtu,
                mpps: pps / 1e6,
                relay_cycles,
                cores: cores(DRIVER),
                cores_most: cores(DRIVER_MOST),
            });
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::row::Unit;
    use super::*;

    #[test]
    fn line_rates_become_cores() {
        let series = |name, best| Series {
            name,
            title: name,
            unit: Unit::Cycles,
            figures: vec![best + 1.0, best],
            parts: Default::default(),
            failed: Vec::new(),
            not_run: None,
        };
        let all = [series("mtu-1500", 30.0), series("mtu-9000", 30.0)];
        let table = project(&all, Some(2_600_000_000));
        assert_eq!(table.len(), 6);
        let at = |gbits, mtu| table.iter().find(|p| p.gbits == gbits && p.mtu == mtu).unwrap();
        // 200 Gbit/s of 1538 bytes on the wire.
        assert!((at(200, 1500).mpps - 16.255).abs() < 0.001);
        assert!((at(200, 1500).cores - 16.255e6 * 80.0 / 2.6e9).abs() < 0.001);
        assert!(at(400, 9000).cores_most < 0.7);
        assert!(project(&all, None).is_empty());
        assert_eq!(project(&all[..1], Some(1)).len(), 3);
    }
}
