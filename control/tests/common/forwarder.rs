//! The forwarder's own flow table behind a real control socket, without workers and devices: it keeps, refuses, lists and expires
//! flows as s2ds does, and carries nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use forwarder::api::{ApiError, FlowInfo, FlowSpec, Reply, Request};
use forwarder::config::{Config, ServiceConfig};
use forwarder::flow::FlowSet;
use forwarder::gateway::{Device, DeviceStatus, Gateway};
use forwarder::net::Network;
use forwarder::service::{Handler, Peer, Running, Service};
use forwarder::sync::Publisher;
use forwarder::wire::Mac;

/// Ports `lan` (10.81.0.1, fd81::1) and `wan` (10.82.0.1, fd82::1), links up, 100 Gbit/s, and a route to everywhere by the WAN.
const CONFIG: &str = r#"
[limits]
flows = 65536
[[port]]
name = "lan"
device = "vdev:test0"
addresses = ["10.81.0.1/24", "fd81::1/64"]
[[port]]
name = "wan"
device = "vdev:test1"
addresses = ["10.82.0.1/24", "fd82::1/64"]
gateway = ["10.82.0.254", "fd82::fe"]
"#;
const PEER: Peer = Peer { pid: 1, uid: 0, gid: 0 };

struct Cable;

impl Device for Cable {
    fn status(&self) -> DeviceStatus {
        DeviceStatus {
            driver: "net_test".into(),
            link: "up".into(),
            speed: Some(100_000),
            queues: 1,
            ..DeviceStatus::default()
        }
    }
}

/// What is behind the socket.
struct Behind {
    config: String,
    gateway: Mutex<Arc<Gateway>>,
    asked: Mutex<Vec<Request>>,
    trouble: Mutex<Option<ApiError>>,
}

impl Handler for Behind {
    fn handle(&self, request: Request, peer: &Peer) -> Result<Reply, ApiError> {
        self.asked.lock().unwrap().push(request.clone());
        if let Some(error) = self.trouble.lock().unwrap().clone() {
            return Err(error);
        }
        let gateway = Arc::clone(&self.gateway.lock().unwrap());
        gateway.tick();
        gateway.handle(request, peer)
    }
}

/// A forwarder to program.
pub(crate) struct Forwarder {
    dir: tempfile::TempDir,
    behind: Arc<Behind>,
    running: Option<Running>,
}

impl Forwarder {
    /// Starts one with [`CONFIG`]'s ports and no flows.
    pub(crate) fn new() -> Self {
        Self::with(CONFIG)
    }

    /// Starts one with a configuration of its own, in s2ds.toml's terms; devices are never opened.
    pub(crate) fn with(config: &str) -> Self {
        let behind = Behind {
            config: config.to_owned(),
            gateway: Mutex::new(gateway(config)),
            asked: Mutex::default(),
            trouble: Mutex::default(),
        };
        let mut forwarder =
            Self { dir: tempfile::tempdir().unwrap(), behind: Arc::new(behind), running: None };
        forwarder.start();
        forwarder
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("s2ds.sock")
    }

    /// Stops answering: the socket goes, the flows stay.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Answers again, with the flows it had.
    pub(crate) fn start(&mut self) {
        let config = ServiceConfig { socket: self.socket(), ..ServiceConfig::default() };
        self.running = Some(Service::bind(&config).unwrap().run(Arc::clone(&self.behind)).unwrap());
    }

    /// Starts anew as a process does that died: no flow but the configuration's, another instance.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.forget();
        self.start();
    }

    /// Of a restart the part between end and start: what an operator does now comes before who connects anew.
    pub(crate) fn forget(&self) {
        *self.behind.gateway.lock().unwrap() = gateway(&self.behind.config);
    }

    /// Every request fails so until told otherwise.
    pub(crate) fn fail(&self, error: Option<ApiError>) {
        *self.behind.trouble.lock().unwrap() = error;
    }

    /// What an operator does at the socket, whether or not it is served and unheard by [`Forwarder::asked`].
    pub(crate) fn ask(&self, request: Request) -> Result<Reply, ApiError> {
        let gateway = Arc::clone(&self.behind.gateway.lock().unwrap());
        gateway.tick();
        gateway.handle(request, &PEER)
    }

    /// Every flow by its name.
    pub(crate) fn flows(&self) -> BTreeMap<String, FlowInfo> {
        match self.ask(Request::FlowList) {
            Ok(Reply::Flows { flows }) => flows.into_iter().map(|f| (f.spec.name.clone(), f)).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Installs an operator's flow.
    pub(crate) fn add(&self, spec: FlowSpec) {
        self.ask(Request::FlowAdd { spec }).unwrap();
    }

    /// What was asked through the socket since the last time.
    pub(crate) fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.behind.asked.lock().unwrap())
    }
}

fn gateway(text: &str) -> Arc<Gateway> {
    let config = Arc::new(Config::parse(text, "s2ds.toml").unwrap());
    let macs: Vec<Mac> = (1..).take(config.ports.len()).map(|n| Mac([2, 0, 0, 0, 0, n])).collect();
    let net = Arc::new(Network::new(Arc::clone(&config), &macs));
    let (publisher, _) = Publisher::new(FlowSet::default(), 0);
    let devices = config.ports.iter().map(|_| Box::new(Cable) as Box<dyn Device>).collect();
    Arc::new(Gateway::new(config, net, publisher, Vec::new(), devices).unwrap())
}
