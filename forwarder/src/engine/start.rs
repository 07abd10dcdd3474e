//! Makes the engines of all workers out of a configuration.
#![forbid(unsafe_code)]

use std::sync::Arc;

use anyhow::{Result, anyhow};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Engine, Parts, Timeouts, peers};
use crate::config::{AddressCheck, Config};
use crate::counters::WorkerCounters;
use crate::flow::fragments::{Fragments, Pairs};
use crate::flow::{FlowSet, HashKey, SourcePorts, Steering, toeplitz};
use crate::io::PacketBuf;
use crate::neighbor::{Announcer, NeighborTable};
use crate::net::Network;
use crate::sync::Publisher;
use crate::wire::Mac;

/// Engines for a number of workers that share a network, with the publisher of their flows and a secret of their own. Ports
/// of which the network does not say how packets are steered are taken to put them anywhere.
///
/// # Errors
/// The system gives no random numbers, or the static neighbors do not fit.
pub fn engines<B: PacketBuf>(
    config: &Config,
    net: &Arc<Network>,
    workers: usize,
) -> Result<(Publisher<FlowSet>, Vec<Engine<B>>)> {
    let mut random = ChaCha8Rng::try_from_os_rng()
        .map_err(|e| anyhow!("the system gives no random numbers ({e}), and ports must not be guessed"))?;
    let mut seed = || {
        let mut seed = [0; 32];
        random.fill_bytes(&mut seed);
        seed
    };
    let hash = HashKey::new(seed());
    let mut key = [0; toeplitz::KEY];
    for part in key.chunks_mut(32) {
        part.copy_from_slice(&seed()[..part.len()]);
    }
    let anywhere = Steering::hand_over(&key, workers as u16);
    let steering: Arc<[Steering]> =
        net.ports.iter().map(|p| p.steering.as_ref().unwrap_or(&anywhere).clone()).collect();
    let pairs = Arc::new(Pairs::new(seed(), workers));
    let (publisher, readers) = Publisher::new(FlowSet::default(), workers);
    let engines = readers.into_iter().zip(peers(workers)).enumerate().map(|(worker, (flows, peers))| {
        let mut neighbors =
            NeighborTable::new(config.limits.neighbors, &net.ports_l2(), config.timers.neighbor * 1000);
        for n in &config.neighbors {
            if neighbors.set_static(n.port, n.address, Mac(n.mac)).is_none() {
                return Err(anyhow!(
                    "limits.neighbors = {} has no room for the [[neighbor]] tables",
                    config.limits.neighbors
                ));
            }
        }
        let connections = config.limits.connections;
        let speaks = config.addresses.check != AddressCheck::Off;
        Engine::new(Parts {
            net: Arc::clone(net),
            flows,
            counters: Arc::new(WorkerCounters::new(net.ports.len(), config.limits.flows)),
            neighbors,
            own: Announcer::new(&net.ports_l2(), speaks && worker == 0, speaks),
            ports: SourcePorts::new(&config.limits.source_ports, worker, workers, seed()),
            connections,
            hash,
            timeouts: Timeouts {
                udp: config.timers.udp * 1000,
                tcp_established: config.timers.tcp_established * 1000,
                tcp_transitory: config.timers.tcp_transitory * 1000,
            },
            peers,
            steering: Arc::clone(&steering),
            fragments: Fragments::new(seed(), worker, workers),
            pairs: Arc::clone(&pairs),
        })
        .map_err(|e| anyhow!("no memory for limits.connections = {connections} ({e}); lower it"))
    });
    Ok((publisher, engines.collect::<Result<_>>()?))
}
