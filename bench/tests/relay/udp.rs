//! UDP across the relay.

use bench::stream::Carrier;
use bench::topology::Family;
use bench::traffic::{self, Iperf};
use forwarder::api::Proto;

use crate::harness::relay;

#[test]
fn iperf3_up_and_down() {
    relay(|relay| {
        for family in Family::ALL {
            for down in [false, true] {
                let run = Iperf { proto: Proto::Udp, down, parallel: 1, seconds: 2, rate: 50_000_000 };
                let result = run.run(relay, family).unwrap();
                assert!(result.bytes > 1e6, "{family:?}, down {down}: only {} bytes", result.bytes);
                assert!(result.lost < 5.0, "{family:?}, down {down}: {} % lost", result.lost);
            }
        }
    });
}

#[test]
fn datagrams_arrive_unchanged_in_both_directions() {
    relay(|relay| {
        for family in Family::ALL {
            for size in ["64", "1371", "1400"] {
                let args = [
                    "--bytes",
                    "2M",
                    "--duplex",
                    "--verify",
                    "--rate",
                    "20M",
                    "--datagram",
                    size,
                    "--max-loss",
                    "5",
                ];
                let report = traffic::stream(relay, Carrier::Udp, family, &args).unwrap();
                assert!(report["datagrams_down"]["received"].as_u64() > Some(1000), "{family:?}: {report}");
                assert!(report["datagrams_up"]["received"].as_u64() > Some(1000), "{family:?}: {report}");
            }
        }
    });
}
