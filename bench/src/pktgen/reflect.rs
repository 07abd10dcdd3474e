//! The far end for a generator on another host: sends each of its packets back to where it came from.
//!
//! Addresses and ports are swapped and the payload is left alone, so the generator knows its packets again, and its own clock
//! measures the way there and back. What carries no stamp is left alone: two reflectors never play with anybody's packets, and
//! with a generator's own for one lifetime (TTL) at most.

use std::time::Duration;

use anyhow::Result;
use arrayvec::ArrayVec;
use forwarder::dpdk::{self, Mbuf, Mempool, Port, rdtsc};
use forwarder::io::{BURST, PacketBuf};
use forwarder::pools;
use forwarder::sync::StopFlag;
use forwarder::wire::{Delta, Mac};
use serde::{Deserialize, Serialize};

use super::frame::{Kind, read};
use super::headers::swap_ends;
use super::setup::{Setup, eal, l2, on_core, port_settings, wait_for_link};
use super::threads::answer;
use crate::topology;

const MBUFS: u32 = 16_383;

/// What a reflector did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reflected {
    /// Packets sent back.
    pub packets: u64,
    /// Packets that the device did not take back in time.
    pub dropped_packets: u64,
    /// Frames that the device lost before they were looked at, as far as its driver tells.
    pub missed_packets: u64,
    /// Packets with a wrong checksum, not sent back.
    pub corrupt: u64,
    /// Packets that are no generator's.
    pub foreign: u64,
}

/// Turns a stamped packet round. False when it has come too far.
#[must_use]
pub fn turn(frame: &mut [u8], l3: usize, l4: usize, v6: bool) -> bool {
    let ttl = l3 + if v6 { 7 } else { 8 };
    if frame[ttl] <= 1 {
        return false;
    }
    frame[ttl] -= 1;
    if !v6 {
        let at = l3 + 10;
        let sum = Delta::TTL_DECREMENT.apply(u16::from_ne_bytes([frame[at], frame[at + 1]]));
        frame[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    }
    swap_ends(frame, l3, l4, v6);
    true
}

/// Reflects what comes to `setup.tx` until stopped, or for `duration`. `ready` is called once it does.
///
/// # Errors
/// The device or core cannot be had, or its link stays down.
pub fn run(
    setup: Setup,
    stop: &StopFlag,
    duration: Option<Duration>,
    ready: impl FnOnce(),
) -> Result<Reflected> {
    let have = topology::cores();
    let core = setup.cores.map(|(tx, _)| tx).or(have.last().copied()).unwrap_or(0);
    let main = have.iter().copied().find(|c| *c != core).unwrap_or(core);
    let eal = eal(&setup, main, MBUFS)?;
    let pool = Mempool::new(&eal, "packets", MBUFS, 256, pools::data_room_for(setup.mtu), None)?;
    let (port, mut queues) = Port::open(&eal, port_settings(&setup, 0), &pool)?;
    wait_for_link(&port, stop)?;
    let mut l2 = l2(&setup, 0, Mac(port.mac()));
    let deadline = duration.map(|d| rdtsc() + (d.as_secs_f64() * dpdk::tsc_hz(&eal) as f64) as u64);
    let (stop, verify) = (stop.clone(), setup.verify);
    let thread = on_core(&eal, ("pktgen-reflect", core), move || {
        let mut did = Reflected::default();
        let mut burst = ArrayVec::<Mbuf, BURST>::new();
        let mut batch = ArrayVec::<Mbuf, { 2 * BURST }>::new();
        let mut empty = 0u32;
        while !stop.stopped() && deadline.is_none_or(|deadline| rdtsc() < deadline) {
            let came: usize = queues.iter_mut().map(|queue| queue.rx(&mut burst)).sum();
            for mut frame in burst.drain(..) {
                let len = frame.frame_len();
                match read(frame.head(), len, verify) {
                    Kind::Stamped { l3, l4, v6, .. } => {
                        if !turn(frame.head_mut(), l3, l4, v6) || batch.try_push(frame).is_err() {
                            did.dropped_packets += 1;
                        }
                    }
                    Kind::Corrupt => did.corrupt += 1,
                    Kind::Foreign => did.foreign += 1,
                    kind @ (Kind::Arp(_) | Kind::Icmpv6(_)) => {
                        let (Some(reply), _) = answer(frame.head(), kind, &mut l2) else { continue };
                        if frame.resize(reply.len()) {
                            frame.head_mut().copy_from_slice(&reply);
                            // A device that is full loses it, as it would any other.
                            let mut one = ArrayVec::<Mbuf, 1>::from([frame]);
                            if let [queue] = &mut queues[..] {
                                queue.tx(&mut one);
                            }
                        }
                    }
                }
            }
            for queue in &mut queues {
                did.packets += queue.tx(&mut batch) as u64;
            }
            empty = if came > 0 { 0 } else { empty.saturating_add(1) };
            match empty {
                0..64 => {}
                64..4096 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(20)),
            }
        }
        did.dropped_packets += batch.len() as u64;
        did
    })?;
    ready();
    let did = thread.join().ok().flatten().unwrap_or_default();
    let stats = port.stats();
    let missed_packets = stats.missed + stats.rx_errors + stats.no_buffer;
    Ok(Reflected { missed_packets, ..did })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pktgen::headers::{Flows, Proto};
    use crate::pktgen::rate::FCS;
    use crate::pktgen::template::{Template, fill};
    use etherparse::{NetSlice, SlicedPacket};

    #[test]
    fn a_packet_turned_round_is_whole_and_ends_with_its_lifetime() {
        for (src, dst) in [("10.0.0.1:1", "10.0.0.2:2"), ("[fd00::1]:1", "[fd00::2]:2")] {
            for proto in [Proto::Udp, Proto::Tcp] {
                let flows = Flows {
                    src: src.parse().unwrap(),
                    dst: dst.parse().unwrap(),
                    count: 1,
                    hosts: 1,
                    proto,
                    vlan: Some(7),
                };
                let heads = flows.heads(Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
                let template = Template::new(heads, &"200".parse().unwrap(), 1).unwrap();
                let mut frame = vec![0; 200 - FCS];
                fill(&mut frame);
                template.write(0, 9, &mut frame);
                let Kind::Stamped { stamp, .. } = read(&frame, frame.len(), true) else { panic!() };
                let mut times = 0;
                while let Kind::Stamped { stamp: same, l3, l4, v6 } = read(&frame, frame.len(), true) {
                    assert_eq!(same, stamp);
                    if !turn(&mut frame, l3, l4, v6) {
                        break;
                    }
                    times += 1;
                    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
                    let from = match packet.net.unwrap() {
                        NetSlice::Ipv4(ip) => std::net::IpAddr::from(ip.header().source_addr()),
                        NetSlice::Ipv6(ip) => ip.header().source_addr().into(),
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(from, if times % 2 == 1 { flows.dst.ip() } else { flows.src.ip() });
                }
                assert_eq!(times, 63);
            }
        }
    }
}
