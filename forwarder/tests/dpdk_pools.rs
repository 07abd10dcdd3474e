//! The whole forwarder with a pool on each of two NUMA nodes: without hugepages any machine passes for one that has them.
//! EAL starts once a process: run with `cargo nextest`.
#![cfg(feature = "dpdk")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use forwarder::api::{Reply, Request};
use forwarder::config::Config;
use forwarder::server::Server;
use forwarder::service::{Handler, Peer};
use forwarder::topology::{Machine, Placement, PortPlace, WorkerPlace};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

#[test]
fn a_forwarder_with_two_pools_runs_and_stops_clean() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = format!(
        "[eal]\nhuge = false\n[workers]\nidle = \"adaptive\"\n[addresses]\ncheck = \"off\"\n[limits]\nconnections = 100\n\
         [service]\nsocket = {:?}\n",
        folder.path().join("s2ds.sock")
    );
    for port in 0..2 {
        text += &format!(
            "[[port]]\nname = \"p{port}\"\ndevice = \"vdev:net_null{port}\"\naddresses = [\"10.{port}.0.1/24\"]\n"
        );
    }
    // Started on one core, as of a machine that isolates the others, with a worker on another where there is one.
    let cores: Vec<usize> = Machine::here().unwrap().permitted().iter().collect();
    let (main, core) = (cores[0], cores[cores.len() - 1]);
    let mut only = CpuSet::new();
    only.set(main).unwrap();
    sched_setaffinity(Pid::from_raw(0), &only).unwrap();
    let on = |node: i32| PortPlace { node: Some(node), pool: Some(node) };
    let placement = Placement {
        main,
        workers: vec![WorkerPlace { core, node: Some(1), pool: Some(1) }],
        ports: vec![on(0), on(1)],
        ..Placement::default()
    };
    let server = Server::start(Config::parse(&text, "test.toml").unwrap(), &placement, Vec::new()).unwrap();
    // The devices make frames without end, each out of its own pool; one that lost them would run dry.
    let many = 100_000;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let peer = Peer { pid: 1, uid: 0, gid: 0 };
        let Ok(Reply::Ports { ports }) = server.gateway().handle(Request::PortList, &peer) else { panic!() };
        let received: Vec<u64> = ports.iter().map(|p| p.rx.packets).collect();
        if received.len() == 2 && received.iter().all(|n| *n > many) {
            break;
        }
        assert!(Instant::now() < until, "{received:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(server.cores(), [core]);
    assert!(server.stop());
}
