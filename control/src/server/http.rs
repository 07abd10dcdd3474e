//! Metrics and health, on a loopback port of their own.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::routing::get;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::keeper::Keeper;
use crate::session::State;

/// A call and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    /// Name of the call.
    pub(super) call: &'static str,
    /// `granted`, or the gRPC code.
    pub(super) outcome: String,
}

/// Counters of decisions.
pub(super) type Decisions = Family<Outcome, Counter>;

/// Everything that is read off at the moment it is asked for.
#[derive(Debug)]
struct Book(Arc<Keeper>);

impl Collector for Book {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let keeper = &self.0;
        let mut states: BTreeMap<State, u64> = State::ALL.into_iter().map(|state| (state, 0)).collect();
        states.remove(&State::Ended);
        keeper.look(|book| book.iter().for_each(|s| *states.entry(s.state).or_default() += 1));
        let mut gauge = |name: &str, help: &str, values: &[(Option<(&str, &str)>, u64)]| {
            let metric = ConstGauge::new(0i64);
            let mut family = encoder.encode_descriptor(name, help, None, metric.metric_type())?;
            for (label, value) in values {
                let value = ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX));
                match label {
                    Some(label) => value.encode(family.encode_family(&[*label])?)?,
                    // Within a family it would be written with empty braces.
                    None => return value.encode(family),
                }
            }
            Ok::<(), std::fmt::Error>(())
        };
        let by_state: Vec<_> = states.iter().map(|(state, n)| (Some(("state", state.name())), *n)).collect();
        gauge("s2cs_sessions", "Sessions by state", &by_state)?;
        let connected = keeper.forwarder();
        gauge("s2cs_forwarder_up", "1 when the forwarder answers", &[(None, connected.is_some().into())])?;
        gauge(
            "s2cs_in_step",
            "1 when the forwarder has just the flows of the sessions",
            &[(None, keeper.in_step().into())],
        )?;
        let ports = connected.map(|c| c.ports).unwrap_or_default();
        let rates: Vec<_> =
            ports.iter().map(|p| (p.name.as_str(), keeper.look(|book| book.rates(&p.name)))).collect();
        let reserved: Vec<_> = rates.iter().map(|(port, (_, mbps))| (Some(("port", *port)), *mbps)).collect();
        gauge("s2cs_reserved_mbps", "Rates granted to sessions, by port of the forwarder", &reserved)?;
        let capacity: Vec<_> =
            rates.iter().filter_map(|(port, (mbps, _))| Some((Some(("port", *port)), (*mbps)?))).collect();
        gauge("s2cs_capacity_mbps", "What ports of the forwarder can carry, where known", &capacity)
    }
}

struct Page {
    keeper: Arc<Keeper>,
    registry: Registry,
}

/// Serves `/metrics` (OpenMetrics text) and `/healthz` (200 when in step with the forwarder, else 503) at an address.
///
/// # Errors
/// The address cannot be had.
pub(super) async fn serve(
    address: SocketAddr,
    keeper: Arc<Keeper>,
    decisions: Decisions,
) -> std::io::Result<SocketAddr> {
    let mut registry = Registry::default();
    registry.register("s2cs_decisions", "Calls by what became of them", decisions);
    registry.register_collector(Box::new(Book(Arc::clone(&keeper))));
    let page = Arc::new(Page { keeper, registry });
    let router =
        Router::new().route("/metrics", get(metrics)).route("/healthz", get(health)).with_state(page);
    let listener = tokio::net::TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are not served any more");
        }
    });
    Ok(bound)
}

async fn metrics(
    Shared(page): Shared<Arc<Page>>,
) -> Result<([(header::HeaderName, &'static str); 1], String), StatusCode> {
    let mut text = String::new();
    let encoded = prometheus_client::encoding::text::encode(&mut text, &page.registry);
    encoded.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
}

async fn health(Shared(page): Shared<Arc<Page>>) -> (StatusCode, &'static str) {
    match (page.keeper.in_step(), page.keeper.forwarder().is_some()) {
        (true, _) => (StatusCode::OK, "ok\n"),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "not yet in step with the forwarder\n"),
        (_, false) => (StatusCode::SERVICE_UNAVAILABLE, "the forwarder does not answer\n"),
    }
}
