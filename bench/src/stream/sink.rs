//! The consumer's application: opens connections and orders bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::quic::{self, Rebind, Rebound};
use super::udp::{self, Datagrams, Shape};
use super::{Carrier, Direction, Meter, Order, StreamError, exchange};

/// What a sink does.
#[derive(Debug, Clone)]
pub struct Sink {
    /// The source, or the gateway before it.
    pub to: SocketAddr,
    /// What carries the streams.
    pub carrier: Carrier,
    /// Local address; none lets the system choose.
    pub local: Option<IpAddr>,
    /// The order of the first connection; the seed counts up from there.
    pub order: Order,
    /// Connections in all.
    pub connections: u64,
    /// Connections at a time.
    pub parallel: usize,
    /// Change of address in mid-stream, of QUIC connections.
    pub rebind: Option<Rebind>,
    /// Datagrams, for [`Carrier::Udp`].
    pub shape: Shape,
    /// Percent of the datagrams of a direction that may be lost.
    pub max_loss: f64,
    /// For everything together.
    pub timeout: Duration,
}

/// What a sink has seen.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// What carried the streams.
    pub carrier: Carrier,
    /// Where they came from.
    pub to: SocketAddr,
    /// Connections opened and carried to their end.
    pub connections: u64,
    /// From the first connection's start to the last one's end.
    pub seconds: f64,
    /// Payload from source to sink, in bytes.
    pub bytes_down: u64,
    /// Payload from sink to source, in bytes.
    pub bytes_up: u64,
    /// Goodput from source to sink.
    pub mbit_per_second_down: f64,
    /// Goodput from sink to source.
    pub mbit_per_second_up: f64,
    /// Whether every byte was compared.
    pub verified: bool,
    /// Changes of address.
    pub rebound: Vec<Rebound>,
    /// Datagrams from source to sink.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datagrams_down: Option<Datagrams>,
    /// Datagrams from sink to source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datagrams_up: Option<Datagrams>,
}

/// What one connection leaves.
#[derive(Debug, Default)]
struct Outcome {
    rebound: Option<Rebound>,
    datagrams: Option<(Datagrams, Datagrams)>,
}

impl Sink {
    /// Carries everything out. The first failure ends it all.
    pub async fn run(self) -> Result<Report, StreamError> {
        let meter = Arc::new(Meter::default());
        let start = Instant::now();
        let outcomes = tokio::time::timeout(self.timeout, self.all(&meter))
            .await
            .map_err(|_| StreamError::Late { limit: self.timeout, down: meter.down(), up: meter.up() })??;
        let seconds = start.elapsed().as_secs_f64();
        let mbit = |bytes: u64| bytes as f64 * 8e-6 / seconds.max(1e-9);
        let datagrams = outcomes
            .iter()
            .filter_map(|o| o.datagrams)
            .reduce(|(down, up), (d, u)| (down.plus(d), up.plus(u)));
        if let Some((down, up)) = datagrams {
            self.check_loss(Direction::Down, down)?;
            self.check_loss(Direction::Up, up)?;
        }
        Ok(Report {
            carrier: self.carrier,
            to: self.to,
            connections: outcomes.len() as u64,
            seconds,
            bytes_down: meter.down(),
            bytes_up: meter.up(),
            mbit_per_second_down: mbit(meter.down()),
            mbit_per_second_up: mbit(meter.up()),
            verified: self.order.verify,
            rebound: outcomes.iter().filter_map(|o| o.rebound).collect(),
            datagrams_down: datagrams.map(|(down, _)| down),
            datagrams_up: datagrams.map(|(_, up)| up),
        })
    }

    fn check_loss(&self, direction: Direction, datagrams: Datagrams) -> Result<(), StreamError> {
        let lost = datagrams.lost();
        if lost <= self.max_loss {
            return Ok(());
        }
        Err(StreamError::Lossy { direction, lost, allowed: self.max_loss })
    }

    /// `parallel` tasks that take connections from one counter.
    async fn all(&self, meter: &Arc<Meter>) -> Result<Vec<Outcome>, StreamError> {
        let next = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..self.parallel {
            let (sink, meter, next) = (self.clone(), meter.clone(), next.clone());
            tasks.spawn(async move {
                let mut outcomes = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= sink.connections {
                        return Ok(outcomes);
                    }
                    outcomes.push(sink.one(n, &meter).await?);
                }
            });
        }
        let mut outcomes = Vec::new();
        while let Some(done) = tasks.join_next().await {
            outcomes.extend(done.map_err(|e| StreamError::Internal(e.to_string()))??);
        }
        Ok(outcomes)
    }

    async fn one(&self, n: u64, meter: &Arc<Meter>) -> Result<Outcome, StreamError> {
        let order = Order { seed: self.order.seed.wrapping_add(n), ..self.order };
        let any: IpAddr =
            if self.to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let local = SocketAddr::new(self.local.unwrap_or(any), 0);
        match self.carrier {
            Carrier::Tcp => self.tcp(local, order, meter).await.map(|()| Outcome::default()),
            Carrier::Udp => udp::fetch(local, self.to, order, self.shape, meter)
                .await
                .map(|datagrams| Outcome { datagrams: Some(datagrams), ..Outcome::default() }),
            Carrier::Quic => quic::fetch(local, self.to, order, self.rebind, meter)
                .await
                .map(|rebound| Outcome { rebound, ..Outcome::default() }),
        }
    }

    async fn tcp(&self, local: SocketAddr, order: Order, meter: &Meter) -> Result<(), StreamError> {
        let bind = |e: std::io::Error| StreamError::Bind {
            address: local,
            carrier: Carrier::Tcp,
            why: e.to_string(),
        };
        let connect = |e: std::io::Error| StreamError::Connect {
            to: self.to,
            carrier: Carrier::Tcp,
            why: e.to_string(),
        };
        let socket =
            if self.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(bind)?;
        socket.bind(local).map_err(bind)?;
        let (r, w) = socket.connect(self.to).await.map_err(connect)?.into_split();
        exchange::sink(r, w, order, meter, self.to).await
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}: {} connection{} in {:.2} s, down {} bytes at {:.1} Mbit/s, up {} bytes at {:.1} Mbit/s{}",
            self.carrier,
            self.to,
            self.connections,
            if self.connections == 1 { "" } else { "s" },
            self.seconds,
            self.bytes_down,
            self.mbit_per_second_down,
            self.bytes_up,
            self.mbit_per_second_up,
            if self.verified { ", every byte compared" } else { "" }
        )?;
        for (direction, datagrams) in
            [(Direction::Down, self.datagrams_down), (Direction::Up, self.datagrams_up)]
        {
            if let Some(d) = datagrams.filter(|d| d.sent > 0) {
                let Datagrams { sent, received, duplicates, reordered } = d;
                write!(
                    f,
                    "\n{direction}: {received} of {sent} datagrams arrived ({:.2} % lost), {reordered} late, {duplicates} doubled",
                    d.lost()
                )?;
            }
        }
        for r in &self.rebound {
            write!(f, "\naddress changed from {} to {} after {} bytes", r.from, r.to, r.after)?;
        }
        Ok(())
    }
}
