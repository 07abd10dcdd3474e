//! The forwarder and the plain reference side by side, burst by burst.

use std::collections::{BTreeSet, VecDeque};

use forwarder::engine::DropReason;

use super::packet::internet_checksum;
use super::reference::{Model, Rewritten, Verdict};
use super::{Conn, Rig};
use forwarder::api::FlowSpec;

/// Drops of frames that the reference calls [`Verdict::Local`].
const LOCAL: [DropReason; 6] = [
    DropReason::LocalArp,
    DropReason::LocalNd,
    DropReason::ArpIgnored,
    DropReason::NdIgnored,
    DropReason::AddressConflict,
    DropReason::IcmpRateLimited,
];

pub struct Differential {
    pub rig: Rig,
    pub model: Model,
    /// Said with every difference: how to see it again.
    pub context: String,
    pub relayed: u64,
    pub relayed_bytes: u64,
    pub dropped: u64,
    pub opened: u64,
    pub reasons: BTreeSet<&'static str>,
}

impl Differential {
    /// A rig with these flows and connections of them, one worker, nothing under way.
    pub fn new(rig: Rig, flows: Vec<FlowSpec>, conns: &[Conn]) -> Self {
        let model = Model::new(flows, conns);
        let (relayed, relayed_bytes, dropped, opened) = (0, 0, 0, 0);
        let (context, reasons) = (String::new(), BTreeSet::new());
        Self { rig, model, context, relayed, relayed_bytes, dropped, opened, reasons }
    }

    /// Frames arrive at one port at once; what comes out is what the reference says, in its order, and nothing else.
    #[track_caller]
    pub fn run(&mut self, port: u8, frames: &[Vec<u8>]) {
        let Err(difference) = self.burst(port, frames) else { return };
        // Which of them was it? Each once more, alone.
        let alone = frames.iter().find_map(|f| self.burst(port, std::slice::from_ref(f)).err());
        let context = &self.context;
        match alone {
            Some(it) => panic!("{context}{it}"),
            None => panic!("{context}not alone, but in a burst of {}: {difference}", frames.len()),
        }
    }

    fn drops(&self, port: u8) -> [u64; DropReason::COUNT] {
        let counters = self.rig.workers[0].engine().counters();
        std::array::from_fn(|i| counters.queues[usize::from(port)].dropped(DropReason::ALL[i]))
    }

    fn burst(&mut self, port: u8, frames: &[Vec<u8>]) -> Result<(), String> {
        // So little that nothing expires.
        self.rig.clock.advance(1);
        let before = self.drops(port);
        for frame in frames {
            self.rig.inject_at(0, port, frame);
        }
        while self.rig.workers[0].turn() > 0 {}
        let mut sent: Vec<VecDeque<Vec<u8>>> = (0..4).map(|p| self.rig.take(p).into()).collect();
        let mut expected = [0; DropReason::COUNT];
        let mut unanswered = 0;
        for frame in frames {
            match self.model.judge(port, frame) {
                Verdict::Drop(reason) => {
                    expected[reason as usize] += 1;
                    self.dropped += 1;
                    self.reasons.insert(reason.name());
                    if reason == DropReason::TooBig {
                        self.model.too_big(port, frame);
                    }
                }
                Verdict::Local => {
                    let answers = &mut sent[usize::from(port)];
                    if answers.pop_front_if(|answer| is_local_answer(answer)).is_none() {
                        unanswered += 1;
                    }
                }
                Verdict::Relay(out, expected) => {
                    self.relayed(port, frame, &expected, sent[usize::from(out)].pop_front())?;
                }
                Verdict::Opens(n, out) => {
                    self.opened += 1;
                    let got = sent[usize::from(out)].pop_front();
                    let first = got.as_deref().unwrap_or_default();
                    self.model
                        .opened(n, port, frame, out, first)
                        .map_err(|e| format!("{port} {frame:02x?} opens a connection, but {e}"))?;
                    let Verdict::Relay(_, expected) = self.model.judge(port, frame) else {
                        return Err(format!("{port} {frame:02x?} opens a connection it is not of"));
                    };
                    self.relayed(port, frame, &expected, got)?;
                }
            }
        }
        let now = self.drops(port);
        let all = DropReason::ALL.iter();
        let differ: Vec<String> = all
            .filter_map(|reason| {
                let i = *reason as usize;
                let (counted, expected) = (now[i] - before[i], expected[i]);
                let local = if LOCAL.contains(reason) { counted.saturating_sub(expected) } else { 0 };
                unanswered -= local.min(unanswered);
                let differ = counted - local != expected;
                differ.then(|| format!("{reason}: {counted}, expected {expected}"))
            })
            .collect();
        if !differ.is_empty() || unanswered > 0 {
            return Err(format!("port {port}, in {frames:02x?}\ndrops {differ:?}, {unanswered} vanished"));
        }
        let left: Vec<_> = sent.iter().flatten().collect();
        if !left.is_empty() {
            return Err(format!("port {port}, in {frames:02x?}\nsent {left:02x?} beyond what is right"));
        }
        if self.rig.ios[0].available() != self.rig.buffers {
            return Err(format!("port {port}, in {frames:02x?}\nbuffers are missing"));
        }
        Ok(())
    }

    fn relayed(
        &mut self,
        port: u8,
        frame: &[u8],
        expected: &Rewritten,
        got: Option<Vec<u8>>,
    ) -> Result<(), String> {
        self.relayed += 1;
        self.relayed_bytes += frame.len() as u64;
        if got.as_ref().is_some_and(|got| expected.equals(got)) {
            return Ok(());
        }
        Err(format!("port {port}, in {frame:02x?}\nsent     {got:02x?}\nexpected {expected:02x?}"))
    }
}

/// ARP replies, neighbor advertisements and echo replies, with right checksums.
fn is_local_answer(frame: &[u8]) -> bool {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let Ok(sliced) = SlicedPacket::from_ethernet(frame) else { return false };
    match (sliced.net, sliced.transport) {
        (Some(NetSlice::Arp(arp)), _) => arp.operation() == etherparse::ArpOperation::REPLY,
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) => {
            // The bytes themselves: a header taken apart has lost the reserved flag, which an echo brings back.
            internet_checksum(&[ip.header().slice()]) == 0
                && icmp.type_u8() == 0
                && internet_checksum(&[icmp.slice()]) == 0
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
            matches!(icmp.type_u8(), 129 | 136)
                && icmp.is_checksum_valid(ip.header().source(), ip.header().destination())
        }
        _ => false,
    }
}
