//! What was refused a moment ago: who keeps sending what no flow admits is told no without being asked who he is.
//!
//! Whether a flow listens and whether it allows the source follow from a packet's key and from the flows alone, so an answer holds
//! until the flows change, or a connection is opened whose key it is. A place is taken by the next refusal whose hash leads there; a
//! flood that changes its key with every packet finds nothing here and takes the slow path.
#![forbid(unsafe_code)]

use super::DropReason;
use super::fast::Lane;
use crate::wire::tcp;

const PLACES: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Of the key; over IPv6 it stands for the addresses.
    hash: u64,
    key: [u64; 2],
    /// Of the flows; 0 in an empty place.
    epoch: u64,
    /// Slot of the flow that refused, when one listens.
    flow: Option<u32>,
    reason: DropReason,
}

/// The last refusals.
#[derive(Debug)]
pub(super) struct Refused(Box<[Entry]>);

impl Refused {
    pub(super) fn new() -> Self {
        let empty = Entry { hash: 0, key: [0; 2], epoch: 0, flow: None, reason: DropReason::NoFlow };
        Self(vec![empty; PLACES].into())
    }

    #[inline(always)]
    fn place(hash: u64) -> usize {
        (hash >> 32) as usize % PLACES
    }

    /// The reason a packet like this was refused for under the flows of `epoch`, and the flow.
    #[inline(always)]
    pub(super) fn find(&self, lane: &Lane, epoch: u64) -> Option<(DropReason, Option<u32>)> {
        let e = self.0.get(Self::place(lane.hash))?;
        let same = e.key[1] == lane.key[1] && e.key[0] == lane.key[0] && e.hash == lane.hash;
        // Flags that no sender combines are a reason of their own, which comes first.
        (same && e.epoch == epoch && !tcp::contradictory(lane.flags)).then_some((e.reason, e.flow))
    }

    /// Remembers a refusal, when it is of the kind that holds until the flows change.
    pub(super) fn add(
        &mut self,
        hash: u64,
        key: [u64; 2],
        epoch: u64,
        reason: DropReason,
        flow: Option<u32>,
    ) {
        if matches!(reason, DropReason::NoFlow | DropReason::SourceDenied)
            && let Some(place) = self.0.get_mut(Self::place(hash))
        {
            *place = Entry { hash, key, epoch, flow, reason };
        }
    }

    /// Forgets a refusal: this is a connection's key now.
    pub(super) fn forget(&mut self, hash: u64, key: [u64; 2]) {
        if let Some(place) = self.0.get_mut(Self::place(hash)).filter(|e| e.hash == hash && e.key == key) {
            place.epoch = 0;
        }
    }
}
