//! The forwarder and the plain reference side by side, burst by burst.

use std::collections::{BTreeSet, VecDeque};

use forwarder::engine::DropReason;
use forwarder::flow::Tuple;
use forwarder::flow::fragments;
use forwarder::flow::table::Endpoints;

use super::packet::internet_checksum;
use super::reference::{Arrived, MTUS, Model, Rewritten, Verdict};
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

/// Milliseconds after which the relay has forgotten every datagram (15 s), and given up what waited (100 ms).
const FORGET: u64 = 15_200;
/// Fragments until they are forgotten: so few that the relay has room for all of their datagrams, whatever its hash.
const FRAGMENTS: usize = 40;
/// Bursts, of a millisecond each, until they are forgotten: the reference knows of no identification that is used again.
const BURSTS: u64 = fragments::AGAIN as u64 - 1;

/// What was sent by each port.
type Sent = [VecDeque<Vec<u8>>; 4];

pub struct Differential {
    pub rig: Rig,
    pub model: Model,
    /// Said with every difference: how to see it again.
    pub context: String,
    pub relayed: u64,
    pub relayed_bytes: u64,
    pub dropped: u64,
    pub opened: u64,
    /// Packets whose senders were told that they go no further; ICMP errors passed on; packets cut in pieces; fragments passed.
    pub told: u64,
    pub errors: u64,
    pub cut: u64,
    pub pieces: u64,
    pub reasons: BTreeSet<&'static str>,
    /// Fragments that waited in vain.
    given_up: u64,
    /// Bursts since all datagrams were forgotten.
    bursts: u64,
}

impl Differential {
    /// A rig with these flows and connections of them, one worker, nothing under way.
    pub fn new(rig: Rig, flows: Vec<FlowSpec>, conns: &[Conn]) -> Self {
        let model = Model::new(flows, conns);
        let (relayed, relayed_bytes, dropped, opened) = (0, 0, 0, 0);
        let (told, errors, cut, pieces) = (0, 0, 0, 0);
        let (context, reasons) = (String::new(), BTreeSet::new());
        Self {
            rig,
            model,
            context,
            relayed,
            relayed_bytes,
            dropped,
            opened,
            told,
            errors,
            cut,
            pieces,
            reasons,
            given_up: 0,
            bursts: 0,
        }
    }

    /// Frames arrive at one port at once; what comes out is what the reference says, in its order, and nothing else.
    #[track_caller]
    pub fn run(&mut self, port: u8, frames: &[Vec<u8>]) {
        let Err(difference) = self.burst(port, frames) else { return };
        // Which of them was it? Each once more, alone.
        let alone = frames.iter().find_map(|f| self.burst(port, std::slice::from_ref(f)).err());
        let alone = alone.unwrap_or_else(|| "no difference".into());
        panic!(
            "{}in a burst of {}: {difference}\neach once more, alone: {alone}",
            self.context,
            frames.len()
        );
    }

    fn drops(&self, port: u8) -> [u64; DropReason::COUNT] {
        let counters = self.rig.workers[0].engine().counters();
        std::array::from_fn(|i| counters.queues[usize::from(port)].dropped(DropReason::ALL[i]))
    }

    /// So much time passes that all datagrams are forgotten: what waits is given up, and nothing else.
    #[track_caller]
    pub fn settle(&mut self) {
        let timeout = |rig: &Rig| rig.drops().get("fragment_timeout").copied().unwrap_or(0);
        self.rig.advance(FORGET);
        self.bursts = 0;
        self.given_up += self.model.forget_datagrams() as u64;
        assert_eq!(timeout(&self.rig), self.given_up, "{}waited in vain", self.context);
        assert_eq!(self.rig.ios[0].available(), self.rig.buffers, "{}buffers are missing", self.context);
        if self.given_up > 0 {
            self.reasons.insert(DropReason::FragmentTimeout.name());
        }
    }

    fn burst(&mut self, port: u8, frames: &[Vec<u8>]) -> Result<(), String> {
        if self.model.fragments >= FRAGMENTS || self.bursts >= BURSTS {
            self.settle();
        }
        self.bursts += 1;
        // So little that nothing expires.
        self.rig.clock.advance(1);
        let before = self.drops(port);
        for frame in frames {
            self.rig.inject_at(0, port, frame);
        }
        while self.rig.workers[0].turn() > 0 {}
        let mut sent: Sent = std::array::from_fn(|p| self.rig.take(p as u8).into());
        let mut expected = [0; DropReason::COUNT];
        let mut unanswered = 0;
        let now = self.drops(port);
        for frame in frames {
            match self.fares(port, frame, &mut sent, &mut expected) {
                Ok(answered) => unanswered += u64::from(!answered),
                Err(difference) => {
                    let all = DropReason::ALL.iter().filter(|r| now[**r as usize] > before[**r as usize]);
                    let dropped: Vec<_> = all.map(|r| r.name()).collect();
                    return Err(format!("{difference}\ndropped for {dropped:?}"));
                }
            }
        }
        let all = DropReason::ALL.iter();
        let differ: Vec<String> = all
            .filter_map(|reason| {
                let i = *reason as usize;
                let (counted, expected) = (now[i] - before[i], expected[i]);
                let local = if LOCAL.contains(reason) { counted.saturating_sub(expected) } else { 0 };
                unanswered -= local.min(unanswered);
                if *reason == DropReason::FragmentTimeout {
                    // Some time after a datagram is doomed: `settle` counts them.
                    return None;
                }
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
        if self.rig.ios[0].available() + self.model.waiting < self.rig.buffers {
            return Err(format!("port {port}, in {frames:02x?}\nbuffers are missing"));
        }
        Ok(())
    }

    /// What comes of a frame is right. Ok(false): it is one that may be answered here, and no answer came.
    fn fares(
        &mut self,
        port: u8,
        frame: &[u8],
        sent: &mut Sent,
        expected: &mut [u64; DropReason::COUNT],
    ) -> Result<bool, String> {
        match self.model.judge(port, frame) {
            Verdict::Local => {
                let answers = &mut sent[usize::from(port)];
                return Ok(answers.pop_front_if(|answer| is_local_answer(answer)).is_some());
            }
            Verdict::Opens(n, out) => {
                self.opens(port, frame, (n, out), sent)?;
                let verdict = self.model.judge(port, frame);
                if !matches!(verdict, Verdict::Relay(..) | Verdict::Cut(..)) {
                    return Err(format!("{port} {frame:02x?} opens a connection it is not of"));
                }
                self.comes_out(port, frame, verdict, sent, expected)?;
            }
            Verdict::Piece(opens) => self.piece(port, frame, opens, sent, expected)?,
            verdict => {
                if verdict.reason() == Some(DropReason::TooBig) {
                    self.opens_unseen(port, frame)?;
                }
                self.comes_out(port, frame, verdict, sent, expected)?;
            }
        }
        Ok(true)
    }

    /// What has to come of a frame by itself has come of it.
    fn comes_out(
        &mut self,
        port: u8,
        frame: &[u8],
        verdict: Verdict,
        sent: &mut Sent,
        expected: &mut [u64; DropReason::COUNT],
    ) -> Result<(), String> {
        if let Some(reason) = verdict.reason() {
            expected[reason as usize] += 1;
            self.dropped += 1;
            self.reasons.insert(reason.name());
        }
        match verdict {
            Verdict::Told(_, answer) => {
                let told = sent[usize::from(port)].pop_front_if(|sent| *sent == answer);
                self.told += u64::from(told.is_some());
            }
            Verdict::Relay(out, right) => {
                self.count(frame);
                is(port, frame, &right, sent[usize::from(out)].pop_front())?;
            }
            Verdict::Error(out, right) => {
                self.errors += 1;
                is(port, frame, &right, sent[usize::from(out)].pop_front())?;
            }
            Verdict::Cut(out, right) => {
                self.count(frame);
                self.cut += 1;
                let id = right
                    .cut(&mut sent[usize::from(out)], MTUS[usize::from(out)])
                    .map_err(|e| format!("port {port}, in {frame:02x?}: {e}"))?;
                self.model.cut(port, frame, id)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, frame: &[u8]) {
        self.relayed += 1;
        self.relayed_bytes += frame.len() as u64;
    }

    fn opens(&mut self, port: u8, frame: &[u8], (n, out): (usize, u8), sent: &Sent) -> Result<(), String> {
        self.opened += 1;
        let first = sent[usize::from(out)].front().map(Vec::as_slice).unwrap_or_default();
        self.model
            .opened(n, port, frame, out, first)
            .map_err(|e| format!("{port} {frame:02x?} opens a connection, but {e}"))
    }

    /// A first packet was dropped on its way out, after it had opened its connection. Nobody has seen its source: the forwarder says.
    fn opens_unseen(&mut self, port: u8, frame: &[u8]) -> Result<(), String> {
        let Some((proto, src, dst)) = self.model.newcomer(port, frame) else { return Ok(()) };
        self.opened += 1;
        let key = Tuple { port, proto, src, dst }.key().unwrap();
        let Some((row, _)) = self.rig.workers[0].engine().probe(&key) else {
            return Err(format!("{port} {frame:02x?} opens no connection"));
        };
        let Endpoints { source, target, arrives: [_, out], .. } = row.endpoints;
        self.model.add(Conn { proto, client: src, listen: dst, source, target, port, out });
        Ok(())
    }

    /// A fragment, and what waited for it.
    fn piece(
        &mut self,
        port: u8,
        frame: &[u8],
        opens: Option<(usize, u8)>,
        sent: &mut Sent,
        expected: &mut [u64; DropReason::COUNT],
    ) -> Result<(), String> {
        let passed = match self.model.arrive(port, frame, opens) {
            Arrived::Waits => return Ok(()),
            // It opens nothing, whoever may.
            Arrived::Refused(reason) => {
                return self.comes_out(port, frame, Verdict::Drop(reason), sent, expected);
            }
            Arrived::Passes(passed) => passed,
        };
        for (n, frame) in passed.iter().enumerate() {
            if let Some(opens) = opens.filter(|_| n == 0) {
                if self.model.too_big(port, frame) {
                    self.opens_unseen(port, frame)?;
                } else {
                    self.opens(port, frame, opens, sent)?;
                }
            }
            let next = sent[usize::from(self.model.way_out(port, frame))].front();
            let verdict = self
                .model
                .follow(port, frame, next)
                .map_err(|e| format!("port {port}, in {frame:02x?}: {e}; next {next:02x?}"))?;
            self.pieces += u64::from(verdict.reason().is_none());
            self.comes_out(port, frame, verdict, sent, expected)?;
        }
        Ok(())
    }
}

fn is(port: u8, frame: &[u8], right: &Rewritten, got: Option<Vec<u8>>) -> Result<(), String> {
    if got.as_ref().is_some_and(|got| right.equals(got)) {
        return Ok(());
    }
    Err(format!("port {port}, in {frame:02x?}\nsent     {got:02x?}\nexpected {right:02x?}"))
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
