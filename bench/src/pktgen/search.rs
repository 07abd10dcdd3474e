//! The searches of RFC 2544, sections 26.1 and 26.3, as state machines: they say which rate to try, and are told what came of it.

use serde::{Deserialize, Serialize};

/// By how much less than asked a generator may send before the trial counts as not having tried the rate, in parts of one.
pub const TOLERANCE: f64 = 0.01;
/// How often a trial is repeated in which the generator was too slow without loss: something else may have had its core.
const SHORT_AGAIN: u32 = 2;

/// What came of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All that was sent arrived, and what was asked for was sent.
    Passed,
    /// Something was lost.
    Lost,
    /// All that was sent arrived, but the generator sent less than was asked for.
    Short,
}

/// What a trial sent, in frames a second, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trial {
    /// Frames a second that were really sent.
    pub sent: f64,
    /// What came of them.
    pub verdict: Verdict,
}

/// What a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// The highest rate that was sent without loss, in frames a second.
    pub rate: f64,
    /// The generator could not send more: the device under test may be faster.
    pub limited: bool,
}

/// The zero-loss rate by halving (RFC 2544, section 26.1): first the highest rate, then always between the highest that passed
/// and the lowest that did not. With `again` above 0, a trial with loss is repeated so often before it counts (the binary
/// search with loss verification of ETSI GS NFV-TST 009, section 12.3.3).
#[derive(Debug, Clone)]
pub struct Search {
    /// Frames a second to try next; none: as fast as the generator can.
    next: Option<f64>,
    passed: Option<f64>,
    /// The lowest rate known to lose, or the highest there is.
    high: f64,
    /// What is asked for at the most; it grows known by the first trial where there is no line rate.
    most: Option<f64>,
    /// Where to stop, in parts of the highest rate.
    resolution: f64,
    again: u32,
    lost_again: u32,
    short_again: u32,
    limited: bool,
    done: bool,
}

impl Search {
    /// From `most` frames a second downwards; none: from what the generator can send.
    #[must_use]
    pub fn new(most: Option<f64>, resolution: f64, again: u32) -> Search {
        Search {
            next: most,
            passed: None,
            high: most.unwrap_or(f64::INFINITY),
            most,
            resolution,
            again,
            lost_again: 0,
            short_again: 0,
            limited: false,
            done: false,
        }
    }

    /// The rate to try now; none inside: as fast as can be sent. None at all: the search is over.
    #[must_use]
    pub fn next(&self) -> Option<Option<f64>> {
        (!self.done).then_some(self.next)
    }

    /// Tells what came of the trial of the rate last asked for.
    pub fn tell(&mut self, trial: Trial) {
        let asked = self.next;
        match trial.verdict {
            Verdict::Lost if self.lost_again < self.again => {
                self.lost_again += 1;
                return;
            }
            Verdict::Short if asked.is_some() && self.short_again < SHORT_AGAIN => {
                self.short_again += 1;
                return;
            }
            Verdict::Passed | Verdict::Short => {
                self.passed = Some(self.passed.map_or(trial.sent, |p| p.max(trial.sent)));
                // Without a rate asked for, the generator was the limit by definition.
                if trial.verdict == Verdict::Short || asked.is_none() {
                    self.limited = true;
                    self.done = true;
                }
            }
            Verdict::Lost => {
                // It lost at what was sent, which may be less than was asked for, and not at what was not.
                self.high =
                    asked.map_or(trial.sent, |asked| asked.min(trial.sent)).max(self.passed.unwrap_or(0.0));
            }
        }
        (self.lost_again, self.short_again) = (0, 0);
        let most = *self.most.get_or_insert(trial.sent);
        let low = self.passed.unwrap_or(0.0);
        self.done |= self.high - low <= self.resolution * most;
        self.next = Some(low.midpoint(self.high));
    }

    /// The highest rate without loss; none when every trial lost something.
    #[must_use]
    pub fn found(&self) -> Option<Found> {
        self.passed.map(|rate| Found { rate, limited: self.limited })
    }
}

/// Loads for the loss rate (RFC 2544, section 26.3): from all of the highest rate downwards by steps, until two in succession
/// lose nothing.
#[derive(Debug, Clone)]
pub struct Loads {
    step: f64,
    percent: f64,
    clean: u32,
}

impl Loads {
    /// Steps of `step` percent, at most 10 (RFC 2544 asks for that, and encourages smaller ones).
    #[must_use]
    pub fn new(step: f64) -> Loads {
        Loads { step, percent: 100.0, clean: 0 }
    }

    /// Percent of the highest rate to offer now; none at the end.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        (self.clean < 2 && self.percent > 1e-9).then_some(self.percent)
    }

    /// Tells whether the trial lost something.
    pub fn tell(&mut self, lost: bool) {
        self.clean = if lost { 0 } else { self.clean + 1 };
        self.percent -= self.step;
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};
    use rand_pcg::Pcg64;

    use super::*;

    /// Searches a device under test and returns what was tried and found. The generator sends at most `generator`.
    fn run(
        mut search: Search,
        generator: f64,
        mut loses: impl FnMut(f64) -> bool,
    ) -> (Vec<f64>, Option<Found>) {
        let mut tried = Vec::new();
        while let Some(asked) = search.next() {
            let sent = asked.unwrap_or(f64::INFINITY).min(generator);
            tried.push(sent);
            let short = asked.is_some_and(|asked| sent < asked * (1.0 - TOLERANCE));
            let verdict = match loses(sent) {
                true => Verdict::Lost,
                false if short => Verdict::Short,
                false => Verdict::Passed,
            };
            search.tell(Trial { sent, verdict });
            assert!(tried.len() < 100, "it does not end: {tried:?}");
        }
        (tried, search.found())
    }

    const LINE: f64 = 14_880_952.0;

    #[test]
    fn a_threshold_is_found_within_the_resolution() {
        for share in [0.001, 0.1, 0.37, 0.5, 0.75, 0.999] {
            for resolution in [0.1, 0.01, 0.001] {
                let threshold = share * LINE;
                let (tried, found) =
                    run(Search::new(Some(LINE), resolution, 0), f64::INFINITY, |r| r > threshold);
                assert_eq!(tried[0], LINE, "the line rate comes first");
                let rate = found.map_or(0.0, |f| f.rate);
                assert!(rate <= threshold && threshold - rate <= resolution * LINE, "{share} {rate}");
                // One trial, and one for each halving.
                assert!(tried.len() as f64 <= 2.0 + (1.0 / resolution).log2(), "{}", tried.len());
            }
        }
    }

    #[test]
    fn a_device_that_loses_nothing_needs_one_trial_and_one_that_loses_all_has_no_rate() {
        let (tried, found) = run(Search::new(Some(LINE), 0.01, 0), f64::INFINITY, |_| false);
        assert_eq!((tried.len(), found), (1, Some(Found { rate: LINE, limited: false })));
        let (tried, found) = run(Search::new(Some(LINE), 0.01, 0), f64::INFINITY, |_| true);
        assert_eq!((tried.len(), found), (8, None));
    }

    #[test]
    fn a_generator_that_is_too_slow_is_not_taken_for_the_device() {
        let (tried, found) = run(Search::new(Some(LINE), 0.01, 0), 5e6, |_| false);
        assert_eq!(found, Some(Found { rate: 5e6, limited: true }));
        assert_eq!(tried.len(), 3, "a short trial is repeated: {tried:?}");
        // The device is slower still: then it is the limit.
        let (_, found) = run(Search::new(Some(LINE), 0.01, 0), 5e6, |r| r > 2e6);
        let found = found.unwrap();
        assert!(!found.limited && found.rate <= 2e6 && found.rate >= 2e6 - 0.01 * LINE, "{found:?}");
    }

    #[test]
    fn a_pause_of_the_generator_does_not_end_a_search() {
        let mut search = Search::new(Some(100.0), 0.01, 0);
        search.tell(Trial { sent: 20.0, verdict: Verdict::Short });
        assert_eq!(search.next(), Some(Some(100.0)));
        search.tell(Trial { sent: 100.0, verdict: Verdict::Passed });
        assert_eq!((search.next(), search.found()), (None, Some(Found { rate: 100.0, limited: false })));
    }

    #[test]
    fn without_a_line_rate_the_generators_own_is_the_highest() {
        let (tried, found) = run(Search::new(None, 0.01, 0), 3e6, |r| r > 1e6);
        assert_eq!(tried[0], 3e6);
        let found = found.unwrap();
        assert!(!found.limited && found.rate <= 1e6 && found.rate >= 1e6 - 0.03e6, "{found:?}");
        let (tried, found) = run(Search::new(None, 0.01, 0), 3e6, |_| false);
        assert_eq!((tried.len(), found), (1, Some(Found { rate: 3e6, limited: true })));
    }

    #[test]
    fn what_is_found_was_always_sent_without_loss_even_by_a_device_without_a_threshold() {
        for seed in 0..50 {
            let mut rng = Pcg64::seed_from_u64(seed);
            let mut passed = Vec::new();
            // It loses in a band in the middle, and by chance near its limit.
            let (_, found) = run(Search::new(Some(LINE), 0.005, 0), f64::INFINITY, |rate| {
                let share = rate / LINE;
                let lost =
                    (0.3..0.35).contains(&share) || share > 0.8 && rng.random_bool((share - 0.8) * 5.0);
                if !lost {
                    passed.push(rate);
                }
                lost
            });
            let highest = passed.iter().copied().fold(0.0, f64::max);
            assert_eq!(found.map(|f| f.rate), Some(highest), "seed {seed}");
        }
    }

    #[test]
    fn loss_that_does_not_repeat_is_not_counted_when_asked_so() {
        // Every other trial loses, whatever the rate, up to the threshold.
        let mut n = 0;
        let noisy = |rate: f64| {
            n += 1;
            rate > 0.6 * LINE || n % 2 == 1
        };
        let (_, found) = run(Search::new(Some(LINE), 0.01, 1), f64::INFINITY, noisy);
        let rate = found.unwrap().rate;
        assert!((0.59 * LINE..=0.6 * LINE).contains(&rate), "{rate}");
    }

    #[test]
    fn loads_go_down_until_two_are_clean() {
        let run = |step, threshold: f64| {
            let (mut loads, mut tried) = (Loads::new(step), Vec::new());
            while let Some(percent) = loads.next() {
                tried.push(percent.round() as u32);
                loads.tell(percent > threshold);
            }
            tried
        };
        assert_eq!(run(10.0, 75.0), [100, 90, 80, 70, 60]);
        assert_eq!(run(10.0, 100.0), [100, 90]);
        assert_eq!(run(25.0, 0.0), [100, 75, 50, 25]);
    }
}
