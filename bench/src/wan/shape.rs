//! What one direction of a link does to packets: as it is asked for, and made complete.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::preset::Preset;
use super::units::{BurstLoss, Outage, Queue, Rate, Share, Time};

/// What a direction is asked to do, on the command line or in a table of the configuration. What is not said is left to the
/// preset, and else does not happen.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    /// One-way delay, the mean of it where there is jitter: 10ms, 250us.
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Time>,
    /// By how much delays differ; at most the delay.
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Time>,
    /// How: uniform (jitter is the farthest from the mean), normal, pareto (jitter is the standard deviation).
    #[arg(long, value_enum, value_name = "KIND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Spread>,
    /// Lets packets overtake each other where their delays differ; without, a packet waits for those before it.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter_reorders: Option<bool>,
    /// Bits a second: 500M, 10G.
    #[arg(long, value_name = "RATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Bytes that a frame takes at the rate besides its own; 24 is Ethernet's preamble, FCS and gap.
    #[arg(long, value_parser = clap::value_parser!(u16).range(..=256), value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead: Option<u16>,
    /// What may wait for the rate: "1000 packets", "256Ki bytes" or a time; without, twice the delay, from 5ms to 50ms.
    #[arg(long, value_name = "SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// Share of packets that is lost, each by itself: 0.01%.
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<Share>,
    /// Loss in bursts after Gilbert and Elliott: p and r, then 1-h and 1-k, like "0.1% 25%".
    #[arg(long, value_name = "P R [1-H [1-K]]")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_loss: Option<BurstLoss>,
    /// Share of packets that leave their place in the order.
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder: Option<Share>,
    /// They jump ahead by so much; without, by all of the delay.
    #[arg(long, value_name = "TIME", conflicts_with = "reorder_back")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_ahead: Option<Time>,
    /// They are held back by so much.
    #[arg(long, value_name = "TIME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reorder_back: Option<Time>,
    /// Share of packets that come twice.
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate: Option<Share>,
    /// Share of packets in which a bit behind the Ethernet header is flipped.
    #[arg(long, value_name = "SHARE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrupt: Option<Share>,
    /// Largest IP packet in bytes; larger ones are dropped. Without, the lesser MTU of the two interfaces.
    #[arg(long, value_parser = clap::value_parser!(u16).range(68..=9600), value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// When the link is down, from the start on: "10s for 500ms", "10s for 500ms every 60s".
    #[arg(long, value_name = "WHEN")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub down: Vec<Outage>,
    /// Packets it holds at most; without, what fits twice into rate and delay with packets of the MTU.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=50_000_000), value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u32>,
}

/// How delays differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// Evenly, from the mean less the jitter to the mean and the jitter.
    #[default]
    Uniform,
    /// Normally; the jitter is the standard deviation.
    Normal,
    /// After Pareto with shape 3: most a little sooner, few much later. The jitter is the standard deviation.
    Pareto,
}

/// Jitter of the delay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jitter {
    /// Its size.
    pub size: Time,
    /// Its distribution.
    pub spread: Spread,
    /// Packets overtake each other.
    pub reorders: bool,
}

/// Packets that leave their place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Reorder {
    /// How many.
    pub share: Share,
    /// By so many nanoseconds: they jump ahead where it is negative.
    pub by: i64,
}

/// What a direction does, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// One-way delay; with jitter, its mean.
    pub delay: Time,
    /// How the delay differs.
    pub jitter: Jitter,
    /// Bits a second; none: not limited.
    pub rate: Option<Rate>,
    /// Bytes that a frame takes at the rate besides its own.
    pub overhead: u16,
    /// What may wait for the rate.
    pub queue: Queue,
    /// Lost each by itself.
    pub loss: Share,
    /// Lost in bursts.
    pub burst_loss: Option<BurstLoss>,
    /// Packets out of order.
    pub reorder: Reorder,
    /// Packets that come twice.
    pub duplicate: Share,
    /// Packets with a flipped bit.
    pub corrupt: Share,
    /// Largest IP packet, in bytes; none: what the interfaces carry.
    pub mtu: Option<u16>,
    /// When it is down.
    pub down: Vec<Outage>,
    /// Packets it holds at most; none: computed.
    pub packets: Option<u32>,
}

/// Preamble with delimiter, FCS and gap between frames (IEEE 802.3): what a frame takes on the wire besides its bytes here.
const ETHERNET: u16 = 8 + 4 + 12;
/// A queue without a size of its own holds what the rate brings in a round trip, but no less and no more than this.
const QUEUE: [Time; 2] = [Time(5_000_000), Time(50_000_000)];
/// What a direction without a rate is thought to carry, in bits a second, when its memory is computed.
const UNLIMITED: Rate = Rate(4_000_000_000);
/// Fewest packets that a direction has room for.
const FEWEST: u32 = 4096;

impl Asked {
    /// What is said here, and where nothing is, what `others` say.
    #[must_use]
    pub fn or(&self, others: &Asked) -> Asked {
        let (s, o) = (self, others);
        // Whoever speaks of the order speaks of both ways to leave it.
        let reorders = if s.reorder_ahead.or(s.reorder_back).is_some() { s } else { o };
        Asked {
            delay: s.delay.or(o.delay),
            jitter: s.jitter.or(o.jitter),
            distribution: s.distribution.or(o.distribution),
            jitter_reorders: s.jitter_reorders.or(o.jitter_reorders),
            rate: s.rate.or(o.rate),
            overhead: s.overhead.or(o.overhead),
            queue: s.queue.or(o.queue),
            loss: s.loss.or(o.loss),
            burst_loss: s.burst_loss.or(o.burst_loss),
            reorder: s.reorder.or(o.reorder),
            reorder_ahead: reorders.reorder_ahead,
            reorder_back: reorders.reorder_back,
            duplicate: s.duplicate.or(o.duplicate),
            corrupt: s.corrupt.or(o.corrupt),
            mtu: s.mtu.or(o.mtu),
            down: if s.down.is_empty() { o.down.clone() } else { s.down.clone() },
            packets: s.packets.or(o.packets),
        }
    }

    /// Makes it complete.
    ///
    /// # Errors
    /// What is asked for does not go together; the message says what to change.
    pub fn shape(&self, preset: Option<Preset>) -> Result<Shape, String> {
        let delay = self.delay.or(preset.map(Preset::one_way)).unwrap_or_default();
        let jitter = self.jitter.unwrap_or_default();
        if jitter > delay {
            return Err(format!(
                "jitter {jitter} is more than delay {delay}, so that packets would arrive before they are sent; \
                 lower it or raise the delay"
            ));
        }
        for (asked, key) in [
            (self.distribution.is_some(), "distribution"),
            (self.jitter_reorders.is_some(), "jitter_reorders"),
        ] {
            if asked && jitter.0 == 0 {
                return Err(format!("{key} says nothing without jitter; give jitter or leave {key} out"));
            }
        }
        for (asked, key) in [(self.queue.is_some(), "queue"), (self.overhead.is_some(), "overhead")] {
            if asked && self.rate.is_none() {
                return Err(format!("{key} says nothing without rate; give rate or leave {key} out"));
            }
        }
        let share = self.reorder.unwrap_or_default();
        let by = match (self.reorder_ahead, self.reorder_back) {
            (Some(_), Some(_)) => {
                return Err("reorder_ahead and reorder_back exclude each other; leave one out".to_owned());
            }
            (Some(_), None) | (None, Some(_)) if share.0 == 0.0 => {
                return Err(
                    "reorder_ahead and reorder_back say nothing without reorder; give its share".to_owned()
                );
            }
            (Some(ahead), None) if ahead > delay => {
                return Err(format!(
                    "reorder_ahead {ahead} is more than delay {delay}; lower it or raise the delay"
                ));
            }
            (Some(ahead), None) => -(ahead.0 as i64),
            (None, Some(back)) => back.0 as i64,
            (None, None) if share.0 > 0.0 && delay.0 == 0 => {
                return Err(
                    "reorder has packets jump ahead by the delay, and there is none; give delay, or reorder_back"
                        .to_owned(),
                );
            }
            (None, None) => -(delay.0 as i64),
        };
        Ok(Shape {
            delay,
            jitter: Jitter {
                size: jitter,
                spread: self.distribution.unwrap_or_default(),
                reorders: self.jitter_reorders.unwrap_or(false),
            },
            rate: self.rate,
            overhead: self.overhead.unwrap_or(ETHERNET),
            queue: self.queue.unwrap_or(Queue::Time(Time(2 * delay.0).clamp(QUEUE[0], QUEUE[1]))),
            loss: self.loss.unwrap_or_default(),
            burst_loss: self.burst_loss,
            reorder: Reorder { share, by },
            duplicate: self.duplicate.unwrap_or_default(),
            corrupt: self.corrupt.unwrap_or_default(),
            mtu: self.mtu,
            down: self.down.clone(),
            packets: self.packets,
        })
    }
}

impl Shape {
    /// Packets that it must have room for, when the largest is `mtu` bytes: what rate and delay hold, twice, because not all
    /// packets are of the largest size.
    #[must_use]
    pub fn room(&self, mtu: u16) -> u32 {
        if let Some(packets) = self.packets {
            return packets;
        }
        let bits = self.rate.unwrap_or(UNLIMITED).0;
        let in_time = |ns: u64| (u128::from(bits) * u128::from(ns) / 8_000_000_000) as u64;
        let held_back = self.reorder.by.max(0) as u64;
        let path = in_time(self.delay.0.saturating_add(4 * self.jitter.size.0).saturating_add(held_back));
        let size = u64::from(mtu) + 14 + u64::from(self.overhead);
        let queue = match (self.rate, self.queue) {
            (None, _) => 0,
            (_, Queue::Bytes(bytes)) => bytes,
            (_, Queue::Time(time)) => in_time(time.0),
            (_, Queue::Packets(packets)) => u64::from(packets) * size / 2,
        };
        let packets = (2 * path.saturating_add(queue)).div_ceil(size);
        u32::try_from(packets).unwrap_or(u32::MAX).max(FEWEST)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delay {}", self.delay)?;
        if self.jitter.size.0 > 0 {
            write!(f, " jitter {}", self.jitter.size)?;
        }
        if let Some(rate) = self.rate {
            write!(f, " rate {rate} queue {}", self.queue)?;
        }
        for (share, name) in [
            (self.loss, "loss"),
            (self.reorder.share, "reorder"),
            (self.duplicate, "duplicate"),
            (self.corrupt, "corrupt"),
        ] {
            if share.0 > 0.0 {
                write!(f, " {name} {share}")?;
            }
        }
        if let Some(bursts) = self.burst_loss {
            write!(f, " burst loss {bursts}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        self.down.iter().try_for_each(|outage| write!(f, " down at {outage}"))
    }
}
