//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Everything works on raw words: 16 bits as they lie in memory, read with `u16::from_ne_bytes` and written with
//! `to_ne_bytes`. Ones' complement addition commutes with swapping the bytes of every word (RFC 1071 section 2 (B)), so
//! the result stored the same way is right on either kind of processor, and the fast path swaps no bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A running ones' complement sum, not yet folded. Good for 4 GiB of data.
#[derive(Debug, Clone, Copy, Default)]
#[must_use]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes. An odd last byte counts as if a zero followed: only the last slice added may have an odd length.
    #[inline]
    pub fn plus(self, bytes: &[u8]) -> Sum {
        let (words, tail) = bytes.as_chunks::<4>();
        // 32 bits at a time into 64: carries gather in the upper half and are folded in at the end.
        let mut sum = self.0 + words.iter().map(|w| u64::from(u32::from_ne_bytes(*w))).sum::<u64>();
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        sum += u64::from(u32::from_ne_bytes(last));
        Sum(sum)
    }

    /// The 16-bit ones' complement sum, as a raw word.
    #[inline]
    pub fn fold(self) -> u16 {
        fold(self.0)
    }

    /// The checksum to store, as a raw word.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.fold()
    }

    /// The checksum to store in a UDP header: a computed zero becomes all ones (RFC 768).
    #[inline]
    pub fn finish_udp(self) -> u16 {
        udp(self.finish())
    }

    /// True when the sum covered a correct checksum field.
    #[inline]
    pub fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }
}

#[inline]
fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// Ones' complement addition: the carry comes in again at the low end.
#[inline(always)]
fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

#[inline]
fn udp(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The sum of bytes.
#[inline]
pub fn sum(bytes: &[u8]) -> Sum {
    Sum::default().plus(bytes)
}

/// The IPv4 pseudo header (RFC 9293 section 3.1): `len` is that of the transport header and its data, in bytes.
#[inline]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Sum {
    sum(&src.octets()).plus(&dst.octets()).plus(&[0, protocol]).plus(&len.to_be_bytes())
}

/// The IPv6 pseudo header (RFC 8200 section 8.1): `len` is that of the transport header and its data, in bytes.
#[inline]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, len: u32) -> Sum {
    sum(&src.octets()).plus(&dst.octets()).plus(&len.to_be_bytes()).plus(&[0, 0, 0, protocol])
}

/// What a change of header fields adds to a checksum that covers them (RFC 1624, equation 4, with the result kept from the zero
/// of all ones): made once for a connection, applied to each of its packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(transparent)]
#[must_use]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Delta = Delta(0);

    /// What an IPv4 header's checksum sees of a TTL that becomes one less. The TTL is the first byte of its word.
    pub const TTL_DECREMENT: Delta = Delta(u16::from_ne_bytes([0x01, 0x00]));

    /// Also `old` becomes `new`. Both begin at an even offset of what the checksum covers and have even lengths; addresses and
    /// ports do.
    pub fn replace(self, old: &[u8], new: &[u8]) -> Delta {
        self.and(Delta::of(u64::from(sum(old).fold()) + u64::from(!sum(new).fold())))
    }

    /// Also a raw word (a port, as it lies in memory) becomes another.
    #[inline]
    pub fn replace_word(self, old: u16, new: u16) -> Delta {
        self.and(Delta::of(u64::from(old) + u64::from(!new)))
    }

    /// Both changes.
    #[inline]
    pub fn and(self, other: Delta) -> Delta {
        Delta::of(u64::from(self.0) + u64::from(other.0))
    }

    /// The change back.
    #[inline]
    pub fn inverse(self) -> Delta {
        Delta::of(u64::from(!self.0))
    }

    /// The checksum (a raw word) after the change. Never all ones: what the checksum covers is not all zero.
    #[inline(always)]
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        let new = add(checksum, self.0);
        if new == 0xffff { 0 } else { new }
    }

    /// [`Delta::apply`] for UDP: a checksum of zero, "not computed", stays zero - IPv4 only; over IPv6 drop such a
    /// datagram before (RFC 8200 section 8.1) - and a computed zero is sent as all ones (RFC 768).
    #[inline(always)]
    #[must_use]
    pub fn apply_udp(self, checksum: u16) -> u16 {
        // A sum with end-around carry is zero only when both are.
        if checksum == 0 { 0 } else { add(checksum, self.0) }
    }

    /// Zero has two forms in ones' complement. A change keeps to the one that leaves every checksum as it is.
    #[inline]
    fn of(sum: u64) -> Delta {
        let folded = fold(sum);
        Delta(if folded == 0xffff { 0 } else { folded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn be(word: u16) -> u16 {
        u16::from_be_bytes(word.to_ne_bytes())
    }

    #[test]
    fn rfc1071_example() {
        let s = sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(be(s.fold()), 0xddf2);
        assert_eq!(be(s.finish()), !0xddf2);
    }

    #[test]
    fn odd_lengths_pad_with_zero() {
        for n in 0..9u8 {
            let bytes: Vec<u8> = (1..=n).collect();
            let mut even = bytes.clone();
            if n % 2 == 1 {
                even.push(0);
            }
            assert_eq!(sum(&bytes).fold(), sum(&even).fold(), "{n}");
        }
    }

    #[test]
    fn rfc1624_example_that_equation_4_gets_wrong() {
        // RFC 1624 section 4: checksum 0xdd2f, field 0x5555 becomes 0x3285.
        let delta = Delta::NONE.replace(&[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(be(delta.apply(be(0xdd2f))), 0x0000);
        assert_eq!(be(delta.apply_udp(be(0xdd2f))), 0xffff);
        assert_eq!(be(delta.inverse().apply(0)), 0xdd2f);
    }

    #[test]
    fn changes_to_the_same_leave_every_checksum() {
        let delta = Delta::NONE.replace(&[1, 2, 3, 4], &[1, 2, 3, 4]);
        assert_eq!(delta, Delta::NONE);
        for c in 0..0xffff {
            assert_eq!(delta.apply(c), c);
        }
        assert_eq!(delta.apply(0xffff), 0, "the other zero");
    }

    #[test]
    fn ttl_decrement_matches_recompute() {
        for ttl in 1..=255u8 {
            let mut h = [0x45, 0, 0, 40, 0x12, 0x34, 0x40, 0, ttl, 6, 0, 0, 10, 0, 0, 1, 192, 168, 1, 2];
            let before = sum(&h).finish();
            h[8] -= 1;
            assert_eq!(Delta::TTL_DECREMENT.apply(before), sum(&h).finish(), "{ttl}");
        }
    }

    #[test]
    fn udp_zero_stays_zero() {
        let delta = Delta::NONE.replace_word(1, 2);
        assert_eq!(delta.apply_udp(0), 0);
    }
}
