//! TCP across the relay.

use bench::stream::Carrier;
use bench::topology::{Family, ports};
use bench::traffic::{self, Iperf};
use forwarder::api::Proto;

use crate::harness::{admitted, relay};

const IPERF: Iperf = Iperf { proto: Proto::Tcp, down: false, parallel: 4, seconds: 2, rate: 0 };

#[test]
fn iperf3_up_and_down_with_parallel_streams() {
    relay(|relay| {
        for family in Family::ALL {
            for down in [false, true] {
                let before = admitted(relay, Proto::Tcp, ports::IPERF, family);
                let result = Iperf { down, ..IPERF }.run(relay, family).unwrap();
                assert!(result.bytes > 1e6, "{family:?}, down {down}: only {} bytes", result.bytes);
                // Four streams and iperf3's control connection, through both gateways.
                let after = admitted(relay, Proto::Tcp, ports::IPERF, family);
                assert_eq!(after, before.map(|n| n + 5), "{family:?}, down {down}");
            }
        }
    });
}

#[test]
fn two_hundred_megabytes_arrive_byte_for_byte_in_both_directions() {
    relay(|relay| {
        for family in Family::ALL {
            let args = ["--bytes", "200M", "--duplex", "--verify"];
            let report = traffic::stream(relay, Carrier::Tcp, family, &args).unwrap();
            assert_eq!(report["bytes_down"], 200_000_000, "{family:?}");
            assert_eq!(report["bytes_up"], 200_000_000, "{family:?}");
        }
    });
}

#[test]
fn a_thousand_short_connections_all_complete() {
    relay(|relay| {
        for family in Family::ALL {
            let args = ["--connections", "1000", "--parallel", "8", "--bytes", "2K", "--duplex", "--verify"];
            let report = traffic::stream(relay, Carrier::Tcp, family, &args).unwrap();
            assert_eq!(report["connections"], 1000, "{family:?}");
            // One that takes the port of one that has just closed goes by the connection that is still there.
            let admitted = admitted(relay, Proto::Tcp, ports::STREAM, family);
            assert!(admitted.iter().all(|n| (990..=1000).contains(n)), "{family:?}: {admitted:?}");
        }
    });
}
