//! A worker's connection table.
//!
//! A connection has a record for each direction, its halves, of one 64-byte line each: the key that a packet must have, the
//! rewrite it gets, and what it changes there. So a packet of IPv4 touches one line beside the index; the addresses of IPv6 take a
//! second one, and what packets seldom need is kept apart.
//!
//! The index is a hash table of 64-byte buckets with eight 16-bit signatures each, compared at once. An entry lives in its
//! home bucket, or when that is full in the alternate bucket that its signature names (partial-key cuckoo hashing); the home
//! bucket counts its emigrants, so that a lookup reads a second bucket only when there are any.
//!
//! Memory a connection, both directions: 128 + 64 + 16 bytes of records and 22 to 43 of index.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytemuck::{Pod, Zeroable};

use super::Millis;
use super::hash::HashKey;
use super::key::{self, Addrs, Key, addr4, addr16, tag};
use super::pages::Pages;
use super::set::Flow;
use crate::api::Proto;
use crate::io::PortIndex;
use crate::nat::plan::{self, Deltas};
use crate::neighbor::AdjIndex;
use crate::sync::{equal_words, prefetch};

/// Which way a packet of a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the client, through the listen address.
    ToTarget = 0,
    /// From the target, to the source address.
    ToClient = 1,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::ToTarget, Direction::ToClient];
}

/// A half, as the index stores it: the connection's number times two, plus one towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found(u32);

impl Found {
    /// No half: a number that none has.
    pub const NONE: Found = Found(u32::MAX);

    /// A connection's half.
    #[inline(always)]
    pub fn of(conn: u32, direction: Direction) -> Self {
        Self(conn << 1 | direction as u32)
    }

    /// The half's number.
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The connection's number.
    #[inline(always)]
    pub fn conn(self) -> u32 {
        self.0 >> 1
    }

    /// The packet's direction.
    #[inline(always)]
    pub fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::ToTarget } else { Direction::ToClient }
    }
}

/// TCP flags seen, as bits of [`Cold::seen`].
pub mod seen {
    /// SYN from the client.
    pub const CLIENT_SYN: u8 = 1;
    /// SYN from the target.
    pub const TARGET_SYN: u8 = 2;
    /// FIN from the client.
    pub const CLIENT_FIN: u8 = 4;
    /// FIN from the target.
    pub const TARGET_FIN: u8 = 8;
    /// RST from either.
    pub const RST: u8 = 16;
}

/// One direction of a connection: what its packets need, and what they change.
#[derive(Debug, Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
pub struct Half {
    /// What a packet must have: IPv4 source (low half) and destination in network order; the rest as [`key::rest`]
    /// puts it. All zero in a free record. IPv6 addresses lie in `ConnTable::v6`.
    pub key: [u64; 2],
    /// Addresses that an IPv4 packet leaves with.
    pub new_addrs: u64,
    /// Ports that a packet leaves with.
    pub new_ports: u32,
    /// Changes of the checksums.
    pub deltas: Deltas,
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Slot of the flow; in a free record the next free one.
    pub flow: u32,
    /// Version of the flow that the connection was last checked against.
    pub version: u32,
    /// Time of the last packet.
    pub last_seen: Millis,
    /// Where packets go.
    pub next_hop: AdjIndex,
    /// The same for the fast path, or [`TRANSLATED`] or [`RETAGGED`], which no next hop has: what changes the length of headers is not
    /// for it.
    pub fast_hop: AdjIndex,
}

/// In the place of a next hop: the families of the two sides differ.
pub const TRANSLATED: AdjIndex = AdjIndex::MAX;
/// In the place of a next hop: the ports of the two sides have Ethernet headers of different lengths.
pub const RETAGGED: AdjIndex = AdjIndex::MAX - 1;

const _: () = assert!(size_of::<Half>() == 64);
const _: () = assert!(size_of::<Bucket>() == 64);
const _: () = assert!(size_of::<Cold>() == 16);

/// What packets seldom need.
#[derive(Debug, Clone, Copy, Default, Zeroable, Pod)]
#[repr(C)]
pub struct Cold {
    /// Id of its flow.
    pub flow_id: u64,
    /// Time of admission.
    pub created: Millis,
    /// TCP flags seen, [`seen`].
    pub seen: u8,
    spare: u8,
    /// When the last RST came, in units of 256 ms.
    reset: u16,
}

impl Cold {
    /// Takes note of an RST.
    pub fn reset(&mut self, now: Millis) {
        self.seen |= seen::RST;
        self.reset = (now >> 8) as u16;
    }

    /// Forgets an RST that the connection outlived: something else came more than a second later (RFC 7857 section 2.2; RFC 6146
    /// section 3.5.2.2). So one that was forged costs nothing (RFC 5961). `idle` are the milliseconds since the last packet.
    pub fn outlive_reset(&mut self, now: Millis, idle: Millis) {
        let since = u32::from(((now >> 8) as u16).wrapping_sub(self.reset)) << 8;
        if self.seen & seen::RST != 0 && since > idle.saturating_add(1000) {
            self.seen &= !seen::RST;
        }
    }

    /// Has both ends' consent and no end's farewell (RFC 5382 section 5: established). False for UDP.
    pub fn established(&self) -> bool {
        self.opened() && self.seen & seen::RST == 0
    }

    /// Would it be established but for an RST?
    pub fn only_reset(&self) -> bool {
        self.opened() && self.seen & seen::RST != 0
    }

    fn opened(&self) -> bool {
        use seen::{CLIENT_FIN, CLIENT_SYN, TARGET_FIN, TARGET_SYN};
        let both = |bits: u8| self.seen & bits == bits;
        both(CLIENT_SYN | TARGET_SYN) && !both(CLIENT_FIN | TARGET_FIN)
    }
}

/// The four endpoints of a connection to be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoints {
    /// TCP or UDP.
    pub proto: Proto,
    /// Who opened it.
    pub client: SocketAddr,
    /// The gateway's address that the client opened.
    pub listen: SocketAddr,
    /// The gateway's address and port towards the target.
    pub source: SocketAddr,
    /// Where it goes.
    pub target: SocketAddr,
    /// Ports at which packets arrive: from the client, from the target.
    pub arrives: [PortIndex; 2],
    /// Do these have Ethernet headers of different lengths?
    pub retagged: bool,
}

impl Endpoints {
    /// The key of packets of one direction.
    fn key(&self, direction: Direction) -> Option<Key> {
        let (src, dst) = match direction {
            Direction::ToTarget => (self.client, self.listen),
            Direction::ToClient => (self.target, self.source),
        };
        super::Tuple { port: self.arrives[direction as usize], proto: self.proto, src, dst }.key()
    }
}

impl Half {
    /// Family and protocol, [`tag`].
    #[inline(always)]
    pub fn tag(&self) -> u8 {
        key::tag_of(self.key[1])
    }

    /// Is it TCP?
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.tag() & tag::TCP != 0
    }

    /// Is it IPv6?
    #[inline(always)]
    pub fn is_v6(&self) -> bool {
        self.tag() & tag::V6 != 0
    }

    /// Do packets leave in the other IP family?
    #[inline(always)]
    pub fn translates(&self) -> bool {
        self.fast_hop == TRANSLATED
    }

    /// Counts frames.
    #[inline(always)]
    pub fn count(&mut self, packets: u64, bytes: u64, now: Millis) {
        self.packets += packets;
        self.bytes += bytes;
        self.last_seen = now;
    }
}

/// Eight entries of the index on one cache line.
#[derive(Debug, Clone, Copy, Zeroable, Pod)]
#[repr(C, align(64))]
struct Bucket {
    /// 0 marks a free place.
    signatures: [u16; 8],
    found: [u32; 8],
    /// Entries whose home is here and that live in their alternate bucket.
    emigrants: u16,
    /// Bit i: entry i lives here as an emigrant.
    foreign: u8,
    spare: [u8; 13],
}

impl Bucket {
    fn set(&mut self, i: usize, signature: u16, found: u32, foreign: bool) {
        self.signatures[i] = signature;
        self.found[i] = found;
        self.foreign = self.foreign & !(1 << i) | u8::from(foreign) << i;
    }

    /// Bits 2i and 2i + 1 are set where signature i equals `signature`.
    #[inline(always)]
    fn matching(&self, signature: u16) -> u32 {
        equal_words(&self.signatures, signature)
    }

    /// Positions of equal signatures.
    fn places(&self, signature: u16) -> impl Iterator<Item = usize> + use<> {
        let mask = self.matching(signature);
        (0..8).filter(move |i| mask >> (2 * i) & 1 != 0)
    }

    fn free_place(&self) -> Option<usize> {
        self.places(0).next()
    }
}

/// Why a connection could not be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Connections of one worker. Nothing is allocated after [`ConnTable::new`].
#[derive(Debug)]
pub struct ConnTable {
    buckets: Pages<Bucket>,
    /// Two a connection, by [`Found`].
    halves: Pages<Half>,
    /// Client, listen, source, target.
    v6: Pages<[u128; 4]>,
    cold: Pages<Cold>,
    hash: HashKey,
    /// First free record below `used`, or `NONE`.
    free: u32,
    /// Records ever used: the sweep needs to look no further.
    used: u32,
    len: u32,
}

const NONE: u32 = u32::MAX;

impl ConnTable {
    /// Room for `capacity` connections (at most 2^30).
    ///
    /// # Errors
    /// The system does not give the memory.
    pub fn new(capacity: usize, hash: HashKey) -> io::Result<Self> {
        let capacity = capacity.clamp(1, 1 << 30);
        // Two entries a connection, six of eight places in use at most.
        let buckets = (capacity * 2).div_ceil(6).next_power_of_two();
        Ok(Self {
            buckets: Pages::new(buckets)?,
            halves: Pages::new(capacity * 2)?,
            v6: Pages::new(capacity)?,
            cold: Pages::new(capacity)?,
            hash,
            free: NONE,
            used: 0,
            len: 0,
        })
    }

    /// Takes all memory from the system now, see [`Pages::populate`].
    pub fn populate(&self) {
        self.buckets.populate();
        self.halves.populate();
        self.v6.populate();
        self.cold.populate();
    }

    /// Bytes of memory a connection takes when the table is full, both directions and the index included.
    pub fn bytes_per_connection(&self) -> usize {
        let index = self.buckets.len() * size_of::<Bucket>();
        2 * size_of::<Half>() + size_of::<[u128; 4]>() + size_of::<Cold>() + index.div_ceil(self.capacity())
    }

    /// Connections now.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Is it empty?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most connections.
    pub fn capacity(&self) -> usize {
        self.cold.len()
    }

    /// A key's hash, and the key as a packet's lane has it ([`Half::key`]).
    pub fn hash(&self, key: &Key) -> (u64, [u64; 2]) {
        let addrs = match key.addrs {
            Addrs::V4(addrs) => addrs,
            Addrs::V6(..) => 0,
        };
        (self.hash_of(key), [addrs, key.rest()])
    }

    fn hash_of(&self, key: &Key) -> u64 {
        let rest = key.rest();
        match key.addrs {
            Addrs::V4(addrs) => self.hash.hash2(addrs, rest),
            Addrs::V6(src, dst) => self.hash.hash5(src, dst, rest),
        }
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        home(&self.buckets, hash)
    }

    /// The other bucket of an entry; its own inverse.
    #[inline(always)]
    fn alternate(&self, bucket: usize, signature: u16) -> usize {
        // An odd multiplier keeps the distance from being zero in the low bits of small tables.
        (bucket ^ (usize::from(signature).wrapping_mul(0x5bd1_e995) | 1)) & (self.buckets.len() - 1)
    }

    /// What the fast path works on, borrowed for a burst.
    #[inline(always)]
    pub fn hot(&mut self) -> Hot<'_> {
        Hot { hash: self.hash, buckets: &self.buckets, halves: &mut self.halves, v6: &self.v6 }
    }

    /// One direction of a connection.
    pub fn half(&self, found: Found) -> &Half {
        &self.halves[found.index()]
    }

    /// The same, where there may be none.
    pub fn get(&self, found: Found) -> Option<&Half> {
        self.halves.get(found.index())
    }

    /// The same, to update.
    pub fn half_mut(&mut self, found: Found) -> &mut Half {
        &mut self.halves[found.index()]
    }

    /// Slot of a connection's flow, and the version it was last checked against.
    pub fn flow(&self, n: u32) -> (u32, u32) {
        let half = self.half(Found::of(n, Direction::ToTarget));
        (half.flow, half.version)
    }

    /// Is it TCP?
    pub fn is_tcp(&self, n: u32) -> bool {
        self.half(Found::of(n, Direction::ToTarget)).is_tcp()
    }

    /// Milliseconds since the last packet.
    pub fn idle(&self, n: u32, now: Millis) -> Millis {
        let idle = |direction| now.wrapping_sub(self.half(Found::of(n, direction)).last_seen);
        idle(Direction::ToTarget).min(idle(Direction::ToClient))
    }

    /// A record's seldom needed part.
    pub fn cold(&self, n: u32) -> &Cold {
        &self.cold[n as usize]
    }

    /// The same, to update.
    pub fn cold_mut(&mut self, n: u32) -> &mut Cold {
        &mut self.cold[n as usize]
    }

    /// Addresses that an IPv6 packet leaves with: source, destination.
    pub fn new_addrs6(&self, found: Found) -> (u128, u128) {
        new_addrs6(&self.v6[found.conn() as usize], found.direction())
    }

    /// Finds the connection and direction of a key.
    pub fn find(&self, key: &Key) -> Option<Found> {
        self.find_hashed(self.hash_of(key), key)
    }

    /// The same, with the key's hash known.
    pub fn find_hashed(&self, hash: u64, key: &Key) -> Option<Found> {
        let signature = signature(hash);
        let home = self.home(hash);
        self.find_in(home, signature, key).or_else(|| {
            (self.buckets[home].emigrants > 0)
                .then(|| self.find_in(self.alternate(home, signature), signature, key))
                .flatten()
        })
    }

    fn find_in(&self, bucket: usize, signature: u16, key: &Key) -> Option<Found> {
        let bucket = &self.buckets[bucket];
        bucket.places(signature).map(|i| Found(bucket.found[i])).find(|found| self.matches(*found, key))
    }

    fn matches(&self, found: Found, key: &Key) -> bool {
        let half = self.half(found);
        half.key[1] == key.rest()
            && match key.addrs {
                Addrs::V4(addrs) => half.key[0] == addrs,
                Addrs::V6(src, dst) => {
                    matches_addrs6(&self.v6[found.conn() as usize], found.direction(), src, dst)
                }
            }
    }

    /// Inserts a connection of a flow under both its keys, which must be new. `next_hop` is towards the target and towards the
    /// client.
    pub fn insert(
        &mut self,
        e: &Endpoints,
        flow: &Flow,
        next_hop: [AdjIndex; 2],
        now: Millis,
    ) -> Result<u32, Full> {
        let (Some(to_target), Some(to_client)) = (e.key(Direction::ToTarget), e.key(Direction::ToClient))
        else {
            return Err(Full);
        };
        let n = if self.free != NONE { self.free } else { self.used };
        if n as usize >= self.capacity() {
            return Err(Full);
        }
        let mut halves = [Half::zeroed(); 2];
        let mut v6 = [0; 4];
        match to_target.addrs {
            Addrs::V4(there) => (halves[0].key[0], halves[1].new_addrs) = (there, there.rotate_left(32)),
            Addrs::V6(client, listen) => v6[..2].copy_from_slice(&[client, listen]),
        }
        match to_client.addrs {
            Addrs::V4(back) => (halves[1].key[0], halves[0].new_addrs) = (back, back.rotate_left(32)),
            Addrs::V6(target, source) => v6[2..].copy_from_slice(&[source, target]),
        }
        if to_target.is_v6() || to_client.is_v6() {
            self.v6[n as usize] = v6;
        }
        let translates = to_target.is_v6() != to_client.is_v6();
        let [there, back] = plan::deltas(e);
        for (half, (key, other), deltas, next_hop) in [
            (0, (&to_target, &to_client), there, next_hop[0]),
            (1, (&to_client, &to_target), back, next_hop[1]),
        ] {
            halves[half] = Half {
                key: [halves[half].key[0], key.rest()],
                new_ports: other.ports.rotate_left(16),
                deltas,
                flow: flow.slot,
                version: flow.version,
                last_seen: now,
                next_hop,
                fast_hop: match (translates, e.retagged) {
                    (true, _) => TRANSLATED,
                    (_, true) => RETAGGED,
                    _ => next_hop,
                },
                ..halves[half]
            };
        }
        // The records last: until both keys have their places they stay the free ones that they are.
        self.index(self.hash_of(&to_target), n << 1)?;
        if let Err(full) = self.index(self.hash_of(&to_client), n << 1 | 1) {
            self.unindex(self.hash_of(&to_target), n << 1);
            return Err(full);
        }
        let [there, back] = Direction::BOTH.map(|d| Found::of(n, d));
        if self.free != NONE {
            self.free = self.half(there).flow;
        } else {
            self.used += 1;
        }
        (*self.half_mut(there), *self.half_mut(back)) = (halves[0], halves[1]);
        self.cold[n as usize] = Cold { flow_id: flow.id, created: now, ..Cold::default() };
        self.len += 1;
        Ok(n)
    }

    /// Removes a connection; returns the keys of its directions when there was one.
    pub fn remove(&mut self, n: u32) -> Option<[Key; 2]> {
        if !self.in_use(n) {
            return None;
        }
        let keys = self.keys(n);
        for (direction, key) in Direction::BOTH.into_iter().zip(&keys) {
            self.unindex(self.hash_of(key), Found::of(n, direction).0);
            *self.half_mut(Found::of(n, direction)) = Half::zeroed();
        }
        self.half_mut(Found::of(n, Direction::ToTarget)).flow = self.free;
        self.free = n;
        self.len -= 1;
        Some(keys)
    }

    /// Asks for what [`ConnTable::remove`] will touch of record `n`.
    pub fn prefetch_removal(&self, n: u32) {
        for direction in Direction::BOTH {
            prefetch(&self.buckets, self.home(self.hash_of(&self.key(n, direction))));
        }
    }

    /// The keys of both directions.
    pub fn keys(&self, n: u32) -> [Key; 2] {
        Direction::BOTH.map(|direction| self.key(n, direction))
    }

    fn key(&self, n: u32, direction: Direction) -> Key {
        let half = self.half(Found::of(n, direction));
        let addrs = if half.is_v6() {
            let f = flip(direction);
            Addrs::V6(self.v6[n as usize][f], self.v6[n as usize][1 ^ f])
        } else {
            Addrs::V4(half.key[0])
        };
        Key { addrs, ports: half.key[1] as u32, tag: half.tag(), port: key::port_of(half.key[1]) }
    }

    fn index(&mut self, hash: u64, found: u32) -> Result<(), Full> {
        let signature = signature(hash);
        let home = self.home(hash);
        if let Some(i) = self.buckets[home].free_place() {
            self.buckets[home].set(i, signature, found, false);
            return Ok(());
        }
        let alternate = self.alternate(home, signature);
        if alternate != home
            && let Some(i) = self.buckets[alternate].free_place()
        {
            self.buckets[alternate].set(i, signature, found, true);
            self.buckets[home].emigrants += 1;
            return Ok(());
        }
        // Both are full: move one entry of either to its own other bucket.
        for (bucket, foreign) in [(home, false), (alternate, true)] {
            for i in 0..8 {
                if self.relocate(bucket, i) {
                    self.buckets[bucket].set(i, signature, found, foreign);
                    self.buckets[home].emigrants += u16::from(foreign);
                    return Ok(());
                }
            }
            if alternate == home {
                break;
            }
        }
        Err(Full)
    }

    /// Moves entry `i` of a bucket to its other bucket when there is room; the place is then free.
    fn relocate(&mut self, bucket: usize, i: usize) -> bool {
        let signature = self.buckets[bucket].signatures[i];
        let other = self.alternate(bucket, signature);
        let Some(place) = self.buckets[other].free_place().filter(|_| other != bucket) else { return false };
        let was_foreign = self.buckets[bucket].foreign >> i & 1 == 1;
        let found = self.buckets[bucket].found[i];
        self.buckets[other].set(place, signature, found, !was_foreign);
        if was_foreign {
            self.buckets[other].emigrants -= 1;
        } else {
            self.buckets[bucket].emigrants += 1;
        }
        self.buckets[bucket].set(i, 0, 0, false);
        true
    }

    fn unindex(&mut self, hash: u64, found: u32) {
        let signature = signature(hash);
        let home = self.home(hash);
        for bucket in [home, self.alternate(home, signature)] {
            let b = &self.buckets[bucket];
            if let Some(i) = b.places(signature).find(|i| b.found[*i] == found) {
                if b.foreign >> i & 1 == 1 {
                    self.buckets[home].emigrants -= 1;
                }
                self.buckets[bucket].set(i, 0, 0, false);
                return;
            }
        }
    }

    /// Packets and bytes of one direction.
    pub fn counts(&self, n: u32, direction: Direction) -> (u64, u64) {
        let half = self.half(Found::of(n, direction));
        (half.packets, half.bytes)
    }

    /// Records that a sweep has to look at: those below are or were in use.
    pub fn sweep_end(&self) -> u32 {
        self.used
    }

    /// Is record `n` in use?
    #[inline]
    pub fn in_use(&self, n: u32) -> bool {
        self.halves.get(Found::of(n, Direction::ToTarget).index()).is_some_and(|half| half.key[1] != 0)
    }

    /// The endpoints of a connection, for listings.
    pub fn endpoints(&self, n: u32) -> Endpoints {
        let halves = Direction::BOTH.map(|d| self.half(Found::of(n, d)));
        let [there, back] = halves;
        // Of the pair that a half's packets have, the place among the IPv6 addresses and in the key.
        let at = |half: &Half, v6: usize, place: usize| {
            let address: IpAddr = if half.is_v6() {
                addr16(self.v6[n as usize][v6])
            } else {
                addr4((half.key[0] >> (32 * place)) as u32)
            };
            SocketAddr::new(address, u16::from_be((half.key[1] as u32 >> (16 * place)) as u16))
        };
        Endpoints {
            proto: if there.is_tcp() { Proto::Tcp } else { Proto::Udp },
            client: at(there, 0, 0),
            listen: at(there, 1, 1),
            source: at(back, 2, 1),
            target: at(back, 3, 0),
            arrives: [key::port_of(there.key[1]), key::port_of(back.key[1])],
            retagged: there.fast_hop == RETAGGED,
        }
    }
}

#[inline(always)]
fn home(buckets: &[Bucket], hash: u64) -> usize {
    hash as usize & buckets.len().wrapping_sub(1)
}

/// Never 0, which marks a free place.
#[inline(always)]
fn signature(hash: u64) -> u16 {
    (hash >> 48) as u16 | 1
}

/// Position of the first of four IPv6 addresses for a packet's direction: the list is read from there by XOR.
#[inline(always)]
fn flip(direction: Direction) -> usize {
    (direction as usize) * 3
}

/// Are these the addresses of a packet of the connection?
#[inline(always)]
fn matches_addrs6(addrs: &[u128; 4], direction: Direction, src: u128, dst: u128) -> bool {
    let f = flip(direction);
    addrs[f] == src && addrs[1 ^ f] == dst
}

/// Addresses that a packet leaves with: source, destination.
#[inline(always)]
fn new_addrs6(addrs: &[u128; 4], direction: Direction) -> (u128, u128) {
    let f = flip(direction);
    (addrs[2 ^ f], addrs[3 ^ f])
}

/// The table as the fast path sees it: only lookups that need no second bucket.
pub struct Hot<'a> {
    /// Secret of the hash.
    pub hash: HashKey,
    buckets: &'a [Bucket],
    /// The halves, by [`Found`].
    pub halves: &'a mut [Half],
    v6: &'a [[u128; 4]],
}

impl Hot<'_> {
    /// Asks for the bucket a hash begins in.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        prefetch(self.buckets, home(self.buckets, hash));
    }

    /// The first entry of the home bucket with the hash's signature: almost always the right one, to be verified. Its record is
    /// prefetched.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Found {
        let Some(bucket) = self.buckets.get(home(self.buckets, hash)) else { return Found::NONE };
        let mask = bucket.matching(signature(hash));
        if mask == 0 {
            return Found::NONE;
        }
        let found = Found(bucket.found[(mask.trailing_zeros() as usize / 2) & 7]);
        prefetch(self.halves, found.index());
        found
    }

    /// Asks for a record's IPv6 addresses.
    #[inline(always)]
    pub fn prefetch6(&self, found: Found) {
        prefetch(self.v6, found.conn() as usize);
    }

    /// Addresses that an IPv6 packet leaves with, source and destination, when those it has are the connection's.
    #[inline(always)]
    pub fn rewrite6(&self, found: Found, (src, dst): (u128, u128)) -> Option<(u128, u128)> {
        let addrs = self.v6.get(found.conn() as usize)?;
        matches_addrs6(addrs, found.direction(), src, dst).then(|| new_addrs6(addrs, found.direction()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tuple;
    use super::*;

    fn address(a: u8, n: u32, v6: bool) -> IpAddr {
        let b = n.to_be_bytes();
        if v6 {
            IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, a, 0, 0, 0, 0, b[0], b[1], b[2], b[3]])
        } else {
            IpAddr::from([a, b[1], b[2], b[3]])
        }
    }

    fn endpoints(n: u32, v6: bool) -> Endpoints {
        let address = |a, n| address(a, n, v6);
        Endpoints {
            proto: if n.is_multiple_of(2) { Proto::Tcp } else { Proto::Udp },
            client: SocketAddr::new(address(10, n), 1000 + (n % 7) as u16),
            listen: SocketAddr::new(address(11, 1), 5000),
            source: SocketAddr::new(address(12, 1 + (n >> 14)), 32_768 + (n & 0x3fff) as u16),
            target: SocketAddr::new(address(13, 1), 6000),
            arrives: [0, 1],
            retagged: false,
        }
    }

    fn flow() -> Flow {
        Flow {
            id: 1,
            slot: 0,
            version: 1,
            spec: crate::api::FlowSpec {
                name: "f".into(),
                proto: Proto::Udp,
                listen: SocketAddr::new(address(11, 1, false), 5000),
                target: SocketAddr::new(address(13, 1, false), 6000),
                from: vec![],
                max_conns: None,
                mss_clamp: None,
                hairpin: false,
                rate: None,
                lease: None,
            },
            state: crate::api::FlowState::Active,
            police: None,
            shared: std::sync::Arc::default(),
        }
    }

    fn insert(table: &mut ConnTable, e: &Endpoints) -> Result<u32, Full> {
        table.insert(e, &flow(), [1, 2], 0)
    }

    fn tuples(e: &Endpoints) -> [Tuple; 2] {
        [
            Tuple { port: e.arrives[0], proto: e.proto, src: e.client, dst: e.listen },
            Tuple { port: e.arrives[1], proto: e.proto, src: e.target, dst: e.source },
        ]
    }

    #[test]
    fn holds_its_whole_capacity_and_finds_both_directions() {
        for v6 in [false, true] {
            let capacity = 50_000;
            let mut table = ConnTable::new(capacity, HashKey::new([3; 32])).unwrap();
            assert!(table.bytes_per_connection() <= 256, "{} bytes", table.bytes_per_connection());
            let mut numbers = Vec::new();
            for n in 0..capacity as u32 {
                numbers.push(insert(&mut table, &endpoints(n, v6)).unwrap());
            }
            assert_eq!(insert(&mut table, &endpoints(60_000, v6)), Err(Full));
            for (n, number) in (0..).zip(&numbers) {
                let e = endpoints(n, v6);
                assert_eq!(table.endpoints(*number), e);
                for (tuple, direction) in tuples(&e).iter().zip([Direction::ToTarget, Direction::ToClient]) {
                    let found = table.find(&tuple.key().unwrap()).unwrap();
                    assert_eq!((found.conn(), found.direction()), (*number, direction));
                }
            }
            for n in (0..capacity as u32).step_by(2) {
                table.remove(numbers[n as usize]);
            }
            for n in 0..capacity as u32 {
                for tuple in tuples(&endpoints(n, v6)) {
                    assert_eq!(table.find(&tuple.key().unwrap()).is_some(), n % 2 == 1);
                }
            }
            for n in (0..capacity as u32).step_by(2) {
                insert(&mut table, &endpoints(n, v6)).unwrap();
            }
            assert_eq!(table.len(), capacity);
            for n in 0..capacity as u32 {
                table.remove(n);
                table.remove(n);
            }
            assert!(table.is_empty());
            assert!(
                table.buckets.iter().all(|b| b.emigrants == 0 && b.foreign == 0 && b.signatures == [0; 8])
            );
        }
    }

    /// Connections that differ in nothing but their ports of arrival are different ones.
    #[test]
    fn the_port_of_arrival_tells_connections_apart() {
        use crate::io::MAX_PORTS;
        for v6 in [false, true] {
            let mut table = ConnTable::new(100, HashKey::new([3; 32])).unwrap();
            let at = |port: usize| Endpoints {
                arrives: [port as PortIndex, (MAX_PORTS - 1 - port) as PortIndex],
                ..endpoints(1, v6)
            };
            let numbers: Vec<u32> = (0..MAX_PORTS).map(|p| insert(&mut table, &at(p)).unwrap()).collect();
            for (port, n) in numbers.iter().enumerate() {
                let e = at(port);
                assert_eq!(table.endpoints(*n), e);
                let found = tuples(&e).map(|t| table.find(&t.key().unwrap()).unwrap());
                assert_eq!(found, Direction::BOTH.map(|d| Found::of(*n, d)));
            }
        }
    }

    /// The index may have no place for one key or for the other while records are free: nothing must change then.
    #[test]
    fn an_insert_that_fails_leaves_the_free_records() {
        let mut table = ConnTable::new(100, HashKey::new([3; 32])).unwrap();
        for n in 0..10 {
            insert(&mut table, &endpoints(n, false)).unwrap();
        }
        (3..6).for_each(|n| assert!(table.remove(n).is_some()));
        let (occupied, mask) = (table.buckets.to_vec(), table.buckets.len() - 1);
        for keys in 0..2 {
            let e = endpoints(50, false);
            let [home, other] =
                [Direction::ToTarget, Direction::ToClient].map(|d| table.hash_of(&e.key(d).unwrap()));
            for (at, bucket) in table.buckets.iter_mut().enumerate() {
                *bucket = Bucket { signatures: [u16::MAX; 8], found: [u32::MAX; 8], ..Bucket::zeroed() };
                if keys == 1 && at == home as usize & mask {
                    bucket.set(0, 0, 0, false);
                }
            }
            assert_ne!((home ^ other) as usize & mask, 0, "a place for one key is none for the other");
            assert_eq!(insert(&mut table, &e), Err(Full), "{keys} keys have places");
            table.buckets.copy_from_slice(&occupied);
            assert_eq!(table.len(), 7);
            assert!((3..6).all(|n| !table.in_use(n)));
        }
        let mut again: Vec<u32> =
            (60..64).map(|n| insert(&mut table, &endpoints(n, false)).unwrap()).collect();
        again.sort_unstable();
        assert_eq!(again, [3, 4, 5, 10]);
    }
}
