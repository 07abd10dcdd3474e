//! What became of the packets of one direction of a trial: loss, order, duplicates, delay.
//!
//! Each flow has a window of bits over the packets up to the highest that came. A packet behind the highest is reordered (RFC
//! 4737, section 3.3), or a duplicate (RFC 5560) when its bit is set; one that is further behind than the window cannot be
//! told apart and counts as reordered and as `beyond_window`. What was sent and never came is lost (RFC 2680), which is known
//! at the end only.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::stamp::Stamp;
use crate::result::{self, Distribution};

/// Bits of all windows together, shared by the flows.
const WINDOWS: usize = 1 << 22;

#[derive(Debug, Clone, Default)]
struct Flow {
    /// Number of the packet after the highest that came.
    next: u64,
    received: u64,
    duplicates: u64,
    reordered: u64,
    /// Delay of the packet before, in ticks.
    delay: Option<u64>,
}

/// What came of one flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTotals {
    /// Its number.
    pub flow: u32,
    /// Packets sent.
    pub sent: u64,
    /// Packets that came, each counted once.
    pub packets: u64,
    /// Packets that never came.
    pub lost_packets: u64,
    /// Packets that came after a later one.
    pub out_of_order: u64,
    /// Packets that came once more.
    pub duplicates: u64,
}

/// What came of all flows of a direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// Packets that came, each counted once.
    pub packets: u64,
    /// Bytes of their frames, FCS included.
    pub bytes: u64,
    /// Packets that never came.
    pub lost_packets: u64,
    /// The same, in percent of those sent.
    pub lost_percent: f64,
    /// Packets that came after a later one of their flow (RFC 4737).
    pub out_of_order: u64,
    /// Packets that came once more (RFC 5560).
    pub duplicates: u64,
    /// Reordered packets too far behind to tell whether they came once more.
    pub beyond_window: u64,
    /// Packets with a wrong checksum; they are lost, too, if they were of this trial.
    pub corrupt: u64,
    /// Packets of nobody here, ARP and ICMPv6 not counted.
    pub foreign: u64,
    /// Packets of an earlier trial.
    pub stale: u64,
    /// From the first packet to the last, in seconds.
    pub seconds: f64,
    /// One-way delay, from before a packet was given to the device to after it was taken from the other.
    pub delay: Distribution,
    /// By how much the delays of two packets of a flow that came one after the other differ (RFC 5481), without sign.
    pub jitter: Distribution,
    /// Smoothed as by RFC 3550, section 6.4.1, at the end, in milliseconds.
    pub jitter_ms: f64,
    /// Each flow; none when there are too many to list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowTotals>,
}

/// Most flows that are listed one by one in a result.
const LISTED: usize = 1024;

/// Counts the packets of one direction.
#[derive(Debug)]
pub struct Judge {
    trial: u16,
    flows: Vec<Flow>,
    windows: Vec<u64>,
    /// Words of each flow's window: a power of two.
    words: usize,
    ns_per_tick: f64,
    delay: Histogram<u64>,
    jitter: Histogram<u64>,
    smoothed: f64,
    bytes: u64,
    beyond: u64,
    stale: u64,
    first: Option<u64>,
    last: u64,
    /// Packets with a wrong checksum.
    pub corrupt: u64,
    /// Packets of nobody here.
    pub foreign: u64,
}

impl Judge {
    /// For a trial of `flows` flows; a second has `hz` ticks.
    #[must_use]
    pub fn new(trial: u16, flows: usize, hz: u64) -> Judge {
        let words = (WINDOWS / 64 / flows.max(1)).next_power_of_two().clamp(4, 1024);
        Judge {
            trial,
            flows: vec![Flow::default(); flows],
            windows: vec![0; words * flows],
            words,
            ns_per_tick: 1e9 / hz as f64,
            delay: result::histogram(),
            jitter: result::histogram(),
            smoothed: 0.0,
            bytes: 0,
            beyond: 0,
            stale: 0,
            first: None,
            last: 0,
            corrupt: 0,
            foreign: 0,
        }
    }

    /// Distinct packets so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.flows.iter().map(|f| f.received).sum()
    }

    /// A packet came at `now` (ticks) in a frame of `size` bytes, FCS included.
    #[inline]
    pub fn packet(&mut self, stamp: &Stamp, now: u64, size: usize) {
        if stamp.trial != self.trial {
            self.stale += 1;
            return;
        }
        let Some(flow) = self.flows.get_mut(usize::from(stamp.flow)) else {
            self.foreign += 1;
            return;
        };
        // The packet's whole number is the nearest to the one expected that has these low bits.
        let ahead = i64::from(stamp.seq.wrapping_sub(flow.next as u32).cast_signed());
        let Some(seq) = flow.next.checked_add_signed(ahead) else {
            self.foreign += 1;
            return;
        };
        let window = &mut self.windows[usize::from(stamp.flow) * self.words..][..self.words];
        let bits = window.len() as u64 * 64;
        let (word, bit) = ((seq / 64) as usize & (window.len() - 1), 1 << (seq % 64));
        if seq >= flow.next {
            clear(window, flow.next, seq);
            window[word] |= bit;
            flow.next = seq + 1;
        } else if flow.next - seq > bits {
            self.beyond += 1;
            flow.reordered += 1;
        } else if window[word] & bit != 0 {
            flow.duplicates += 1;
            return;
        } else {
            window[word] |= bit;
            flow.reordered += 1;
        }
        flow.received += 1;
        self.bytes += size as u64;
        self.first.get_or_insert(now);
        self.last = now;
        // Clocks of two cores may be a few ticks apart.
        let delay = now.saturating_sub(stamp.time);
        self.delay.saturating_record((delay as f64 * self.ns_per_tick) as u64);
        if let Some(before) = flow.delay.replace(delay) {
            let differs = delay.abs_diff(before) as f64 * self.ns_per_tick;
            self.jitter.saturating_record(differs as u64);
            self.smoothed += (differs - self.smoothed) / 16.0;
        }
    }

    /// All has come that will: `sent` packets were sent, by turns of the flows.
    #[must_use]
    pub fn end(self, sent: u64) -> Findings {
        let count = self.flows.len() as u64;
        let totals = self.flows.iter().zip(0u32..).map(|(flow, n)| {
            let sent = sent / count + u64::from(u64::from(n) < sent % count);
            FlowTotals {
                flow: n,
                sent,
                packets: flow.received,
                lost_packets: sent.saturating_sub(flow.received),
                out_of_order: flow.reordered,
                duplicates: flow.duplicates,
            }
        });
        let totals: Vec<FlowTotals> = totals.collect();
        let sum = |of: fn(&FlowTotals) -> u64| totals.iter().map(of).sum::<u64>();
        let lost = sum(|f| f.lost_packets);
        Findings {
            packets: sum(|f| f.packets),
            bytes: self.bytes,
            lost_packets: lost,
            lost_percent: if sent == 0 { 0.0 } else { lost as f64 * 100.0 / sent as f64 },
            out_of_order: sum(|f| f.out_of_order),
            duplicates: sum(|f| f.duplicates),
            beyond_window: self.beyond,
            corrupt: self.corrupt,
            foreign: self.foreign,
            stale: self.stale,
            seconds: self.first.map_or(0.0, |first| (self.last - first) as f64 * self.ns_per_tick / 1e9),
            delay: Distribution::of(&self.delay, 0),
            jitter: Distribution::of(&self.jitter, 0),
            jitter_ms: self.smoothed / 1e6,
            flows: if totals.len() <= LISTED { totals } else { Vec::new() },
        }
    }
}

/// Clears the bits of packets `from..=to`, which come into the window.
#[inline]
fn clear(window: &mut [u64], from: u64, to: u64) {
    let (words, mask) = (window.len() as u64, window.len() - 1);
    if to - from >= words * 64 {
        window.fill(0);
        return;
    }
    let mut at = from;
    while at <= to {
        // To the end of the word, or to `to`.
        let end = (at | 63).min(to);
        let len = end - at + 1;
        let bits = if len == 64 { u64::MAX } else { ((1 << len) - 1) << (at % 64) };
        window[(at / 64) as usize & mask] &= !bits;
        at = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_pcg::Pcg64;

    use super::*;

    const HZ: u64 = 1_000_000_000;

    fn stamp(flow: u16, seq: u64, time: u64) -> Stamp {
        Stamp { trial: 1, flow, seq: seq as u32, time }
    }

    /// Packets of one flow in this order, of `sent`.
    fn judged(order: &[u64], sent: u64) -> Findings {
        let mut judge = Judge::new(1, 1, HZ);
        for seq in order {
            judge.packet(&stamp(0, *seq, 0), 10, 64);
        }
        judge.end(sent)
    }

    fn counts(f: &Findings) -> [u64; 4] {
        [f.packets, f.lost_packets, f.out_of_order, f.duplicates]
    }

    #[test]
    fn known_traces_have_known_findings() {
        for (order, sent, expected) in [
            (&[0, 1, 2, 3][..], 4, [4, 0, 0, 0]),
            (&[0, 1, 3], 4, [3, 1, 0, 0]),
            // The last ones lost, which no later packet tells.
            (&[0, 1], 4, [2, 2, 0, 0]),
            (&[], 4, [0, 4, 0, 0]),
            // One overtaken by two is one reordered packet.
            (&[0, 2, 3, 1], 4, [4, 0, 1, 0]),
            (&[3, 2, 1, 0], 4, [4, 0, 3, 0]),
            (&[0, 0, 1, 1, 1], 2, [2, 0, 0, 3]),
            (&[0, 2, 1, 1], 3, [3, 0, 1, 1]),
            (&[5], 6, [1, 5, 0, 0]),
        ] {
            assert_eq!(counts(&judged(order, sent)), expected, "{order:?}");
        }
        let f = judged(&[0, 1, 3], 4);
        assert_eq!((f.lost_percent, f.bytes), (25.0, 192));
    }

    #[test]
    fn a_window_forgets_what_is_too_far_behind_and_says_so() {
        // One flow has a window of 1024 words.
        let window = 1024 * 64;
        let f = judged(&[window, 1, 1, 0, 0], window + 1);
        // 1 is the last in the window; 0 is not, so its second coming cannot be told from its first.
        assert_eq!((f.packets, f.out_of_order, f.duplicates, f.beyond_window), (4, 3, 1, 2));
        let f = judged(&[0, 3 * window, 3 * window - 1, 3 * window - 1], 3 * window + 1);
        assert_eq!((f.packets, f.out_of_order, f.duplicates), (3, 1, 1));
    }

    #[test]
    fn sequence_numbers_go_on_beyond_32_bits() {
        let mut judge = Judge::new(1, 1, HZ);
        let top = u64::from(u32::MAX);
        // As a long trial comes there: by steps that half the range holds.
        for seq in [0, 1 << 30, 1 << 31, 3 << 30, top, top + 1, top + 3, top + 2, top + 2] {
            judge.packet(&stamp(0, seq, 0), 1, 64);
        }
        let f = judge.end(top + 4);
        assert_eq!((f.packets, f.out_of_order, f.duplicates), (8, 1, 1));
        assert_eq!(f.lost_packets, top + 4 - 8);
    }

    #[test]
    fn random_traces_agree_with_a_set_that_forgets_nothing() {
        for seed in 0..20 {
            let mut rng = Pcg64::seed_from_u64(seed);
            let (mut order, sent) = (Vec::new(), 5000u64);
            let (mut lost, mut twice) = (0, 0);
            for seq in 0..sent {
                match rng.random_range(0..100) {
                    0..5 => lost += 1,
                    5..8 => {
                        order.extend([seq, seq]);
                        twice += 1;
                    }
                    _ => order.push(seq),
                }
            }
            for _ in 0..200 {
                let at = rng.random_range(0..order.len() - 50);
                let by = rng.random_range(0..50);
                order.swap(at, at + by);
            }
            // RFC 4737: reordered is what comes after a higher one; a duplicate does not count twice.
            let (mut highest, mut reordered) = (None, 0);
            let mut seen = std::collections::HashSet::new();
            for seq in &order {
                if seen.insert(*seq) {
                    reordered += u64::from(highest.is_some_and(|h| *seq < h));
                    highest = highest.max(Some(*seq));
                }
            }
            assert_eq!(counts(&judged(&order, sent)), [sent - lost, lost, reordered, twice], "seed {seed}");
        }
    }

    #[test]
    fn flows_are_judged_apart() {
        let mut judge = Judge::new(1, 3, HZ);
        for seq in 0..10 {
            judge.packet(&stamp(0, seq, 0), 1, 64);
            if seq != 4 {
                judge.packet(&stamp(2, 9 - seq, 0), 1, 64);
            }
        }
        judge.packet(&stamp(3, 0, 0), 1, 64);
        judge.packet(&Stamp { trial: 9, ..stamp(0, 0, 0) }, 1, 64);
        let f = judge.end(29);
        let flow = |n: usize| {
            let t = &f.flows[n];
            [t.sent, t.packets, t.lost_packets, t.out_of_order]
        };
        assert_eq!([flow(0), flow(1), flow(2)], [[10, 10, 0, 0], [10, 0, 10, 0], [9, 9, 0, 8]]);
        assert_eq!((f.foreign, f.stale), (1, 1));
    }

    #[test]
    fn delays_and_their_differences_are_those_of_the_trace() {
        let mut judge = Judge::new(1, 1, HZ / 2);
        for seq in 0..1000u64 {
            // 100 and 300 ticks of 2 ns by turns.
            let sent = seq * 10_000;
            judge.packet(&stamp(0, seq, sent), sent + if seq % 2 == 0 { 100 } else { 300 }, 1000);
        }
        let f = judge.end(1000);
        assert_eq!((f.delay.min, f.delay.max, f.delay.count), (200, 600, 1000));
        assert_eq!((f.jitter.min, f.jitter.max, f.jitter.count), (400, 400, 999));
        assert!((f.jitter_ms - 0.0004).abs() < 1e-6, "{}", f.jitter_ms);
        assert!((f.seconds - 0.01998).abs() < 1e-4, "{}", f.seconds);
        assert_eq!(f.bytes, 1_000_000);
    }
}
