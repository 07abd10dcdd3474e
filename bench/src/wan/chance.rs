//! What is left to chance, drawn so that it depends on the seed and on how many packets came before, and on nothing else.
//!
//! Each kind of harm has a stream of random numbers of its own, of which every packet draws its part whether that matters or
//! not. So the same seed and the same sequence of packets give every packet the same fate, whatever the clock does, and one
//! harm more does not change whom the others meet.

use rand::distr::{Bernoulli, Distribution as _};
use rand::{Rng as _, SeedableRng as _};
use rand_distr::{Normal, Pareto, Uniform};
use rand_pcg::Pcg64;

use super::shape::{Jitter, Shape, Spread};
use super::units::{BurstLoss, Share};

/// What chance has in store for one packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fate {
    /// It is lost.
    pub lost: bool,
    /// It comes twice.
    pub doubled: bool,
    /// It leaves its place in the order.
    pub displaced: bool,
    /// The bit that is flipped, as a number to be taken modulo the bits there are.
    pub flipped: Option<u64>,
    /// What the delay differs by, in nanoseconds.
    pub jitter: i64,
}

/// The streams of one direction.
#[derive(Debug)]
pub struct Chance {
    loss: Option<Coin>,
    bursts: Option<Chain>,
    duplicate: Option<Coin>,
    displace: Option<Coin>,
    corrupt: Option<Coin>,
    bits: Pcg64,
    jitter: Option<(Pcg64, Deviation)>,
}

impl Chance {
    /// The streams for a shape. `path` tells directions of one seed apart.
    #[must_use]
    pub fn new(shape: &Shape, seed: u64, path: u64) -> Chance {
        let stream = |harm: u64| Pcg64::seed_from_u64(mix(mix(seed, path), harm));
        let coin = |share: Share, harm: u64| Coin::new(share, stream(harm));
        Chance {
            loss: coin(shape.loss, 0),
            bursts: shape.burst_loss.and_then(|b| Chain::new(&b, stream(1))),
            duplicate: coin(shape.duplicate, 2),
            displace: coin(shape.reorder.share, 3),
            corrupt: coin(shape.corrupt, 4),
            bits: stream(5),
            jitter: Deviation::new(&shape.jitter).map(|deviation| (stream(6), deviation)),
        }
    }

    /// Draws the fate of the next packet.
    pub fn draw(&mut self) -> Fate {
        let toss = |coin: &mut Option<Coin>| coin.as_mut().is_some_and(Coin::toss);
        // Both draw, also when the first has lost it.
        let lost = toss(&mut self.loss) | self.bursts.as_mut().is_some_and(Chain::step);
        let flipped = toss(&mut self.corrupt).then(|| self.bits.next_u64());
        let jitter = self.jitter.as_mut().map_or(0, |(random, deviation)| deviation.draw(random));
        Fate {
            lost,
            doubled: toss(&mut self.duplicate),
            displaced: toss(&mut self.displace),
            flipped,
            jitter,
        }
    }
}

/// Makes seeds that differ in little differ in everything (the finisher of SplitMix64).
fn mix(seed: u64, more: u64) -> u64 {
    let mut z = seed.wrapping_add((more.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A coin with its stream.
#[derive(Debug)]
struct Coin {
    odds: Bernoulli,
    random: Pcg64,
}

impl Coin {
    /// None where there is nothing to toss for.
    fn new(share: Share, random: Pcg64) -> Option<Coin> {
        let odds = Bernoulli::new(share.0).ok().filter(|_| share.0 > 0.0)?;
        Some(Coin { odds, random })
    }

    fn toss(&mut self) -> bool {
        self.odds.sample(&mut self.random)
    }
}

/// The chain of Gilbert and Elliott.
#[derive(Debug)]
struct Chain {
    to_bad: Bernoulli,
    to_good: Bernoulli,
    lost_in_bad: Bernoulli,
    lost_in_good: Bernoulli,
    bad: bool,
    random: Pcg64,
}

impl Chain {
    fn new(b: &BurstLoss, random: Pcg64) -> Option<Chain> {
        let odds = |share: Share| Bernoulli::new(share.0).ok();
        Some(Chain {
            to_bad: odds(b.p)?,
            to_good: odds(b.r)?,
            lost_in_bad: odds(b.lost_in_bad)?,
            lost_in_good: odds(b.lost_in_good)?,
            bad: false,
            random,
        })
    }

    /// Whether the state that the chain is in takes the packet; then the step to the next.
    fn step(&mut self) -> bool {
        let (loses, leaves) =
            if self.bad { (self.lost_in_bad, self.to_good) } else { (self.lost_in_good, self.to_bad) };
        let lost = loses.sample(&mut self.random);
        self.bad ^= leaves.sample(&mut self.random);
        lost
    }
}

/// By how much delays differ from their mean.
#[derive(Debug)]
enum Deviation {
    Uniform(Uniform<f64>),
    Normal(Normal<f64>),
    /// And its mean and the factor that makes its standard deviation the jitter.
    Pareto(Pareto<f64>, f64, f64),
}

impl Deviation {
    /// Farthest that a draw may be from the mean, in jitters: what bounds a heavy tail.
    const FARTHEST: f64 = 100.0;

    fn new(jitter: &Jitter) -> Option<Deviation> {
        let size = jitter.size.0 as f64;
        if size == 0.0 {
            return None;
        }
        match jitter.spread {
            Spread::Uniform => Uniform::new_inclusive(-size, size).ok().map(Deviation::Uniform),
            Spread::Normal => Normal::new(0.0, size).ok().map(Deviation::Normal),
            Spread::Pareto => {
                // As netem's: a shape of 3, the mildest whole number with a finite variance that still has a long tail.
                const SHAPE: f64 = 3.0;
                let mean = SHAPE / (SHAPE - 1.0);
                let variance = SHAPE / ((SHAPE - 1.0) * (SHAPE - 1.0) * (SHAPE - 2.0));
                Pareto::new(1.0, SHAPE).ok().map(|p| Deviation::Pareto(p, mean, size / variance.sqrt()))
            }
        }
    }

    fn draw(&self, random: &mut Pcg64) -> i64 {
        match self {
            Deviation::Uniform(d) => d.sample(random) as i64,
            Deviation::Normal(d) => d.sample(random) as i64,
            Deviation::Pareto(d, mean, scale) => {
                ((d.sample(random) - mean).min(Deviation::FARTHEST) * scale) as i64
            }
        }
    }
}
