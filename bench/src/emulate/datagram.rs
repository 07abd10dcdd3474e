//! The emulator's form over UDP.
//!
//! Every datagram has a header of 32 bytes - magic, kind, run, number, offset, total, in network byte order - and a part of
//! something that is `total` bytes long, from `offset` on. All parts but the last have the profile's `datagram` bytes. A message
//! counts as come when all its parts have. The sink repeats its order until answered, then says twice a second that it is
//! there; the source repeats its closing until the sink is done with it.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Bytes before the part.
pub const HEAD: usize = 32;
const MAGIC: u32 = 0x5332_5544;
/// Bytes of incomplete messages that are kept, at least two messages.
const MOST: usize = 64 << 20;

/// What a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// From the sink: the order.
    Order = 1,
    /// The source's answer to it.
    Answer,
    /// Part of a message.
    Data,
    /// Part of the closing.
    End,
    /// From the sink: it wants nothing more.
    Done,
    /// From the sink: it is there.
    Here,
}

/// A datagram's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What it carries.
    pub kind: Kind,
    /// The run.
    pub run: u64,
    /// Of the message; 0 of others.
    pub seq: u64,
    /// Where in the whole its part begins.
    pub offset: u32,
    /// Bytes of the whole.
    pub total: u32,
}

impl Head {
    /// On the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[0..4].copy_from_slice(&MAGIC.to_be_bytes());
        out[4] = self.kind as u8;
        out[8..16].copy_from_slice(&self.run.to_be_bytes());
        out[16..24].copy_from_slice(&self.seq.to_be_bytes());
        out[24..28].copy_from_slice(&self.offset.to_be_bytes());
        out[28..32].copy_from_slice(&self.total.to_be_bytes());
        out
    }

    /// Reads a datagram; none when it is another program's.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Head, &[u8])> {
        use Kind::{Answer, Data, Done, End, Here, Order};
        let (head, part) = bytes.split_first_chunk::<HEAD>()?;
        let number = |at: std::ops::Range<usize>| head[at].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        let kind = [Order, Answer, Data, End, Done, Here].into_iter().find(|k| *k as u8 == head[4])?;
        let word = |at| number(at..at + 4) as u32;
        let parsed =
            Head { kind, run: number(8..16), seq: number(16..24), offset: word(24), total: word(28) };
        (word(0) == MAGIC).then_some((parsed, part))
    }

    /// One datagram with all of `whole`.
    #[must_use]
    pub fn alone(kind: Kind, run: u64, whole: &[u8]) -> Vec<u8> {
        let total = u32::try_from(whole.len()).unwrap_or(u32::MAX);
        [&Head { kind, run, seq: 0, offset: 0, total }.encode()[..], whole].concat()
    }

    /// As many as `whole` needs.
    pub fn parts(kind: Kind, run: u64, whole: &[u8], part: usize) -> impl Iterator<Item = Vec<u8>> {
        let total = u32::try_from(whole.len()).unwrap_or(u32::MAX);
        whole.chunks(part).enumerate().map(move |(n, bytes)| {
            let offset = u32::try_from(n * part).unwrap_or(u32::MAX);
            [&Head { kind, run, seq: 0, offset, total }.encode()[..], bytes].concat()
        })
    }
}

/// Puts parts together.
#[derive(Debug)]
pub struct Reassembly {
    /// Bytes of each part but the last.
    part: usize,
    /// Longest whole that is taken, in bytes.
    longest: usize,
    open: BTreeMap<u64, Open>,
    bytes: usize,
}

#[derive(Debug)]
struct Open {
    bytes: Vec<u8>,
    came: Vec<bool>,
    left: usize,
}

impl Reassembly {
    /// For wholes of at most `longest` bytes in parts of `part`.
    #[must_use]
    pub fn new(part: usize, longest: usize) -> Reassembly {
        Reassembly { part, longest, open: BTreeMap::new(), bytes: 0 }
    }

    /// Takes a part and returns the whole that it completes. A part that fits none is left out.
    pub fn take<'b>(&mut self, head: &Head, bytes: &'b [u8]) -> Option<Cow<'b, [u8]>> {
        let (offset, total) = (head.offset as usize, head.total as usize);
        if total > self.longest || offset > total || bytes.len() != self.part.min(total - offset) {
            return None;
        }
        if bytes.len() == total {
            return Some(Cow::Borrowed(bytes));
        }
        if bytes.is_empty() || !offset.is_multiple_of(self.part) {
            return None;
        }
        let open = self.open.entry(head.seq).or_insert_with(|| {
            self.bytes += total;
            Open { bytes: vec![0; total], came: vec![false; total.div_ceil(self.part)], left: total }
        });
        if open.bytes.len() != total {
            return None;
        }
        if !std::mem::replace(open.came.get_mut(offset / self.part)?, true) {
            open.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
            open.left -= bytes.len();
        }
        if open.left == 0 {
            self.bytes -= total;
            return self.open.remove(&head.seq).map(|open| Cow::Owned(open.bytes));
        }
        // The oldest will hardly be completed.
        while self.bytes > MOST.max(2 * self.longest) {
            self.bytes -= self.open.pop_first().map_or(self.bytes, |(_, open)| open.bytes.len());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: u64 = 77;

    fn parts(seq: u64, whole: &[u8]) -> Vec<Vec<u8>> {
        let numbered = |mut d: Vec<u8>| {
            d[16..24].copy_from_slice(&seq.to_be_bytes());
            d
        };
        Head::parts(Kind::Data, RUN, whole, 100).map(numbered).collect()
    }

    fn take(r: &mut Reassembly, datagram: &[u8]) -> Option<Vec<u8>> {
        let (head, part) = Head::parse(datagram).unwrap();
        assert_eq!((head.kind, head.run), (Kind::Data, RUN));
        r.take(&head, part).map(Cow::into_owned)
    }

    #[test]
    fn parts_in_any_order_and_doubled_make_the_whole_once() {
        let mut r = Reassembly::new(100, 1000);
        let whole: Vec<u8> = (0..=249).collect();
        let cut = parts(5, &whole);
        assert_eq!(cut.len(), 3);
        assert_eq!(take(&mut r, &cut[2]), None);
        assert_eq!(take(&mut r, &cut[2]), None);
        assert_eq!(take(&mut r, &cut[0]), None);
        let other = parts(6, &whole[1..]);
        assert_eq!(take(&mut r, &other[1]), None);
        assert_eq!(take(&mut r, &cut[1]), Some(whole.clone()));
        assert_eq!(take(&mut r, &parts(7, &whole[..100])[0]), Some(whole[..100].to_vec()));
        assert_eq!((r.open.len(), r.bytes), (1, 249));
    }

    #[test]
    fn what_fits_nothing_is_left_out() {
        let mut r = Reassembly::new(100, 1000);
        let head = Head { kind: Kind::Data, run: RUN, seq: 1, offset: 0, total: 250 };
        for (offset, total, bytes) in
            [(0, 250, 99), (50, 250, 100), (200, 250, 51), (300, 250, 0), (0, 1001, 100), (0, 0, 1)]
        {
            assert!(r.take(&Head { offset, total, ..head }, &vec![0; bytes]).is_none(), "{offset} {total}");
        }
        assert!(r.open.is_empty());
        assert!(r.take(&head, &[0; 100]).is_none());
        assert!(r.take(&Head { offset: 100, total: 200, ..head }, &[0; 100]).is_none());
        assert_eq!(Head::parse(&[0; 40]), None);
        assert_eq!(Head::parse(&head.encode()[..31]), None);
    }

    #[test]
    fn incomplete_messages_take_bounded_memory() {
        let mut r = Reassembly::new(100, 1 << 20);
        let head = Head { kind: Kind::Data, run: RUN, seq: 0, offset: 0, total: 1 << 20 };
        for seq in 0..200 {
            assert!(r.take(&Head { seq, ..head }, &[0; 100]).is_none());
        }
        assert_eq!((r.open.len(), r.bytes), (64, MOST));
        assert_eq!(r.open.first_key_value().unwrap().0, &136);
    }
}
