//! A worker's counters: written by the worker, read by anyone. They are allocated once, by the service, before the worker starts.
#![forbid(unsafe_code)]

use crate::engine::DropReason;
use crate::flow::set::{CountPair, FlowCounters};
use crate::io::PortIndex;
use crate::residence::Histogram;
use crate::sync::Counter;

/// One queue pair of a port: the part of the port that one worker serves.
#[derive(Debug)]
#[repr(align(64))]
pub struct QueueCounters {
    /// Received frames.
    pub rx: CountPair,
    /// Frames the device took.
    pub tx: CountPair,
    /// Frames received here and handed to the worker they belong to.
    pub handed_over: Counter,
    /// Drops of frames received here.
    drops: [Counter; DropReason::COUNT],
}

impl Default for QueueCounters {
    fn default() -> Self {
        Self {
            rx: CountPair::default(),
            tx: CountPair::default(),
            handed_over: Counter::default(),
            drops: std::array::from_fn(|_| Counter::default()),
        }
    }
}

impl QueueCounters {
    /// Drops for one reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }

    /// Drops for any reason.
    pub fn dropped_all(&self) -> u64 {
        self.drops.iter().map(Counter::get).sum()
    }
}

/// All counters of one worker.
///
/// At every loop boundary `received + taken_over == sent + held + dropped + handed_over` and `sent == tx - originated`.
// On cache lines of its own, and on pairs of them, which processors fetch together: another worker's must not travel along.
#[derive(Debug)]
#[repr(align(128))]
pub struct WorkerCounters {
    /// One a port.
    pub queues: Vec<QueueCounters>,
    /// One a flow slot.
    pub flows: Vec<FlowCounters>,
    /// The forwarder's own frames put in TX batches.
    pub originated: Counter,
    /// Frames held: TX batches and those waiting for a next hop. A gauge.
    pub held: Counter,
    /// Frames taken from other workers.
    pub taken_over: Counter,
    /// Connections. A gauge.
    pub connections: Counter,
    /// Loops over the ports.
    pub loops: Counter,
    /// Loops that found packets.
    pub busy_loops: Counter,
    /// TSC cycles of loops that found packets.
    pub busy_cycles: Counter,
    /// Residence time of sampled bursts, in ticks of the worker's clock.
    pub residence: Histogram,
    /// The same, one a flow slot.
    pub flow_residence: Vec<Histogram>,
    /// How long packets waited for a next hop that answered, in milliseconds. Every such packet counts.
    pub waits: Histogram,
}

impl WorkerCounters {
    /// For a number of ports and flow slots.
    pub fn new(ports: usize, flows: usize) -> Self {
        Self {
            queues: (0..ports).map(|_| QueueCounters::default()).collect(),
            flows: (0..flows).map(|_| FlowCounters::default()).collect(),
            originated: Counter::default(),
            held: Counter::default(),
            taken_over: Counter::default(),
            connections: Counter::default(),
            loops: Counter::default(),
            busy_loops: Counter::default(),
            busy_cycles: Counter::default(),
            residence: Histogram::default(),
            flow_residence: (0..flows).map(|_| Histogram::default()).collect(),
            waits: Histogram::default(),
        }
    }

    /// Counts a drop of a frame received at `port`. For the worker.
    #[inline]
    pub fn count_drop(&self, port: PortIndex, reason: DropReason) {
        self.queues[usize::from(port)].drops[reason as usize].add(1);
    }

    /// Frames received, on all ports.
    pub fn received(&self) -> u64 {
        self.queues.iter().map(|q| q.rx.packets.get()).sum()
    }

    /// Received frames sent on or answered.
    pub fn sent(&self) -> u64 {
        let tx: u64 = self.queues.iter().map(|q| q.tx.packets.get()).sum();
        tx.saturating_sub(self.originated.get())
    }

    /// Frames handed to other workers, of all ports.
    pub fn handed_over(&self) -> u64 {
        self.queues.iter().map(|q| q.handed_over.get()).sum()
    }

    /// Frames dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.queues.iter().map(QueueCounters::dropped_all).sum()
    }
}
