//! Emulated instruments across the relay.

use bench::result::Run;
use bench::stream::Carrier;
use bench::topology::Family;
use bench::traffic;

use crate::harness::relay;

fn carried(carrier: Carrier) {
    relay(|relay| {
        for family in Family::ALL {
            // Over UDP a message is three datagrams.
            let args = [
                "--profile",
                "steady",
                "--message",
                "4K",
                "--rate",
                "400/s",
                "--duration",
                "1s",
                "--parallel",
                "2",
            ];
            let report = traffic::stream(relay, carrier, family, &args).unwrap();
            let run: Run = serde_json::from_value(report).unwrap();
            let all = &run.end.sum_received;
            assert!(!run.end.partial, "{family:?}: {:?}", run.end.error);
            assert_eq!(run.end.sum_sent.packets, 400, "{family:?}");
            if carrier == Carrier::Udp {
                // How many a busy machine loses is its own; that all are accounted for is the emulator's.
                assert!(all.packets > 0 && all.packets + all.lost_packets == 400, "{family:?}: {all:?}");
            } else {
                assert_eq!((all.packets, all.bytes, all.lost_packets), (400, 1_600_000, 0), "{family:?}");
            }
            assert_eq!((all.corrupt, all.duplicates), (0, 0), "{family:?}: {all:?}");
            assert_eq!(run.end.delay.count, all.packets, "{family:?}");
            assert!(run.start.same_clock && run.end.delay.min > 0, "{family:?}: {:?}", run.end.delay);
            assert_eq!(run.end.streams.len(), 2, "{family:?}");
        }
    });
}

#[test]
fn an_instrument_over_tcp() {
    carried(Carrier::Tcp);
}

#[test]
fn an_instrument_over_udp() {
    carried(Carrier::Udp);
}

#[test]
fn an_instrument_over_quic() {
    carried(Carrier::Quic);
}
