//! Which connection a fragment belongs to: virtual reassembly (RFC 4787 REQ-14, RFC 6146 section 3.4).
//!
//! The relay passes fragments on as they are. Only the first one of a datagram, at offset 0, has the ports; the others follow it by
//! what all share ([`FragmentKey`]). Those that come before the first one wait here.
//!
//! What is known of a datagram is its flight. Its bytes pass once at most: which ones came is remembered, and what comes again
//! is refused. So nobody can rewrite a transport header that was looked at (RFC 1858, RFC 3128), given that the caller lets no first
//! fragment pass that is too short for one. A piece that overlaps others partly dooms its datagram (RFC 5722, RFC 8200
//! section 4.5).
//!
//! All memory is bounded and taken at the start, and so is what a flood can spoil. A flight of two addresses without a connection
//! is a stranger's; of others it is a friend's, and tied once its first fragment came. Strangers give way to all others. A pair of
//! addresses that has two more flights in a set than another gives way to that, so none can have a whole set to itself; else a new
//! flight takes the place of one of its own pair. Where none of this leaves a place for a tied flight, the oldest that waits or is
//! tied gives way to it, as fragments in order must pass whatever comes out of order (REQ-14a); any other is refused. Packets
//! that wait are limited by flight, by pair and for all strangers together.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use arrayvec::ArrayVec;

use super::Millis;
use super::hash::HashKey;
use super::key::{Addrs, Key};
use crate::io::PortIndex;
use crate::sync::Counter;

/// Milliseconds for which fragments wait for the first one, and for which a datagram that came whole is remembered, to refuse what
/// comes twice. Networks reorder and repeat packets within far less. The times of RFC 791 section 3.2 (15 s at least) and of
/// RFC 8200 section 4.5 (60 s) are for hosts that reassemble; here only the first fragment has to come, and every one that waits
/// is a receive buffer less.
pub const WAIT: Millis = 2_000;

/// Milliseconds after which another first fragment with the same identification begins another datagram: senders of many use an
/// identification of IPv4 again within a second (RFC 4963). It leaves under an identification of its own, so whatever the
/// receiver still has of the one before is not mixed with it.
pub const AGAIN: Millis = 100;

/// Milliseconds for which a datagram that has not come whole is remembered after its first fragment, and one that is doomed after
/// whichever came first: RFC 791's lower bound, after which the receiver may have given up as well. No fragment prolongs it.
pub const REMEMBER: Millis = 15_000;

/// Most packets of friends that wait.
pub const HELD_FRIENDS: usize = 512;
/// Most packets of all strangers together that wait.
pub const HELD_STRANGERS: usize = 64;
/// Most packets of a friendly pair of addresses that wait.
pub const HELD_PAIR: usize = 128;
/// Most packets of a datagram that wait.
pub const HELD_FLIGHT: usize = 64;

const SETS: usize = 1024;
const WAYS: usize = 4;
/// Disjoint ranges of bytes that a flight can have.
const RANGES: usize = 8;
/// Flights looked at by [`Fragments::expire`] beside those that have packets: all in 13 s when it is called every 100 ms.
const SWEEP: usize = 32;
/// Counters of [`Pairs`].
const PAIRS: usize = 8192;

const NO_SLOT: u16 = u16::MAX;
const NO_FLIGHT: u32 = u32::MAX;

const _: () = assert!(SETS.is_power_of_two() && PAIRS.is_power_of_two());
const _: () = assert!(HELD_FRIENDS + HELD_STRANGERS < NO_SLOT as usize);

/// What all fragments of a datagram share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentKey {
    /// Port of arrival.
    pub port: PortIndex,
    /// Protocol of an IPv4 header; 0 for IPv6, whose fragments are told apart without it (RFC 8200 section 4.5).
    pub protocol: u8,
    /// Source and destination.
    pub addrs: Addrs,
    /// Identification, as it lies in the packet.
    pub id: u32,
}

impl FragmentKey {
    /// Where a piece ends; none when no datagram of these addresses has it.
    pub fn end_of(&self, piece: Piece) -> Option<u16> {
        // An IPv4 header takes 20 bytes at least of the 65,535; what headers IPv6 has before the fragment's is not known here.
        let longest = match self.addrs {
            Addrs::V4(_) => u16::MAX - 20,
            Addrs::V6(..) => u16::MAX,
        };
        let whole = |bytes: u16| bytes.is_multiple_of(8);
        let cut = piece.more && !whole(piece.len) || !whole(piece.offset);
        let end = piece.offset.checked_add(piece.len).filter(|end| *end <= longest);
        end.filter(|_| piece.len > 0 && !cut)
    }
}

/// A piece: bytes of the fragmentable part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Of its first byte; in bytes.
    pub offset: u16,
    /// Bytes; more than 0.
    pub len: u16,
    /// Do others follow it?
    pub more: bool,
}

/// Why a fragment is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Bytes of it came before, or its datagram is doomed because that happened.
    Overlap,
    /// No fragment of a datagram: empty, beyond the longest datagram, cut at no multiple of 8, or at odds with where the datagram
    /// ends.
    Malformed,
    /// No place for its datagram, or too many holes in it.
    TableFull,
}

/// What becomes of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// It goes on.
    Pass {
        /// What a whole packet's key would be.
        key: Key,
        /// Identification that it leaves with, of 16 bits over IPv4 (RFC 6864: one's own for each datagram). Never 0.
        id: u32,
    },
    /// The first one has not come: the packet is for [`Fragments::hold`].
    Wait,
    /// It is dropped.
    Refused(Refusal),
}

/// Whom a flight gives way to: those above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Stranger,
    Friend,
    Tied,
}

/// A datagram under way.
#[derive(Debug)]
struct Flight {
    key: FragmentKey,
    /// [`Secret::pair`] of its addresses.
    pair: u64,
    class: Class,
    /// From the first fragment: the key of all, and the new identification.
    first: Option<(Key, u32)>,
    /// Bytes that came: disjoint ranges that do not touch, in order.
    seen: ArrayVec<(u16, u16), RANGES>,
    /// Length of the whole, from the last fragment.
    end: Option<u16>,
    /// Pieces of it overlapped.
    doomed: bool,
    /// When the first fragment came; before that, when any did.
    since: Millis,
    /// Packets that wait: first and last slot, and how many.
    head: u16,
    tail: u16,
    held: u16,
}

impl Flight {
    fn new(key: &FragmentKey, pair: u64, now: Millis) -> Self {
        Self {
            key: *key,
            pair,
            class: Class::Stranger,
            first: None,
            seen: ArrayVec::new(),
            end: None,
            doomed: false,
            since: now,
            head: NO_SLOT,
            tail: NO_SLOT,
            held: 0,
        }
    }

    fn complete(&self) -> bool {
        self.end.is_some_and(|end| self.seen.as_slice() == [(0, end)])
    }

    fn age(&self, now: Millis) -> Millis {
        now.wrapping_sub(self.since)
    }

    fn expired(&self, now: Millis) -> bool {
        let open = self.first.is_some() && !self.complete();
        self.age(now) >= if open || self.doomed { REMEMBER } else { WAIT }
    }

    /// Does it take another fragment, the first one or a later one? Else that begins another datagram.
    fn goes_on(&self, first: bool, now: Millis) -> bool {
        let another = first && self.first.is_some() && !self.doomed && self.age(now) >= AGAIN;
        !self.expired(now) && !another
    }

    /// May these bytes come? Dooms the datagram when they overlap others.
    fn check(&mut self, start: u16, end: u16, more: bool) -> Result<(), Refusal> {
        if self.doomed || self.seen.iter().any(|r| r.0 <= start && end <= r.1) {
            return Err(Refusal::Overlap);
        }
        if self.seen.iter().any(|r| start < r.1 && r.0 < end) {
            self.doomed = true;
            return Err(Refusal::Overlap);
        }
        let beyond = self.end.is_some_and(|known| end > known);
        let cuts_off = !more && (self.end.is_some() || self.seen.last().is_some_and(|r| r.1 > end));
        if beyond || cuts_off { Err(Refusal::Malformed) } else { Ok(()) }
    }

    /// Notes that bytes came.
    fn add(&mut self, start: u16, end: u16, more: bool) -> Result<(), Refusal> {
        self.check(start, end, more)?;
        let at = self.seen.iter().filter(|r| r.0 < start).count();
        let before = at.checked_sub(1).filter(|i| self.seen.get(*i).is_some_and(|r| r.1 == start));
        let after = self.seen.get(at).copied().filter(|r| r.0 == end);
        match (before.and_then(|i| self.seen.get_mut(i)), after) {
            (Some(before), None) => before.1 = end,
            (Some(before), Some(after)) => {
                before.1 = after.1;
                self.seen.remove(at);
            }
            (None, Some(after)) => {
                if let Some(r) = self.seen.get_mut(at) {
                    *r = (start, after.1);
                }
            }
            (None, None) => self.seen.try_insert(at, (start, end)).map_err(|_| Refusal::TableFull)?,
        }
        if !more {
            self.end = Some(end);
        }
        Ok(())
    }
}

/// Hashes that nobody outside can foresee.
#[derive(Debug)]
struct Secret(HashKey);

impl Secret {
    fn of(&self, addrs: &Addrs, rest: u64) -> u64 {
        match *addrs {
            Addrs::V4(addrs) => self.0.hash2(addrs, rest),
            Addrs::V6(src, dst) => self.0.hash5(src, dst, rest),
        }
    }

    fn flight(&self, k: &FragmentKey) -> u64 {
        self.of(&k.addrs, u64::from(k.id) | u64::from(k.port) << 32 | u64::from(k.protocol) << 40)
    }

    /// Stands for the port of arrival and both addresses: that two have the same is too unlikely to matter. Never 0.
    fn pair(&self, port: PortIndex, addrs: &Addrs) -> u64 {
        self.of(addrs, u64::from(port)) | 1
    }
}

/// Identifications of one worker: those that are its number modulo that of workers, one after the other.
#[derive(Debug)]
struct Ids {
    worker: u32,
    workers: u32,
    next: u32,
    /// How many there are; 64 at least.
    count: u32,
}

impl Ids {
    /// Of `1 << bits`, beginning at a random place.
    fn new(bits: u32, worker: usize, workers: usize, random: u64) -> Self {
        let workers = workers.clamp(1, 1024);
        let count = (1u64 << bits) / workers as u64;
        // A lone worker has one identification of IPv6 less than all.
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            worker: (worker % workers) as u32,
            workers: workers as u32,
            next: (random % u64::from(count)) as u32,
            count,
        }
    }

    fn draw(&mut self) -> u32 {
        let id = self.worker + self.next * self.workers;
        self.next = (self.next + 1) % self.count;
        // Of two in a row one is not 0.
        if id == 0 { self.draw() } else { id }
    }
}

/// A packet that waits, or room for one.
#[derive(Debug)]
struct Slot<B> {
    packet: Option<B>,
    port: PortIndex,
    friend: bool,
    /// Whose it is; none once its flight is gone.
    flight: u32,
    /// The flight's next one, or the next free one.
    next: u16,
}

/// Packets that wait, in a queue for each flight.
#[derive(Debug)]
struct Held<B> {
    slots: Box<[Slot<B>]>,
    /// For each slot with a friend's packet its pair, else 0: the count of a pair's packets is a look through them.
    pairs: Box<[u64]>,
    free: u16,
    friends: usize,
    strangers: usize,
}

impl<B> Held<B> {
    fn new() -> Self {
        let slots = (HELD_FRIENDS + HELD_STRANGERS) as u16;
        let next = |i: u16| if i + 1 < slots { i + 1 } else { NO_SLOT };
        let slot = |i| Slot { packet: None, port: 0, friend: false, flight: NO_FLIGHT, next: next(i) };
        Self {
            slots: (0..slots).map(slot).collect(),
            pairs: vec![0; slots.into()].into(),
            free: 0,
            friends: 0,
            strangers: 0,
        }
    }

    fn len(&self) -> usize {
        self.friends + self.strangers
    }

    fn room(&self, pair: u64, friend: bool) -> bool {
        if friend {
            self.friends < HELD_FRIENDS && self.pairs.iter().filter(|p| **p == pair).count() < HELD_PAIR
        } else {
            self.strangers < HELD_STRANGERS
        }
    }

    /// Adds a packet to the end of a flight's queue.
    fn push(&mut self, flight: &mut Flight, number: u32, packet: B, friend: bool) -> Result<(), B> {
        if usize::from(flight.held) >= HELD_FLIGHT || !self.room(flight.pair, friend) {
            return Err(packet);
        }
        let at = self.free;
        let Some(slot) = self.slots.get_mut(usize::from(at)) else { return Err(packet) };
        self.free = slot.next;
        *slot = Slot { packet: Some(packet), port: flight.key.port, friend, flight: number, next: NO_SLOT };
        if friend {
            self.friends += 1;
            if let Some(pair) = self.pairs.get_mut(usize::from(at)) {
                *pair = flight.pair;
            }
        } else {
            self.strangers += 1;
        }
        match self.slots.get_mut(usize::from(flight.tail)) {
            Some(last) => last.next = at,
            None => flight.head = at,
        }
        flight.tail = at;
        flight.held += 1;
        Ok(())
    }

    /// Takes the packet from the front of a flight's queue.
    fn pop(&mut self, flight: &mut Flight) -> Option<(PortIndex, B)> {
        let at = flight.head;
        flight.head = self.slots.get(usize::from(at))?.next;
        if flight.head == NO_SLOT {
            flight.tail = NO_SLOT;
        }
        flight.held -= 1;
        self.take(at)
    }

    /// Leaves a flight's packets to the next [`Fragments::expire`].
    fn orphan(&mut self, flight: &mut Flight) {
        let mut at = flight.head;
        while let Some(slot) = self.slots.get_mut(usize::from(at)) {
            slot.flight = NO_FLIGHT;
            at = slot.next;
        }
        (flight.head, flight.tail, flight.held) = (NO_SLOT, NO_SLOT, 0);
    }

    /// Empties a slot.
    fn take(&mut self, at: u16) -> Option<(PortIndex, B)> {
        let slot = self.slots.get_mut(usize::from(at))?;
        let packet = slot.packet.take()?;
        slot.flight = NO_FLIGHT;
        slot.next = self.free;
        self.free = at;
        if slot.friend {
            self.friends -= 1;
        } else {
            self.strangers -= 1;
        }
        if let Some(pair) = self.pairs.get_mut(usize::from(at)) {
            *pair = 0;
        }
        Some((slot.port, packet))
    }
}

/// Datagrams under way at one worker, and packets `B` of theirs that wait. A caller that wants to know more of a packet when it
/// comes back makes that a part of `B`.
#[derive(Debug)]
pub struct Fragments<B> {
    /// Sets of [`WAYS`], one after the other.
    flights: Box<[Option<Flight>]>,
    held: Held<B>,
    secret: Secret,
    /// Of IPv4 and IPv6.
    ids: [Ids; 2],
    /// Next flight to be looked at by the sweep.
    sweep: usize,
}

impl<B> Fragments<B> {
    /// For worker `worker` of `workers`, from 32 random bytes.
    #[must_use]
    pub fn new(seed: [u8; 32], worker: usize, workers: usize) -> Self {
        let secret = Secret(HashKey::new(seed));
        let ids = [16, 32].map(|bits| {
            Ids::new(bits, worker, workers, secret.0.hash2(worker as u64, u64::from(bits)).rotate_left(32))
        });
        Self { flights: (0..SETS * WAYS).map(|_| None).collect(), held: Held::new(), secret, ids, sweep: 0 }
    }

    /// A first fragment, with the key that its transport header gives. Too short ones the caller has dropped. `friend`: the two
    /// addresses have a connection; so of a new connection a caller asks after it has admitted it. When the answer is to pass,
    /// [`Fragments::release`] gives the packets that waited for this one.
    pub fn first(&mut self, k: &FragmentKey, piece: Piece, key: Key, friend: bool, now: Millis) -> Arrived {
        if piece.offset != 0 {
            return Arrived::Refused(Refusal::Malformed);
        }
        self.arrive(k, piece, Some(key), friend, now).unwrap_or_else(Arrived::Refused)
    }

    /// Why a fragment will be dropped for what came of its datagram before it, if it will. So a first one that is none opens no
    /// connection.
    pub fn refuses(&mut self, k: &FragmentKey, piece: Piece, now: Millis) -> Option<Refusal> {
        let (end, at) = (k.end_of(piece)?, self.find(k)?);
        let flight = self.flights.get_mut(at)?.as_mut().filter(|f| f.goes_on(piece.offset == 0, now))?;
        let refused = flight.check(piece.offset, end, piece.more).err();
        if flight.doomed {
            self.held.orphan(flight);
        }
        refused
    }

    /// Any other fragment. `friend`: the two addresses have a connection ([`Pairs`]).
    pub fn later(&mut self, k: &FragmentKey, piece: Piece, friend: bool, now: Millis) -> Arrived {
        if piece.offset == 0 {
            return Arrived::Refused(Refusal::Malformed);
        }
        self.arrive(k, piece, None, friend, now).unwrap_or_else(Arrived::Refused)
    }

    fn arrive(
        &mut self,
        k: &FragmentKey,
        piece: Piece,
        first: Option<Key>,
        friend: bool,
        now: Millis,
    ) -> Result<Arrived, Refusal> {
        let ids = usize::from(matches!(k.addrs, Addrs::V6(..)));
        let Some(end) = k.end_of(piece) else { return Err(Refusal::Malformed) };

        let at = match self.find(k) {
            Some(at)
                if self
                    .flights
                    .get(at)
                    .is_some_and(|f| f.as_ref().is_some_and(|f| f.goes_on(first.is_some(), now))) =>
            {
                at
            }
            found => {
                let pair = self.secret.pair(k.port, &k.addrs);
                let class = class(first.is_some(), friend);
                let at = found.or_else(|| self.place(k, pair, class, now)).ok_or(Refusal::TableFull)?;
                self.forget(at);
                *self.flights.get_mut(at).ok_or(Refusal::TableFull)? = Some(Flight::new(k, pair, now));
                at
            }
        };
        let flight = self.flights.get_mut(at).and_then(Option::as_mut).ok_or(Refusal::TableFull)?;
        let added = flight.add(piece.offset, end, piece.more);
        if flight.doomed {
            self.held.orphan(flight);
        }
        added?;
        if let (Some(key), None, Some(ids)) = (first, flight.first, self.ids.get_mut(ids)) {
            flight.first = Some((key, ids.draw()));
            flight.since = now;
        }
        flight.class = flight.class.max(class(flight.first.is_some(), friend));
        Ok(flight.first.map_or(Arrived::Wait, |(key, id)| Arrived::Pass { key, id }))
    }

    /// Keeps a packet for which [`Fragments::later`] has just answered to wait. Gives it back when there is no room: it is dropped
    /// then, and its datagram will not come whole.
    pub fn hold(&mut self, k: &FragmentKey, packet: B, friend: bool) -> Result<(), B> {
        let Some(at) = self.find(k) else { return Err(packet) };
        match self.flights.get_mut(at).and_then(Option::as_mut) {
            Some(flight) if flight.first.is_none() && !flight.doomed => {
                self.held.push(flight, at as u32, packet, friend)
            }
            _ => Err(packet),
        }
    }

    /// The next packet that waited for a first fragment that has come, and the port it arrived at; in order of arrival.
    pub fn release(&mut self, k: &FragmentKey) -> Option<(PortIndex, B)> {
        let at = self.find(k)?;
        let flight = self.flights.get_mut(at)?.as_mut().filter(|f| f.first.is_some())?;
        self.held.pop(flight)
    }

    /// Gives up what waited in vain: for too long, for a doomed datagram, or for one that gave way to another. At most all packets
    /// that wait are looked at, and nothing when there is none but a few flights.
    pub fn expire(&mut self, now: Millis, give_up: &mut dyn FnMut(PortIndex, B)) {
        // So that none lasts until the clock has wrapped.
        for _ in 0..SWEEP {
            self.forget_expired(self.sweep, now);
            self.sweep = (self.sweep + 1) % self.flights.len().max(1);
        }
        if self.held.len() == 0 {
            return;
        }
        for at in 0..self.held.slots.len() {
            if let Some(slot) = self.held.slots.get(at) {
                self.forget_expired(slot.flight as usize, now);
            }
        }
        self.give_up_orphans(give_up);
    }

    /// Forgets everything; gives up all that waits.
    pub fn clear(&mut self, give_up: &mut dyn FnMut(PortIndex, B)) {
        (0..self.flights.len()).for_each(|at| self.forget(at));
        self.give_up_orphans(give_up);
    }

    /// A new identification for pieces that the relay makes itself (RFC 6864): 16 bits for IPv4, 32 for IPv6; never 0.
    pub fn fresh_id(&mut self, v6: bool) -> u32 {
        self.ids[usize::from(v6)].draw()
    }

    /// Packets here now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn give_up_orphans(&mut self, give_up: &mut dyn FnMut(PortIndex, B)) {
        for at in 0..self.held.slots.len() {
            if self.held.slots.get(at).is_some_and(|slot| slot.flight == NO_FLIGHT)
                && let Some((port, packet)) = self.held.take(at as u16)
            {
                give_up(port, packet);
            }
        }
    }

    fn forget_expired(&mut self, at: usize, now: Millis) {
        if self.flights.get(at).is_some_and(|f| f.as_ref().is_some_and(|f| f.expired(now))) {
            self.forget(at);
        }
    }

    /// Empties a flight's place.
    fn forget(&mut self, at: usize) {
        if let Some(mut flight) = self.flights.get_mut(at).and_then(Option::take) {
            self.held.orphan(&mut flight);
        }
    }

    /// The places where a datagram's flight may be.
    fn set(&self, k: &FragmentKey) -> std::ops::Range<usize> {
        let first = ((self.secret.flight(k) >> 32) as usize & (SETS - 1)) * WAYS;
        first..first + WAYS
    }

    fn find(&self, k: &FragmentKey) -> Option<usize> {
        self.set(k).find(|at| {
            self.flights.get(*at).is_some_and(|flight| flight.as_ref().is_some_and(|f| f.key == *k))
        })
    }

    /// A place for a new flight, or one whose flight has to give way to it.
    fn place(&self, k: &FragmentKey, pair: u64, class: Class, now: Millis) -> Option<usize> {
        let set = self.set(k);
        let flights = self.flights.get(set.clone())?;
        // Friends and tied ones have one share, so that whoever has a connection cannot tie every place.
        let rival = |f: &Flight| (f.class == Class::Stranger) == (class == Class::Stranger);
        let count = |pair: u64| flights.iter().flatten().filter(|f| rival(f) && f.pair == pair).count();
        let own = count(pair);
        // What is lost: the less the better, of equals the oldest.
        let loss = |flight: &Option<Flight>| match flight {
            None => Some((0, Reverse(0))),
            Some(f) => {
                let loss = if f.expired(now) {
                    1
                } else if f.complete() {
                    2
                } else if f.class == Class::Stranger && class != Class::Stranger {
                    3
                } else if rival(f) && count(f.pair) >= own + 2 {
                    4
                } else if f.class > class {
                    return None;
                } else if f.pair == pair {
                    5
                } else if class == Class::Tied {
                    6 + f.class as u8
                } else {
                    return None;
                };
                Some((loss, Reverse(f.age(now))))
            }
        };
        let losses = set.zip(flights).filter_map(|(at, flight)| Some((loss(flight)?, at)));
        losses.min().map(|(_, at)| at)
    }
}

fn class(first: bool, friend: bool) -> Class {
    match (first, friend) {
        (_, false) => Class::Stranger,
        (false, true) => Class::Friend,
        (true, true) => Class::Tied,
    }
}

/// Which pairs of addresses have connections: a filter of counters, each of which several pairs may share. So a stranger is taken
/// for a friend now and then, and no friend for a stranger. Every worker counts its own connections and reads what all count, because the
/// fragments of a datagram meet where their addresses lead, which need not be where the connection is.
#[derive(Debug)]
pub struct Pairs {
    /// By worker, its only writer.
    counts: Box<[Box<[Counter]>]>,
    secret: Secret,
}

impl Pairs {
    /// Of `workers` workers, from 32 random bytes.
    #[must_use]
    pub fn new(seed: [u8; 32], workers: usize) -> Self {
        let row = |_| (0..PAIRS).map(|_| Counter::default()).collect();
        Self { counts: (0..workers).map(row).collect(), secret: Secret(HashKey::new(seed)) }
    }

    fn place(&self, port: PortIndex, addrs: &Addrs) -> usize {
        (self.secret.pair(port, addrs) >> 32) as usize & (PAIRS - 1)
    }

    fn count(&self, worker: usize, port: PortIndex, addrs: &Addrs) -> Option<&Counter> {
        self.counts.get(worker)?.get(self.place(port, addrs))
    }

    /// A connection's direction is there, at a worker: packets with these addresses arrive at this port. For that worker only.
    pub fn add(&self, worker: usize, port: PortIndex, addrs: &Addrs) {
        if let Some(count) = self.count(worker, port, addrs) {
            count.add(1);
        }
    }

    /// A direction that the worker added has gone.
    pub fn remove(&self, worker: usize, port: PortIndex, addrs: &Addrs) {
        if let Some(count) = self.count(worker, port, addrs) {
            count.set(count.get().saturating_sub(1));
        }
    }

    /// May there be a connection whose packets arrive so, at any worker?
    #[must_use]
    pub fn contains(&self, port: PortIndex, addrs: &Addrs) -> bool {
        let place = self.place(port, addrs);
        self.counts.iter().any(|row| row.get(place).is_some_and(|count| count.get() > 0))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use proptest::prelude::*;

    use super::*;
    use crate::flow::key::tag;

    const FIRST_LEN: u16 = 24;
    /// Drawn once, so that the hash is what it is with others.
    const SEED: [u8; 32] = [
        120, 155, 52, 202, 245, 79, 46, 34, 10, 205, 148, 30, 113, 184, 141, 88, 54, 134, 109, 13, 133, 139,
        99, 84, 158, 148, 190, 44, 172, 198, 127, 91,
    ];

    fn v4(src: u32, dst: u32) -> Addrs {
        Addrs::V4(u64::from(src) | u64::from(dst) << 32)
    }

    fn datagram(src: u32, id: u32) -> FragmentKey {
        FragmentKey { port: 1, protocol: 17, addrs: v4(src, 9), id }
    }

    fn datagram6(src: u128, id: u32) -> FragmentKey {
        FragmentKey { port: 2, protocol: 0, addrs: Addrs::V6(src, 9), id }
    }

    fn key_of(k: &FragmentKey) -> Key {
        Key { addrs: k.addrs, ports: 0x1234_5678, tag: tag::KEY, port: k.port }
    }

    fn piece(offset: u16, len: u16, more: bool) -> Piece {
        Piece { offset, len, more }
    }

    /// A packet: what it is of.
    type Packet = (FragmentKey, Piece);

    /// The table with a caller as the engine is one: what passes, what is given up, what is refused.
    struct Relay {
        table: Fragments<Packet>,
        now: Millis,
        friend: bool,
        passed: Vec<(Packet, u32)>,
        given_up: Vec<Packet>,
        no_room: usize,
    }

    impl Relay {
        fn new() -> Self {
            let table = Fragments::new(SEED, 0, 1);
            Self { table, now: 0, friend: true, passed: vec![], given_up: vec![], no_room: 0 }
        }

        fn send(&mut self, k: &FragmentKey, p: Piece) -> Arrived {
            let arrived = if p.offset == 0 {
                self.table.first(k, p, key_of(k), self.friend, self.now)
            } else {
                self.table.later(k, p, self.friend, self.now)
            };
            match arrived {
                Arrived::Pass { key, id } => {
                    assert_eq!(key, key_of(k));
                    self.passed.push(((*k, p), id));
                    while let Some((port, packet)) = self.table.release(k) {
                        assert_eq!(port, k.port);
                        self.passed.push((packet, id));
                    }
                }
                Arrived::Wait => {
                    self.no_room += usize::from(self.table.hold(k, (*k, p), self.friend).is_err());
                }
                Arrived::Refused(_) => {}
            }
            assert!(self.table.held.friends <= HELD_FRIENDS && self.table.held.strangers <= HELD_STRANGERS);
            arrived
        }

        fn expire(&mut self) -> usize {
            let before = self.given_up.len();
            self.table.expire(self.now, &mut |port, packet: Packet| {
                assert_eq!(port, packet.0.port);
                self.given_up.push(packet);
            });
            self.given_up.len() - before
        }

        /// Pieces of a datagram that passed, in order.
        fn pieces(&self, k: &FragmentKey) -> Vec<Piece> {
            self.passed.iter().filter(|((of, _), _)| of == k).map(|((_, p), _)| *p).collect()
        }

        fn ids(&self, k: &FragmentKey) -> BTreeSet<u32> {
            self.passed.iter().filter(|((of, _), _)| of == k).map(|(_, id)| *id).collect()
        }
    }

    fn refused(arrived: Arrived) -> Option<Refusal> {
        match arrived {
            Arrived::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Offsets that cover `n` pieces of 24 bytes, the last one shorter.
    fn cut(n: u16) -> Vec<Piece> {
        (0..n).map(|i| piece(i * FIRST_LEN, if i + 1 < n { FIRST_LEN } else { 5 }, i + 1 < n)).collect()
    }

    #[test]
    fn in_order_fragments_pass_at_once_under_one_new_id() {
        for k in [datagram(1, 77), datagram6(1, 77)] {
            let mut relay = Relay::new();
            for p in cut(20) {
                assert!(matches!(relay.send(&k, p), Arrived::Pass { .. }));
                assert_eq!(relay.table.held(), 0);
            }
            assert_eq!((relay.pieces(&k), relay.ids(&k).len()), (cut(20), 1));
        }
    }

    #[test]
    fn what_came_before_the_first_follows_it_in_order_of_arrival() {
        let mut relay = Relay::new();
        let (a, b) = (datagram(1, 5), datagram(1, 6));
        let all = cut(4);
        for i in [3, 1, 2] {
            assert_eq!(relay.send(&a, all[i]), Arrived::Wait);
            assert_eq!(relay.send(&b, all[i]), Arrived::Wait);
        }
        assert_eq!((relay.table.held(), relay.passed.len()), (6, 0));
        assert_eq!(relay.table.release(&a), None, "the first one has not come");
        relay.send(&a, all[0]);
        assert_eq!(relay.pieces(&a), [0, 3, 1, 2].map(|i| all[i]));
        assert_eq!(relay.table.held(), 3, "those of the other datagram");
        relay.send(&b, all[0]);
        assert_eq!(relay.pieces(&b), [0, 3, 1, 2].map(|i| all[i]));
        assert_eq!(relay.table.held(), 0);
        assert!(relay.ids(&a).is_disjoint(&relay.ids(&b)));
    }

    fn permutations(n: usize) -> Vec<Vec<usize>> {
        if n == 0 {
            return vec![vec![]];
        }
        let longer = |p: Vec<usize>| {
            (0..n).map(move |at| {
                let mut p = p.clone();
                p.insert(at, n - 1);
                p
            })
        };
        permutations(n - 1).into_iter().flat_map(longer).collect()
    }

    #[test]
    fn every_order_of_up_to_five_pieces_passes_each_byte_once() {
        for n in 1..=5 {
            let all = cut(n as u16);
            for (id, order) in (0..).zip(permutations(n)) {
                let mut relay = Relay::new();
                let k = datagram(3, id);
                let answers: Vec<Arrived> = order.iter().map(|i| relay.send(&k, all[*i])).collect();
                let before = order.iter().take_while(|i| **i != 0).count();
                assert!(answers[..before].iter().all(|a| *a == Arrived::Wait), "{order:?}");
                assert!(answers[before..].iter().all(|a| matches!(a, Arrived::Pass { .. })), "{order:?}");
                let mut passed = relay.pieces(&k);
                passed.sort_by_key(|p| p.offset);
                assert_eq!(
                    (passed, relay.ids(&k).len(), relay.table.held()),
                    (all.clone(), 1, 0),
                    "{order:?}"
                );
                for p in &all {
                    assert_eq!(refused(relay.send(&k, *p)), Some(Refusal::Overlap), "again: {order:?} {p:?}");
                }
            }
        }
    }

    #[test]
    fn a_duplicate_is_refused_and_the_datagram_goes_on() {
        let mut relay = Relay::new();
        let k = datagram(1, 1);
        assert_eq!(relay.send(&k, piece(48, 24, true)), Arrived::Wait);
        assert_eq!(refused(relay.send(&k, piece(48, 24, true))), Some(Refusal::Overlap), "what waits counts");
        assert_eq!(refused(relay.send(&k, piece(56, 8, true))), Some(Refusal::Overlap), "a part of it");
        relay.send(&k, piece(0, 24, true));
        assert_eq!(refused(relay.send(&k, piece(0, 24, true))), Some(Refusal::Overlap));
        assert_eq!(
            refused(relay.send(&k, piece(0, 8, false))),
            Some(Refusal::Overlap),
            "no end is taken from it"
        );
        relay.send(&k, piece(24, 24, true));
        relay.send(&k, piece(72, 1, false));
        assert_eq!(relay.pieces(&k).iter().map(|p| p.offset).collect::<Vec<_>>(), [0, 48, 24, 72]);
    }

    #[test]
    fn a_partial_overlap_of_any_kind_dooms_the_datagram() {
        // Of 48..72: from before it, to behind it, around it; and around two with a hole between.
        for bad in [piece(40, 16, true), piece(64, 16, true), piece(40, 40, true), piece(24, 80, true)] {
            for tied in [false, true] {
                let mut relay = Relay::new();
                let (k, other) = (datagram(1, 1), datagram(1, 2));
                if tied {
                    relay.send(&k, piece(0, 24, true));
                }
                relay.send(&k, piece(48, 24, true));
                relay.send(&k, piece(96, 8, true));
                relay.send(&other, piece(8, 8, true));
                let passed = relay.passed.len();
                for p in [bad, piece(80, 8, true), piece(0, 24, true), piece(120, 8, false)] {
                    assert_eq!(refused(relay.send(&k, p)), Some(Refusal::Overlap), "{bad:?} {p:?}");
                }
                assert!(relay.table.hold(&k, (k, bad), true).is_err());
                assert_eq!((relay.passed.len(), relay.table.release(&k)), (passed, None));
                assert_eq!(relay.expire(), if tied { 0 } else { 2 }, "what waited for it is given up");
                assert_eq!(relay.table.held(), 1, "the other datagram waits on");
                relay.now = REMEMBER - 1;
                relay.expire();
                assert_eq!(refused(relay.send(&k, piece(24, 8, true))), Some(Refusal::Overlap));
                relay.now = REMEMBER;
                assert!(matches!(relay.send(&k, piece(0, 24, true)), Arrived::Pass { .. }));
            }
        }
        // A first fragment that reaches into what waits: RFC 1858, RFC 3128.
        let mut relay = Relay::new();
        let k = datagram(1, 3);
        relay.send(&k, piece(8, 16, true));
        assert_eq!(refused(relay.send(&k, piece(0, 24, true))), Some(Refusal::Overlap));
        assert_eq!((relay.passed.len(), relay.expire()), (0, 1));
    }

    #[test]
    fn no_piece_reaches_beyond_the_longest_datagram() {
        let mut relay = Relay::new();
        let malformed = Some(Refusal::Malformed);
        assert_eq!(refused(relay.send(&datagram(1, 1), piece(65_528, 8, false))), malformed);
        assert_eq!(refused(relay.send(&datagram(1, 1), piece(65_512, 4, false))), malformed);
        assert_eq!(refused(relay.send(&datagram(1, 1), piece(8, u16::MAX, false))), malformed);
        assert_eq!(relay.send(&datagram(1, 1), piece(65_512, 3, false)), Arrived::Wait);
        assert_eq!(refused(relay.send(&datagram6(1, 1), piece(65_528, 8, false))), malformed);
        assert_eq!(relay.send(&datagram6(1, 1), piece(65_528, 7, false)), Arrived::Wait);
        // None of this takes a place.
        assert_eq!(relay.table.flights.iter().flatten().count(), 2);
    }

    #[test]
    fn what_no_sender_cuts_is_malformed() {
        let mut relay = Relay::new();
        let (k, malformed) = (datagram(1, 1), Some(Refusal::Malformed));
        for p in
            [piece(0, 0, true), piece(8, 0, false), piece(0, 23, true), piece(8, 9, true), piece(9, 8, false)]
        {
            assert_eq!(refused(relay.send(&k, p)), malformed, "{p:?}");
        }
        let now = relay.now;
        assert_eq!(refused(relay.table.first(&k, piece(8, 8, true), key_of(&k), true, now)), malformed);
        assert_eq!(refused(relay.table.later(&k, piece(0, 8, true), true, now)), malformed);
        assert_eq!(relay.table.flights.iter().flatten().count(), 0);
    }

    #[test]
    fn a_datagram_has_one_end() {
        let (k, malformed) = (datagram(1, 1), Some(Refusal::Malformed));
        let mut relay = Relay::new();
        relay.send(&k, piece(0, 24, true));
        relay.send(&k, piece(48, 10, false));
        assert_eq!(refused(relay.send(&k, piece(24, 8, false))), malformed, "an earlier end");
        assert_eq!(refused(relay.send(&k, piece(64, 8, false))), malformed, "a later end");
        assert_eq!(refused(relay.send(&k, piece(64, 8, true))), malformed, "more behind the end");
        assert!(matches!(relay.send(&k, piece(24, 24, true)), Arrived::Pass { .. }), "the true one");
        let mut relay = Relay::new();
        relay.send(&k, piece(48, 8, true));
        assert_eq!(refused(relay.send(&k, piece(24, 8, false))), malformed, "an end before what came");
        assert_eq!(relay.send(&k, piece(24, 8, true)), Arrived::Wait);
    }

    #[test]
    fn too_many_holes_are_refused_until_some_are_filled() {
        let mut relay = Relay::new();
        let k = datagram(1, 1);
        for i in 0..RANGES as u16 {
            assert!(refused(relay.send(&k, piece(16 * i, 8, true))).is_none());
        }
        let behind = piece(16 * RANGES as u16, 8, false);
        assert_eq!(refused(relay.send(&k, behind)), Some(Refusal::TableFull));
        assert!(refused(relay.send(&k, piece(8, 8, true))).is_none(), "fills a hole");
        assert!(refused(relay.send(&k, behind)).is_none(), "was not counted as seen");
    }

    #[test]
    fn waiting_ends_in_time_also_when_the_clock_wraps() {
        for start in [0, 12_345, u32::MAX - 1_000, u32::MAX - WAIT + 1] {
            let mut relay = Relay::new();
            let (a, b) = (datagram(1, 1), datagram(1, 2));
            relay.now = start;
            relay.send(&a, piece(8, 8, true));
            relay.now = start.wrapping_add(500);
            relay.send(&a, piece(16, 8, true));
            relay.send(&b, piece(8, 8, true));
            relay.now = start.wrapping_add(WAIT - 1);
            assert_eq!(relay.expire(), 0);
            relay.now = start.wrapping_add(WAIT);
            assert_eq!(relay.expire(), 2, "the second packet of a datagram does not prolong it");
            relay.send(&a, piece(0, 8, true));
            assert_eq!(relay.pieces(&a), [piece(0, 8, true)], "late");
            relay.send(&b, piece(0, 8, true));
            assert_eq!(relay.pieces(&b).len(), 2, "in time");
            assert_eq!((relay.expire(), relay.table.held()), (0, 0));
        }
    }

    /// RFC 4963: a sender of many datagrams uses their identifications again while the last ones are remembered.
    #[test]
    fn a_first_fragment_that_comes_again_begins_another_datagram() {
        let mut relay = Relay::new();
        let k = datagram(1, 1);
        for (complete, n) in [(true, 0), (false, 1), (true, 2)] {
            relay.now = n * AGAIN;
            let Arrived::Pass { id, .. } = relay.send(&k, piece(0, 8, true)) else { panic!("{n}") };
            let again = relay.send(&k, piece(0, 8, true));
            assert_eq!(refused(again), Some(Refusal::Overlap), "a duplicate");
            if complete {
                assert!(
                    matches!(relay.send(&k, piece(8, 8, false)), Arrived::Pass { id: same, .. } if same == id)
                );
            }
            relay.now += AGAIN - 1;
            assert_eq!(refused(relay.send(&k, piece(0, 8, true))), Some(Refusal::Overlap));
        }
        let ids: std::collections::BTreeSet<u32> = (3..6)
            .map(|n| {
                relay.now = n * AGAIN;
                match relay.send(&k, piece(0, 8, true)) {
                    Arrived::Pass { id, .. } => id,
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        assert_eq!(ids.len(), 3, "each under an identification of its own");
    }

    #[test]
    fn a_first_fragment_is_remembered_for_its_time_and_a_whole_datagram_for_less() {
        for start in [0, u32::MAX - 1_000] {
            let mut relay = Relay::new();
            let (open, whole) = (datagram(1, 1), datagram(1, 2));
            relay.now = start;
            relay.send(&open, piece(8, 8, true));
            relay.now = start.wrapping_add(WAIT - 1);
            let tied = relay.now;
            for k in [open, whole] {
                relay.send(&k, piece(0, 8, true));
            }
            relay.send(&whole, piece(8, 8, false));
            relay.now = tied.wrapping_add(AGAIN - 1);
            assert_eq!(refused(relay.send(&whole, piece(0, 8, true))), Some(Refusal::Overlap));
            relay.now = tied.wrapping_add(WAIT - 1);
            assert_eq!(refused(relay.send(&whole, piece(8, 8, false))), Some(Refusal::Overlap));
            relay.now = tied.wrapping_add(WAIT);
            assert_eq!(relay.send(&whole, piece(8, 8, false)), Arrived::Wait, "the id's next use");
            relay.now = tied.wrapping_add(REMEMBER - 1);
            assert!(matches!(relay.send(&open, piece(16, 8, true)), Arrived::Pass { .. }));
            relay.now = tied.wrapping_add(REMEMBER);
            assert_eq!(relay.send(&open, piece(24, 8, true)), Arrived::Wait, "forgotten");
        }
    }

    #[test]
    fn the_sweep_empties_the_table() {
        let mut relay = Relay::new();
        for id in 0..1000 {
            relay.send(&datagram(id, id), piece(0, 8, true));
        }
        relay.now = REMEMBER;
        for _ in 0..SETS * WAYS / SWEEP {
            assert!(relay.table.flights.iter().flatten().count() > 0);
            relay.expire();
        }
        assert_eq!(relay.table.flights.iter().flatten().count(), 0);
    }

    #[test]
    fn clear_gives_up_everything() {
        let mut relay = Relay::new();
        for id in 0..100 {
            relay.send(&datagram(id, id), piece(8, 8, true));
        }
        let mut n = 0;
        relay.table.clear(&mut |_, _| n += 1);
        assert_eq!((n, relay.table.held()), (100, 0));
        // All slots are free again.
        for id in 0..HELD_FRIENDS as u32 {
            relay.send(&datagram(id / 16, id / 8), piece(8 + 8 * (id as u16 % 8), 8, true));
        }
        assert_eq!((relay.no_room, relay.table.held()), (0, HELD_FRIENDS));
    }

    #[test]
    fn packets_that_wait_are_limited_by_flight_by_pair_and_in_all() {
        let mut relay = Relay::new();
        // Back to front and touching, so that they are one range.
        let fill = |relay: &mut Relay, k: &FragmentKey, n: u16| {
            (0..n).rev().for_each(|i| assert_eq!(relay.send(k, piece(8 + 8 * i, 8, true)), Arrived::Wait));
        };
        fill(&mut relay, &datagram(1, 1), 100);
        assert_eq!(relay.table.held(), HELD_FLIGHT);
        fill(&mut relay, &datagram(1, 2), 100);
        fill(&mut relay, &datagram(1, 3), 100);
        assert_eq!(relay.table.held(), HELD_PAIR);
        for src in 2..5 {
            fill(&mut relay, &datagram(src, 1), 64);
            fill(&mut relay, &datagram(src, 2), 64);
        }
        assert_eq!(relay.table.held(), HELD_FRIENDS);
        fill(&mut relay, &datagram(5, 1), 1);
        assert_eq!(relay.table.held(), HELD_FRIENDS);
        relay.friend = false;
        (10..200).for_each(|src| fill(&mut relay, &datagram(src, 1), 1));
        assert_eq!(relay.table.held(), HELD_FRIENDS + HELD_STRANGERS);
        relay.friend = true;
        relay.send(&datagram(2, 1), piece(0, 8, true));
        assert_eq!(relay.pieces(&datagram(2, 1)).len(), 65);
        fill(&mut relay, &datagram(5, 2), 64);
        assert_eq!(relay.table.held(), HELD_FRIENDS + HELD_STRANGERS, "what one gave back another may take");
    }

    /// Some that have connections and whose fragments come in the wrong order, with `attack` in between: each of their
    /// datagrams passes whole.
    fn others_pass(what: &str, mut attack: impl FnMut(&mut Relay, u32)) {
        let mut relay = Relay::new();
        let honest = |n: u32| datagram(1_000_000 + n % 50, n);
        for round in 0..200u32 {
            relay.now += 10;
            attack(&mut relay, round);
            relay.friend = true;
            // Of each datagram the last piece comes first; then something evil; then the rest.
            for n in round * 5..round * 5 + 5 {
                assert_eq!(relay.send(&honest(n), piece(24, 8, false)), Arrived::Wait, "{what}");
            }
            attack(&mut relay, round);
            relay.friend = true;
            for n in round * 5..round * 5 + 5 {
                relay.send(&honest(n), piece(0, 24, true));
                assert_eq!(
                    relay.pieces(&honest(n)),
                    [piece(0, 24, true), piece(24, 8, false)],
                    "{what}: {n}"
                );
            }
            relay.passed.clear();
            if round.is_multiple_of(10) {
                relay.expire();
            }
        }
    }

    #[test]
    fn one_stranger_harms_nobody() {
        let mut id = 0;
        others_pass("one stranger", |relay, _| {
            relay.friend = false;
            for _ in 0..500 {
                id += 1;
                relay.send(&datagram(66, id), piece(if id % 3 == 0 { 0 } else { 8 }, 8, true));
            }
        });
    }

    #[test]
    fn many_strangers_harm_no_friend() {
        let mut src = 2_000_000;
        others_pass("many strangers", |relay, _| {
            relay.friend = false;
            for _ in 0..500 {
                src += 1;
                relay.send(&datagram(src, src), piece(if src % 3 == 0 { 0 } else { 8 }, 8, true));
            }
        });
        // Strangers in numbers are refused rather than that they throw each other out.
        let mut relay = Relay::new();
        relay.friend = false;
        let answers: Vec<_> = (0..20_000).map(|n| relay.send(&datagram(n, n), piece(8, 8, true))).collect();
        assert_eq!(answers.iter().filter(|a| **a == Arrived::Wait).count(), SETS * WAYS);
        assert!(answers.iter().all(|a| matches!(a, Arrived::Wait | Arrived::Refused(Refusal::TableFull))));
    }

    #[test]
    fn one_friendly_pair_harms_no_other() {
        for offset in [8, 0] {
            let mut id = 0;
            others_pass("a friendly pair", |relay, _| {
                for _ in 0..500 {
                    id += 1;
                    relay.send(&datagram(66, id), piece(offset, 8, true));
                    // And one with packets for every place.
                    relay.send(&datagram(66, id), piece(16, 8, true));
                }
            });
        }
    }

    /// In order fragments always have a place, in whatever table (RFC 4787 REQ-14a).
    #[test]
    fn fragments_in_order_pass_whatever_waits() {
        let mut relay = Relay::new();
        for friend in [false, true] {
            relay.friend = friend;
            (0..20_000).for_each(|n| _ = relay.send(&datagram(n, n), piece(8, 8, true)));
        }
        (0..20_000).for_each(|n| _ = relay.send(&datagram(n, n + 20_000), piece(0, 8, true)));
        relay.passed.clear();
        for n in 0..5_000 {
            let k = datagram(n, n + 50_000);
            relay.send(&k, piece(0, 8, true));
            relay.send(&k, piece(8, 8, false));
            assert_eq!(relay.passed.len(), 2);
            relay.passed.clear();
        }
    }

    /// A first fragment of which the caller does not know that there is a connection is no reason to throw out those of which he
    /// does.
    #[test]
    fn a_strangers_first_fragments_are_strangers() {
        let mut relay = Relay::new();
        let waits: Vec<_> = (0..400).map(|n| datagram(n, n)).collect();
        waits.iter().for_each(|k| _ = relay.send(k, piece(8, 8, false)));
        relay.friend = false;
        (1000..30_000).for_each(|n| _ = relay.send(&datagram(n, n), piece(0, 8, true)));
        relay.friend = true;
        relay.passed.clear();
        waits.iter().for_each(|k| _ = relay.send(k, piece(0, 8, true)));
        assert_eq!(relay.passed.len(), 800);
    }

    #[test]
    fn ids_of_workers_never_meet_and_none_is_zero() {
        for workers in [1usize, 2, 3, 7, 16] {
            let mut seen = BTreeSet::new();
            for worker in 0..workers {
                let mut ids = Ids::new(16, worker, workers, 0x1234_5678_9abc * (worker as u64 + 1));
                let drawn: Vec<u32> = (0..65_536 / workers - 1).map(|_| ids.draw()).collect();
                for id in drawn {
                    assert!(id != 0 && id < 65_536 && seen.insert(id), "{id} of {worker} of {workers}");
                }
                let mut ids = Ids::new(32, worker, workers, u64::MAX / (worker as u64 + 1));
                for _ in 0..1000 {
                    let id = ids.draw();
                    assert!(id != 0 && id as usize % workers == worker);
                }
            }
        }
        // At the end of their range.
        for (workers, worker) in [(1, 0), (3, 2), (16, 15)] {
            let mut ids = Ids::new(32, worker, workers, 0);
            ids.next = ids.count - 1;
            assert!([ids.draw(), ids.draw()].iter().all(|id| *id != 0 && *id as usize % workers == worker));
        }
    }

    #[test]
    fn datagrams_differ_in_every_field() {
        let k = datagram(1, 1);
        let others = [
            FragmentKey { port: 2, ..k },
            FragmentKey { protocol: 6, ..k },
            FragmentKey { id: 2, ..k },
            FragmentKey { addrs: v4(2, 9), ..k },
            FragmentKey { addrs: v4(1, 8), ..k },
        ];
        let mut relay = Relay::new();
        relay.send(&k, piece(0, 8, true));
        for other in others {
            assert_eq!(relay.send(&other, piece(8, 8, true)), Arrived::Wait, "{other:?}");
        }
        assert!(matches!(relay.send(&k, piece(8, 8, true)), Arrived::Pass { .. }));
    }

    #[test]
    fn pairs_count() {
        let pairs = Pairs::new(SEED, 2);
        let (a, six) = (v4(1, 2), Addrs::V6(1, 2));
        assert!(!pairs.contains(0, &a));
        pairs.add(1, 0, &a);
        pairs.add(1, 0, &a);
        pairs.add(1, 0, &six);
        pairs.remove(1, 0, &a);
        assert!(pairs.contains(0, &a) && pairs.contains(0, &six));
        assert!(!pairs.contains(1, &a) && !pairs.contains(0, &v4(2, 1)), "port and direction count");
        pairs.remove(1, 0, &a);
        assert!(!pairs.contains(0, &a));
        for _ in 0..70_000 {
            pairs.add(1, 0, &a);
        }
        for _ in 0..70_000 {
            assert!(pairs.contains(0, &a));
            pairs.remove(1, 0, &a);
        }
        assert!(!pairs.contains(0, &a));
        pairs.add(1, 0, &a);
        let shared = (10..1010).filter(|n| pairs.contains(0, &v4(*n, 7))).count();
        assert!(shared < 5, "{shared} of 1000 are taken for the two");
    }

    /// What a test sends: datagram, piece, friend, milliseconds later.
    fn arrivals(datagrams: u32) -> impl Strategy<Value = Vec<(u32, Piece, bool, u32)>> {
        let piece = (0u16..40, 1u16..80, any::<bool>(), 0..4).prop_map(|(offset, len, more, odd)| Piece {
            offset: offset * 8,
            // Mostly what a sender cuts.
            len: if odd > 0 { len.div_ceil(8) * 8 } else { len },
            more,
        });
        let later = prop_oneof![9 => 0u32..3, 1 => 0u32..1500];
        prop::collection::vec((0..datagrams, piece, any::<bool>(), later), 1..200)
    }

    proptest! {
        /// The model is the set of bytes of each datagram that passed under its new id, or wait. Few datagrams, so that none
        /// has to give way; what is too old begins anew under another id.
        #[test]
        fn no_byte_passes_twice(arrivals in arrivals(4), start in any::<u32>()) {
            let mut relay = Relay::new();
            relay.now = start;
            let mut keys: HashMap<u32, u32> = HashMap::new();
            for (n, p, friend, later) in arrivals {
                relay.now = relay.now.wrapping_add(later);
                relay.friend = friend;
                let before = relay.passed.len() + relay.given_up.len() + relay.no_room + relay.table.held();
                let arrived = relay.send(&datagram(n, n), p);
                relay.expire();
                let after = relay.passed.len() + relay.given_up.len() + relay.no_room + relay.table.held();
                let kept = !matches!(arrived, Arrived::Refused(_));
                prop_assert_eq!(after - before, usize::from(kept), "every packet is somewhere, once");
            }
            let mut bytes: HashMap<(u32, u16), Piece> = HashMap::new();
            for ((k, p), id) in &relay.passed {
                prop_assert_eq!(*keys.entry(*id).or_insert(k.id), k.id, "an id is one datagram's");
                for byte in p.offset..p.offset + p.len {
                    prop_assert_eq!(bytes.insert((*id, byte), *p), None, "{} of {:?}", byte, k);
                }
            }
            for id in keys.keys() {
                let of = || relay.passed.iter().filter(|(_, i)| i == id).map(|((_, p), _)| *p);
                let ends: BTreeSet<u16> = of().filter(|p| !p.more).map(|p| p.offset + p.len).collect();
                let longest = of().map(|p| p.offset + p.len).max();
                prop_assert!(ends.len() <= 1 && ends.first().is_none_or(|end| Some(*end) == longest));
                prop_assert_eq!(of().next().map(|p| p.offset), Some(0), "the first one leads");
            }
        }

        /// What is kept, and what waits, stays within bounds and adds up, however many send.
        #[test]
        fn what_waits_is_bounded(arrivals in prop::collection::vec((0u32..300, 0u16..20, any::<bool>(), 0u32..4), 1..3000)) {
            let mut relay = Relay::new();
            for (n, offset, friend, later) in arrivals {
                relay.now += later;
                relay.friend = friend;
                relay.send(&datagram(n % 7, n), piece(offset * 8, 8, true));
                if later == 0 {
                    relay.expire();
                }
                let held = &relay.table.held;
                for src in 0..7 {
                    let pair = relay.table.secret.pair(1, &datagram(src, 0).addrs);
                    prop_assert!(held.pairs.iter().filter(|p| **p == pair).count() <= HELD_PAIR);
                }
                let flights = relay.table.flights.iter().flatten();
                prop_assert!(flights.clone().all(|f| usize::from(f.held) <= HELD_FLIGHT));
                let orphans =
                    held.slots.iter().filter(|s| s.packet.is_some() && s.flight == NO_FLIGHT).count();
                prop_assert_eq!(flights.map(|f| usize::from(f.held)).sum::<usize>() + orphans, held.len());
            }
            relay.now += WAIT;
            relay.expire();
            prop_assert_eq!(relay.table.held(), 0);
        }
    }
}
