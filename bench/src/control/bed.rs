//! What is measured: s2cs with a real s2ds behind it, whose ports lead nowhere, in a network namespace of their own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control::proto::gateway::{GetRequest, OpenRequest, Role};
use control::proto::scistream::control_client::ControlClient;
use control::proto::scistream::{AppResponse, Hello, Release, Request, Response, UpdateTargets};
use control::uc::connect::{self, Access, PROMPT};
use control::uc::new_uid;
use control::uc::store::{Store, Token};
use forwarder::api::{Reply, Request as Ask};

use crate::topology::{Gateway, Netns, Server, Workdir, cores, init};

const ADDRESS: &str = "127.0.0.1:5000";
const METRICS: &str = "127.0.0.1:9464";
/// How long s2cs may take to be in step with s2ds.
const STEP: Duration = Duration::from_secs(300);
/// How long a `req` waits for its `hello` while others are measured.
const PENDING: Duration = Duration::from_secs(3600);
/// Where sessions relay to.
const TARGET: &str = "10.81.0.9:5000";

const POLICY: &str = r#"
[defaults]
producer_sources = ["10.82.0.0/24"]
[[rule]]
name = "bench"
users = ["operator@site"]
roles = ["producer"]
protocols = ["tcp"]
targets = ["10.81.0.0/24:*"]
sessions = 1_000_000
lease = "24h"
"#;

const SETTINGS: &str = r#"
[listeners]
ports = "10000-59999"
[sessions]
pending = 100_000
pending_per_user = 100_000
hello = "1h"
[metrics]
listen = "127.0.0.1:9464"
"#;

/// s2cs and s2ds.
pub(super) struct Bed {
    // The server ends before its forwarder.
    server: Server,
    gateway: Gateway,
    token: String,
    dir: PathBuf,
}

impl Bed {
    pub(super) fn start() -> Result<Bed> {
        let netns = Netns::new("bench", Arc::new(Workdir::new()?))?;
        let dir = netns.dir().join("control");
        let token = init(&netns, &dir, &[])?;
        // Nothing ever arrives.
        let mut config = format!(
            "[eal]\nhuge = false\n[workers]\ncores = [{}]\nidle = \"adaptive\"\n[limits]\nflows = 65536\n",
            cores()[0]
        );
        for (n, name) in ["lan", "wan"].iter().enumerate() {
            config += &format!(
                "[[port]]\nname = \"{name}\"\ndevice = \"vdev:net_null{n},no-rx=1\"\naddresses = [\"10.8{}.0.1/24\"]\n",
                n + 1
            );
        }
        let gateway = Gateway::start(netns, &config)?;
        let server = Server::start(&gateway, &dir, ADDRESS, POLICY, SETTINGS)?;
        Ok(Bed { server, gateway, token, dir })
    }

    /// Runs what talks to s2cs, in its namespace.
    pub(super) fn run<T, F>(&self, work: impl FnOnce(Access, Store) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let access = Access {
            server_cert: Some(self.dir.join("ca.crt")),
            token: Some(Token::try_from(self.token.clone()).map_err(anyhow::Error::msg)?),
            ..Access::default()
        };
        let store = Store::at(self.dir.join("logins"));
        self.gateway.netns.run(move || {
            // Its threads are made by this one, so they are in the namespace, too.
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(work(access, store))
        })?
    }

    /// Resident memory of s2cs in MB.
    pub(super) fn resident(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.server.process().pid()))?;
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        Ok(kilobytes.context("the kernel does not tell how much memory s2cs has")? * 1024.0 * 1e-6)
    }

    /// Kills s2cs, and s2ds if `both`, starts them again, and tells the seconds from the start of s2cs until it is in step with s2ds.
    pub(super) fn restart(&mut self, both: bool) -> Result<f64> {
        self.server.kill();
        if both {
            self.gateway.restart()?;
        }
        let began = Instant::now();
        self.server.restart(&self.gateway)?;
        while !self.gateway.netns.run(in_step)?? {
            ensure!(
                began.elapsed() < STEP,
                "s2cs does not come in step with s2ds: {}",
                self.server.process().said()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// Flows in s2ds.
    pub(super) fn flows(&self) -> Result<usize> {
        match self.gateway.call(Ask::FlowList)? {
            Reply::Flows { flows } => Ok(flows.len()),
            other => bail!("s2ds answered something else than was asked: {other:?}"),
        }
    }
}

/// Whether s2cs says that s2ds has just the flows of its sessions.
fn in_step() -> Result<bool> {
    let address: SocketAddr = METRICS.parse()?;
    let mut stream = TcpStream::connect_timeout(&address, PROMPT).context("s2cs does not serve /healthz")?;
    stream.set_read_timeout(Some(PROMPT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200"))
}

/// A connection of a user.
#[derive(Clone)]
pub(super) struct User(connect::Server);

impl User {
    pub(super) async fn connect(access: &Access, store: &Store) -> Result<User> {
        Ok(User(access.connect(&ADDRESS.parse()?, store).await?))
    }

    pub(super) async fn req(&self, uid: String) -> Result<Response> {
        let message = Request { uid, role: "PROD".into(), num_conn: 1, rate: 0 };
        Ok(self.0.call(PENDING, message, async |c, r| ControlClient::new(c).req(r).await).await?)
    }

    pub(super) async fn hello(&self, uid: String) -> Result<AppResponse> {
        let message = Hello { uid, prod_listeners: vec![TARGET.into()], role: "PROD".into() };
        Ok(self.0.call(PROMPT, message, async |c, r| ControlClient::new(c).hello(r).await).await?)
    }

    pub(super) async fn update(&self, uid: String, remote_listeners: Vec<String>) -> Result<Response> {
        let message = UpdateTargets { uid, remote_listeners, role: "PROD".into() };
        Ok(self.0.call(PROMPT, message, async |c, r| ControlClient::new(c).update(r).await).await?)
    }

    pub(super) async fn release(&self, uid: String) -> Result<Response> {
        Ok(self.0.call(PROMPT, Release { uid }, async |c, r| ControlClient::new(c).release(r).await).await?)
    }

    /// Starts a `req` and waits until the server has the session.
    pub(super) async fn pend(&self) -> Result<(String, tokio::task::JoinHandle<Result<Response>>)> {
        let uid = new_uid()?;
        let (user, named) = (self.clone(), uid.clone());
        let req = tokio::spawn(async move { user.req(named).await });
        let get = || async {
            let message = GetRequest { uid: uid.clone(), owner: String::new() };
            self.0.call(PROMPT, message, async |c, r| connect::gateway(c).get(r).await).await
        };
        while let Err(failure) = get().await {
            // A request that was refused says why; one on its way leaves nothing to be found yet.
            if req.is_finished() {
                req.await??;
                bail!("{uid} was answered before hello: {failure}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok((uid, req))
    }

    /// Opens a session by the one call of our own service.
    pub(super) async fn open(&self) -> Result<()> {
        let message = OpenRequest {
            role: Role::Producer.into(),
            targets: vec![TARGET.into()],
            ..OpenRequest::default()
        };
        self.0.call(PROMPT, message, async |c, r| connect::gateway(c).open(r).await).await?;
        Ok(())
    }
}
