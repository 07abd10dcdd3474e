//! The fast path: a parser that lets a packet through without a second look, and [`Relay`], which sends it on.
//!
//! A packet passes the parser when its headers are whole, plain (no IPv4 options, no IPv6 extension headers, no fragment) and
//! right, and its TTL survives. For anything else [`super::slow`] finds out what it is and why it is dropped; so the parser
//! never has to tell reasons apart, only to be right about what it lets through. Source address checks are not needed
//! here: the address must equal a connection's, and that was checked at admission.
//!
//! The code is written for few instructions: at eight a cycle they are what a packet costs. Words are read whole, checks that
//! nearly always pass are one compare each, and nothing is told twice.
#![forbid(unsafe_code)]

use super::Edge;
use crate::counters::WorkerCounters;
use crate::flow::key::{self, tag};
use crate::flow::set::{CountPair, FlowSet, POLICED};
use crate::flow::table::Hot;
use crate::flow::{Found, HashKey, Millis};
use crate::io::{PacketBuf, PacketIo, PortIndex};
use crate::nat::{apply, plan::Deltas};
use crate::neighbor::Adjacency;
use crate::wire::eth::{self, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Mac, Tags};
use crate::wire::{PROTO_TCP, PROTO_UDP, tcp};

/// Length of an Ethernet header without, with one and with two VLAN tags: where the IP header begins.
pub(super) const UNTAGGED: usize = 14;
pub(super) const TAGGED: usize = 18;
pub(super) const STACKED: usize = 22;

/// One packet of a burst on its way through the phases.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    pub(super) hash: u64,
    /// As [`crate::flow::table::Half::key`]; the second word is 0 when the parser did not let the packet through.
    pub(super) key: [u64; 2],
    /// Of the whole frame, in bytes.
    pub(super) frame_len: u32,
    pub(super) found: Found,
    /// TCP flags; 0 for UDP.
    pub(super) flags: u8,
}

impl Lane {
    pub(super) const SLOW: Self = Self { hash: 0, key: [0; 2], frame_len: 0, found: Found::NONE, flags: 0 };

    /// Did the parser let it through?
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.key[1] != 0
    }

    /// [`key::Key::tag`].
    #[inline(always)]
    pub(super) fn tag(&self) -> u8 {
        key::tag_of(self.key[1])
    }

    #[inline(always)]
    pub(super) fn is_v6(&self) -> bool {
        self.tag() & tag::V6 != 0
    }
}

/// What a frame must say to be ours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expect {
    /// Destination MAC, and of an untagged port the beginning of IPv4: the frame's first 16 bytes under [`MAC_AND_IPV4`].
    first: u128,
    /// Length of its Ethernet header.
    pub(super) l3: u8,
    /// It is the first of several ports of its device.
    pub(super) shared: bool,
    /// Of a tagged port, what follows the MAC addresses of IPv4, under [`tags_and_ipv4`].
    tagged: [u64; 2],
    /// Second word of keys of this port, without the ports: IPv4, UDP.
    tag: u64,
}

/// Of the first 16 bytes of an untagged IPv4 frame: destination MAC, ethertype, version and header length.
const MAC_AND_IPV4: u128 =
    u128::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
/// Of the 16 bytes behind the MAC addresses of a tagged IPv4 frame: ethertypes, VLAN ids without priorities, version and header
/// length.
const fn tags_and_ipv4(l3: usize) -> [u64; 2] {
    match l3 {
        TAGGED => [u64::from_ne_bytes([0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0xff, 0]), 0],
        _ => [TWO_TAGS, u64::from_ne_bytes([0xff, 0xff, 0xff, 0, 0, 0, 0, 0])],
    }
}
/// Of the 8 bytes behind the MAC addresses of a tagged frame, the tags without priorities.
const fn tags(l3: usize) -> u64 {
    match l3 {
        TAGGED => u64::from_ne_bytes([0xff, 0xff, 0x0f, 0xff, 0, 0, 0, 0]),
        _ => TWO_TAGS,
    }
}
const TWO_TAGS: u64 = u64::from_ne_bytes([0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0x0f, 0xff]);
/// Of the last 8 bytes of a tagged frame's header, the priority bits.
const fn priorities(l3: usize) -> u64 {
    match l3 {
        TAGGED => u64::from_ne_bytes([0, 0, 0, 0, 0xf0, 0, 0, 0]),
        _ => u64::from_ne_bytes([0xf0, 0, 0, 0, 0xf0, 0, 0, 0]),
    }
}
/// Of the frame's first 16 bytes, the destination MAC.
const MAC: u128 = u128::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

impl Expect {
    pub(super) fn new(port: PortIndex, mac: Mac, tags: Tags, shared: bool) -> Self {
        let m = mac.0;
        let first =
            u128::from_ne_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 0, 0, 0, 0, 0, 0, 8, 0, 0x45, 0]);
        let header = eth::header(mac, mac, tags, ETHERTYPE_IPV4);
        let behind = header.get(12..).unwrap_or_default().iter().chain(&[0x45]);
        let mut tagged = [0; 16];
        tagged.iter_mut().zip(behind).for_each(|(to, from)| *to = *from);
        let tagged = [ne64(&tagged, 0), ne64(&tagged, 8)];
        Self { first, l3: tags.header_len() as u8, shared, tagged, tag: key::rest(0, tag::KEY, port) }
    }
}

// Words at offsets that the compiler knows to be within the array; none of these can fail, or costs more than a load.

#[inline(always)]
fn bytes<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    b.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
}

#[inline(always)]
fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes(b, at))
}

#[inline(always)]
fn ne32(b: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes(b, at))
}

#[inline(always)]
fn ne64(b: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes(b, at))
}

/// Is the ones' complement sum of a 20-byte header 0xffff, as it is when its checksum is right (RFC 1071)?
#[inline(always)]
fn header_sum_ok(h: &[u8; 28]) -> bool {
    // 2^16 is 1 modulo 0xffff, so the header taken as one long number has the same remainder as the sum of its words; and so
    // have its 64-bit parts added with end-around carry. The header is not zero: it begins with 0x45.
    let (sum, carry) = ne64(h, 0).overflowing_add(ne64(h, 8));
    let (sum, carry) = sum.overflowing_add(u64::from(ne32(h, 16)) + u64::from(carry));
    let sum = sum + u64::from(carry);
    // A multiple of an odd number becomes its quotient when multiplied by the inverse, and nothing else becomes that small.
    sum.wrapping_mul(INVERSE) <= u64::MAX / 0xffff
}

/// The inverse of 0xffff modulo 2^64: -(1 + 2^16)(1 + 2^32).
const INVERSE: u64 = (0x1_0001u64.wrapping_mul(0x1_0000_0001)).wrapping_neg();
const _: () = assert!(INVERSE.wrapping_mul(0xffff) == 1);

/// Parses a frame whose IP header begins at `L3`: fills in the lane but for `found`. `head` is the frame's first segment, `frame_len`
/// its length over all segments.
#[inline(always)]
pub(super) fn parse<const L3: usize>(
    lane: &mut Lane,
    expect: &Expect,
    hash: &HashKey,
    head: &[u8],
    frame_len: u32,
) {
    if fill::<L3>(lane, expect, hash, head, frame_len).is_none() {
        lane.hash = 0;
        lane.key[1] = 0;
    }
}

#[inline(always)]
fn fill<const L3: usize>(
    lane: &mut Lane,
    expect: &Expect,
    hash: &HashKey,
    head: &[u8],
    frame_len: u32,
) -> Option<()> {
    // The shortest packet of all that pass: IPv4 and UDP headers.
    let (_, packet) = head.split_first_chunk::<L3>()?;
    let h = packet.first_chunk::<28>()?;
    let first = u128::from_ne_bytes(bytes(head, 0)) ^ expect.first;
    let ipv4 = if L3 == UNTAGGED {
        first & MAC_AND_IPV4 == 0
    } else {
        let mask = const { tags_and_ipv4(L3) };
        first & MAC == 0
            && (ne64(head, 12) ^ expect.tagged[0]) & mask[0] == 0
            && (mask[1] == 0 || (ne64(head, 20) ^ expect.tagged[1]) & mask[1] == 0)
    };
    if !ipv4 {
        return fill6::<L3>(lane, expect, hash, head, frame_len);
    }
    let total = u32::from(be16(h, 2));
    let fits = total >= 28 && L3 as u32 + total <= frame_len;
    if be16(h, 6) & 0x3fff != 0 || h[8] <= 1 || !fits || !header_sum_ok(h) {
        return None;
    }
    let addrs = ne64(h, 12);
    let rest = if h[9] == PROTO_UDP {
        // Nearly always it says what the IP header says; anything else may be right, too, and is looked at elsewhere.
        if u32::from(be16(h, 24)) + 20 != total {
            return None;
        }
        lane.flags = 0;
        u64::from(ne32(h, 20)) | expect.tag
    } else if h[9] == PROTO_TCP {
        lane.flags = tcp_flags::<20>(packet, total - 20)?;
        u64::from(ne32(h, 20)) | expect.tag | key::rest(0, tag::TCP, 0)
    } else {
        return None;
    };
    lane.key = [addrs, rest];
    lane.hash = hash.hash2(addrs, rest);
    lane.frame_len = frame_len;
    Some(())
}

/// [`fill`] for IPv6.
#[inline(always)]
fn fill6<const L3: usize>(
    lane: &mut Lane,
    expect: &Expect,
    hash: &HashKey,
    head: &[u8],
    frame_len: u32,
) -> Option<()> {
    let (eth, packet) = head.split_first_chunk::<L3>()?;
    let h = packet.first_chunk::<48>()?;
    let first = u128::from_ne_bytes(bytes(head, 0)) ^ expect.first;
    let ours = L3 == UNTAGGED || (ne64(head, 12) ^ expect.tagged[0]) & const { tags(L3) } == 0;
    if first & MAC != 0 || !ours || be16(eth, L3 - 2) != ETHERTYPE_IPV6 || h[0] >> 4 != 6 {
        return None;
    }
    let payload = u32::from(be16(h, 4));
    if h[7] <= 1 || payload < 8 || L3 as u32 + 40 + payload > frame_len {
        return None;
    }
    let protocol = if h[6] == PROTO_UDP {
        // Over IPv6 a datagram has a checksum (RFC 8200 section 8.1).
        if u32::from(be16(h, 44)) != payload || be16(h, 46) == 0 {
            return None;
        }
        lane.flags = 0;
        0
    } else if h[6] == PROTO_TCP {
        lane.flags = tcp_flags::<40>(packet, payload)?;
        tag::TCP
    } else {
        return None;
    };
    let (src, dst) = addrs6(h);
    let rest = u64::from(ne32(h, 40)) | expect.tag | key::rest(0, tag::V6 | protocol, 0);
    lane.key = [0, rest];
    lane.hash = hash.hash5(src, dst, rest);
    lane.frame_len = frame_len;
    Some(())
}

/// Checks a TCP header at offset `AT`, of `len` bytes with all that follows; returns its flags.
#[inline(always)]
fn tcp_flags<const AT: usize>(packet: &[u8], len: u32) -> Option<u8> {
    // The whole fixed header must lie in the first segment: it is rewritten there.
    let header = packet.get(AT..AT + tcp::HEADER)?;
    let offset = u32::from(header[12] >> 4) * 4;
    (offset >= 20 && offset <= len).then_some(header[13])
}

/// Source and destination of an IPv6 header.
#[inline(always)]
fn addrs6(h: &[u8; 48]) -> (u128, u128) {
    let at = |i: usize| u128::from_ne_bytes(bytes(h, i));
    (at(8), at(24))
}

/// The IPv6 addresses of a frame that `parse` let through.
#[inline(always)]
pub(super) fn frame_addrs6<const L3: usize>(head: &[u8]) -> (u128, u128) {
    head.get(L3..).and_then(|packet| packet.first_chunk()).map_or((0, 0), addrs6)
}

/// A packet that [`Relay::send`] did not send.
pub(super) enum Unsent<B> {
    /// It takes more than that; it is as it came.
    Unusual(B),
    /// The device takes no more.
    TxFull(B),
}

/// What it takes to send packets of connections on their way, borrowed for a burst.
pub(super) struct Relay<'a> {
    pub(super) table: Hot<'a>,
    /// [`crate::flow::FlowSet::versions`].
    pub(super) versions: &'a [u32],
    pub(super) adjacencies: &'a [Adjacency],
    pub(super) counters: &'a WorkerCounters,
    pub(super) now: Millis,
}

impl<'a> Relay<'a> {
    /// Sends a packet on its way when all about it is usual: its connection is the one found, the flow has not changed, it neither
    /// opens nor closes, its next hop is known and takes a header of the same length, and it is not too long. Else gives it
    /// back as it came.
    #[inline(always)]
    pub(super) fn send<const L3: usize, IO: PacketIo>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        lane: &Lane,
        mut packet: IO::Buf,
    ) -> Result<(), Unsent<IO::Buf>> {
        let Some(way) = self.way::<0>(lane.found) else { return Err(Unsent::Unusual(packet)) };
        if !way.takes(lane) || !self.rewrite::<L3>(packet.head_mut(), lane.found, &way) {
            return Err(Unsent::Unusual(packet));
        }
        let bytes = u64::from(lane.frame_len);
        way.counters.add(1, bytes);
        let port = way.adjacency.port;
        if let Some(half) = self.table.halves.get_mut(lane.found.index()) {
            half.count(1, bytes, self.now);
        }
        edge.send(self.counters, port, bytes, packet).map_err(Unsent::TxFull)
    }

    /// The same for a train: packets of one connection and direction that follow each other, as data do. What holds for all of
    /// them is looked at once, and counted once. Stops behind the first that is not usual. `MARK` is as for `way`.
    ///
    /// Returns how many packets it took.
    #[inline(always)]
    pub(super) fn send_train<const L3: usize, const MARK: u32, IO: PacketIo>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        train: &[Lane],
        packets: &mut impl Iterator<Item = IO::Buf>,
    ) -> (usize, Option<Unsent<IO::Buf>>) {
        let found = train.first().map_or(Found::NONE, |lane| lane.found);
        let Some(way) = self.way::<MARK>(found) else { return (1, packets.next().map(Unsent::Unusual)) };
        let Some(batch) = edge.batch(self.counters, way.adjacency.port, train.len()) else {
            return (1, packets.next().map(Unsent::Unusual));
        };
        let (mut sent, mut bytes, mut unsent) = (0, 0, None);
        for lane in train {
            let Some(mut packet) = packets.next() else { break };
            if !way.takes(lane) || !self.rewrite::<L3>(packet.head_mut(), found, &way) {
                unsent = Some(Unsent::Unusual(packet));
                break;
            }
            if let Err(full) = batch.packets.try_push(packet) {
                unsent = Some(Unsent::TxFull(full.element()));
                break;
            }
            sent += 1;
            bytes += u64::from(lane.frame_len);
        }
        batch.bytes += bytes;
        way.counters.add(sent, bytes);
        if let Some(half) = self.table.halves.get_mut(found.index()) {
            half.count(sent, bytes, self.now);
        }
        (sent as usize + usize::from(unsent.is_some()), unsent)
    }

    /// How many packets of a train of a flow that has a rate may go now. They are charged; the first that may not is counted. None
    /// when the first is not usual, or the device takes no more: nothing is charged then.
    #[inline(always)]
    pub(super) fn admit_policed<IO: PacketIo>(
        &mut self,
        edge: &mut Edge<'_, IO>,
        (flows, ticks): (&FlowSet, u64),
        train: &[Lane],
    ) -> Option<usize> {
        let found = train.first()?.found;
        let way = self.way::<POLICED>(found)?;
        let slot = self.table.halves.get(found.index())?.flow;
        // No more is charged than the batch takes: else what it does not would be charged again.
        let room = edge.batch(self.counters, way.adjacency.port, train.len())?.packets.remaining_capacity();
        let usual = train.iter().take(room).take_while(|lane| way.takes(lane)).map(|lane| lane.frame_len);
        usual.clone().next()?;
        let passed = flows.police(slot)?.admit(found.direction(), ticks, usual);
        if passed == 0 {
            self.counters.flows.get(slot as usize)?.policed.add(1);
        }
        Some(passed)
    }

    /// The way of the packets of one half; none when something about it is not usual. `MARK` is [`POLICED`] for flows that have a rate
    /// and 0 for those that have none: each kind is something unusual to the other. Its header has the length of the one that
    /// packets came with: else the half had no `fast_hop`.
    #[inline(always)]
    fn way<const MARK: u32>(&self, found: Found) -> Option<Way<'a>> {
        let half = self.table.halves.get(found.index())?;
        let adjacency = self.adjacencies.get(usize::from(half.fast_hop))?;
        let flow = self.counters.flows.get(half.flow as usize)?;
        if self.versions.get(half.flow as usize)? != &(half.version | MARK) {
            return None;
        }
        // The rewrite is copied: the compiler cannot know that a packet's bytes are not the connection's.
        Some(Way {
            key: half.key,
            addrs: half.new_addrs,
            ports: half.new_ports,
            deltas: half.deltas,
            limit: u32::from(adjacency.limit),
            adjacency,
            counters: &flow.directions[found.direction() as usize],
        })
    }

    /// Rewrites a frame, or leaves it as it is and returns false.
    #[inline(always)]
    fn rewrite<const L3: usize>(&self, frame: &mut [u8], found: Found, way: &Way<'_>) -> bool {
        let tag = key::tag_of(way.key[1]);
        let is_tcp = tag & tag::TCP != 0;
        let rewritten = if tag & tag::V6 != 0 {
            match self.table.rewrite6(found, frame_addrs6::<L3>(frame)) {
                Some(addrs) => apply::ipv6::<L3>(frame, (addrs, way.ports), is_tcp, way.deltas),
                None => false,
            }
        } else {
            apply::ipv4::<L3>(frame, (way.addrs, way.ports), is_tcp, way.deltas)
        };
        rewritten && write_header::<L3>(frame, &way.adjacency.l2)
    }
}

/// What packets of one direction of a connection must have and get.
struct Way<'a> {
    key: [u64; 2],
    addrs: u64,
    ports: u32,
    deltas: Deltas,
    /// Longest frame, in bytes.
    limit: u32,
    adjacency: &'a Adjacency,
    counters: &'a CountPair,
}

impl Way<'_> {
    #[inline(always)]
    fn takes(&self, lane: &Lane) -> bool {
        lane.key[0] == self.key[0]
            && lane.key[1] == self.key[1]
            && lane.flags & tcp::OPENS_OR_CLOSES == 0
            && lane.frame_len <= self.limit
    }
}

/// Writes an Ethernet header by words that overlap; the priority bits of tags stay. False when the frame is shorter.
#[inline(always)]
fn write_header<const L3: usize>(frame: &mut [u8], from: &[u8; eth::HEADER_MAX]) -> bool {
    let Some(to) = frame.first_chunk_mut::<L3>() else { return false };
    to[..8].copy_from_slice(&from[..8]);
    if L3 == UNTAGGED {
        to[L3 - 8..].copy_from_slice(&from[L3 - 8..L3]);
        return true;
    }
    to[8..L3 - 8].copy_from_slice(&from[8..L3 - 8]);
    let came = ne64(to, L3 - 8) & const { priorities(L3) };
    to[L3 - 8..].copy_from_slice(&(ne64(from, L3 - 8) | came).to_ne_bytes());
    true
}
