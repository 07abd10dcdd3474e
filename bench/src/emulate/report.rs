//! A run as people read it.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use crate::result::{Distribution, Run};

/// A run as text.
#[derive(Debug)]
pub struct Text<'r>(pub &'r Run);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Run { start, end, .. } = self.0;
        let all = &end.sum_received;
        writeln!(
            f,
            "{} over {} from {}, {} connection{}, {:.2} s{}",
            start.profile,
            start.carrier,
            start.connecting_to,
            start.connections,
            if start.connections == 1 { "" } else { "s" },
            all.seconds,
            if end.partial { ", partial" } else { "" }
        )?;
        writeln!(
            f,
            "goodput    {:.3} Mbit/s, {} messages, {} bytes",
            all.bits_per_second * 1e-6,
            all.packets,
            all.bytes
        )?;
        writeln!(
            f,
            "lost       {} ({:.4} %), reordered {}, doubled {}, corrupt {}, unsent {}",
            all.lost_packets, all.lost_percent, all.out_of_order, all.duplicates, all.corrupt, end.unsent
        )?;
        let deadline = start.parameters.get("deadline").and_then(|d| d.as_str());
        match deadline {
            Some(deadline) => writeln!(f, "late       {} after the deadline of {deadline}", all.late)?,
            None => writeln!(f, "late       the profile has no deadline")?,
        }
        writeln!(f, "stalls     {}, {:.3} s in all", end.stall_count, end.stall_seconds)?;
        writeln!(f, "           {:>10} {:>10} {:>10} {:>10} {:>10}", "p50", "p90", "p99", "p99.9", "max")?;
        row(f, "delay", &end.delay)?;
        row(f, "variation", &end.variation)?;
        row(f, "jitter", &end.jitter)?;
        row(f, "send lag", &end.send_lag)?;
        if let Some(quiet) = &end.quiet {
            row(f, "  quiet", &quiet.delay)?;
            row(f, "  variation", &quiet.variation)?;
            writeln!(
                f,
                "hiccups    {} of the machine, {:.1} ms over all cores, the longest {:.2} ms; {} messages met one, quiet is without",
                quiet.hiccups,
                quiet.seconds * 1e3,
                quiet.longest * 1e3,
                quiet.met
            )?;
        }
        if let (Some(source), Some(sink)) = (end.cpu.source, end.cpu.sink) {
            writeln!(f, "processor  source {source:.2} s, sink {sink:.2} s")?;
        }
        for limit in &end.limited_by {
            writeln!(f, "limited by {limit}")?;
        }
        for warning in &end.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        end.error.iter().try_for_each(|e| writeln!(f, "error: {e}"))
    }
}

fn row(f: &mut Formatter<'_>, name: &str, d: &Distribution) -> fmt::Result {
    if d.count == 0 {
        return writeln!(f, "{name:<10} none");
    }
    write!(f, "{name:<10}")?;
    for value in [d.p50, d.p90, d.p99, d.p999, d.max] {
        write!(f, " {:>10}", time(value))?;
    }
    writeln!(f)
}

/// Nanoseconds in three digits.
fn time(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    format!("{sign}{:.1?}", Duration::from_nanos(nanoseconds.unsigned_abs()))
}
