//! A worker's connection table.
//!
//! A connection is one record that serves both directions. Its four endpoints are kept in the order client, listen,
//! source, target: towards the target a packet arrives as (client, listen) and leaves as (source, target); towards the client
//! it arrives as (target, source) and leaves as (listen, client) - the same list read backwards. One 64-byte line holds all
//! that an IPv4 packet needs, key and rewrite; IPv6 addresses take a second line. What packets seldom need is kept apart.
//!
//! The index is a hash table of 64-byte buckets with eight 16-bit signatures each, compared at once. An entry lives in its
//! home bucket, or when that is full in the alternate bucket that its signature names (partial-key cuckoo hashing); the home
//! bucket counts its emigrants, so that a lookup reads a second bucket only when there are any.
//!
//! Memory a connection, both directions: 64 + 64 + 48 bytes of records and 22 to 43 of index.
#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use super::Millis;
use super::hash::HashKey;
use super::key::{Addrs, KIND_V6, Key, addr4, addr16};
use crate::api::Proto;
use crate::io::PortIndex;
use crate::nat::plan::{self, Deltas};
use crate::neighbor::AdjIndex;
use crate::sync::{equal_words, prefetch};
use crate::wire::PROTO_TCP;

/// Which way a packet of a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the client, through the listen address.
    ToTarget = 0,
    /// From the target, to the source address.
    ToClient = 1,
}

/// A connection and a direction, as the index stores them: connection number times two, plus one towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found(u32);

impl Found {
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

/// TCP flags seen, as bits of [`Conn::seen`].
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

/// Packets and bytes since they were last carried over to [`Cold`].
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    packets: u32,
    bytes: u32,
}

/// What a packet of a connection needs: the key, the rewrite of both directions, and what it updates.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct Conn {
    /// IPv4 client, listen, source, target, in network order. IPv6 addresses lie in `ConnTable::v6`.
    addrs: [u32; 4],
    /// Ports of client, listen, source, target, in network order.
    ports: [u16; 4],
    /// Changes of the checksums.
    pub deltas: Deltas,
    /// Next hops: towards the target, towards the client.
    pub next_hop: [AdjIndex; 2],
    /// Slot of its flow; in a free record the next free one.
    pub flow: u32,
    /// Epoch of the flow set it was last checked against.
    pub epoch: u32,
    /// Time of the last packet.
    pub last_seen: Millis,
    /// Protocol number, with `KIND_V6`; 0 in a free record.
    pub kind: u8,
    /// TCP flags seen, [`seen`].
    pub seen: u8,
    /// Ports at which packets arrive: from the client, from the target.
    arrives: [PortIndex; 2],
    recent: [Recent; 2],
}

const _: () = assert!(size_of::<Conn>() == 64);
const _: () = assert!(size_of::<Bucket>() == 64);
const _: () = assert!(size_of::<Cold>() == 48);

/// What packets seldom need.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cold {
    /// Id of its flow.
    pub flow_id: u64,
    /// Time of admission.
    pub created: Millis,
    packets: [u64; 2],
    bytes: [u64; 2],
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

/// A packet's header after the rewrite, as words in network order.
#[derive(Debug, Clone, Copy)]
pub struct NewHeader4 {
    /// Source in the low, destination in the high half.
    pub addrs: u64,
    /// Source port in the low, destination port in the high half.
    pub ports: u32,
}

impl Conn {
    /// Position of the list's first element for a packet's direction: the list is read from there by XOR.
    #[inline(always)]
    fn flip(direction: Direction) -> usize {
        (direction as usize) * 3
    }

    #[inline(always)]
    fn key_rest(&self, direction: Direction) -> u64 {
        let f = Self::flip(direction);
        let ports = u32::from(self.ports[f]) | u32::from(self.ports[1 ^ f]) << 16;
        super::key::rest(ports, self.kind, self.arrives[direction as usize])
    }

    #[inline(always)]
    fn key_addrs4(&self, direction: Direction) -> u64 {
        let f = Self::flip(direction);
        u64::from(self.addrs[f]) | u64::from(self.addrs[1 ^ f]) << 32
    }

    /// Are these the addresses and the rest of an IPv4 packet of this connection?
    #[inline(always)]
    pub fn matches4(&self, direction: Direction, addrs: u64, rest: u64) -> bool {
        self.key_addrs4(direction) == addrs && self.key_rest(direction) == rest
    }

    /// Addresses and ports that an IPv4 packet leaves with.
    #[inline(always)]
    pub fn rewrite4(&self, direction: Direction) -> NewHeader4 {
        let f = Self::flip(direction);
        NewHeader4 {
            addrs: u64::from(self.addrs[2 ^ f]) | u64::from(self.addrs[3 ^ f]) << 32,
            ports: self.rewrite_ports(direction),
        }
    }

    /// Ports that a packet leaves with.
    #[inline(always)]
    pub fn rewrite_ports(&self, direction: Direction) -> u32 {
        let f = Self::flip(direction);
        u32::from(self.ports[2 ^ f]) | u32::from(self.ports[3 ^ f]) << 16
    }

    /// Has both ends' consent and no end's farewell (RFC 5382 section 5: established). False for UDP.
    pub fn established(&self) -> bool {
        use seen::{CLIENT_FIN, CLIENT_SYN, RST, TARGET_FIN, TARGET_SYN};
        let both = |bits: u8| self.seen & bits == bits;
        both(CLIENT_SYN | TARGET_SYN) && !both(CLIENT_FIN | TARGET_FIN) && self.seen & RST == 0
    }

    /// Is it TCP?
    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.kind & !KIND_V6 == PROTO_TCP
    }
}

/// Eight entries of the index on one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    /// Eight 16-bit signatures; 0 marks a free place.
    signatures: [u64; 2],
    found: [u32; 8],
    /// Entries whose home is here and that live in their alternate bucket.
    emigrants: u16,
    /// Bit i: entry i lives here as an emigrant.
    foreign: u8,
}

impl Bucket {
    const EMPTY: Self = Self { signatures: [0; 2], found: [0; 8], emigrants: 0, foreign: 0 };

    #[inline(always)]
    fn signature(&self, i: usize) -> u16 {
        (self.signatures[i >> 2] >> (16 * (i & 3))) as u16
    }

    fn set(&mut self, i: usize, signature: u16, found: u32, foreign: bool) {
        let shift = 16 * (i & 3);
        self.signatures[i >> 2] =
            self.signatures[i >> 2] & !(0xffff << shift) | u64::from(signature) << shift;
        self.found[i] = found;
        self.foreign = self.foreign & !(1 << i) | u8::from(foreign) << i;
    }

    /// Bit i is set where signature i equals `signature`.
    #[inline(always)]
    fn matching(&self, signature: u16) -> u32 {
        equal_words(&self.signatures, signature)
    }

    fn free_place(&self) -> Option<usize> {
        let free = self.matching(0);
        (free != 0).then(|| free.trailing_zeros() as usize)
    }
}

/// Why a connection could not be inserted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Connections of one worker. Nothing is allocated after [`ConnTable::new`].
#[derive(Debug)]
pub struct ConnTable {
    buckets: Vec<Bucket>,
    conns: Vec<Conn>,
    v6: Vec<[u128; 4]>,
    cold: Vec<Cold>,
    hash: HashKey,
    /// First free record below `used`, or `NONE`.
    free: u32,
    /// Records ever used: the sweep needs to look no further.
    used: u32,
    len: u32,
}

const NONE: u32 = u32::MAX;
const CARRY: u32 = 1 << 31;

impl ConnTable {
    /// Room for `capacity` connections (at most 2^30).
    pub fn new(capacity: usize, hash: HashKey) -> Self {
        let capacity = capacity.clamp(1, 1 << 30);
        // Two entries a connection, six of eight places in use at most.
        let buckets = (capacity * 2).div_ceil(6).next_power_of_two();
        Self {
            buckets: vec![Bucket::EMPTY; buckets],
            conns: vec![Conn::default(); capacity],
            v6: vec![[0; 4]; capacity],
            cold: vec![Cold::default(); capacity],
            hash,
            free: NONE,
            used: 0,
            len: 0,
        }
    }

    /// Bytes of memory a connection takes when the table is full, both directions and the index included.
    pub fn bytes_per_connection(&self) -> usize {
        let index = self.buckets.len() * size_of::<Bucket>();
        size_of::<Conn>() + size_of::<[u128; 4]>() + size_of::<Cold>() + index.div_ceil(self.conns.len())
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
        self.conns.len()
    }

    /// The hash of an IPv4 key.
    #[inline(always)]
    pub fn hash4(&self, addrs: u64, rest: u64) -> u64 {
        self.hash.hash2(addrs, rest)
    }

    /// The hash of an IPv6 key.
    #[inline(always)]
    pub fn hash6(&self, src: u128, dst: u128, rest: u64) -> u64 {
        self.hash.hash5(src, dst, rest)
    }

    fn hash_of(&self, key: &Key) -> u64 {
        match key.addrs {
            Addrs::V4(addrs) => self.hash4(addrs, key.rest),
            Addrs::V6(src, dst) => self.hash6(src, dst, key.rest),
        }
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.buckets.len() - 1)
    }

    /// Never 0, which marks a free place.
    #[inline(always)]
    fn signature(hash: u64) -> u16 {
        ((hash >> 48) as u16).max(1)
    }

    /// The other bucket of an entry; its own inverse.
    #[inline(always)]
    fn alternate(&self, bucket: usize, signature: u16) -> usize {
        // An odd multiplier keeps the distance from being zero in the low bits of small tables.
        (bucket ^ (usize::from(signature).wrapping_mul(0x5bd1_e995) | 1)) & (self.buckets.len() - 1)
    }

    /// Asks for the bucket a hash begins in.
    #[inline(always)]
    pub fn prefetch_bucket(&self, hash: u64) {
        prefetch(&self.buckets[self.home(hash)]);
    }

    /// The first entry of the home bucket with the hash's signature: almost always the right one, to be verified with
    /// [`Conn::matches4`] or [`ConnTable::matches6`]. Its record is prefetched.
    #[inline(always)]
    pub fn candidate(&self, hash: u64) -> Option<Found> {
        let bucket = &self.buckets[self.home(hash)];
        let mask = bucket.matching(Self::signature(hash));
        if mask == 0 {
            return None;
        }
        let found = Found(bucket.found[mask.trailing_zeros() as usize & 7]);
        prefetch(&self.conns[found.conn() as usize]);
        Some(found)
    }

    /// Asks for a record's IPv6 addresses.
    #[inline(always)]
    pub fn prefetch6(&self, found: Found) {
        prefetch(&self.v6[found.conn() as usize]);
    }

    /// A record.
    #[inline(always)]
    pub fn conn(&self, n: u32) -> &Conn {
        &self.conns[n as usize]
    }

    /// A record, to update.
    #[inline(always)]
    pub fn conn_mut(&mut self, n: u32) -> &mut Conn {
        &mut self.conns[n as usize]
    }

    /// A record's seldom needed part.
    pub fn cold(&self, n: u32) -> &Cold {
        &self.cold[n as usize]
    }

    /// Is this the key of an IPv6 packet of the connection found?
    #[inline(always)]
    pub fn matches6(&self, found: Found, src: u128, dst: u128, rest: u64) -> bool {
        let n = found.conn() as usize;
        let f = Conn::flip(found.direction());
        let addrs = &self.v6[n];
        addrs[f] == src && addrs[1 ^ f] == dst && self.conns[n].key_rest(found.direction()) == rest
    }

    /// Addresses that an IPv6 packet leaves with: source, destination.
    #[inline(always)]
    pub fn rewrite6(&self, found: Found) -> (u128, u128) {
        let f = Conn::flip(found.direction());
        let addrs = &self.v6[found.conn() as usize];
        (addrs[2 ^ f], addrs[3 ^ f])
    }

    /// Finds the connection and direction of a key.
    pub fn find(&self, key: &Key) -> Option<Found> {
        self.find_hashed(self.hash_of(key), key)
    }

    /// The same, with the key's hash known.
    pub fn find_hashed(&self, hash: u64, key: &Key) -> Option<Found> {
        let signature = Self::signature(hash);
        let home = self.home(hash);
        self.find_in(home, signature, key).or_else(|| {
            (self.buckets[home].emigrants > 0)
                .then(|| self.find_in(self.alternate(home, signature), signature, key))
                .flatten()
        })
    }

    fn find_in(&self, bucket: usize, signature: u16, key: &Key) -> Option<Found> {
        let bucket = &self.buckets[bucket];
        let mut mask = bucket.matching(signature);
        while mask != 0 {
            let found = Found(bucket.found[mask.trailing_zeros() as usize & 7]);
            if self.matches(found, key) {
                return Some(found);
            }
            mask &= mask - 1;
        }
        None
    }

    fn matches(&self, found: Found, key: &Key) -> bool {
        match key.addrs {
            Addrs::V4(addrs) => self.conn(found.conn()).matches4(found.direction(), addrs, key.rest),
            Addrs::V6(src, dst) => self.matches6(found, src, dst, key.rest),
        }
    }

    /// Inserts a connection under both its keys, which must be new. The caller fills in next hops, flow and epoch.
    pub fn insert(&mut self, e: &Endpoints, flow_id: u64, now: Millis) -> Result<u32, Full> {
        let (Some(to_target), Some(to_client)) = (e.key(Direction::ToTarget), e.key(Direction::ToClient))
        else {
            return Err(Full);
        };
        let n = if self.free != NONE { self.free } else { self.used };
        if n as usize >= self.conns.len() {
            return Err(Full);
        }
        let next_free = if self.free != NONE { self.conns[n as usize].flow } else { NONE };
        let mut conn = Conn {
            ports: [e.client, e.listen, e.source, e.target].map(|a| a.port().to_be()),
            deltas: plan::deltas(e),
            last_seen: now,
            kind: ((to_target.rest >> 32) & 0xff) as u8,
            arrives: e.arrives,
            ..Conn::default()
        };
        match (to_target.addrs, to_client.addrs) {
            (Addrs::V4(a), Addrs::V4(b)) => {
                conn.addrs = [a as u32, (a >> 32) as u32, (b >> 32) as u32, b as u32];
            }
            (Addrs::V6(client, listen), Addrs::V6(target, source)) => {
                self.v6[n as usize] = [client, listen, source, target];
            }
            // Families differ between the sides: not a connection this table can hold.
            _ => return Err(Full),
        }
        // The record last: until both keys have their places it stays the free one that it is.
        self.index(self.hash_of(&to_target), n << 1)?;
        if let Err(full) = self.index(self.hash_of(&to_client), n << 1 | 1) {
            self.unindex(self.hash_of(&to_target), n << 1);
            return Err(full);
        }
        self.conns[n as usize] = conn;
        self.cold[n as usize] = Cold { flow_id, created: now, ..Cold::default() };
        if self.free != NONE {
            self.free = next_free;
        } else {
            self.used += 1;
        }
        self.len += 1;
        Ok(n)
    }

    /// Removes a connection.
    pub fn remove(&mut self, n: u32) {
        if self.conns[n as usize].kind == 0 {
            return;
        }
        for direction in [Direction::ToTarget, Direction::ToClient] {
            let hash = self.hash_of(&self.key(n, direction));
            self.unindex(hash, n << 1 | direction as u32);
        }
        self.conns[n as usize] = Conn { flow: self.free, ..Conn::default() };
        self.free = n;
        self.len -= 1;
    }

    /// Asks for what [`ConnTable::remove`] will touch of record `n`.
    pub fn prefetch_removal(&self, n: u32) {
        for direction in [Direction::ToTarget, Direction::ToClient] {
            self.prefetch_bucket(self.hash_of(&self.key(n, direction)));
        }
        prefetch(&self.cold[n as usize]);
    }

    fn key(&self, n: u32, direction: Direction) -> Key {
        let conn = self.conn(n);
        let f = Conn::flip(direction);
        let addrs = if conn.kind & KIND_V6 == 0 {
            Addrs::V4(conn.key_addrs4(direction))
        } else {
            Addrs::V6(self.v6[n as usize][f], self.v6[n as usize][1 ^ f])
        };
        Key { addrs, rest: conn.key_rest(direction) }
    }

    fn index(&mut self, hash: u64, found: u32) -> Result<(), Full> {
        let signature = Self::signature(hash);
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
        let signature = self.buckets[bucket].signature(i);
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
        let signature = Self::signature(hash);
        let home = self.home(hash);
        for bucket in [home, self.alternate(home, signature)] {
            let mut mask = self.buckets[bucket].matching(signature);
            while mask != 0 {
                let i = mask.trailing_zeros() as usize;
                if self.buckets[bucket].found[i] == found {
                    if self.buckets[bucket].foreign >> i & 1 == 1 {
                        self.buckets[home].emigrants -= 1;
                    }
                    self.buckets[bucket].set(i, 0, 0, false);
                    return;
                }
                mask &= mask - 1;
            }
        }
    }

    /// Counts a frame. Carries over to the cold record before 32 bits overflow: once in 2 GiB.
    #[inline(always)]
    pub fn count(&mut self, found: Found, bytes: u32) {
        let recent = &mut self.conns[found.conn() as usize].recent[found.direction() as usize];
        recent.packets += 1;
        recent.bytes += bytes;
        // Bytes outrun packets: a frame has at least 14.
        if recent.bytes & CARRY != 0 {
            self.carry(found);
        }
    }

    #[cold]
    fn carry(&mut self, found: Found) {
        let (n, d) = (found.conn() as usize, found.direction() as usize);
        let recent = std::mem::take(&mut self.conns[n].recent[d]);
        self.cold[n].packets[d] += u64::from(recent.packets);
        self.cold[n].bytes[d] += u64::from(recent.bytes);
    }

    /// Packets and bytes of one direction.
    pub fn counts(&self, n: u32, direction: Direction) -> (u64, u64) {
        let d = direction as usize;
        let (recent, cold) = (self.conns[n as usize].recent[d], &self.cold[n as usize]);
        (cold.packets[d] + u64::from(recent.packets), cold.bytes[d] + u64::from(recent.bytes))
    }

    /// Records that a sweep has to look at: those below are or were in use.
    pub fn sweep_end(&self) -> u32 {
        self.used
    }

    /// Is record `n` in use?
    #[inline]
    pub fn in_use(&self, n: u32) -> bool {
        self.conns.get(n as usize).is_some_and(|c| c.kind != 0)
    }

    /// The endpoints of a connection, for listings.
    pub fn endpoints(&self, n: u32) -> Endpoints {
        let conn = self.conn(n);
        let address = |i: usize| -> IpAddr {
            if conn.kind & KIND_V6 == 0 { addr4(conn.addrs[i]) } else { addr16(self.v6[n as usize][i]) }
        };
        let at = |i: usize| SocketAddr::new(address(i), u16::from_be(conn.ports[i]));
        Endpoints {
            proto: if conn.is_tcp() { Proto::Tcp } else { Proto::Udp },
            client: at(0),
            listen: at(1),
            source: at(2),
            target: at(3),
            arrives: conn.arrives,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tuple;
    use super::*;

    fn endpoints(n: u32, v6: bool) -> Endpoints {
        let address = |a: u8, n: u32| -> IpAddr {
            let b = n.to_be_bytes();
            if v6 {
                IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, a, 0, 0, 0, 0, b[0], b[1], b[2], b[3]])
            } else {
                IpAddr::from([a, b[1], b[2], b[3]])
            }
        };
        Endpoints {
            proto: if n.is_multiple_of(2) { Proto::Tcp } else { Proto::Udp },
            client: SocketAddr::new(address(10, n), 1000 + (n % 7) as u16),
            listen: SocketAddr::new(address(11, 1), 5000),
            source: SocketAddr::new(address(12, 1 + (n >> 14)), 32_768 + (n & 0x3fff) as u16),
            target: SocketAddr::new(address(13, 1), 6000),
            arrives: [0, 1],
        }
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
            let mut table = ConnTable::new(capacity, HashKey::new([3; 32]));
            assert!(table.bytes_per_connection() <= 256, "{} bytes", table.bytes_per_connection());
            let mut numbers = Vec::new();
            for n in 0..capacity as u32 {
                numbers.push(table.insert(&endpoints(n, v6), n.into(), n).unwrap());
            }
            assert_eq!(table.insert(&endpoints(60_000, v6), 0, 0), Err(Full));
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
                table.insert(&endpoints(n, v6), n.into(), 0).unwrap();
            }
            assert_eq!(table.len(), capacity);
            for n in 0..capacity as u32 {
                table.remove(n);
                table.remove(n);
            }
            assert!(table.is_empty());
            assert!(
                table.buckets.iter().all(|b| b.emigrants == 0 && b.foreign == 0 && b.signatures == [0; 2])
            );
        }
    }

    /// The index may have no place for one key or for the other while records are free: nothing must change then.
    #[test]
    fn an_insert_that_fails_leaves_the_free_records() {
        let mut table = ConnTable::new(100, HashKey::new([3; 32]));
        for n in 0..10 {
            table.insert(&endpoints(n, false), 0, 0).unwrap();
        }
        (3..6).for_each(|n| table.remove(n));
        let (occupied, mask) = (table.buckets.clone(), table.buckets.len() - 1);
        for keys in 0..2 {
            let e = endpoints(50, false);
            let [home, other] =
                [Direction::ToTarget, Direction::ToClient].map(|d| table.hash_of(&e.key(d).unwrap()));
            for (at, bucket) in table.buckets.iter_mut().enumerate() {
                *bucket =
                    Bucket { signatures: [u64::MAX; 2], found: [u32::MAX; 8], emigrants: 0, foreign: 0 };
                if keys == 1 && at == home as usize & mask {
                    bucket.set(0, 0, 0, false);
                }
            }
            assert_ne!((home ^ other) as usize & mask, 0, "a place for one key is none for the other");
            assert_eq!(table.insert(&e, 0, 0), Err(Full), "{keys} keys have places");
            table.buckets.clone_from(&occupied);
            assert_eq!(table.len(), 7);
            assert!((3..6).all(|n| !table.in_use(n)));
        }
        let mut again: Vec<u32> =
            (60..64).map(|n| table.insert(&endpoints(n, false), 0, 0).unwrap()).collect();
        again.sort_unstable();
        assert_eq!(again, [3, 4, 5, 10]);
    }

    #[test]
    fn counts_pass_32_bits() {
        let mut table = ConnTable::new(4, HashKey::new([3; 32]));
        let n = table.insert(&endpoints(1, false), 0, 0).unwrap();
        let found = table.find(&tuples(&endpoints(1, false))[1].key().unwrap()).unwrap();
        for _ in 0..1_000_000 {
            table.count(found, 9014);
        }
        assert_eq!(table.counts(n, Direction::ToClient), (1_000_000, 9_014_000_000));
        assert_eq!(table.counts(n, Direction::ToTarget), (0, 0));
    }
}
