//! A forwarder that has answers but forwards nothing, behind a real control socket.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

pub(crate) mod forwarder;
pub(crate) mod site;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ::forwarder::api::*;
use ::forwarder::config::ServiceConfig;
use ::forwarder::service::{Handler, Peer, Running, Service};

/// What the fake answers depends on the flow's name: `ok...` succeeds, the name of an [`ErrorCode`] fails so.
#[derive(Default)]
pub(crate) struct Fake {
    /// Every request so far.
    pub(crate) asked: Mutex<Vec<Request>>,
}

impl Handler for Fake {
    fn handle(&self, request: Request, _: &Peer) -> Result<Reply, ApiError> {
        self.asked.lock().unwrap().push(request.clone());
        match request {
            Request::FlowAdd { spec } | Request::FlowReplace { spec } => {
                named(&spec.name, Reply::Done { epoch: 4 })
            }
            Request::FlowDelete { name } | Request::FlowDrain { name } | Request::LeaseRenew { name, .. } => {
                named(&name, Reply::Done { epoch: 5 })
            }
            Request::FlowApply { .. } => Ok(Reply::Done { epoch: 6 }),
            Request::FlowShow { name } => named(&name, Reply::Flow { flow: flow() }),
            Request::FlowList => Ok(Reply::Flows { flows: vec![flow()] }),
            Request::ConnectionList { limit, .. } => {
                Ok(Reply::Connections { connections: vec![connection()], truncated: limit == Some(1) })
            }
            Request::PortList => Ok(Reply::Ports { ports: vec![port()] }),
            Request::PortShow { name, .. } => match name.as_str() {
                "lan" => Ok(Reply::Port { port: Box::new(port_detail()) }),
                _ => named("not_found", Reply::Done { epoch: 0 }),
            },
            Request::Stats => {
                let asked = self.asked.lock().unwrap().len() as u64;
                Ok(Reply::Stats { stats: stats(asked) })
            }
            Request::Explain { port, dst, .. } => match port.as_str() {
                "lan" => Ok(Reply::Explained { explanation: explanation(dst.port() == 5001) }),
                _ => named("not_found", Reply::Done { epoch: 0 }),
            },
            Request::Snapshot => Ok(Reply::Snapshot {
                snapshot: Box::new(Snapshot {
                    flows: vec![flow()],
                    ports: vec![port()],
                    connections: vec![connection()],
                    connections_truncated: false,
                    stats: stats(1),
                }),
            }),
        }
    }
}

fn named(name: &str, reply: Reply) -> Result<Reply, ApiError> {
    match serde_json::from_value(name.into()) {
        Ok(code) => Err(ApiError { code, message: format!("a sentence about {name}") }),
        Err(_) => Ok(reply),
    }
}

pub(crate) fn spec() -> FlowSpec {
    FlowSpec {
        name: "ok".into(),
        proto: Proto::Tcp,
        listen: "10.0.0.1:5001".parse().unwrap(),
        target: "192.0.2.9:5002".parse().unwrap(),
        from: vec!["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap()],
        max_conns: Some(8),
        mss_clamp: None,
        hairpin: false,
        rate: Some(2500),
        lease: Some(3600),
    }
}

fn flow() -> FlowInfo {
    FlowInfo {
        spec: spec(),
        state: FlowState::Draining,
        configured: false,
        lease_remaining: Some(3599),
        connections: 2,
        admitted: 17,
        refused: 3,
        policed: 12,
        to_target: Count { packets: 10, bytes: 15_000 },
        to_client: Count { packets: 20, bytes: 30_000_000 },
    }
}

fn connection() -> ConnectionInfo {
    ConnectionInfo {
        flow: "ok".into(),
        proto: Proto::Tcp,
        client: "10.1.0.7:40000".parse().unwrap(),
        listen: "10.0.0.1:5001".parse().unwrap(),
        source: "192.0.2.1:51234".parse().unwrap(),
        target: "192.0.2.9:5002".parse().unwrap(),
        state: "established".into(),
        worker: 1,
        age: 61,
        idle: 2,
        to_target: Count::default(),
        to_client: Count::default(),
    }
}

pub(crate) fn port() -> PortInfo {
    PortInfo {
        name: "lan".into(),
        device: "af_packet:veth0".into(),
        driver: "net_af_packet".into(),
        mac: "02:00:00:00:00:01".into(),
        addresses: vec!["10.0.0.1/24".parse().unwrap()],
        mtu: 1500,
        vlan: Some(120),
        outer_vlan: Some(7),
        gateway: vec![],
        queues: 2,
        steering: "hand over".into(),
        handed_over: 37,
        numa_node: None,
        link: "up".into(),
        speed: Some(10_000),
        failure: None,
        rx: Count { packets: 111, bytes: 0 },
        tx: Count { packets: 222, bytes: 0 },
        rx_missed: 0,
        tx_errors: 0,
        neighbors: vec![NeighborInfo {
            address: "10.0.0.9".parse().unwrap(),
            mac: None,
            // What a hostile name would do to a terminal has to stay text.
            state: "resol\x1b[31mving".into(),
        }],
        conflicts: vec![ConflictInfo {
            address: "10.0.0.1".parse().unwrap(),
            mac: "02:00:00:00:00:66".into(),
            times: 4711,
            ago: 12,
        }],
    }
}

fn port_detail() -> PortDetail {
    let failure = PortFailure {
        why: "interface veth0 is gone".into(),
        ago: 75,
        tries: 15,
        retry_in: Some(4),
        refusal: Some("there is no interface veth0".into()),
    };
    PortDetail {
        port: PortInfo { failure: Some(failure), ..port() },
        link_local: "fe80::ff:fe00:1".parse().unwrap(),
        device: DeviceDetail {
            bus: "vdev".into(),
            place: "net_af_packet0".into(),
            interface: Some("veth0".into()),
            firmware: Some("8.30 0x8000a49d".into()),
            link: LinkDetail {
                full_duplex: Some(true),
                autoneg: Some(false),
                interrupt: true,
                changes: 3,
                changed_ago: Some(61),
            },
            max_mtu: Some(9600),
            max_queues: 16,
            rx_descriptors: Descriptors { used: 1024, most: Some(4096) },
            tx_descriptors: Descriptors { used: 512, most: None },
            steering_why: "the device hashes nothing".into(),
            offloads: vec![Offload {
                name: "IPv4 header checksum".into(),
                by: OffloadBy::Software,
                why: "verified in every packet".into(),
            }],
            guest: Some(GuestDetail {
                features: vec!["CSUM".into(), "MRG_RXBUF".into()],
                queue_pairs: 1,
                mtu: Some(8996),
            }),
            xstats: [("rx_good_packets".to_owned(), 4712)].into(),
        },
        queues: vec![PortQueue {
            queue: 0,
            rx: Count { packets: 111, bytes: 0 },
            tx: Count { packets: 222, bytes: 0 },
            dropped: 9,
            device: [("rx_errors".to_owned(), 4713)].into(),
        }],
    }
}

fn residence(p50_ns: u64) -> Residence {
    Residence {
        samples: 4000,
        p50_ns,
        p90_ns: 2 * p50_ns,
        p99_ns: 3 * p50_ns,
        p999_ns: 4 * p50_ns,
        max_ns: 5 * p50_ns,
        buckets: vec![(p50_ns, 3999), (5 * p50_ns, 1)],
    }
}

fn stats(asked: u64) -> Stats {
    let drops = BTreeMap::from([("source_denied".to_owned(), 5), ("ttl_expired".to_owned(), 0)]);
    let queue = QueueStats {
        port: "lan".into(),
        drops: BTreeMap::from([("source_denied".to_owned(), 5)]),
        ..Default::default()
    };
    let worker = WorkerStats {
        worker: 0,
        core: Some(2),
        loops: 8,
        busy_loops: 2,
        queues: vec![queue],
        residence: residence(480),
        waits: residence(2_000_000),
        ..Default::default()
    };
    let flows = vec![FlowStats { flow: "ok".into(), residence: residence(1_250) }];
    Stats {
        uptime: 90,
        epoch: 6,
        received: 1000 * asked,
        sent: 995,
        drops,
        workers: vec![worker],
        flows,
        ..Default::default()
    }
}

fn explanation(forward: bool) -> Explanation {
    Explanation {
        verdict: if forward { "forward" } else { "no_flow" }.into(),
        existing: false,
        flow: forward.then(|| "ok".into()),
        rewritten_src: forward.then(|| "192.0.2.1:0".parse().unwrap()),
        rewritten_dst: forward.then(|| "192.0.2.9:5002".parse().unwrap()),
        out_port: forward.then(|| "wan".into()),
        next_hop: None,
        next_hop_mac: None,
        worker: None,
        steps: vec!["10.0.0.1 is an address of port lan".into()],
    }
}

/// The fake, served.
pub(crate) struct Fixture {
    dir: tempfile::TempDir,
    pub(crate) fake: Arc<Fake>,
    pub(crate) running: Option<Running>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = ServiceConfig { socket: dir.path().join("s"), ..ServiceConfig::default() };
        let fake = Arc::new(Fake::default());
        let running = Service::bind(&config).unwrap().run(Arc::clone(&fake)).unwrap();
        Self { dir, fake, running: Some(running) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.fake.asked.lock().unwrap())
    }
}
