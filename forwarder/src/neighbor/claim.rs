//! Are our addresses free? Asked before the forwarder begins: IPv4 by ARP probes (RFC 5227 section 2.1), IPv6, the link-local
//! address included, by duplicate address detection (RFC 4862 section 5.4).
//!
//! [`Claim`] is a pure state machine over [`PacketIo`]. When each probe is sent and when the listening ends is settled at the
//! start, so it ends in time whatever devices and neighbors do. What it receives is freed: it came before the forwarder began.
//! What counts as a conflict is what counts as one later, [`answer_arp`]'s and [`answer_nd`]'s judgement, except that a
//! message with the MAC address of any of our ports is our own, come back by a loop or by another port on the same link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{PortL2, Rival, answer_arp, answer_nd};
use crate::config::AddressCheck;
use crate::io::{BURST, Burst, PacketBuf, PacketIo, PortIndex, TxBatch};
use crate::wire::arp::{self, Arp};
use crate::wire::eth::{ETHERTYPE_ARP, ETHERTYPE_IPV6, Frame};
use crate::wire::ipv6::Ipv6;
use crate::wire::{Mac, WireError, icmpv6};

/// Probes of an address (RFC 5227 section 1.1, PROBE_NUM).
const PROBES: u32 = 3;
/// Bursts taken from a queue in one turn: a port that is flooded must not keep the others from being heard.
const BURSTS: usize = 32;

/// Milliseconds before the first probe, between probes, and after the last one.
struct Schedule {
    /// At random, less than this.
    wait: u32,
    /// At least this.
    gap: u32,
    /// And at random, less than this.
    jitter: u32,
    listen: u32,
}

const QUICK: Schedule = Schedule { wait: 1, gap: 150, jitter: 1, listen: 250 };
/// RFC 5227 section 1.1: PROBE_WAIT, PROBE_MIN, PROBE_MAX - PROBE_MIN, ANNOUNCE_WAIT.
const RFC5227: Schedule = Schedule { wait: 1001, gap: 1000, jitter: 1001, listen: 2000 };

/// An address of ours that another station has or wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// Port the address belongs to.
    pub port: PortIndex,
    /// The address and the other.
    pub rival: Rival,
}

/// A port whose addresses are asked for.
#[derive(Debug)]
pub struct ClaimPort {
    /// Its index.
    pub port: PortIndex,
    /// Index of its device's first port, by which frames of all of them come.
    pub device: PortIndex,
    /// Its addresses, MAC address and tags.
    pub l2: PortL2,
}

#[derive(Debug)]
struct Probe {
    due: u32,
    /// Index in [`Claim::ports`].
    port: usize,
    address: IpAddr,
}

/// The search for others who have our addresses.
#[derive(Debug)]
pub struct Claim<B> {
    ports: Vec<ClaimPort>,
    /// By time; those before `next` have been sent.
    probes: Vec<Probe>,
    next: usize,
    end: u32,
    /// Probes that devices have not taken yet, one a port.
    batches: Vec<TxBatch<B>>,
    conflicts: Vec<Conflict>,
}

impl<B: PacketBuf> Claim<B> {
    /// Of the addresses of some ports. Its clock begins at 0; `random` gives a number below the one it is given, which is
    /// not 0.
    pub fn new(ports: Vec<ClaimPort>, check: AddressCheck, random: &mut dyn FnMut(u32) -> u32) -> Claim<B> {
        let (times, Schedule { wait, gap, jitter, listen }) = match check {
            AddressCheck::Quick => (PROBES, QUICK),
            AddressCheck::Rfc5227 => (PROBES, RFC5227),
            AddressCheck::Off => (0, QUICK),
        };
        let (mut probes, mut end) = (Vec::new(), 0);
        for (port, at) in ports.iter().enumerate() {
            for address in at.l2.addresses() {
                let mut due = random(wait);
                for _ in 0..times {
                    probes.push(Probe { due, port, address });
                    end = end.max(due + listen);
                    due += gap + random(jitter);
                }
            }
        }
        probes.sort_by_key(|p| p.due);
        let batches = ports.iter().map(|_| TxBatch::new()).collect();
        Claim { ports, probes, next: 0, end, batches, conflicts: Vec::new() }
    }

    /// Hears what came, sends what is due. `ios` are the queues of all workers, `now` is in milliseconds. True when it is over.
    pub fn turn<IO: PacketIo<Buf = B>>(&mut self, ios: &mut [IO], now: u32) -> bool {
        let mut burst = Burst::new();
        for at in 0..self.ports.len() {
            let device = self.ports[at].device;
            if self.ports[..at].iter().any(|p| p.device == device) {
                continue;
            }
            for io in ios.iter_mut() {
                for _ in 0..BURSTS {
                    io.rx(device, &mut burst);
                    let last = burst.len() < BURST;
                    for packet in &burst {
                        for at in (0..self.ports.len()).filter(|at| self.ports[*at].device == device) {
                            if let Some(conflict) = self.hear(at, packet.head(), packet.frame_len()) {
                                self.conflicts.push(conflict);
                            }
                        }
                    }
                    io.free(&mut burst);
                    if last {
                        break;
                    }
                }
            }
        }
        if let Some(io) = ios.first_mut() {
            self.send(io, now);
        }
        now >= self.end
    }

    /// The conflicts found, each once.
    pub fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    fn send<IO: PacketIo<Buf = B>>(&mut self, io: &mut IO, now: u32) {
        while let Some(probe) = self.probes.get(self.next).filter(|p| p.due <= now) {
            self.next += 1;
            let (ClaimPort { port: index, l2, .. }, batch) =
                (&self.ports[probe.port], &mut self.batches[probe.port]);
            if batch.is_full() {
                io.tx(*index, batch);
            }
            // What has no room is lost, as on the wire: a device whose link is down must not hold up the start.
            if let (false, Some(packet)) = (batch.is_full(), io.alloc())
                && let Some(packet) = write(packet, l2, probe.address)
            {
                batch.push(packet);
            }
        }
        for (ClaimPort { port: index, .. }, batch) in self.ports.iter().zip(&mut self.batches) {
            if !batch.is_empty() {
                io.tx(*index, batch);
            }
        }
    }

    /// A conflict that is not known yet, in a frame of the device of port `at`.
    fn hear(&self, at: usize, bytes: &[u8], len: usize) -> Option<Conflict> {
        let ClaimPort { port, l2, .. } = &self.ports[at];
        let frame = Frame::parse(bytes).ok()?;
        let conflict = Conflict { port: *port, rival: contest(bytes, len, &frame, l2)? };
        let ours = self.ports.iter().any(|p| p.l2.mac == conflict.rival.mac);
        (!ours && !self.conflicts.contains(&conflict)).then_some(conflict)
    }
}

/// Who contests an address of `port` by a frame that arrived there.
fn contest(bytes: &[u8], len: usize, frame: &Frame, port: &PortL2) -> Option<Rival> {
    let ours = frame.tags.vlans() == port.tags && (frame.dst == port.mac || frame.dst.is_multicast());
    let outcome = match frame.ethertype {
        ETHERTYPE_ARP if ours => answer_arp(bytes, frame, port),
        ETHERTYPE_IPV6 if ours => {
            let packet = bytes.get(frame.l3..).unwrap_or_default();
            Ipv6::parse(packet, len.saturating_sub(frame.l3)).and_then(|ip| answer_nd(&ip, frame, port))
        }
        _ => return None,
    };
    outcome.ok()?.conflict
}

/// Writes a probe for `address` into a fresh packet.
fn write<B: PacketBuf>(mut packet: B, port: &PortL2, address: IpAddr) -> Option<B> {
    packet.resize(icmpv6::FRAME_MAX).then_some(())?;
    let len = probe(packet.head_mut(), port, address).ok()?;
    packet.resize(len).then_some(packet)
}

fn probe(buf: &mut [u8], port: &PortL2, address: IpAddr) -> Result<usize, WireError> {
    match address {
        // The sender's address is zero, lest anybody take it over before it is ours (RFC 5227 section 2.1.1).
        IpAddr::V4(tpa) => {
            let (sha, spa, tha) = (port.mac, Ipv4Addr::UNSPECIFIED, Mac::default());
            arp::write(buf, Mac::BROADCAST, port.tags, &Arp { op: arp::REQUEST, sha, spa, tha, tpa })
        }
        // RFC 4862 section 5.4.2.
        IpAddr::V6(target) => {
            icmpv6::write_solicitation(buf, port.mac, port.tags, Ipv6Addr::UNSPECIFIED, target, None)
        }
    }
}
