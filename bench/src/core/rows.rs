//! All rows, in the order in which a round runs them: what is compared stands close together.

use super::frames::Fate;
use super::relay::{HOT, hot};
use super::row::{Need, Program, Row, Unit};
use super::{admissions, changes, devices, l3fwd, replay, testpmd, workers};
use crate::topology::Driver;

const TESTPMD: &[Need] = &[Need::Peer(Program::Testpmd)];
const TWO: &[Need] = &[Need::Cores(2)];
const DEVICES: &[Need] = &[Need::Cores(2), Need::Root, Need::Peer(Program::Testpmd)];
const L3FWD: &[Need] = &[Need::Peer(Program::L3fwd)];

/// Every row there is.
#[rustfmt::skip]
pub static ROWS: &[Row] = &[
    Row { name: "hot", title: "relay, UDP/IPv4, 64 B, 1 connection", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT) },
    Row { name: "testpmd-5tswap", title: "testpmd 5tswap", unit: Unit::Cycles, needs: TESTPMD, run: |s| testpmd::hot(s, "5tswap") },
    Row { name: "l3fwd", title: "l3fwd exact match", unit: Unit::Cycles, needs: L3FWD, run: l3fwd::hot },
    Row { name: "testpmd-csum", title: "testpmd csum", unit: Unit::Cycles, needs: TESTPMD, run: |s| testpmd::hot(s, "csum") },
    Row { name: "testpmd-io", title: "testpmd io", unit: Unit::Cycles, needs: TESTPMD, run: |s| testpmd::hot(s, "io") },
    Row { name: "tcp", title: "relay, TCP", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.tcp()) },
    Row { name: "ipv6", title: "relay, IPv6", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.v6()) },
    Row { name: "vlan", title: "relay, VLAN tags on both sides", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.vlan()) },
    Row { name: "policed", title: "relay, flows with a rate", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.policed()) },
    Row { name: "mtu-1500", title: "relay, 1500 B", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.mtu(1500)) },
    Row { name: "mtu-9000", title: "relay, 9000 B", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.mtu(9000)) },
    Row { name: "denied", title: "drop, source not allowed", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.fate(Fate::Denied)) },
    Row { name: "no-flow", title: "drop, nobody listens", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.fate(Fate::Unheard)) },
    Row { name: "1k", title: "relay, 1,000 connections", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.connections(1000)) },
    Row { name: "policed-1k", title: "relay, 1,000 connections of a flow with a rate", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.connections(1000).policed()) },
    Row { name: "64k", title: "relay, 64 Ki connections", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.connections(1 << 16)) },
    Row { name: "1m", title: "relay, 1 Mi connections", unit: Unit::Cycles, needs: &[], run: |s| hot(s, HOT.connections(1 << 20)) },
    Row { name: "replay", title: "relay, net_pcap, 1,000 connections of 64 B", unit: Unit::Mpps, needs: &[], run: replay::relay },
    Row { name: "replay-l3fwd", title: "l3fwd exact match, net_pcap", unit: Unit::Mpps, needs: L3FWD, run: l3fwd::replay },
    Row { name: "replay-testpmd-5tswap", title: "testpmd 5tswap, net_pcap", unit: Unit::Mpps, needs: TESTPMD, run: |s| testpmd::replay(s, "5tswap") },
    Row { name: "replay-testpmd-csum", title: "testpmd csum, net_pcap", unit: Unit::Mpps, needs: TESTPMD, run: |s| testpmd::replay(s, "csum") },
    Row { name: "replay-testpmd-io", title: "testpmd io, net_pcap", unit: Unit::Mpps, needs: TESTPMD, run: |s| testpmd::replay(s, "io") },
    Row { name: "workers", title: "2 workers / 1, packets a second", unit: Unit::Ratio, needs: TWO, run: workers::scaling },
    Row { name: "admissions", title: "connections admitted, used and expired", unit: Unit::PerSecond, needs: &[], run: admissions::admissions },
    Row { name: "changes", title: "dip while 10,000 flow changes a second are published", unit: Unit::Percent, needs: TWO, run: changes::dips },
    Row { name: "ledger", title: "packets unaccounted for while flows change", unit: Unit::Packets, needs: TWO, run: changes::accounts },
    Row { name: "af-packet", title: "relay over AF_PACKET, beside testpmd io", unit: Unit::PerSecond, needs: DEVICES, run: |s| devices::beside_testpmd(s, Driver::AfPacket) },
    Row { name: "af-xdp", title: "relay over AF_XDP, beside testpmd io", unit: Unit::PerSecond, needs: DEVICES, run: |s| devices::beside_testpmd(s, Driver::AfXdp) },
];
