//! A running s2ds and its control socket.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use control::client::{Client, ClientError};
use forwarder::api::{FlowInfo, Proto, Reply, Request, Stats};

use super::{Netns, Process, TopologyError, find_binary};

/// How long s2ds may take to come up; EAL is slow on a busy machine.
const START: Duration = Duration::from_secs(30);
/// How long it may take to go.
const STOP: Duration = Duration::from_secs(15);

/// A gateway node: its namespace and the s2ds in it.
#[derive(Debug)]
pub struct Gateway {
    // Fields drop in this order: the process before the namespace it lives in.
    /// The forwarder.
    pub process: Process,
    /// The node.
    pub netns: Netns,
    socket: PathBuf,
}

impl Gateway {
    /// Starts s2ds with `config` (TOML without `[service]`) and waits until its control socket answers.
    pub fn start(netns: Netns, config: &str) -> Result<Gateway, TopologyError> {
        let dir = netns.dir().join(netns.name());
        let socket = dir.join("s2ds.sock");
        let file = dir.join("s2ds.toml");
        fs::create_dir(&dir).map_err(TopologyError::io(format!("make the directory {}", dir.display())))?;
        let text = format!("{config}\n[service]\nsocket = {socket:?}\nmode = \"0600\"\n");
        fs::write(&file, text).map_err(TopologyError::io(format!("write {}", file.display())))?;
        let process = launch(&netns, &file)?;
        let mut gateway = Gateway { process, netns, socket };
        gateway.wait_until_it_answers()?;
        Ok(gateway)
    }

    /// Starts s2ds again with the same configuration, whatever became of the one before.
    pub fn restart(&mut self) -> Result<(), TopologyError> {
        self.process.kill();
        self.process = launch(&self.netns, &self.socket.with_extension("toml"))?;
        self.wait_until_it_answers()
    }

    fn wait_until_it_answers(&mut self) -> Result<(), TopologyError> {
        let end = Instant::now() + START;
        loop {
            let error = match self.stats() {
                Ok(_) => return Ok(()),
                Err(e) => e,
            };
            if let Some(status) = self.process.ended()? {
                let what = format!("s2ds in {}", self.netns.name());
                return Err(TopologyError::Ended { what, status, said: self.process.said() });
            }
            if Instant::now() >= end {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Path of the control socket, for s2ctl.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks s2ds for something.
    pub fn call(&self, request: Request) -> Result<Reply, TopologyError> {
        let failed =
            |e: ClientError| TopologyError::Control { gateway: self.netns.name().into(), why: e.to_string() };
        Client::connect(&self.socket).map_err(failed)?.call(request).map_err(failed)
    }

    /// Its counters.
    pub fn stats(&self) -> Result<Stats, TopologyError> {
        match self.call(Request::Stats)? {
            Reply::Stats { stats } => Ok(stats),
            other => Err(self.odd(&other)),
        }
    }

    /// One of its flows.
    pub fn flow(&self, name: &str) -> Result<FlowInfo, TopologyError> {
        match self.call(Request::FlowShow { name: name.into() })? {
            Reply::Flow { flow } => Ok(flow),
            other => Err(self.odd(&other)),
        }
    }

    /// The flow that listens on an address, if there is one.
    pub fn listening(&self, proto: Proto, listen: SocketAddr) -> Result<Option<FlowInfo>, TopologyError> {
        match self.call(Request::FlowList)? {
            Reply::Flows { flows } => {
                Ok(flows.into_iter().find(|f| (f.spec.proto, f.spec.listen) == (proto, listen)))
            }
            other => Err(self.odd(&other)),
        }
    }

    fn odd(&self, reply: &Reply) -> TopologyError {
        TopologyError::Control {
            gateway: self.netns.name().into(),
            why: format!("answered something else than was asked: {reply:?}"),
        }
    }

    /// Its counters once no packet comes any more, or after `limit` whatever they are.
    pub fn settled(&self, limit: Duration) -> Result<Stats, TopologyError> {
        let end = Instant::now() + limit;
        let mut before = self.stats()?;
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.stats()?;
            if (now.received == before.received && unaccounted(&now) == 0) || Instant::now() >= end {
                return Ok(now);
            }
            before = now;
        }
    }

    /// Stops s2ds with SIGTERM and tells how it ended.
    pub fn stop(&mut self) -> Result<ExitStatus, TopologyError> {
        self.process.stop(STOP)
    }
}

fn launch(netns: &Netns, config: &Path) -> Result<Process, TopologyError> {
    let dir = config.parent().unwrap_or(config);
    netns.spawn_with(
        &find_binary("s2ds")?,
        &["--config", &config.to_string_lossy()],
        // EAL keeps its runtime files here, away from other instances and from places only root may write.
        &[("RUNTIME_DIRECTORY", &dir.to_string_lossy())],
    )
}

/// Received frames of which the ledger does not know what became: received - (sent + held + drops).
#[must_use]
pub fn unaccounted(stats: &Stats) -> i64 {
    let known = stats.sent + stats.held + stats.drops.values().sum::<u64>();
    stats.received.wrapping_sub(known).cast_signed()
}
