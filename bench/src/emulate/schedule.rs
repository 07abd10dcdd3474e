//! When messages are due. Fixed before the first one is sent: what a slow path delays stays due when it was.

/// When messages are due, in nanoseconds since the stream's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Never: each is sent as soon as the path takes it.
    Max,
    /// In steps.
    Steps {
        /// Messages due at once.
        burst: u64,
        /// From one burst to the next: `num / den` nanoseconds.
        num: u64,
        /// See `num`.
        den: u64,
        /// Groups of bursts with pauses between them.
        scan: Option<Scan>,
    },
}

/// A group of bursts and the pause after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// How many.
    pub bursts: u64,
    /// In nanoseconds.
    pub pause: u64,
}

/// More messages than any stream has.
const NEVER: u64 = 1 << 62;

impl Schedule {
    /// When the message with this number, over all connections, is due; none without a schedule.
    #[must_use]
    pub fn due(&self, number: u64) -> Option<u64> {
        let Schedule::Steps { burst, num, den, scan } = *self else { return None };
        let step = number / burst;
        let (scans, step) = scan.map_or((0, step), |s| (step / s.bursts, step % s.bursts));
        let (num, den) = (u128::from(num), u128::from(den));
        let pauses = scan.map_or(0, |s| {
            u128::from(scans).saturating_mul(u128::from(s.bursts) * num + u128::from(s.pause) * den)
        });
        let due = pauses.saturating_add(u128::from(step) * num) / den;
        Some(u64::try_from(due).unwrap_or(u64::MAX))
    }

    /// How many are due before `end`; none without a schedule.
    #[must_use]
    pub fn count(&self, end: u64) -> Option<u64> {
        self.due(0)?;
        let (mut low, mut high) = (0, NEVER);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.due(middle) {
                Some(due) if due < end => low = middle + 1,
                _ => high = middle,
            }
        }
        Some(low)
    }

    /// Messages a second in the mean; none without a schedule.
    #[must_use]
    pub fn per_second(&self) -> Option<f64> {
        let Schedule::Steps { burst, num, den, scan } = *self else { return None };
        let period = num as f64 / den as f64;
        let pause = scan.map_or(0.0, |s| s.pause as f64 / s.bursts as f64);
        Some(burst as f64 * 1e9 / (period + pause))
    }
}

/// One connection's share: messages go round the connections in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Of all connections.
    pub schedule: Schedule,
    /// Number of the connection, from 0 on.
    pub connection: u32,
    /// How many there are.
    pub connections: u32,
}

impl Share {
    /// When this connection's message `seq` is due.
    #[must_use]
    pub fn due(&self, seq: u64) -> Option<u64> {
        let number = seq.saturating_mul(self.connections.into()).saturating_add(self.connection.into());
        self.schedule.due(number)
    }

    /// How many of its messages are due before `end`.
    #[must_use]
    pub fn count(&self, end: u64) -> Option<u64> {
        let all = self.schedule.count(end)?;
        Some(all.saturating_sub(self.connection.into()).div_ceil(self.connections.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn steps(burst: u64, num: u64, den: u64, scan: Option<Scan>) -> Schedule {
        Schedule::Steps { burst, num, den, scan }
    }

    #[test]
    fn a_rate_that_divides_no_second_does_not_drift() {
        let thirds = steps(1, SECOND, 3, None);
        assert_eq!([0, 1, 2, 3].map(|n| thirds.due(n)), [0, 333_333_333, 666_666_666, SECOND].map(Some));
        assert_eq!(thirds.due(3 * 86_400), Some(86_400 * SECOND));
        assert_eq!(thirds.count(SECOND), Some(3));
        assert_eq!(thirds.count(SECOND + 1), Some(4));
        assert!((thirds.per_second().unwrap() - 3.0).abs() < 1e-9);
    }

    #[test]
    fn bursts_are_due_at_once_and_scans_pause() {
        // Two messages every 100 ns, four in a scan, then 1000 ns.
        let s = steps(2, 100, 1, Some(Scan { bursts: 2, pause: 1000 }));
        let due: Vec<_> = (0..10).filter_map(|n| s.due(n)).collect();
        assert_eq!(due, [0, 0, 100, 100, 1200, 1200, 1300, 1300, 2400, 2400]);
        assert_eq!(s.count(1201), Some(6));
        assert!((s.per_second().unwrap() - 4.0 / 1200e-9).abs() < 1.0);
    }

    #[test]
    fn connections_share_what_is_due() {
        for connections in [1, 3, 7, 200] {
            let schedule = steps(2, 100, 1, None);
            let share = |connection| Share { schedule, connection, connections };
            let mut due: Vec<_> = (0..connections)
                .flat_map(|c| (0..share(c).count(5000).unwrap()).map(move |seq| share(c).due(seq).unwrap()))
                .collect();
            due.sort_unstable();
            let all: Vec<_> = (0..100).map(|n| schedule.due(n).unwrap()).collect();
            assert_eq!(due, all, "{connections}");
        }
        assert_eq!(Share { schedule: Schedule::Max, connection: 0, connections: 1 }.count(9), None);
    }

    #[test]
    fn the_far_future_saturates() {
        let s = steps(1, u64::MAX, 1, Some(Scan { bursts: 1, pause: u64::MAX }));
        assert_eq!(s.due(NEVER), Some(u64::MAX));
        assert_eq!(s.count(u64::MAX), Some(1));
    }
}
