//! Devices with several ports, told apart by VLAN tags: a burst of theirs is passed on by port, in order within each.
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;

use super::fast::Lane;
use super::{Edge, Engine};
use crate::io::{BURST, Burst, PacketBuf, PacketIo, PortIndex};
use crate::net::Network;
use crate::wire::eth::{ETHERTYPE_QINQ, ETHERTYPE_VLAN, HEADER, TAG, Tags};

/// Ports by the ids of their tags, the service tag's in the high half. An id of 0 is no VLAN, as in a frame.
#[derive(Debug)]
pub(super) struct Shared {
    /// By a device's first port; nothing where it has no other.
    ports: Vec<Vec<(u32, PortIndex)>>,
}

impl Shared {
    pub(super) fn new(net: &Network) -> Self {
        let of = |device: PortIndex| {
            let all = (0..).zip(&net.ports).filter(|(_, p)| p.device == device);
            let ports: Vec<_> = all.map(|(port, p)| (ids_of(p.tags), port)).collect();
            if ports.len() > 1 { ports } else { Vec::new() }
        };
        Self { ports: (0..net.ports.len() as PortIndex).map(of).collect() }
    }

    /// Has the device, by its first port, several?
    pub(super) fn is_shared(&self, device: PortIndex) -> bool {
        !self.of(device).is_empty()
    }

    fn of(&self, device: PortIndex) -> &[(u32, PortIndex)] {
        self.ports.get(usize::from(device)).map_or(&[], Vec::as_slice)
    }
}

fn ids_of(tags: Tags) -> u32 {
    u32::from(tags.outer.unwrap_or(0)) << 16 | u32::from(tags.inner.unwrap_or(0))
}

/// The ids of a frame's tags, as far as they may be a port's; whether all else is right shows later.
#[inline]
fn ids(head: &[u8]) -> u32 {
    const ID: u32 = Tags::ID as u32;
    const OUTER: u32 = ETHERTYPE_QINQ as u32;
    const INNER: u32 = ETHERTYPE_VLAN as u32;
    let word = |at: usize| head.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b));
    let (first, second) = (word(HEADER - 2), word(HEADER - 2 + TAG));
    let inner = |tag: u32| if tag >> 16 == INNER { tag & ID } else { 0 };
    if first >> 16 == OUTER { (first & ID) << 16 | inner(second) } else { inner(first) }
}

impl<B: PacketBuf> Engine<B> {
    /// [`Engine::process`] for a device with several ports, by its first. Frames of none of them are the first one's, which
    /// drops them by name.
    #[inline(never)]
    pub(super) fn process_shared<IO: PacketIo<Buf = B>>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        device: PortIndex,
        burst: &mut Burst<B>,
    ) {
        for packet in burst.iter() {
            packet.prefetch();
        }
        let received = burst.len();
        let mut ports = ArrayVec::<PortIndex, BURST>::new();
        let (mut of, mut port) = (None, device);
        for packet in burst.iter() {
            let ids = ids(packet.head());
            // Frames of one port follow each other.
            if of != Some(ids) {
                of = Some(ids);
                port = self.shared.of(device).iter().find(|p| p.0 == ids).map_or(device, |p| p.1);
            }
            ports.push(port);
        }
        let mut relayed = 0;
        while let Some(&port) = ports.first() {
            let (mut others, mut others_ports) = (Burst::new(), ArrayVec::new());
            if ports.iter().any(|p| *p != port) {
                let mut group = Burst::new();
                for (packet, of) in burst.drain(..).zip(ports.drain(..)) {
                    if of == port {
                        group.push(packet);
                    } else {
                        others.push(packet);
                        others_ports.push(of);
                    }
                }
                *burst = group;
            }
            relayed = burst.len();
            self.process_one(edge, port, burst);
            (*burst, ports) = (others, others_ports);
        }
        // Only the last group's lanes are of this burst.
        if let Some(old) = self.lanes.get_mut(relayed..received) {
            old.fill(Lane::SLOW);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Mac;
    use crate::wire::eth::{ETHERTYPE_IPV4, header};

    #[test]
    fn ids_are_read_as_ports_have_them() {
        for (outer, inner, plain) in [
            (None, None, Tags::NONE),
            (None, Some(0xe01e), Tags::one(Some(0x1e))),
            (Some(0x3064), None, Tags { outer: Some(0x64), inner: None }),
            (Some(0x3064), Some(0xffff), Tags { outer: Some(0x64), inner: Some(0xfff) }),
            (None, Some(0xe000), Tags::NONE),
            (Some(0xe000), Some(0x1e), Tags::one(Some(0x1e))),
        ] {
            let tags = Tags { outer, inner };
            let mut frame = header(Mac::default(), Mac::default(), tags, ETHERTYPE_IPV4).to_vec();
            frame.extend([0x45; 20]);
            assert_eq!((ids(&frame), plain), (ids_of(plain), tags.vlans()), "{tags:x?}");
        }
        assert_eq!((ids(&[]), ids(&[0x81; 15])), (0, 0));
    }
}
