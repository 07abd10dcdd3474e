//! Back-to-back frames (RFC 2544, section 26.4, as RFC 9004 has it): the longest burst at line rate that loses nothing, and how
//! much time of the line the device under test can hold back.

use serde::{Deserialize, Serialize};

/// The longest burst without loss, by halving.
#[derive(Debug, Clone)]
pub struct BurstSearch {
    next: u64,
    passed: u64,
    /// The shortest burst that lost, or one more than the longest to try.
    high: u64,
    most: u64,
    resolution: u64,
}

impl BurstSearch {
    /// Bursts of at most `most` frames, exact to `resolution` frames.
    #[must_use]
    pub fn new(most: u64, resolution: u64) -> BurstSearch {
        BurstSearch { next: most, passed: 0, high: most + 1, most, resolution: resolution.max(1) }
    }

    /// Frames of the burst to try now; none at the end.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        (self.passed < self.most && self.high - self.passed > self.resolution).then_some(self.next)
    }

    /// Tells whether the burst lost something.
    pub fn tell(&mut self, lost: bool) {
        if lost {
            self.high = self.next;
        } else {
            self.passed = self.next;
        }
        self.next = self.passed.midpoint(self.high);
    }

    /// Frames of the longest burst without loss; 0 when there was none.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.passed
    }
}

/// What several searches found (RFC 9004, sections 6.4 and 7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackToBack {
    /// Frame size as it was asked for.
    pub frame_size: String,
    /// Each search's longest burst without loss, in frames.
    pub bursts: Vec<u64>,
    /// Their mean.
    pub average: f64,
    /// The least.
    pub min: u64,
    /// The greatest.
    pub max: u64,
    /// Standard deviation.
    pub deviation: f64,
    /// Frames a second of the line: the theoretical maximum.
    pub line_packets_per_second: f64,
    /// Zero-loss rate of the device, in frames a second (RFC 2544, section 26.1).
    pub throughput_packets_per_second: f64,
    /// Time of the line that the average burst takes: what the device would have to hold if it forwarded nothing meanwhile.
    pub implied_buffer_seconds: f64,
    /// The same less what the device forwards meanwhile: the estimate of its buffer.
    pub corrected_buffer_seconds: f64,
    /// The longest burst that was tried passed: the buffer may be larger.
    pub limited: bool,
}

impl BackToBack {
    /// Sums up searches of bursts of up to `most` frames.
    #[must_use]
    pub fn of(frame_size: String, bursts: Vec<u64>, most: u64, line: f64, throughput: f64) -> BackToBack {
        let n = bursts.len().max(1) as f64;
        let average = bursts.iter().sum::<u64>() as f64 / n;
        let variance = bursts.iter().map(|b| (*b as f64 - average).powi(2)).sum::<f64>() / n;
        // RFC 9004, section 6.4.
        let implied = average / line;
        let corrected = implied - implied * throughput / line;
        BackToBack {
            frame_size,
            average,
            min: bursts.iter().copied().min().unwrap_or(0),
            max: bursts.iter().copied().max().unwrap_or(0),
            deviation: variance.sqrt(),
            line_packets_per_second: line,
            throughput_packets_per_second: throughput,
            implied_buffer_seconds: implied,
            corrected_buffer_seconds: corrected.max(0.0),
            limited: bursts.contains(&most),
            bursts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(most: u64, resolution: u64, loses: impl Fn(u64) -> bool) -> (u64, usize) {
        let (mut search, mut tried) = (BurstSearch::new(most, resolution), 0);
        while let Some(burst) = search.next() {
            assert!((1..=most).contains(&burst));
            search.tell(loses(burst));
            tried += 1;
            assert!(tried < 100);
        }
        (search.found(), tried)
    }

    #[test]
    fn the_longest_burst_is_found() {
        for longest in [1, 2, 999, 26_000, 99_999] {
            assert_eq!(run(100_000, 1, |burst| burst > longest).0, longest);
        }
        assert_eq!(run(100_000, 1, |_| false), (100_000, 1));
        assert_eq!(run(100_000, 1, |_| true).0, 0);
        let (found, tried) = run(100_000, 100, |burst| burst > 26_000);
        assert!(found <= 26_000 && found > 26_000 - 100 && tried < 14, "{found} {tried}");
    }

    #[test]
    fn buffer_time_is_corrected_as_the_rfc_says() {
        // A device that forwards 3/4 of the line and holds 10,000 frames fills up after 40,000.
        let line = 14_880_952.0;
        let found = BackToBack::of("64".into(), vec![39_000, 41_000, 40_000], 100_000, line, 0.75 * line);
        assert_eq!((found.average, found.min, found.max, found.limited), (40_000.0, 39_000, 41_000, false));
        assert!((found.deviation - 816.5).abs() < 0.1);
        assert!((found.implied_buffer_seconds * line - 40_000.0).abs() < 1e-6);
        assert!((found.corrected_buffer_seconds * line - 10_000.0).abs() < 1e-6);
        assert!(BackToBack::of("64".into(), vec![5, 9], 9, line, 0.0).limited);
    }
}
