//! Streams that users open: `s2uc` asks the s2cs of both gateways, real traffic passes, intruders get nothing, and whatever is
//! killed meanwhile, nothing is lost.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use bench::stream::Carrier;
use bench::topology::{
    Control, Family, Gateway, Netns, Place, Process, Relay, Stream, Workdir, find_binary, ports,
};
use bench::traffic::{self, Iperf};
use forwarder::api::{FlowInfo, Proto, Reply, Request};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{PATIENCE, eventually, private, relay};

const IPERF: Iperf = Iperf { proto: Proto::Tcp, down: false, parallel: 2, seconds: 1, rate: 0 };
/// What flows for a while, both ways, every byte compared.
const LONG: [&str; 4] = ["--bytes", "300M", "--duplex", "--verify"];

/// Runs `test` on a relay with a control network.
fn controlled(test: impl FnOnce(&mut Relay, &mut Control)) {
    relay(|relay| {
        let mut control = Control::start(relay).unwrap();
        test(relay, &mut control);
        for server in [&control.consumer, &control.producer] {
            let said = server.process().output().unwrap();
            assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
        }
    });
}

fn proto(carrier: Carrier) -> Proto {
    if carrier == Carrier::Tcp { Proto::Tcp } else { Proto::Udp }
}

/// Only the consumer.
fn consumer(family: Family) -> String {
    Place::CONSUMER.ip(family).to_string()
}

/// Opens a stream for the consumer to a port of the producer.
fn open(control: &Control, carrier: Carrier, family: Family, port: u16) -> Stream {
    let target = Place::PRODUCER.socket(family, port).to_string();
    control.open(&target, &["--from", &consumer(family), "--proto", &carrier.to_string()]).unwrap()
}

/// A stream's flows at the consumer's and at the producer's gateway.
fn flows(relay: &Relay, carrier: Carrier, stream: &Stream) -> [Option<FlowInfo>; 2] {
    let [near, far] = relay.gateways();
    let [listens, behind] = stream.listens;
    [near.listening(proto(carrier), listens).unwrap(), far.listening(proto(carrier), behind).unwrap()]
}

/// The same of a stream that is open.
fn both(relay: &Relay, carrier: Carrier, stream: &Stream) -> [FlowInfo; 2] {
    flows(relay, carrier, stream).map(Option::unwrap)
}

/// Who may connect to a TCP stream, at the consumer's and at the producer's gateway.
fn sources(relay: &Relay, stream: &Stream) -> [Vec<String>; 2] {
    both(relay, Carrier::Tcp, stream).map(|f| f.spec.from.iter().map(ToString::to_string).collect())
}

/// Starts a transfer and waits until it is under way.
fn begin(relay: &Relay, carrier: Carrier, stream: &Stream, args: &[&str]) -> Process {
    let bytes = || both(relay, carrier, stream)[0].to_client.bytes;
    let before = bytes();
    let sink = traffic::sink_to(relay, carrier, stream.connect, args).unwrap();
    eventually("a stream that flows", || bytes() > before + 1_000_000);
    sink
}

/// The producer still sends, and nothing of it leaves towards the consumer.
fn nothing_passes(relay: &Relay) {
    let [near, far] = relay.gateways();
    let sent = || {
        let Reply::Ports { ports } = near.call(Request::PortList).unwrap() else { panic!("no ports") };
        ports.iter().find(|p| p.name == "lan").unwrap().tx.bytes
    };
    let dropped = || far.stats().unwrap().drops.values().sum::<u64>();
    let (sent_before, dropped_before) = (sent(), dropped());
    eventually("packets of the stopped stream dropped", || dropped() >= dropped_before + 3);
    // The hosts may have asked for each other's MAC addresses; a packet of the stream is longer than all that.
    assert!(sent() < sent_before + 1400, "{} bytes left towards the consumer", sent() - sent_before);
}

/// A short attempt gets nothing.
fn nothing_from(netns: &Netns, carrier: Carrier, to: SocketAddr, from: &str) {
    let (carrier, to) = (carrier.to_string(), to.to_string());
    let args =
        ["sink", "--proto", &carrier, "--connect", &to, "--bind", from, "--bytes", "1K", "--timeout", "2s"];
    let mut sink = netns.spawn(find_binary("s2bench").unwrap(), &args).unwrap();
    assert!(!sink.wait(PATIENCE).unwrap().success(), "{from} was served by {to}");
}

fn denied(gateway: &Gateway) -> u64 {
    gateway.stats().unwrap().drops["source_denied"]
}

fn states(told: &Value) -> [&str; 2] {
    ["consumer", "producer"].map(|side| told[side]["state"].as_str().unwrap_or("none"))
}

#[test]
fn a_stream_that_a_user_opens_carries_iperf3_until_it_is_closed() {
    controlled(|relay, control| {
        let stream = open(control, Carrier::Tcp, Family::V4, ports::IPERF);
        assert_eq!(stream.connect.ip(), Place::CONSUMER_GATEWAY.ip(Family::V4));
        let [near, far] = both(relay, Carrier::Tcp, &stream);
        assert_eq!(near.spec.target, stream.listens[1]);
        assert_eq!(far.spec.target, Place::PRODUCER.socket(Family::V4, ports::IPERF));
        // The producer's gateway admits only the consumer's gateway.
        assert_eq!(sources(relay, &stream), [["10.81.0.2/32"], ["10.82.0.1/32"]]);
        for down in [false, true] {
            let result = Iperf { down, ..IPERF }.run_to(relay, stream.connect).unwrap();
            assert!(result.bytes > 0.0);
        }
        assert_eq!(states(&control.s2uc(&["status", &stream.uri]).unwrap()), ["active", "active"]);
        control.s2uc(&["close", &stream.uri]).unwrap();
        assert!(flows(relay, Carrier::Tcp, &stream).iter().all(Option::is_none));
        nothing_from(&relay.consumer, Carrier::Tcp, stream.connect, &consumer(Family::V4));
    });
}

#[test]
fn a_stream_takes_a_thousand_connections_one_after_the_other() {
    controlled(|relay, control| {
        let _source = traffic::source(relay, Carrier::Tcp, Family::V4).unwrap();
        let stream = open(control, Carrier::Tcp, Family::V4, ports::STREAM);
        let args = ["--connections", "1000", "--parallel", "8", "--bytes", "2K", "--duplex", "--verify"];
        let sink = traffic::sink_to(relay, Carrier::Tcp, stream.connect, &args).unwrap();
        let report: Value = serde_json::from_str(&sink.finished(PATIENCE).unwrap().stdout).unwrap();
        assert_eq!(report["connections"], 1000);
    });
}

#[test]
fn a_stream_is_held_to_the_rate_it_was_granted() {
    controlled(|relay, control| {
        let target = Place::PRODUCER.socket(Family::V4, ports::IPERF).to_string();
        let from = consumer(Family::V4);
        let stream = control.open(&target, &["--from", &from, "--rate", "20M"]).unwrap();
        Iperf { down: true, ..IPERF }.run_to(relay, stream.connect).unwrap();
        let flows = both(relay, Carrier::Tcp, &stream);
        assert!(flows.iter().all(|f| f.spec.rate == Some(20)), "{flows:?}");
        // The producer would send a hundred times as much.
        assert!(flows[1].policed > 0, "{flows:?}");
        // More than the site allows is refused.
        assert!(control.open(&target, &["--from", &from, "--rate", "11G"]).is_err());
    });
}

#[test]
fn the_control_servers_bench_works() {
    private(|| {
        let file = Workdir::new().unwrap();
        let json = file.path().join("result.json");
        let status = Command::new(find_binary("s2bench").unwrap())
            .args(["control", "--quick", "--json"])
            .arg(&json)
            .status()
            .unwrap();
        assert!(status.success());
        let report: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
        let measures = report["measures"].as_array().unwrap();
        assert!(measures.iter().all(|m| m["figure"].as_f64().is_some_and(|figure| figure > 0.0)), "{report}");
        assert!(measures.iter().all(|m| m["met"].is_null()), "a quick run judges nothing: {report}");
    });
}

#[test]
fn closing_breaks_a_running_transfer_at_once() {
    controlled(|relay, control| {
        for carrier in [Carrier::Tcp, Carrier::Udp] {
            let _source = traffic::source(relay, carrier, Family::V4).unwrap();
            let stream = open(control, carrier, Family::V4, ports::STREAM);
            let endless = ["--bytes", "100G", "--rate", "20M", "--timeout", "10m"];
            let _running = begin(relay, carrier, &stream, &endless);
            control.s2uc(&["close", &stream.uri]).unwrap();
            assert!(flows(relay, carrier, &stream).iter().all(Option::is_none), "{carrier}");
            for gateway in relay.gateways() {
                assert_eq!(gateway.stats().unwrap().connections, 0, "{carrier}");
            }
            nothing_passes(relay);
            nothing_from(&relay.consumer, carrier, stream.connect, &consumer(Family::V4));
        }
    });
}

#[test]
fn every_carrier_crosses_in_both_families() {
    controlled(|relay, control| {
        for family in Family::ALL {
            for (carrier, port) in
                [(Carrier::Tcp, ports::STREAM), (Carrier::Udp, ports::STREAM), (Carrier::Quic, ports::QUIC)]
            {
                let _source = traffic::source(relay, carrier, family).unwrap();
                let target = Place::PRODUCER.socket(family, port).to_string();
                let named = if carrier == Carrier::Quic { "quic" } else { &carrier.to_string() };
                let stream = control.open(&target, &["--from", &consumer(family), "--proto", named]).unwrap();
                let args = ["--bytes", "5M", "--duplex", "--verify", "--rate", "20M", "--max-loss", "10"];
                traffic::sink_to(relay, carrier, stream.connect, &args).unwrap().finished(PATIENCE).unwrap();
                control.s2uc(&["close", &stream.uri]).unwrap();
            }
        }
    });
}

#[test]
fn an_intruder_at_each_side_gets_nothing() {
    controlled(|relay, control| {
        // A host on the WAN that is not the consumer's gateway, played by the kernel beside it, which has the other end of the cable.
        let [near, far] = relay.gateways();
        let Reply::Ports { ports: devices } = far.call(Request::PortList).unwrap() else {
            panic!("no ports")
        };
        let mac = &devices.iter().find(|p| p.name == "wan").unwrap().mac;
        let (wan, behind) = ("10.82.0.66", Place::PRODUCER_WAN.ip(Family::V4));
        near.netns.ip(&format!("address add {wan}/24 dev wan")).unwrap();
        near.netns.ip(&format!("neighbor replace {behind} lladdr {mac} nud permanent dev wan")).unwrap();
        // The producer's neighbours know a way to the WAN by their gateway.
        let lan = Place::PRODUCER_GATEWAY.ip(Family::V4);
        relay.producer.ip(&format!("route add 10.82.0.0/24 via {lan}")).unwrap();
        let inside = Place::PRODUCER.ip(Family::V4).to_string();

        for carrier in [Carrier::Tcp, Carrier::Udp] {
            let _source = traffic::source(relay, carrier, Family::V4).unwrap();
            let stream = open(control, carrier, Family::V4, ports::STREAM);
            let before = [denied(near), denied(far)];
            nothing_from(
                &relay.consumer,
                carrier,
                stream.listens[0],
                &Place::STRANGER.ip(Family::V4).to_string(),
            );
            nothing_from(
                &relay.consumer,
                carrier,
                stream.listens[0],
                &Place::ROAMED.ip(Family::V4).to_string(),
            );
            nothing_from(&near.netns, carrier, stream.listens[1], wan);
            nothing_from(&relay.producer, carrier, stream.listens[1], &inside);
            let after = [denied(near), denied(far)];
            assert!(after[0] > before[0] && after[1] > before[1], "{carrier}: {before:?} {after:?}");
            for flow in both(relay, carrier, &stream) {
                assert_eq!((flow.admitted, flow.connections), (0, 0), "{carrier}: {flow:?}");
                assert_eq!((flow.to_target.packets, flow.to_client.packets), (0, 0), "{carrier}: {flow:?}");
            }
            // The one it was opened for gets it meanwhile.
            let args = ["--bytes", "1M", "--duplex", "--verify"];
            traffic::sink_to(relay, carrier, stream.connect, &args).unwrap().finished(PATIENCE).unwrap();
            control.s2uc(&["close", &stream.uri]).unwrap();
        }
    });
}

#[test]
fn two_sessions_never_see_each_others_traffic() {
    controlled(|relay, control| {
        let _source = traffic::source(relay, Carrier::Tcp, Family::V4).unwrap();
        let target = |port| Place::PRODUCER.socket(Family::V4, port).to_string();
        let other = Place::ROAMED.ip(Family::V4).to_string();
        let mine = open(control, Carrier::Tcp, Family::V4, ports::STREAM);
        let theirs = control.open(&target(ports::IPERF), &["--from", &other]).unwrap();
        assert_ne!(mine.listens[0], theirs.listens[0]);
        assert_ne!(mine.listens[1], theirs.listens[1]);
        let mut sink = traffic::sink_to(relay, Carrier::Tcp, mine.connect, &LONG).unwrap();
        assert!(sink.wait(Duration::from_secs(60)).unwrap().success(), "{}", sink.said());
        for flow in both(relay, Carrier::Tcp, &theirs) {
            assert_eq!(
                (flow.admitted, flow.to_target.packets, flow.to_client.packets),
                (0, 0, 0),
                "{flow:?}"
            );
        }
        // Each lets in only its own consumer.
        nothing_from(&relay.consumer, Carrier::Tcp, mine.connect, &other);
        nothing_from(&relay.consumer, Carrier::Tcp, theirs.connect, &consumer(Family::V4));
        // The end of one is not the end of the other.
        control.s2uc(&["close", &theirs.uri]).unwrap();
        let args = ["--bytes", "1M", "--duplex", "--verify"];
        traffic::sink_to(relay, Carrier::Tcp, mine.connect, &args).unwrap().finished(PATIENCE).unwrap();
    });
}

#[test]
fn killing_either_s2cs_in_the_middle_of_a_transfer_loses_nothing() {
    controlled(|relay, control| {
        let _source = traffic::source(relay, Carrier::Tcp, Family::V4).unwrap();
        let stream = open(control, Carrier::Tcp, Family::V4, ports::STREAM);
        for producer in [true, false] {
            let mut sink = begin(relay, Carrier::Tcp, &stream, &LONG);
            let admitted = both(relay, Carrier::Tcp, &stream).map(|f| f.admitted);
            let (server, gateway) = match producer {
                true => (&mut control.producer, &relay.producer_gateway),
                false => (&mut control.consumer, &relay.consumer_gateway),
            };
            server.kill();
            assert!(
                control.s2uc(&["status", &stream.uri]).is_err(),
                "it is said to be well without its s2cs"
            );
            let server = if producer { &mut control.producer } else { &mut control.consumer };
            server.restart(gateway).unwrap();
            assert_eq!(states(&control.s2uc(&["status", &stream.uri]).unwrap()), ["active", "active"]);
            assert!(sink.wait(Duration::from_secs(60)).unwrap().success(), "{}", sink.said());
            // The same flows and the same connection.
            assert_eq!(both(relay, Carrier::Tcp, &stream).map(|f| f.admitted), admitted);
        }
        let listed = control.s2uc(&["list", &stream.uri]).unwrap();
        for gateway in listed["gateways"].as_array().unwrap() {
            assert_eq!(gateway["sessions"].as_array().map(Vec::len), Some(1), "{listed}");
        }
        control.s2uc(&["close", &stream.uri]).unwrap();
        assert!(flows(relay, Carrier::Tcp, &stream).iter().all(Option::is_none));
    });
}

#[test]
fn an_s2ds_that_starts_again_is_programmed_again() {
    controlled(|relay, control| {
        let _source = traffic::source(relay, Carrier::Tcp, Family::V4).unwrap();
        let stream = open(control, Carrier::Tcp, Family::V4, ports::STREAM);
        let args = ["--bytes", "1M", "--duplex", "--verify"];
        for consumer in [true, false] {
            match consumer {
                true => relay.consumer_gateway.restart().unwrap(),
                false => relay.producer_gateway.restart().unwrap(),
            }
            eventually("the stream's flows again", || {
                flows(relay, Carrier::Tcp, &stream).iter().all(Option::is_some)
            });
            traffic::sink_to(relay, Carrier::Tcp, stream.connect, &args).unwrap().finished(PATIENCE).unwrap();
        }
        control.s2uc(&["close", &stream.uri]).unwrap();
        assert!(flows(relay, Carrier::Tcp, &stream).iter().all(Option::is_none));
    });
}

#[test]
fn a_stream_ends_with_its_lease() {
    controlled(|relay, control| {
        let target = Place::PRODUCER.socket(Family::V4, ports::STREAM).to_string();
        let stream = control.open(&target, &["--from", &consumer(Family::V4), "--for", "2s"]).unwrap();
        eventually("both flows gone with the lease", || {
            flows(relay, Carrier::Tcp, &stream).iter().all(Option::is_none)
        });
        assert!(control.s2uc(&["status", &stream.uri]).is_err());
    });
}

#[test]
fn a_refused_request_leaves_nothing_on_either_side() {
    controlled(|relay, control| {
        let count = |gateway: &Gateway| match gateway.call(Request::FlowList).unwrap() {
            Reply::Flows { flows } => flows.len(),
            other => panic!("{other:?}"),
        };
        let before = relay.gateways().map(count);
        let target = Place::PRODUCER.socket(Family::V4, ports::STREAM).to_string();
        // The producer's gateway grants it, and the consumer's lets nobody in from there.
        assert!(control.open(&target, &["--from", "192.0.2.0/24"]).is_err());
        // The producer's gateway itself refuses.
        assert!(control.open("192.0.2.1:5000", &["--from", &consumer(Family::V4)]).is_err());
        // The user gives up, or dies of a signal that can be caught, in the middle of it.
        let listed = |server: &str| {
            let told = control.s2uc(&["list", "--s2cs", server]).unwrap();
            told["gateways"][0]["sessions"].as_array().map(Vec::len)
        };
        let (producer, near) = (control.producer.address(), control.consumer.address());
        control.consumer.process().signal(Signal::SIGSTOP).unwrap();
        let from = consumer(Family::V4);
        let args = [
            "open",
            "--producer-gateway",
            producer,
            "--consumer-gateway",
            near,
            "--target",
            &target,
            "--from",
            &from,
        ];
        let mut user = control.spawn_s2uc(&args).unwrap();
        user.signal(Signal::SIGINT).unwrap();
        assert!(!user.wait(PATIENCE).unwrap().success());
        control.consumer.process().signal(Signal::SIGCONT).unwrap();
        assert_eq!([producer, near].map(listed), [Some(0), Some(0)]);
        assert_eq!(relay.gateways().map(count), before);
    });
}

#[test]
fn the_old_protocol_opens_a_stream_that_carries_iperf3() {
    controlled(|relay, control| {
        let (producer, consumer) = (control.producer.address(), control.consumer.address());
        let (host, port) = (Place::PRODUCER.ip(Family::V4).to_string(), ports::IPERF.to_string());
        let at_producer = control
            .s2uc(&[
                "inbound-request",
                "--s2cs",
                producer,
                "--remote_ip",
                &host,
                "--receiver_ports",
                &port,
                "--num_conn",
                "1",
            ])
            .unwrap();
        let uid = at_producer["uid"].as_str().unwrap();
        let behind = at_producer["listeners"][0].as_str().unwrap();
        let at_consumer =
            control.s2uc(&["outbound-request", "--s2cs", consumer, "--num_conn", "1", uid, behind]).unwrap();
        let connect: SocketAddr = at_consumer["listeners"][0].as_str().unwrap().parse().unwrap();
        let result = IPERF.run_to(relay, connect).unwrap();
        assert!(result.bytes > 0.0);

        let stream = Stream {
            uri: format!("scistream://{producer}/{consumer}/{uid}"),
            connect,
            listens: [connect, behind.parse().unwrap()],
        };
        // The sites' own sources, never everybody.
        assert_eq!(sources(relay, &stream), [["10.81.0.0/27"], ["10.82.0.1/32"]]);
        for server in [consumer, producer] {
            control.s2uc(&["release", "--s2cs", server, uid]).unwrap();
        }
        assert!(flows(relay, Carrier::Tcp, &stream).iter().all(Option::is_none));
        nothing_from(&relay.consumer, Carrier::Tcp, connect, &Place::CONSUMER.ip(Family::V4).to_string());
    });
}
