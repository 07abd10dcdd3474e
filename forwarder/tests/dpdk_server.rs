//! The whole forwarder, started for workers that nobody listed. EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use forwarder::api::{OffloadBy, PortDetail, PortInfo, Reply, Request};
use forwarder::config::Config;
use forwarder::dpdk::pretend_removal;
use forwarder::server::Server;
use forwarder::service::{Handler, Peer};
use forwarder::topology::Placement;
use std::time::{Duration, Instant};

const PEER: Peer = Peer { pid: 1, uid: 0, gid: 0 };

/// Starts with two workers chosen, over these devices with these tags.
fn server(devices: &[(&str, &str)]) -> Server {
    let folder = tempfile::tempdir().unwrap();
    let mut text = format!(
        "[eal]\nhuge = false\n[workers]\nidle = \"adaptive\"\n[privileges]\nsandbox = \"off\"\n[service]\nsocket = {:?}\n[limits]\nconnections = 100\n",
        folder.path().join("s2ds.sock")
    );
    for (i, (device, tags)) in devices.iter().enumerate() {
        text += &format!(
            "[[port]]\nname = \"p{i}\"\ndevice = \"vdev:{device}\"\naddresses = [\"10.{i}.0.1/24\"]\n{tags}\n"
        );
    }
    let config = Config::parse(&text, "test.toml").unwrap();
    let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let cores: Vec<usize> = (0..nix::sched::CpuSet::count()).filter(|c| set.is_set(*c) == Ok(true)).collect();
    let (main, last) = (cores[0], cores[cores.len() - 1]);
    let placement = Placement { chosen: true, ..Placement::on_cores(main, &[main, last], devices.len()) };
    Server::start(config, &placement, Vec::new()).unwrap()
}

/// Starts, and returns how many workers there are, and what is told about the ports.
fn start(devices: &[(&str, &str)]) -> (usize, Vec<PortInfo>) {
    let server = server(devices);
    let Ok(Reply::Ports { ports }) = server.gateway().handle(Request::PortList, &PEER) else { panic!() };
    let workers = server.cores().len();
    assert!(server.stop());
    (workers, ports)
}

#[test]
fn several_workers_where_every_device_steers() {
    let (workers, ports) = start(&[("net_null0,no-rx=1", ""), ("net_null1,no-rx=1", "")]);
    assert_eq!(workers, 2);
    assert!(ports.iter().all(|p| (p.queues, p.steering.as_str()) == (2, "rss")), "{ports:#?}");
}

/// Three ports on two devices: the shared one is opened once, and each port tells of it.
#[test]
fn ports_of_one_device_share_it() {
    let trunk = "net_null0,no-rx=1";
    let (workers, ports) =
        start(&[(trunk, ""), ("net_null1,no-rx=1", ""), (trunk, "outer_vlan = 7\nvlan = 30")]);
    assert_eq!(workers, 2);
    assert!(ports.iter().all(|p| (p.queues, p.link.as_str()) == (2, "up")), "{ports:#?}");
    let tags: Vec<_> = ports.iter().map(|p| (p.name.as_str(), p.outer_vlan, p.vlan)).collect();
    assert_eq!(tags, [("p0", None, None), ("p1", None, None), ("p2", Some(7), Some(30))]);
    assert!(ports[0].mac == ports[2].mac && ports[0].mac != ports[1].mac, "{ports:#?}");
}

#[test]
fn one_worker_where_a_device_does_not() {
    let (workers, ports) = start(&[("net_null0,no-rx=1", ""), ("net_ring0", "")]);
    assert_eq!(workers, 1);
    assert!(ports.iter().all(|p| (p.queues, p.steering.as_str()) == (1, "one worker")), "{ports:#?}");
}

/// What is told of a port in full is what the device and its driver say; a port that is not there is told the others' names.
#[test]
fn a_port_is_shown_in_full() {
    let server = server(&[("net_null0,size=64", "vlan = 5"), ("net_null1,no-rx=1", "")]);
    let show =
        |name: &str, all| server.gateway().handle(Request::PortShow { name: name.to_owned(), all }, &PEER);
    let full = |all| -> PortDetail {
        match show("p0", all) {
            Ok(Reply::Port { port }) => *port,
            other => panic!("{other:?}"),
        }
    };
    let (some, every) = (full(false), full(true));
    let device = &some.device;
    assert_eq!((device.bus.as_str(), device.place.as_str()), ("vdev", "net_null0"));
    assert_eq!((some.port.driver.as_str(), some.port.failure.clone()), ("net_null", None));
    assert_eq!(
        (device.link.full_duplex, device.rx_descriptors.used, some.queues.len()),
        (Some(true), 1024, 2)
    );
    assert!(device.max_queues >= 2 && device.steering_why.contains("key of 40 bytes"), "{device:#?}");
    let by = |name: &str| device.offloads.iter().find(|o| o.name == name).map(|o| o.by);
    assert_eq!(by("steering to workers"), Some(OffloadBy::Hardware));
    assert_eq!(by("VLAN filter"), Some(OffloadBy::Software), "net_null has none");
    assert_eq!(by("TCP and UDP checksums"), Some(OffloadBy::Software));
    // The device makes frames all the time; nothing is ever sent there.
    assert!(device.xstats["rx_good_packets"] > 0 && !device.xstats.contains_key("tx_errors"), "{device:#?}");
    assert_eq!(every.device.xstats["tx_errors"], 0);
    assert!(some.queues[0].device.contains_key("rx_packets"), "{:#?}", some.queues);
    let error = show("nowhere", false).unwrap_err().to_string();
    assert!(error.contains("there are p0, p1"), "{error}");
    assert!(server.stop());
}

/// Waits until the ports are as wanted.
fn until(server: &Server, what: &str, wanted: impl Fn(&[PortInfo]) -> bool) -> Vec<PortInfo> {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let Ok(Reply::Ports { ports }) = server.gateway().handle(Request::PortList, &PEER) else { panic!() };
        if wanted(&ports) {
            return ports;
        }
        assert!(Instant::now() < end, "{what}: {ports:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Two devices that make frames all the time; one goes.
#[test]
fn a_removed_device_stays_out_of_use_and_the_others_go_on() {
    let server = server(&[("net_null0,size=64", "retry = \"off\""), ("net_null1,size=64", "")]);
    let before = until(&server, "traffic", |ports| ports.iter().all(|p| p.rx.packets > 0));
    pretend_removal("net_null0");
    let after = until(&server, "a failure", |ports| ports[0].failure.is_some());
    let failure = after[0].failure.clone().unwrap();
    assert_eq!(
        (failure.why.as_str(), failure.retry_in),
        ("device net_null0 is removed from the machine", None)
    );
    assert_eq!((after[0].link.as_str(), after[1].link.as_str()), ("failed", "up"));
    assert_eq!(after[0].mac, before[0].mac);
    let rest =
        until(&server, "the other's traffic", |ports| ports[1].rx.packets > after[1].rx.packets + 1000);
    let later = until(&server, "more of it", |ports| ports[1].rx.packets > rest[1].rx.packets + 1000);
    assert_eq!(later[0].rx.packets, rest[0].rx.packets, "workers polled on");
    assert!(server.stop());
}

#[test]
fn a_device_that_comes_back_is_what_it_was() {
    let server = server(&[("net_null0,size=64", "retry = \"1s\""), ("net_null1,no-rx=1", "")]);
    let show =
        || match server.gateway().handle(Request::PortShow { name: "p0".to_owned(), all: false }, &PEER) {
            Ok(Reply::Port { port }) => *port,
            other => panic!("{other:?}"),
        };
    let before = show();
    for _ in 0..3 {
        pretend_removal("net_null0");
        until(&server, "a failure", |ports| ports[0].failure.is_some());
        let back = until(&server, "its return", |ports| ports[0].failure.is_none());
        until(&server, "traffic", |ports| ports[0].rx.packets > back[0].rx.packets + 1000);
        let after = show();
        assert_eq!((&after.port.mac, &after.port.steering), (&before.port.mac, &before.port.steering));
        assert_eq!(after.device.offloads, before.device.offloads);
    }
    assert!(server.stop());
}
