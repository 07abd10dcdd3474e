//! A report for programs: CSV with a line a run, and JSON.

use anyhow::{Context, Result};
use serde::Serialize;

use super::input::Input;
use super::summary::{Summary, approach};
use crate::result::{Distribution, Run};

/// A run as a line; names of the columns are those of the fields and stay.
///
/// Times are nanoseconds unless a name says otherwise; empty means not measured.
#[derive(Debug, Clone, Serialize)]
struct Line<'a> {
    series: &'a str,
    label: String,
    date: &'a str,
    machine: &'a str,
    cpu: &'a str,
    kernel: &'a str,
    commit: &'a str,
    approach: &'a str,
    approach_version: &'a str,
    path: Option<&'a str>,
    rtt_ms: Option<f64>,
    path_bits_per_second: Option<u64>,
    path_loss_percent: Option<f64>,
    mtu: Option<u16>,
    carrier: String,
    profile: &'a str,
    connections: u32,
    round: Option<u32>,
    partial: bool,
    error: Option<&'a str>,
    seconds: f64,
    bytes: u64,
    bits_per_second: f64,
    sent_bytes: u64,
    packets: u64,
    lost_packets: u64,
    lost_percent: f64,
    out_of_order: u64,
    duplicates: u64,
    corrupt: u64,
    late: u64,
    jitter_ms: f64,
    same_clock: bool,
    delay_min: Option<i64>,
    delay_p50: Option<i64>,
    delay_p90: Option<i64>,
    delay_p99: Option<i64>,
    delay_p999: Option<i64>,
    delay_p9999: Option<i64>,
    delay_max: Option<i64>,
    pdv_p50: Option<i64>,
    pdv_p99: Option<i64>,
    pdv_p999: Option<i64>,
    pdv_p9999: Option<i64>,
    hiccups: Option<u64>,
    hiccup_seconds: Option<f64>,
    met_hiccup: Option<u64>,
    quiet_pdv_p50: Option<i64>,
    quiet_pdv_p99: Option<i64>,
    quiet_pdv_p999: Option<i64>,
    quiet_pdv_p9999: Option<i64>,
    ipdv_p50: Option<i64>,
    ipdv_p99: Option<i64>,
    ipdv_p999: Option<i64>,
    ipdv_p9999: Option<i64>,
    send_lag_p99: Option<i64>,
    send_lag_max: Option<i64>,
    stalls: u64,
    stall_seconds: f64,
    cpu_source_seconds: Option<f64>,
    cpu_sink_seconds: Option<f64>,
    cpu_relay_seconds: Option<f64>,
    gateway_received: Option<u64>,
    gateway_sent: Option<u64>,
    gateway_dropped: Option<u64>,
    cycles_per_packet: Option<f64>,
    limited_by: String,
    warnings: String,
}

fn line<'a>(series: &'a str, run: &'a Run) -> Line<'a> {
    let (start, end, sum) = (&run.start, &run.end, &run.end.sum_received);
    let of = |d: &Distribution, what: fn(&Distribution) -> i64| (d.count > 0).then(|| what(d));
    let quiet = |what: fn(&Distribution) -> i64| of(&end.quiet.as_ref()?.variation, what);
    let (delay, pdv, ipdv) = (&end.delay, &end.variation, &end.jitter);
    let gateways = |what: fn(&crate::result::Ledger) -> u64| {
        (!end.gateways.is_empty()).then(|| end.gateways.iter().map(what).fold(0, u64::saturating_add))
    };
    Line {
        series,
        label: format!("{:?}", start.label).to_lowercase(),
        date: &start.host.date,
        machine: &start.host.machine,
        cpu: &start.host.cpu,
        kernel: &start.host.kernel,
        commit: &start.host.commit,
        approach: approach(run),
        approach_version: start.approach.as_ref().map_or("", |a| &a.version),
        path: start.path.as_ref().and_then(|p| p.preset.as_deref()),
        rtt_ms: start.path.as_ref().map(|p| p.rtt_ms),
        path_bits_per_second: start.path.as_ref().and_then(|p| p.bits_per_second),
        path_loss_percent: start.path.as_ref().map(|p| p.loss_percent),
        mtu: start.path.as_ref().map(|p| p.mtu),
        carrier: start.carrier.to_string(),
        profile: &start.profile,
        connections: start.connections,
        round: start.round,
        partial: end.partial,
        error: end.error.as_deref(),
        seconds: sum.seconds,
        bytes: sum.bytes,
        bits_per_second: sum.bits_per_second,
        sent_bytes: end.sum_sent.bytes,
        packets: sum.packets,
        lost_packets: sum.lost_packets,
        lost_percent: sum.lost_percent,
        out_of_order: sum.out_of_order,
        duplicates: sum.duplicates,
        corrupt: sum.corrupt,
        late: sum.late,
        jitter_ms: sum.jitter_ms,
        same_clock: start.same_clock,
        delay_min: of(delay, |d| d.min),
        delay_p50: of(delay, |d| d.p50),
        delay_p90: of(delay, |d| d.p90),
        delay_p99: of(delay, |d| d.p99),
        delay_p999: of(delay, |d| d.p999),
        delay_p9999: of(delay, |d| d.p9999),
        delay_max: of(delay, |d| d.max),
        pdv_p50: of(pdv, |d| d.p50),
        pdv_p99: of(pdv, |d| d.p99),
        pdv_p999: of(pdv, |d| d.p999),
        pdv_p9999: of(pdv, |d| d.p9999),
        hiccups: end.quiet.as_ref().map(|q| q.hiccups),
        hiccup_seconds: end.quiet.as_ref().map(|q| q.seconds),
        met_hiccup: end.quiet.as_ref().map(|q| q.met),
        quiet_pdv_p50: quiet(|d| d.p50),
        quiet_pdv_p99: quiet(|d| d.p99),
        quiet_pdv_p999: quiet(|d| d.p999),
        quiet_pdv_p9999: quiet(|d| d.p9999),
        ipdv_p50: of(ipdv, |d| d.p50),
        ipdv_p99: of(ipdv, |d| d.p99),
        ipdv_p999: of(ipdv, |d| d.p999),
        ipdv_p9999: of(ipdv, |d| d.p9999),
        send_lag_p99: of(&end.send_lag, |d| d.p99),
        send_lag_max: of(&end.send_lag, |d| d.max),
        stalls: end.stall_count,
        stall_seconds: end.stall_seconds,
        cpu_source_seconds: end.cpu.source,
        cpu_sink_seconds: end.cpu.sink,
        cpu_relay_seconds: end.cpu.relay,
        gateway_received: gateways(|g| g.received),
        gateway_sent: gateways(|g| g.sent),
        gateway_dropped: gateways(|g| g.drops.values().copied().fold(0, u64::saturating_add)),
        cycles_per_packet: super::summary::cycles(run),
        limited_by: end.limited_by.join("; "),
        warnings: end.warnings.join("; "),
    }
}

/// A line a run, under a heading.
///
/// # Errors
/// A line cannot be written as CSV; none is known that cannot.
pub fn csv(input: &Input) -> Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for series in &input.series {
        for run in &series.runs {
            writer.serialize(line(&series.title, run)).context("a run cannot be written as CSV")?;
        }
    }
    let bytes = writer.into_inner().map_err(|e| anyhow::anyhow!("CSV cannot be written: {e}"))?;
    String::from_utf8(bytes).context("CSV is not UTF-8")
}

/// All runs as one series, each in iperf3's shape, with the summary beside them. `s2bench report` reads it again.
#[derive(Debug, Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    series: crate::result::Series,
    summary: &'a Summary,
}

/// The document that `--json` writes.
#[must_use]
pub fn json<'a>(input: &Input, summary: &'a Summary) -> impl Serialize + use<'a> {
    Document { series: input.together(), summary }
}
