//! Gateways, asked once a second on their control sockets.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use control::client::{Client, ClientError};
use forwarder::api::{Reply, Request};

use super::Shared;
use super::state::Sample;

const PERIOD: Duration = Duration::from_secs(1);

/// Asks in a thread of its own, for as long as the process lives.
pub(super) fn watch(n: usize, socket: PathBuf, shared: Shared) -> Result<()> {
    let watch = move || {
        let mut client = None;
        loop {
            let began = Instant::now();
            let answer = ask(&mut client, &socket).map_err(|e| {
                // After an error the connection is of no use.
                client = None;
                e.to_string()
            });
            let now = shared.now();
            shared.lock().gateway(n, answer, now);
            std::thread::sleep(PERIOD.saturating_sub(began.elapsed()));
        }
    };
    std::thread::Builder::new().name(format!("gateway {n}")).spawn(watch).context("cannot start a thread")?;
    Ok(())
}

fn ask(client: &mut Option<Client>, socket: &Path) -> Result<Sample, ClientError> {
    let mut connected = match client.take() {
        Some(client) => client,
        None => Client::connect(socket)?,
    };
    let mut sample = Sample {
        server: connected.server().to_owned(),
        stats: Default::default(),
        flows: Vec::new(),
        ports: Vec::new(),
    };
    for request in [Request::Stats, Request::FlowList, Request::PortList] {
        match connected.call(request)? {
            Reply::Stats { stats } => sample.stats = stats,
            Reply::Flows { flows } => sample.flows = flows,
            Reply::Ports { ports } => sample.ports = ports,
            // One that answers something else is no gateway; its figures stay empty.
            _ => (),
        }
    }
    *client = Some(connected);
    Ok(sample)
}
