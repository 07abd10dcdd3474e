//! The published flows: an immutable value the workers read.
//!
//! Every flow has a slot, a small number that indexes counters and is kept by its connections, and an id that is never used
//! again. Its version changes whenever what it lets through may have changed. A connection remembers all three: while the
//! version in its slot is the one it knows, nothing has to be asked; else it is checked again, and cut when the id differs.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::police::Police;
use crate::api::{FlowSpec, FlowState, Proto};
use crate::sync::{Counter, Limit};

/// A flow as published.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Never reused.
    pub id: u64,
    /// Index of its counters.
    pub slot: u32,
    /// Changes whenever what the flow lets through may have changed; differs among all flows, is never 0 and less than [`POLICED`].
    pub version: u32,
    /// As installed.
    pub spec: FlowSpec,
    /// Whether it admits.
    pub state: FlowState,
    /// What holds it to its rate, when it has one.
    pub police: Option<Police>,
    /// Shared by all versions of the flow.
    pub shared: Arc<FlowShared>,
}

/// What all workers and all versions of a flow share.
#[derive(Debug, Default)]
pub struct FlowShared {
    /// Connections now.
    pub connections: Limit,
}

impl Flow {
    /// May `source` open connections?
    pub fn allows(&self, source: IpAddr) -> bool {
        self.spec.from.iter().any(|p| p.contains(&source))
    }
}

/// Counters of one flow on one worker.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct FlowCounters {
    /// Client to target, target to client: by [`super::Direction`].
    pub directions: [CountPair; 2],
    /// Connections admitted.
    pub admitted: Counter,
    /// Attempts refused.
    pub refused: Counter,
    /// Frames above the rate.
    pub policed: Counter,
}

/// Packets and bytes.
#[derive(Debug, Default)]
pub struct CountPair {
    /// Frames.
    pub packets: Counter,
    /// Their bytes.
    pub bytes: Counter,
}

impl CountPair {
    /// Counts `packets` frames of `bytes` in all.
    #[inline(always)]
    pub fn add(&self, packets: u64, bytes: u64) {
        self.packets.add(packets);
        self.bytes.add(bytes);
    }
}

/// All flows at one epoch, indexed by slot and by listen address.
#[derive(Debug, Clone, Default)]
pub struct FlowSet {
    slots: Vec<Option<Arc<Flow>>>,
    /// Versions of the flows in `slots`, 0 where there is none, with [`POLICED`]: what the fast path reads.
    versions: Vec<u32>,
    /// May any of them be opened from another port than the one that has its address?
    hairpin: bool,
    /// Has any of them a rate?
    polices: bool,
    /// Open addressing over slots, at most half full; `EMPTY` marks a free place.
    index: Vec<u32>,
}

const EMPTY: u32 = u32::MAX;

/// Set in the published version of a flow that has a rate, and in no version itself. So the one comparison that every packet
/// passes tells such flows from all others, which pay nothing for them.
pub const POLICED: u32 = 1 << 31;

impl FlowSet {
    /// From flows whose slots and listen addresses all differ.
    pub fn new(flows: impl IntoIterator<Item = Arc<Flow>>) -> Self {
        let mut slots: Vec<Option<Arc<Flow>>> = Vec::new();
        for flow in flows {
            let slot = flow.slot as usize;
            if slots.len() <= slot {
                slots.resize(slot + 1, None);
            }
            slots[slot] = Some(flow);
        }
        let mut index = vec![EMPTY; (slots.len() * 2).next_power_of_two().max(2)];
        for flow in slots.iter().flatten() {
            let mut place = start(flow.spec.proto, flow.spec.listen);
            while index[place & (index.len() - 1)] != EMPTY {
                place += 1;
            }
            let mask = index.len() - 1;
            index[place & mask] = flow.slot;
        }
        let mark = |flow: &Arc<Flow>| if flow.police.is_some() { POLICED } else { 0 };
        let version = |slot: &Option<Arc<Flow>>| slot.as_ref().map_or(0, |flow| flow.version | mark(flow));
        let versions = slots.iter().map(version).collect();
        let hairpin = slots.iter().flatten().any(|flow| flow.spec.hairpin);
        let polices = slots.iter().flatten().any(|flow| flow.police.is_some());
        Self { slots, versions, hairpin, polices, index }
    }

    /// Versions of the flows by slot, 0 where there is none, with [`POLICED`] where there is a rate.
    #[inline(always)]
    pub fn versions(&self) -> &[u32] {
        &self.versions
    }

    /// Has any flow a rate?
    #[inline(always)]
    pub fn polices(&self) -> bool {
        self.polices
    }

    /// Is this the version of the flow in a slot?
    pub fn is_current(&self, slot: u32, version: u32) -> bool {
        self.versions.get(slot as usize).is_some_and(|v| v & !POLICED == version)
    }

    /// What holds the flow in a slot to its rate, when it has one.
    #[inline]
    pub fn police(&self, slot: u32) -> Option<&Police> {
        if self.versions.get(slot as usize)? & POLICED == 0 {
            return None;
        }
        self.slot(slot)?.police.as_ref()
    }

    /// May any flow be opened from another port than the one that has its address?
    pub fn hairpin(&self) -> bool {
        self.hairpin
    }

    /// The flow that listens on an address.
    pub fn listening(&self, proto: Proto, listen: SocketAddr) -> Option<&Arc<Flow>> {
        let mut place = start(proto, listen);
        // Ends: at least half of the places are empty.
        loop {
            let slot = *self.index.get(place & self.index.len().checked_sub(1)?)?;
            if slot == EMPTY {
                return None;
            }
            let flow = self.slot(slot)?;
            if flow.spec.proto == proto && flow.spec.listen == listen {
                return Some(flow);
            }
            place += 1;
        }
    }

    /// The flow in a slot.
    pub fn slot(&self, slot: u32) -> Option<&Arc<Flow>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Flow>> {
        self.slots.iter().flatten()
    }
}

/// Where the search for a listen address starts. Listen addresses are the operator's own, so the hash need not be keyed.
fn start(proto: Proto, listen: SocketAddr) -> usize {
    let address = match listen.ip() {
        IpAddr::V4(a) => u64::from(u32::from(a)),
        IpAddr::V6(a) => (u128::from(a) as u64) ^ ((u128::from(a) >> 64) as u64),
    };
    let word = address ^ u64::from(listen.port()) << 32 ^ (proto as u64) << 56;
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_each_of_many_flows_and_nothing_else() {
        let spec = |port: u16, proto| FlowSpec {
            name: format!("f{port}"),
            proto,
            listen: SocketAddr::from(([10, 0, (port >> 8) as u8, 1], port)),
            target: SocketAddr::from(([10, 1, 0, 1], 9)),
            from: vec![],
            max_conns: None,
            mss_clamp: None,
            hairpin: false,
            rate: None,
            lease: None,
        };
        let flows = (0..3000u16).map(|n| {
            Arc::new(Flow {
                id: n.into(),
                slot: u32::from(n) * 2,
                version: u32::from(n) + 1,
                spec: spec(n + 1, Proto::Tcp),
                state: FlowState::Active,
                police: None,
                shared: Arc::default(),
            })
        });
        let set = FlowSet::new(flows);
        for n in 0..3000u16 {
            let want = spec(n + 1, Proto::Tcp);
            assert_eq!(set.listening(Proto::Tcp, want.listen).map(|f| f.id), Some(n.into()));
            assert!(set.listening(Proto::Udp, want.listen).is_none());
        }
        assert!(FlowSet::default().listening(Proto::Tcp, SocketAddr::from(([10, 0, 0, 1], 1))).is_none());
    }
}
