//! Long transfers over links that are not kind: a next hop that changes its MAC address, a WAN that reorders and doubles.

use bench::stream::Carrier;
use bench::topology::{Driver, Family, Gateway, Place, Process, Relay, RelayOptions, flow_name, ports};
use bench::traffic;
use forwarder::api::{Proto, Reply, Request};

use crate::harness::{PATIENCE, across, eventually, private};

/// The MAC address that the producer's gateway sends the producer's packets to.
fn next_hop(gateway: &Gateway, family: Family) -> Option<String> {
    let Reply::Ports { ports } = gateway.call(Request::PortList).unwrap() else {
        panic!("not a list of ports")
    };
    let address = Place::PRODUCER.ip(family);
    let lan = ports.into_iter().find(|p| p.name == "lan")?;
    lan.neighbors.into_iter().find(|n| n.address == address)?.mac
}

/// A transfer both ways that lasts, seen to flow.
fn transfer(relay: &Relay, family: Family, bytes: &str) -> (Process, Process) {
    let source = traffic::source(relay, Carrier::Tcp, family).unwrap();
    let args = ["--bytes", bytes, "--duplex", "--verify"];
    let sink = traffic::sink(relay, Carrier::Tcp, family, &args).unwrap();
    flows_on(relay, family);
    (source, sink)
}

/// More bytes arrive in both directions.
fn flows_on(relay: &Relay, family: Family) {
    let carried = || {
        let flow = relay.consumer_gateway.flow(&flow_name(Proto::Tcp, ports::STREAM, family)).unwrap();
        [flow.to_client.bytes, flow.to_target.bytes]
    };
    let before = carried();
    eventually("bytes in both directions", || carried().iter().zip(before).all(|(n, b)| *n > b + 1_000_000));
}

/// The producer becomes another station so many times during transfers of both families, by what `change` does with the MAC
/// address.
fn a_next_hop_changes(options: RelayOptions, times: u8, change: impl Fn(&Relay, &str)) {
    private(|| {
        across(options, |relay| {
            let mut transfers = Family::ALL.map(|family| (family, transfer(relay, family, "200M")));
            for n in 1..=times {
                let mac = format!("02:00:00:00:83:0{n}");
                change(relay, &mac);
                for family in Family::ALL {
                    eventually("a new next hop", || {
                        next_hop(&relay.producer_gateway, family).as_deref() == Some(&mac)
                    });
                }
                for (family, (_, sink)) in &mut transfers {
                    assert!(sink.ended().unwrap().is_none(), "{family:?}: it ended too soon");
                    flows_on(relay, *family);
                }
            }
            for (family, (_, sink)) in &mut transfers {
                assert!(sink.wait(PATIENCE).unwrap().success(), "{family:?}: {}", sink.said());
            }
        });
    });
}

#[test]
fn a_transfer_survives_a_next_hop_that_announces_its_new_mac() {
    a_next_hop_changes(RelayOptions::default(), 3, |relay, mac| {
        let host = &relay.producer;
        host.sysctl("ipv4/conf/eth0/arp_notify", "1").unwrap();
        host.sysctl("ipv6/conf/eth0/ndisc_notify", "1").unwrap();
        host.ip(&format!("link set eth0 address {mac}")).unwrap();
    });
}

#[test]
fn a_transfer_survives_a_next_hop_that_changes_its_mac_in_silence() {
    let options = RelayOptions { extra: "[timers]\nneighbor = 1\n".into(), ..RelayOptions::default() };
    a_next_hop_changes(options, 1, |relay, mac| {
        let host = &relay.producer;
        let Reply::Ports { ports } = relay.producer_gateway.call(Request::PortList).unwrap() else {
            panic!("not a list of ports")
        };
        let lan = ports.into_iter().find(|p| p.name == "lan").unwrap().mac;
        // It knows its gateway and so has no reason to ask, which would tell of its address.
        host.sysctl("ipv6/conf/eth0/keep_addr_on_down", "1").unwrap();
        host.ip("link set eth0 down").unwrap();
        host.ip(&format!("link set eth0 address {mac}")).unwrap();
        for family in Family::ALL {
            let gateway = Place::PRODUCER_GATEWAY.ip(family);
            host.ip(&format!("neighbor replace {gateway} lladdr {lan} dev eth0 nud permanent")).unwrap();
        }
        host.ip("link set eth0 up").unwrap();
    });
}

/// Runs a stream over a WAN that reorders.
fn shuffled(options: RelayOptions, test: impl FnOnce(&mut Relay)) {
    private(|| {
        across(RelayOptions { shuffled: true, ..options }, |relay| {
            test(relay);
            assert!(relay.overtaken() > 1000, "only {} frames were reordered", relay.overtaken());
        });
    });
}

fn a_stream_survives(carrier: Carrier) {
    shuffled(RelayOptions::default(), |relay| {
        for family in Family::ALL {
            let args = ["--bytes", "40M", "--duplex", "--verify"];
            let report = traffic::stream(relay, carrier, family, &args).unwrap();
            assert_eq!(report["bytes_down"], 40_000_000, "{family:?}: {report}");
            assert_eq!(report["bytes_up"], 40_000_000, "{family:?}: {report}");
        }
    });
}

#[test]
fn tcp_survives_reordering() {
    a_stream_survives(Carrier::Tcp);
}

#[test]
fn quic_survives_reordering() {
    a_stream_survives(Carrier::Quic);
}

#[test]
fn datagrams_come_whole_from_reordered_fragments() {
    let narrow =
        RelayOptions { driver: Driver::Pcap, mtu: 9000, wan_mtu: Some(1500), ..RelayOptions::default() };
    shuffled(narrow, |relay| {
        for family in Family::ALL {
            let args = [
                "--bytes",
                "4M",
                "--duplex",
                "--verify",
                "--rate",
                "10M",
                "--datagram",
                "20000",
                "--max-loss",
                "15",
            ];
            let report = traffic::stream(relay, Carrier::Udp, family, &args).unwrap();
            assert!(report["datagrams_down"]["received"].as_u64() >= Some(170), "{family:?}: {report}");
            assert!(report["datagrams_up"]["received"].as_u64() >= Some(170), "{family:?}: {report}");
        }
    });
}
