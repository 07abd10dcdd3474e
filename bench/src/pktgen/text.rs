//! Results for people.

use std::fmt;

use super::outcome::{Outcome, Purpose, Step};
use super::rate::{bits, frames};
use super::search::Verdict;
use crate::result::Distribution;

/// Nanoseconds as microseconds.
fn us(ns: i64) -> String {
    format!("{:.1}", ns as f64 / 1000.0)
}

fn delay(d: &Distribution) -> String {
    let (p50, p99, p999, max) = (us(d.p50), us(d.p99), us(d.p999), us(d.max));
    format!("delay p50 {p50}, p99 {p99}, p99.9 {p999}, max {max} us")
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Lost => "lost",
        Verdict::Short => "short",
    }
}

/// One line a trial and direction.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.purpose {
            Purpose::Run => "run",
            Purpose::Throughput => "throughput",
            Purpose::Latency => "latency",
            Purpose::Loss => "loss",
            Purpose::BackToBack => "burst",
        };
        for (n, d) in self.directions.iter().enumerate() {
            let (sent, size) = (&d.sum_sent, &self.frame_size);
            let way = if self.directions.len() > 1 { format!(" {}", d.direction) } else { String::new() };
            let newline = if n > 0 { "\n" } else { "" };
            write!(f, "{newline}{what} {size}{way}: ")?;
            if let Some(asked) = self.offered_packets_per_second {
                write!(f, "offered {}, ", frames(asked))?;
            }
            write!(
                f,
                "sent {} packets at {} ({} on the wire)",
                sent.packets,
                frames(sent.packets_per_second),
                bits(sent.bits_per_second)
            )?;
            if let Some(found) = &d.sum_received {
                let (lost, percent) = (found.lost_packets, found.lost_percent);
                write!(f, ", lost {lost} ({percent:.4} %), reordered {}", found.out_of_order)?;
                write!(f, ", duplicates {}", found.duplicates)?;
                if found.corrupt + found.foreign + found.stale > 0 {
                    let (corrupt, foreign, stale) = (found.corrupt, found.foreign, found.stale);
                    write!(f, ", corrupt {corrupt}, foreign {foreign}, of earlier trials {stale}")?;
                }
                if found.delay.count > 0 {
                    write!(f, "; {}, jitter p50 {} us", delay(&found.delay), us(found.jitter.p50))?;
                }
                write!(f, ": {}", word(self.verdict))?;
            }
            if self.partial {
                f.write_str(" (interrupted)")?;
            }
        }
        Ok(())
    }
}

/// The findings, after the trials.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rx = self.start.rx.as_ref().map_or("nobody", |rx| &rx.device);
        let line = self.start.line_bits_per_second.map_or("none known".to_owned(), |l| bits(l as f64));
        writeln!(f, "from {} to {rx}; line rate {line}", self.start.tx.device)?;
        if self.start.command == "run" {
            for step in &self.steps {
                writeln!(f, "{step}")?;
                for d in &step.directions {
                    let sent = &d.sum_sent;
                    writeln!(
                        f,
                        "  {} of frames, {:.0} cycles a packet to send, {} packets due and not sent",
                        bits(sent.l2_bits_per_second),
                        sent.cycles_per_packet,
                        sent.unsent_packets
                    )?;
                }
            }
        }
        if !self.end.throughput.is_empty() {
            writeln!(f, "\nThroughput without loss (RFC 2544, section 26.1), each direction")?;
            writeln!(
                f,
                "{:>8}  {:>12}  {:>15}  {:>7}  {:>6}  DELAY THERE (us): P50, P99, P99.9, MAX",
                "FRAME", "RATE", "ON THE WIRE", "OF LINE", "TRIALS"
            )?;
            for t in &self.end.throughput {
                let rate = match t.packets_per_second {
                    None => "none".to_owned(),
                    Some(rate) if t.limited_by_generator => format!(">= {}", frames(rate)),
                    Some(rate) => frames(rate),
                };
                let wire = t.bits_per_second.map_or(String::new(), bits);
                let of_line = t.percent_of_line.map_or(String::new(), |p| format!("{p:.2} %"));
                let delay = t
                    .delay
                    .first()
                    .map_or(String::new(), |d| [d.p50, d.p99, d.p999, d.max].map(us).join(", "));
                let (size, trials) = (&t.frame_size, t.trials);
                writeln!(f, "{size:>8}  {rate:>12}  {wire:>15}  {of_line:>7}  {trials:>6}  {delay}")?;
            }
        }
        if !self.end.loss.is_empty() {
            writeln!(f, "\nLoss by offered load (RFC 2544, section 26.3)")?;
            writeln!(f, "{:>8}  {:>7}  {:>12}  {:>9}", "FRAME", "OFFERED", "SENT", "LOST")?;
            for l in &self.end.loss {
                let (size, rate) = (&l.frame_size, frames(l.packets_per_second));
                writeln!(
                    f,
                    "{size:>8}  {:>5.1} %  {rate:>12}  {:>7.4} %",
                    l.offered_percent, l.lost_percent
                )?;
            }
        }
        if !self.end.back_to_back.is_empty() {
            writeln!(f, "\nBack-to-back frames (RFC 9004)")?;
            writeln!(
                f,
                "{:>8}  {:>10}  {:>10}  {:>10}  {:>9}  {:>13}  {:>14}",
                "FRAME", "AVERAGE", "MIN", "MAX", "DEVIATION", "BUFFER IMPLIED", "CORRECTED"
            )?;
            for b in &self.end.back_to_back {
                let at_least = if b.limited { " (at least)" } else { "" };
                writeln!(
                    f,
                    "{:>8}  {:>10.0}  {:>10}  {:>10}  {:>9.1}  {:>11.1} us  {:>11.1} us{at_least}",
                    b.frame_size,
                    b.average,
                    b.min,
                    b.max,
                    b.deviation,
                    b.implied_buffer_seconds * 1e6,
                    b.corrected_buffer_seconds * 1e6
                )?;
            }
        }
        for warning in &self.end.warnings {
            writeln!(f, "note: {warning}")?;
        }
        if let Some(error) = &self.end.error {
            writeln!(f, "partial: {error}")?;
        }
        Ok(())
    }
}
