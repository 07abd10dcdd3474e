use std::cell::Cell;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::mbuf::{self, Mbuf};
use super::port::Port;
use crate::config::Device;
use crate::io::PacketBuf;
use crate::wire::Tags;
use crate::wire::eth::{ETHERTYPE_QINQ, ETHERTYPE_VLAN};

/// One receive and one send queue of a port, handed out once and moved into the worker that polls it.
#[derive(Debug)]
pub struct Queue {
    port: Arc<Port>,
    port_id: u16,
    id: u16,
    /// The driver is able to take VLAN tags off, and some do so unasked.
    may_strip: bool,
    /// The tags of the port's frames where the driver confuses their kinds and some have a service tag; else empty.
    confused: Box<[Tags]>,
    /// What the device receives through, when it is a kernel interface; open as long as the port is.
    socket: Option<RawFd>,
    _not_sync: PhantomData<Cell<()>>,
}

impl Queue {
    pub(super) fn new(port: Arc<Port>, id: u16, may_strip: bool, socket: Option<RawFd>) -> Self {
        let settings = port.settings();
        let confuses = matches!(settings.device, Device::AfPacket(_))
            && settings.tags.iter().any(|tags| tags.outer.is_some());
        let confused = if confuses { settings.tags.as_slice().into() } else { Box::default() };
        Self { port_id: port.port_id(), port, id, may_strip, confused, socket, _not_sync: PhantomData }
    }

    /// The port it belongs to.
    #[must_use]
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }

    /// Its number on the port, from 0.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The socket that has frames when the device has received some; none when it does not say so.
    pub(super) fn socket(&self) -> Option<RawFd> {
        self.socket
    }

    /// Appends what the device has received, up to the burst's free capacity. Never waits.
    #[inline]
    pub fn rx<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        let had = burst.len();
        // SAFETY: the queue is set up and started, only we poll it, and the driver writes what it says it received.
        unsafe {
            mbuf::append(burst, |slots, room| {
                let room = u16::try_from(room).unwrap_or(u16::MAX);
                usize::from(dpdk_sys::s2_rx_burst(self.port_id, self.id, slots, room))
            });
        }
        if self.may_strip && burst[had..].iter().any(Mbuf::is_stripped) {
            restore_tags(burst, had);
        }
        if !self.confused.is_empty() {
            burst[had..].iter_mut().for_each(|frame| restore_kind(frame.head_mut(), &self.confused));
        }
        burst.len() - had
    }

    /// Sends from the front of `batch` what the device takes; the rest stays, in order. Returns how many it took.
    #[inline]
    pub fn tx<const N: usize>(&mut self, batch: &mut ArrayVec<Mbuf, N>) -> usize {
        // SAFETY: the queue is set up and started, only we use it, and the driver owns as many mbufs as it says it took.
        unsafe {
            mbuf::take_front(batch, |first, n| {
                let n = u16::try_from(n).unwrap_or(u16::MAX);
                usize::from(dpdk_sys::s2_tx_burst(self.port_id, self.id, first, n))
            })
        }
    }
}

/// The receiving half of a [`Queue`], for a thread that only receives.
#[derive(Debug)]
pub struct RxQueue(Queue);

/// The sending half of a [`Queue`], for a thread that only sends.
#[derive(Debug)]
pub struct TxQueue(Queue);

impl Queue {
    /// Divides it between two threads: the driver keeps nothing in common for a receive queue and a send queue.
    #[must_use]
    pub fn split(self) -> (RxQueue, TxQueue) {
        let twin = Queue {
            port: Arc::clone(&self.port),
            port_id: self.port_id,
            id: self.id,
            may_strip: self.may_strip,
            confused: Box::default(),
            socket: None,
            _not_sync: PhantomData,
        };
        (RxQueue(self), TxQueue(twin))
    }
}

impl RxQueue {
    /// The port it belongs to.
    #[must_use]
    pub fn port(&self) -> &Arc<Port> {
        self.0.port()
    }

    /// [`Queue::rx`].
    #[inline]
    pub fn rx<const N: usize>(&mut self, burst: &mut ArrayVec<Mbuf, N>) -> usize {
        self.0.rx(burst)
    }
}

impl TxQueue {
    /// The port it belongs to.
    #[must_use]
    pub fn port(&self) -> &Arc<Port> {
        self.0.port()
    }

    /// [`Queue::tx`].
    #[inline]
    pub fn tx<const N: usize>(&mut self, batch: &mut ArrayVec<Mbuf, N>) -> usize {
        self.0.tx(batch)
    }
}

/// Puts back the tags the driver took off. A frame that has no room for its tag would pass for an untagged one: it is
/// dropped, as if the device had lost it.
#[cold]
fn restore_tags<const N: usize>(burst: &mut ArrayVec<Mbuf, N>, from: usize) {
    let mut at = 0;
    burst.retain(|frame| {
        at += 1;
        at <= from || !frame.is_stripped() || frame.restore_tag()
    });
}

/// Makes the outermost tag of a frame a service tag when the port's tags say so. The kernel takes that tag off, whatever its kind,
/// and net_af_packet puts it back as an 802.1Q tag.
fn restore_kind(frame: &mut [u8], tags: &[Tags]) {
    const INNER: [u8; 2] = ETHERTYPE_VLAN.to_be_bytes();
    let Some(head) = frame.first_chunk_mut::<18>() else { return };
    let [.., a, b, high, low, c, d] = *head;
    let id = u16::from_be_bytes([high, low]) & Tags::ID;
    let is_service = |t: &Tags| t.outer == Some(id) && t.inner.is_some() == ([c, d] == INNER);
    if [a, b] == INNER && tags.iter().any(is_service) {
        head[12..14].copy_from_slice(&ETHERTYPE_QINQ.to_be_bytes());
    }
}

/// A queue moves between threads but is never shared or copied, checked by the compiler.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Queue>();

    // Ambiguous, and so an error, if Queue were Sync or Clone.
    trait Single<A> {
        const OK: bool = true;
    }
    impl<T> Single<()> for T {}
    impl<T: Sync> Single<u8> for T {}
    impl<T: Clone> Single<u16> for T {}
    assert!(<Queue as Single<_>>::OK);
};
