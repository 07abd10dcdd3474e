//! Other links than the plain one: tagged, AF_XDP, large frames.

use bench::stream::Carrier;
use bench::topology::{Driver, Family, Relay, RelayOptions};
use bench::traffic;

use crate::harness::{across, as_root, private};

/// Every carrier in both families.
fn carries_everything(relay: &mut Relay) {
    for family in Family::ALL {
        for (carrier, bytes) in [(Carrier::Tcp, "50M"), (Carrier::Udp, "2M"), (Carrier::Quic, "20M")] {
            let args = ["--bytes", bytes, "--duplex", "--verify", "--rate", "20M", "--max-loss", "5"];
            let report = traffic::stream(relay, carrier, family, &args).unwrap();
            assert!(report["bytes_down"].as_u64() > Some(1_000_000), "{report}");
            assert!(report["bytes_up"].as_u64() > Some(1_000_000), "{report}");
        }
    }
}

/// Frames to the gateway carry a priority in their tags.
#[test]
fn a_vlan_tagged_access_link() {
    as_root(|| across(RelayOptions { vlan: Some(100), ..RelayOptions::default() }, carries_everything));
}

/// One of two ports on a device: full-sized packets with both tags, and the other port untouched.
#[test]
fn a_wan_with_a_service_tag_and_a_vlan_tag() {
    private(|| across(RelayOptions { stacked: true, ..RelayOptions::default() }, carries_everything));
}

#[test]
fn af_xdp_devices() {
    as_root(|| across(RelayOptions { driver: Driver::AfXdp, ..RelayOptions::default() }, carries_everything));
}

#[test]
fn jumbo_frames() {
    private(|| across(RelayOptions { mtu: 9000, ..RelayOptions::default() }, carries_everything));
}
