//! Messages as they are on the wire.
//!
//! A message is a header of 40 bytes in network byte order - magic, length with the header, sequence number within the
//! connection, schedule time and send time in nanoseconds of the source's clock, checksum, connection - and a payload. The
//! checksum is CRC-32 (as of IEEE 802.3) over payload, then header without the checksum: in this order the payload's part is
//! known beforehand, so that sending costs the source no pass over the bytes; the sink takes the whole sum of what it reads.

use crc32fast::Hasher;

/// Bytes before the payload.
pub const HEADER: usize = 40;
/// Payloads that take turns.
const VARIANTS: usize = 8;
/// Bytes by which the payloads differ in where they begin.
const SHIFT: usize = 64;

/// What a header says besides its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Of the message with its header, in bytes.
    pub length: u32,
    /// Number within the connection, from 0 on.
    pub seq: u64,
    /// When it was due, by the source's clock, in nanoseconds.
    pub due: u64,
    /// When it was sent, likewise.
    pub sent: u64,
    /// Number of the connection.
    pub connection: u32,
}

/// What a header leads in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A message of the profile.
    Data = 0x5332_4d01,
    /// What the source has to tell at the end, as JSON.
    End = 0x5332_4d02,
}

impl Header {
    /// With the checksum of a payload whose own CRC-32 is `payload`.
    #[must_use]
    pub fn encode(&self, payload: u32) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&(self.kind as u32).to_be_bytes());
        out[4..8].copy_from_slice(&self.length.to_be_bytes());
        for (at, field) in [(8, self.seq), (16, self.due), (24, self.sent)] {
            out[at..at + 8].copy_from_slice(&field.to_be_bytes());
        }
        out[36..40].copy_from_slice(&self.connection.to_be_bytes());
        let sum = checksum(payload, self.length, &out);
        out[32..36].copy_from_slice(&sum.to_be_bytes());
        out
    }

    /// Reads a header and its checksum; none when it is none.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER]) -> Option<(Header, u32)> {
        let word = |at: usize| bytes[at..at + 4].iter().fold(0, |n, b| n << 8 | u32::from(*b));
        let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
        let kind = [Kind::Data, Kind::End].into_iter().find(|k| *k as u32 == word(0))?;
        let header = Header {
            kind,
            length: word(4),
            seq: long(8),
            due: long(16),
            sent: long(24),
            connection: word(36),
        };
        (header.length as usize >= HEADER).then_some((header, word(32)))
    }
}

/// The checksum of a message: `payload` is its payload's CRC-32, `header` its header, whose checksum counts as 0.
#[must_use]
pub fn checksum(payload: u32, length: u32, header: &[u8; HEADER]) -> u32 {
    let mut hasher = Hasher::new_with_initial_len(payload, u64::from(length) - HEADER as u64);
    hasher.update(&header[..32]);
    hasher.update(&[0; 4]);
    hasher.update(&header[36..]);
    hasher.finalize()
}

/// Payloads, made once for a stream: cheap to send, and each differs from the one before.
#[derive(Debug)]
pub struct Payloads {
    pool: Vec<u8>,
    length: usize,
    sums: [u32; VARIANTS],
}

impl Payloads {
    /// For messages of `message` bytes.
    #[must_use]
    pub fn new(message: u32) -> Payloads {
        let length = message as usize - HEADER.min(message as usize);
        let mut pool = vec![0; length + VARIANTS * SHIFT];
        crate::stream::pattern::Pattern::new(u64::from(message)).fill(0, &mut pool);
        let sums = std::array::from_fn(|n| crc32fast::hash(&pool[n * SHIFT..n * SHIFT + length]));
        Payloads { pool, length, sums }
    }

    /// The payload of a message, and its CRC-32.
    #[must_use]
    pub fn of(&self, seq: u64) -> (&[u8], u32) {
        let n = (seq % VARIANTS as u64) as usize;
        (&self.pool[n * SHIFT..n * SHIFT + self.length], self.sums[n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_anywhere_changes_the_checksum() {
        let payloads = Payloads::new(100);
        let header = Header { kind: Kind::Data, length: 100, seq: 3, due: 5, sent: 6, connection: 2 };
        let (payload, sum) = payloads.of(3);
        assert_eq!(payload.len(), 60);
        let bytes = header.encode(sum);
        let (back, wanted) = Header::decode(&bytes).unwrap();
        assert_eq!(back, header);
        assert_eq!(checksum(crc32fast::hash(payload), 100, &bytes), wanted);
        for bit in 0..HEADER * 8 {
            let mut wrong = bytes;
            wrong[bit / 8] ^= 1 << (bit % 8);
            let seen = Header::decode(&wrong).map(|(h, sum)| {
                let same = h.length == 100 && checksum(crc32fast::hash(payload), 100, &wrong) == sum;
                (h, same)
            });
            assert!(seen.is_none_or(|(_, same)| !same), "bit {bit}: {seen:?}");
        }
        let mut wrong = payload.to_vec();
        wrong[59] ^= 1;
        assert_ne!(checksum(crc32fast::hash(&wrong), 100, &bytes), wanted);
    }

    #[test]
    fn payloads_take_turns_and_the_smallest_is_empty() {
        let payloads = Payloads::new(1000);
        assert_ne!(payloads.of(0), payloads.of(1));
        assert_eq!(payloads.of(0), payloads.of(8));
        assert_eq!(Payloads::new(40).of(7), (&[][..], crc32fast::hash(&[])));
    }
}
