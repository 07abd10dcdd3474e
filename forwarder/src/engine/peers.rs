//! What workers tell each other: packets of connections that another one owns, and MAC addresses just learned.
//!
//! Bounded queues, one of each a worker; a full one drops what it is offered. Nobody waits.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::io::PortIndex;
use crate::neighbor::Heard;

/// Packets that may wait for the worker that owns their connection.
const HANDOVER: usize = 512;
/// MAC addresses that may wait to be heard of.
const NEWS: usize = 256;

/// A MAC address that a worker learned.
#[derive(Debug, Clone, Copy)]
pub(super) struct News {
    pub(super) port: PortIndex,
    pub(super) heard: Heard,
}

struct Inbox<B> {
    packets: ArrayQueue<(PortIndex, B)>,
    news: ArrayQueue<News>,
}

/// One worker's view of all workers.
pub struct Peers<B> {
    me: usize,
    inboxes: Arc<[Inbox<B>]>,
}

/// Connects `workers` workers.
pub fn peers<B>(workers: usize) -> Vec<Peers<B>> {
    let inboxes: Arc<[Inbox<B>]> = (0..workers)
        .map(|_| Inbox { packets: ArrayQueue::new(HANDOVER), news: ArrayQueue::new(NEWS) })
        .collect();
    (0..workers).map(|me| Peers { me, inboxes: Arc::clone(&inboxes) }).collect()
}

impl<B> Peers<B> {
    /// This worker's index.
    pub fn me(&self) -> usize {
        self.me
    }

    /// Hands a packet that came in at `port` to another worker, or gives it back.
    pub(super) fn hand_over(&self, to: usize, port: PortIndex, packet: B) -> Result<(), B> {
        match self.inboxes.get(to) {
            Some(inbox) => inbox.packets.push((port, packet)).map_err(|(_, packet)| packet),
            None => Err(packet),
        }
    }

    /// Tells every other worker. A worker whose queue is full learns it by asking itself.
    pub(super) fn tell(&self, news: News) {
        for (i, inbox) in self.inboxes.iter().enumerate() {
            if i != self.me {
                let _ = inbox.news.push(news);
            }
        }
    }

    /// A packet handed to this worker.
    pub(super) fn take_packet(&self) -> Option<(PortIndex, B)> {
        self.inboxes.get(self.me)?.packets.pop()
    }

    /// News for this worker.
    pub(super) fn take_news(&self) -> Option<News> {
        self.inboxes.get(self.me)?.news.pop()
    }

    /// Is there anything for this worker? Costs two loads.
    #[inline]
    pub(super) fn waiting(&self) -> bool {
        self.inboxes.get(self.me).is_some_and(|inbox| !inbox.packets.is_empty() || !inbox.news.is_empty())
    }
}
