//! The whole forwarder, started for workers that nobody listed. EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use forwarder::api::{PortInfo, Reply, Request};
use forwarder::config::Config;
use forwarder::server::Server;
use forwarder::service::{Handler, Peer};
use forwarder::topology::Placement;

/// Starts with two workers chosen, over these devices with these tags; returns how many there are, and what is told about the ports.
fn start(devices: &[(&str, &str)]) -> (usize, Vec<PortInfo>) {
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
    let placement = Placement {
        main,
        workers: vec![main, last],
        chosen: true,
        port_nodes: vec![None; devices.len()],
        notices: Vec::new(),
    };
    let server = Server::start(config, &placement, Vec::new()).unwrap();
    let peer = Peer { pid: 1, uid: 0, gid: 0 };
    let Ok(Reply::Ports { ports }) = server.gateway().handle(Request::PortList, &peer) else { panic!() };
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
