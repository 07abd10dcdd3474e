//! One direction of a link: what becomes of each packet, and when it leaves.
//!
//! Time is an argument, in nanoseconds from any beginning, and never goes back. A packet meets, in this order:
//!
//! 1. its fate by chance, drawn before anything that depends on time ([`super::chance`]);
//! 2. the MTU, the outages, the loss: each drops it by name;
//! 3. the queue and the rate ([`super::shaper`]); what is lost before takes nothing of the rate;
//! 4. the delay and its jitter, and for some a jump out of the order;
//! 5. the doubling: a copy follows right behind, also beyond the bottleneck.
//!
//! Every packet is accounted for: received + duplicated = released + held + the drops, at any moment.

use forwarder::io::PacketBuf;
use serde::{Deserialize, Serialize};

use super::chance::{Chance, Fate};
use super::line::{Held, Line};
use super::shape::Shape;
use super::shaper::Shaper;

/// Why a packet did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Larger than the path's MTU.
    Mtu,
    /// The link was down.
    Down,
    /// By chance.
    Loss,
    /// The queue before the rate was full.
    Queue,
    /// There was no room for one more packet under way, or none for a copy.
    Memory,
}

impl Reason {
    /// All of them.
    pub const ALL: [Reason; 5] = [Reason::Mtu, Reason::Down, Reason::Loss, Reason::Queue, Reason::Memory];

    /// Its name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Mtu => "mtu",
            Reason::Down => "down",
            Reason::Loss => "loss",
            Reason::Queue => "queue",
            Reason::Memory => "memory",
        }
    }
}

/// What became of the packets of a direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Packets that came.
    pub received: u64,
    /// Their bytes, from the Ethernet header on.
    pub received_bytes: u64,
    /// Copies that chance asked for.
    pub duplicated: u64,
    /// Packets that were let go at their time.
    pub released: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
    /// Packets that were moved out of their place.
    pub displaced: u64,
    /// Packets released after one that came later (RFC 4737, section 3).
    pub reordered: u64,
    /// Packets dropped, by [`Reason`].
    pub dropped: [u64; Reason::ALL.len()],
}

/// The state of a direction.
#[derive(Debug)]
pub struct Direction<B> {
    shape: Shape,
    mtu: usize,
    chance: Chance,
    shaper: Option<Shaper>,
    line: Line<B>,
    /// When the last packet that kept its place is due.
    last_due: u64,
    /// The highest number of a released packet, and one more.
    passed: u64,
    counts: Counts,
}

impl<B: PacketBuf> Direction<B> {
    /// A direction of this shape with nothing under way. `path` tells directions of one seed apart; `mtu` is the largest IP
    /// packet, in bytes.
    #[must_use]
    pub fn new(shape: Shape, seed: u64, path: u64, mtu: u16) -> Direction<B> {
        let ordered = !shape.jitter.reorders && shape.reorder.share.0 == 0.0;
        Direction {
            mtu: mtu.into(),
            chance: Chance::new(&shape, seed, path),
            shaper: shape.rate.map(|rate| Shaper::new(rate, shape.overhead, shape.queue)),
            line: Line::new(shape.room(mtu) as usize, ordered),
            last_due: 0,
            passed: 0,
            counts: Counts::default(),
            shape,
        }
    }

    /// Decides about a packet that comes `now`. `copy` makes a second one of it; it is asked only when chance doubles the packet.
    pub fn offer(&mut self, mut packet: B, now: u64, copy: impl FnOnce(&B) -> Option<B>) {
        self.counts.received += 1;
        self.counts.received_bytes += packet.frame_len() as u64;
        let fate = self.chance.draw();
        let departs = match self.admit(&packet, fate, now) {
            Ok(departs) => departs,
            Err(reason) => return self.drop(reason),
        };
        if let Some(bit) = fate.flipped {
            flip(packet.head_mut(), bit);
            self.counts.corrupted += 1;
        }
        let due = self.due(departs, fate);
        self.counts.displaced += u64::from(fate.displaced);
        let second = fate.doubled.then(|| copy(&packet));
        self.put(packet, due, fate.displaced);
        if let Some(second) = second {
            self.counts.duplicated += 1;
            match second {
                Some(second) => self.put(second, due, fate.displaced),
                None => self.drop(Reason::Memory),
            }
        }
    }

    /// When the packet leaves the bottleneck, or why it never does.
    fn admit(&mut self, packet: &B, fate: Fate, now: u64) -> Result<u64, Reason> {
        let len = packet.frame_len();
        if len.saturating_sub(framing(packet.head())) > self.mtu {
            return Err(Reason::Mtu);
        }
        if self.shape.down.iter().any(|outage| outage.covers(now)) {
            return Err(Reason::Down);
        }
        if fate.lost {
            return Err(Reason::Loss);
        }
        self.shaper.as_mut().map_or(Ok(now), |shaper| shaper.pass(len, now).ok_or(Reason::Queue))
    }

    /// When a packet that leaves the bottleneck at `departs` arrives.
    fn due(&mut self, departs: u64, fate: Fate) -> u64 {
        let delay = (self.shape.delay.0 as i64).saturating_add(fate.jitter).max(0);
        if fate.displaced {
            return departs.saturating_add_signed(delay.saturating_add(self.shape.reorder.by).max(0));
        }
        let due = departs.saturating_add_signed(delay);
        let due = if self.shape.jitter.reorders { due } else { due.max(self.last_due) };
        self.last_due = due;
        due
    }

    fn put(&mut self, packet: B, due: u64, aside: bool) {
        if self.line.put(packet, due, aside).is_err() {
            self.drop(Reason::Memory);
        }
    }

    fn drop(&mut self, reason: Reason) {
        self.counts.dropped[reason as usize] += 1;
    }

    /// Takes the next packet that is due by `now`.
    pub fn take(&mut self, now: u64) -> Option<Held<B>> {
        let held = self.line.take(now)?;
        self.counts.released += 1;
        if held.number < self.passed {
            self.counts.reordered += 1;
        } else {
            self.passed = held.number + 1;
        }
        Some(held)
    }

    /// When the next packet is due; none when nothing is under way.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.line.next()
    }

    /// Packets under way.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.line.len() as u64
    }

    /// What became of all packets so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What it does.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// Ethernet header.
const ETHERNET: usize = 14;

/// Bytes before the network layer's packet: the Ethernet header and up to two VLAN tags.
fn framing(head: &[u8]) -> usize {
    let mut len = ETHERNET;
    while len < ETHERNET + 8 && matches!(head.get(len - 2..len), Some([0x81, 0x00] | [0x88, 0xa8])) {
        len += 4;
    }
    len
}

/// Flips one of the bits behind the Ethernet header: a wrong address would be a loss, which has its own name.
fn flip(head: &mut [u8], bit: u64) {
    let body = head.get_mut(ETHERNET..).unwrap_or_default();
    if let Some(bits) = u64::try_from(body.len() * 8).ok().filter(|n| *n > 0) {
        let bit = (bit % bits) as usize;
        body[bit / 8] ^= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests;
