//! Who may pass, and how that ends: default deny, delete, drain, lease.

use std::time::Duration;

use bench::stream::Carrier;
use bench::topology::{Family, Gateway, Place, Process, Relay, RelayOptions, flow_name, ports};
use bench::traffic;
use forwarder::api::{FlowState, Proto, Reply, Request};

use crate::harness::{PATIENCE, across, admitted, eventually, private, relay};

fn proto(carrier: Carrier) -> Proto {
    if carrier == Carrier::Tcp { Proto::Tcp } else { Proto::Udp }
}

/// The flow of our own streams.
fn flow(carrier: Carrier, family: Family) -> String {
    flow_name(proto(carrier), ports::STREAM, family)
}

fn exists(gateway: &Gateway, flow: &str) -> bool {
    let Reply::Flows { flows } = gateway.call(Request::FlowList).unwrap() else {
        panic!("not a list of flows")
    };
    flows.iter().any(|f| f.spec.name == flow)
}

fn dropped(gateway: &Gateway) -> u64 {
    gateway.stats().unwrap().drops.values().sum()
}

/// A stream from producer to consumer that will not end by itself, seen to flow.
fn endless(relay: &Relay, carrier: Carrier, family: Family) -> (Process, Process) {
    let source = traffic::source(relay, carrier, family).unwrap();
    let args = ["--bytes", "100G", "--rate", "20M", "--timeout", "10m"];
    let sink = traffic::sink(relay, carrier, family, &args).unwrap();
    let name = flow(carrier, family);
    eventually("a stream that flows", || {
        relay.consumer_gateway.flow(&name).unwrap().to_client.bytes > 1_000_000
    });
    (source, sink)
}

/// The producer still sends, nothing of it leaves towards the consumer.
fn nothing_passes(relay: &Relay) {
    let gateway = &relay.consumer_gateway;
    let sent = || {
        let Reply::Ports { ports } = gateway.call(Request::PortList).unwrap() else {
            panic!("not a list of ports")
        };
        ports.iter().find(|p| p.name == "lan").unwrap().tx.packets
    };
    let (sent_before, dropped_before) = (sent(), dropped(gateway));
    // A TCP sender repeats ever more slowly; a few repetitions show enough.
    eventually("packets of the stopped stream dropped", || dropped(gateway) >= dropped_before + 3);
    // The consumer's host may have asked for its gateway's MAC address.
    assert!(sent() <= sent_before + 2, "{} packets left towards the consumer", sent() - sent_before);
}

#[test]
fn a_source_that_is_not_allowed_passes_nothing_and_is_counted() {
    relay(|relay| {
        let denied = |g: &Gateway| g.stats().unwrap().drops["source_denied"];
        for (carrier, family) in [
            (Carrier::Tcp, Family::V4),
            (Carrier::Udp, Family::V4),
            (Carrier::Tcp, Family::V6),
            (Carrier::Udp, Family::V6),
        ] {
            let before = denied(&relay.consumer_gateway);
            let _source = traffic::source(relay, carrier, family).unwrap();
            let from = Place::STRANGER.ip(family).to_string();
            let args = ["--bytes", "1K", "--bind", &from, "--timeout", "2s"];
            let mut sink = traffic::sink(relay, carrier, family, &args).unwrap();
            assert!(!sink.wait(PATIENCE).unwrap().success(), "{carrier} {family:?}: a stranger was served");
            assert!(denied(&relay.consumer_gateway) > before, "{carrier} {family:?}: not counted");
            assert_eq!(
                admitted(relay, proto(carrier), ports::STREAM, family),
                [0, 0],
                "{carrier} {family:?}"
            );
            let refused = relay.consumer_gateway.flow(&flow(carrier, family)).unwrap().refused;
            assert!(refused > 0, "{carrier} {family:?}: the flow does not tell that it refused");
        }
    });
}

#[test]
fn a_deleted_flow_stops_at_once() {
    relay(|relay| {
        for carrier in [Carrier::Udp, Carrier::Tcp] {
            let _ends = endless(relay, carrier, Family::V4);
            let name = flow(carrier, Family::V4);
            relay.consumer_gateway.call(Request::FlowDelete { name: name.clone() }).unwrap();
            nothing_passes(relay);
            assert!(!exists(&relay.consumer_gateway, &name));
            assert_eq!(relay.consumer_gateway.stats().unwrap().connections, 0);
        }
    });
}

#[test]
fn deleting_one_flow_leaves_another_alone() {
    relay(|relay| {
        let _source = traffic::source(relay, Carrier::Tcp, Family::V4).unwrap();
        let args = ["--bytes", "200M", "--duplex", "--verify"];
        let mut sink = traffic::sink(relay, Carrier::Tcp, Family::V4, &args).unwrap();
        let name = flow(Carrier::Tcp, Family::V4);
        eventually("a stream that flows", || {
            relay.consumer_gateway.flow(&name).unwrap().to_client.bytes > 1_000_000
        });
        let other = flow(Carrier::Udp, Family::V6);
        let Reply::Flow { flow } =
            relay.consumer_gateway.call(Request::FlowShow { name: other.clone() }).unwrap()
        else {
            panic!("not a flow");
        };
        let mut changes = 0;
        while sink.ended().unwrap().is_none() {
            relay.consumer_gateway.call(Request::FlowDelete { name: other.clone() }).unwrap();
            relay.consumer_gateway.call(Request::FlowAdd { spec: flow.spec.clone() }).unwrap();
            changes += 1;
        }
        assert!(changes > 1, "the stream ended before anything was changed");
        assert!(sink.wait(PATIENCE).unwrap().success(), "{}", sink.said());
    });
}

#[test]
fn a_drained_flow_lets_old_connections_finish_and_admits_no_new_ones() {
    // A closed connection is to be forgotten soon.
    let options = RelayOptions { extra: "[timers]\ntcp_transitory = 2\n".into(), ..RelayOptions::default() };
    private(|| {
        across(options, |relay| {
            let (carrier, family) = (Carrier::Tcp, Family::V4);
            let name = flow(carrier, family);
            let _source = traffic::source(relay, carrier, family).unwrap();
            let args = ["--bytes", "300M", "--duplex", "--verify"];
            let mut old = traffic::sink(relay, carrier, family, &args).unwrap();
            eventually("a stream that flows", || {
                relay.consumer_gateway.flow(&name).unwrap().to_client.bytes > 1_000_000
            });
            relay.consumer_gateway.call(Request::FlowDrain { name: name.clone() }).unwrap();
            assert_eq!(relay.consumer_gateway.flow(&name).unwrap().state, FlowState::Draining);

            let args = ["--bytes", "1K", "--timeout", "2s"];
            let mut new = traffic::sink(relay, carrier, family, &args).unwrap();
            assert!(!new.wait(PATIENCE).unwrap().success(), "a draining flow admitted a connection");
            assert!(old.wait(Duration::from_secs(60)).unwrap().success(), "{}", old.said());
            eventually("the drained flow gone", || !exists(&relay.consumer_gateway, &name));
        });
    });
}

#[test]
fn a_flow_ends_with_its_lease_and_lives_on_when_renewed() {
    relay(|relay| {
        let (carrier, family) = (Carrier::Udp, Family::V4);
        let name = flow(carrier, family);
        let _ends = endless(relay, carrier, family);
        let mut spec = relay.consumer_gateway.flow(&name).unwrap().spec;
        spec.lease = Some(2);
        relay.consumer_gateway.call(Request::FlowReplace { spec }).unwrap();
        assert!(relay.consumer_gateway.flow(&name).unwrap().lease_remaining <= Some(2));
        relay.consumer_gateway.call(Request::LeaseRenew { name: name.clone(), lease: Some(3600) }).unwrap();
        let renewed = relay.consumer_gateway.flow(&name).unwrap();
        assert!(renewed.lease_remaining > Some(3000), "{renewed:?}");
        // Past the old lease the stream still flows, by the same connection.
        std::thread::sleep(Duration::from_millis(2500));
        let later = relay.consumer_gateway.flow(&name).unwrap();
        assert!(later.to_client.bytes > renewed.to_client.bytes, "{later:?}");
        assert_eq!(later.connections, 1);

        relay.consumer_gateway.call(Request::LeaseRenew { name: name.clone(), lease: Some(1) }).unwrap();
        eventually("the flow gone with its lease", || !exists(&relay.consumer_gateway, &name));
        nothing_passes(relay);
    });
}
