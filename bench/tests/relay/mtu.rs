//! Links of different MTUs: path MTU discovery across both gateways, fragments, and the MSS clamp. Senders and receivers are
//! the kernel's own.

use std::fs;

use bench::stream::Carrier;
use bench::topology::{Driver, Family, Gateway, Netns, Place, Relay, RelayOptions, Translator};
use bench::traffic;
use serde_json::Value;

use crate::harness::{PATIENCE, across, private};

/// Links whose largest packets have so many bytes: the consumer's, the WAN, the producer's.
fn links(consumer: u16, wan: u16, producer: u16) -> RelayOptions {
    let producer_mtu = Some(producer);
    RelayOptions { mtu: consumer, wan_mtu: Some(wan), producer_mtu, ..RelayOptions::default() }
}

/// The same where the relay sees fragments as they come.
fn links_with_fragments(consumer: u16, wan: u16, producer: u16) -> RelayOptions {
    RelayOptions { driver: Driver::Pcap, ..links(consumer, wan, producer) }
}

/// Hosts announce segments of any length, as if a router stood between them and their gateway: how much their links carry
/// is for the gateways to tell.
fn announce_long_segments(relay: &Relay) {
    for (host, net) in [(&relay.consumer, 1), (&relay.producer, 3)] {
        host.ip(&format!("route replace 10.8{net}.0.0/24 dev eth0 advmss 8960")).unwrap();
        host.ip(&format!("-6 route replace fd8{net}::/64 dev eth0 metric 256 advmss 8940")).unwrap();
    }
}

/// What a host's kernel has learned of the path to its gateway.
fn learned(host: &Netns, gateway: Place, family: Family) -> Option<u64> {
    let at = gateway.ip(family).to_string();
    let said = host.output("ip", &["-j", "route", "get", &at], PATIENCE).unwrap().stdout;
    let routes: Value = serde_json::from_str(&said).unwrap();
    routes[0]["metrics"].as_array()?.iter().find_map(|m| m["mtu"].as_u64())
}

/// The same of both hosts, for streams of a consumer of `family`.
fn both_learned(relay: &Relay, family: Family) -> [Option<u64>; 2] {
    [
        learned(&relay.consumer, Place::CONSUMER_GATEWAY, family),
        learned(&relay.producer, Place::PRODUCER_GATEWAY, relay.producer_family(family)),
    ]
}

fn too_big(gateway: &Gateway) -> u64 {
    gateway.stats().unwrap().drops["too_big"]
}

/// Carries bytes over TCP both ways at once; either end compares each.
fn bulk(relay: &Relay, family: Family) {
    let args = ["--bytes", "30M", "--duplex", "--verify"];
    let report = traffic::stream(relay, Carrier::Tcp, family, &args).unwrap();
    assert_eq!(report["bytes_down"], 30_000_000, "{family:?}: {report}");
    assert_eq!(report["bytes_up"], 30_000_000, "{family:?}: {report}");
}

/// Carries a hundred datagrams of 20,000 bytes each way, which no link takes whole; either end compares each byte. Slow, because
/// a receiver's socket holds only a few.
fn large_datagrams(relay: &Relay, family: Family) {
    let args =
        ["--bytes", "2M", "--duplex", "--verify", "--rate", "10M", "--datagram", "20000", "--max-loss", "15"];
    let report = traffic::stream(relay, Carrier::Udp, family, &args).unwrap();
    assert!(report["datagrams_down"]["received"].as_u64() >= Some(85), "{family:?}: {report}");
    assert!(report["datagrams_up"]["received"].as_u64() >= Some(85), "{family:?}: {report}");
}

/// Datagrams that a host's kernel made whole from fragments.
fn reassembled(host: &Netns, family: Family) -> u64 {
    let read = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        host.run(move || fs::read_to_string(path)).unwrap().unwrap()
    };
    match family {
        Family::V6 => {
            let snmp = read("snmp6");
            let line = snmp.lines().find(|l| l.starts_with("Ip6ReasmOKs")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        }
        Family::V4 => {
            let snmp = read("snmp");
            let mut lines = snmp.lines().filter(|l| l.starts_with("Ip:"));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let place = names.split_whitespace().position(|n| n == "ReasmOKs").unwrap();
            values.split_whitespace().nth(place).unwrap().parse().unwrap()
        }
    }
}

/// Senders learn the smallest MTU of their way, and few packets are dropped until they have. `by` tells which gateways drop.
fn discovery(options: RelayOptions, expected: impl Fn(Family) -> [Option<u64>; 2], by: [bool; 2]) {
    private(|| {
        across(options, |relay| {
            announce_long_segments(relay);
            for family in Family::ALL {
                let before = relay.gateways().map(too_big);
                bulk(relay, family);
                assert_eq!(both_learned(relay, family), expected(family), "{family:?}");
                for ((gateway, before), by) in relay.gateways().into_iter().zip(before).zip(by) {
                    let dropped = too_big(gateway) - before;
                    let name = gateway.netns.name();
                    assert!((dropped > 0) == by && dropped < 200, "{family:?}: {name} dropped {dropped}");
                }
            }
        });
    });
}

#[test]
fn both_hosts_learn_of_a_narrow_wan() {
    discovery(links(9000, 1500, 9000), |_| [Some(1500); 2], [true, true]);
}

#[test]
fn the_consumer_learns_of_a_narrow_link_behind_the_far_gateway() {
    discovery(links(9000, 9000, 1500), |_| [Some(1500), None], [false, true]);
}

#[test]
fn the_producer_learns_of_a_narrow_link_behind_the_far_gateway() {
    discovery(links(1500, 9000, 9000), |_| [None, Some(1500)], [true, false]);
}

#[test]
fn every_narrower_link_of_the_way_is_learned() {
    discovery(links(9000, 1500, 1400), |_| [Some(1400), None], [true, true]);
}

/// Senders that leave DF clear send as ever; the relay cuts what they send, and the receiver's kernel puts it together.
fn cut_on_the_way(options: RelayOptions, to_consumer: bool) {
    private(|| {
        across(options, |relay| {
            announce_long_segments(relay);
            for host in [&relay.consumer, &relay.producer] {
                host.sysctl("ipv4/ip_no_pmtu_disc", "1").unwrap();
            }
            bulk(relay, Family::V4);
            assert_eq!(relay.gateways().map(too_big), [0; 2]);
            assert_eq!(both_learned(relay, Family::V4), [None; 2]);
            // 30 MB in segments of 8948 bytes.
            assert!(reassembled(&relay.producer, Family::V4) > 3000);
            assert_eq!(reassembled(&relay.consumer, Family::V4) > 3000, to_consumer);
        });
    });
}

#[test]
fn tcp_without_df_arrives_in_fragments() {
    cut_on_the_way(links_with_fragments(9000, 1500, 9000), true);
}

#[test]
fn tcp_without_df_arrives_in_fragments_of_fragments() {
    cut_on_the_way(links_with_fragments(9000, 1500, 1400), false);
}

fn large_datagrams_arrive(options: RelayOptions) {
    private(|| {
        across(options, |relay| {
            for family in Family::ALL {
                large_datagrams(relay, family);
                let far = relay.producer_family(family);
                for (host, family) in [(&relay.consumer, family), (&relay.producer, far)] {
                    assert!(reassembled(host, family) >= 85, "{family:?}: {}", host.name());
                }
            }
        });
    });
}

#[test]
fn datagrams_in_fragments_of_their_sender_arrive() {
    large_datagrams_arrive(links_with_fragments(1500, 1500, 1500));
}

#[test]
fn datagrams_in_fragments_of_fragments_arrive() {
    large_datagrams_arrive(links_with_fragments(9000, 1500, 9000));
}

fn clamped(options: RelayOptions) {
    private(|| {
        across(RelayOptions { clamp: true, ..options }, |relay| {
            announce_long_segments(relay);
            for family in Family::ALL {
                bulk(relay, family);
                assert_eq!(relay.gateways().map(too_big), [0; 2], "{family:?}");
                assert_eq!(both_learned(relay, family), [None; 2], "{family:?}");
            }
        });
    });
}

#[test]
fn with_a_clamp_no_segment_is_too_big_for_a_narrow_wan() {
    clamped(links(9000, 1500, 9000));
}

#[test]
fn with_a_clamp_no_segment_is_too_big_for_a_narrow_link() {
    clamped(links(9000, 1500, 1400));
}

/// Every carrier from consumers of both families to producers of the other.
fn everything_is_translated(translator: Translator) {
    private(|| {
        across(
            RelayOptions { translator: Some(translator), ..links_with_fragments(1500, 1500, 1500) },
            |relay| {
                for family in Family::ALL {
                    bulk(relay, family);
                    large_datagrams(relay, family);
                    for (carrier, bytes) in [(Carrier::Udp, "1M"), (Carrier::Quic, "20M")] {
                        let args =
                            ["--bytes", bytes, "--duplex", "--verify", "--rate", "5M", "--max-loss", "15"];
                        let report = traffic::stream(relay, carrier, family, &args).unwrap();
                        assert!(report["bytes_down"].as_u64() > Some(800_000), "{report}");
                        assert!(report["bytes_up"].as_u64() > Some(800_000), "{report}");
                    }
                }
            },
        );
    });
}

#[test]
fn the_consumers_gateway_translates_everything() {
    everything_is_translated(Translator::Consumer);
}

#[test]
fn the_producers_gateway_translates_everything() {
    everything_is_translated(Translator::Producer);
}

/// A path of `mtu` in the other family, as a sender of `family` has to know it: its header is 20 bytes shorter or longer.
fn across_families(family: Family, mtu: u64) -> Option<u64> {
    Some(if family == Family::V4 { mtu - 20 } else { mtu + 20 })
}

#[test]
fn senders_learn_of_a_narrow_wan_of_the_other_family() {
    let options = RelayOptions { translator: Some(Translator::Consumer), ..links(9000, 1500, 9000) };
    discovery(options, |family| [across_families(family, 1500), Some(1500)], [true, true]);
}

#[test]
fn an_error_from_behind_the_translator_is_translated() {
    let options = RelayOptions { translator: Some(Translator::Consumer), ..links(9000, 9000, 1500) };
    discovery(options, |family| [across_families(family, 1500), None], [false, true]);
}

#[test]
fn an_error_passes_both_the_translator_and_the_other_gateway() {
    // The producer's gateway translates and is the one that errs; the consumer's passes its error on.
    let options = RelayOptions { translator: Some(Translator::Producer), ..links(9000, 9000, 1500) };
    discovery(options, |family| [across_families(family, 1500), None], [false, true]);
}

#[test]
fn an_error_towards_the_producer_is_translated() {
    let options = RelayOptions { translator: Some(Translator::Producer), ..links(1500, 9000, 9000) };
    discovery(options, |family| [None, across_families(family.other(), 1500)], [true, false]);
}
