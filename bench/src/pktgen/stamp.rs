//! What every packet carries in its first payload bytes: which packet it is, and when it was sent.
//!
//! ```text
//! 0      2      4      6            10                      18
//! | "S2" | trial| flow | sequence   | time                  |
//! ```
//!
//! All numbers are big-endian. 18 bytes are what a frame of 64 bytes has behind Ethernet, IPv4 and UDP.

/// Bytes of a stamp.
pub const LEN: usize = 18;
/// The trial number of the packets that go before a trial so that everybody on the way knows the flow.
pub const LEARNING: u16 = 0;

const MAGIC: [u8; 2] = *b"S2";

/// A stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The trial: packets of an earlier one that come late are told by it.
    pub trial: u16,
    /// Number of the flow, from 0.
    pub flow: u16,
    /// Number of the packet within its flow, from 0: the low 32 bits.
    pub seq: u32,
    /// When it was sent, in ticks of the sender's time stamp counter.
    pub time: u64,
}

impl Stamp {
    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; LEN] {
        let mut b = [0; LEN];
        b[..2].copy_from_slice(&MAGIC);
        b[2..4].copy_from_slice(&self.trial.to_be_bytes());
        b[4..6].copy_from_slice(&self.flow.to_be_bytes());
        b[6..10].copy_from_slice(&self.seq.to_be_bytes());
        b[10..].copy_from_slice(&self.time.to_be_bytes());
        b
    }

    /// Reads the stamp at the front of a payload; none when there is none.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let b: &[u8; LEN] = payload.first_chunk()?;
        let [m0, m1, t0, t1, f0, f1, s0, s1, s2, s3, time @ ..] = *b;
        ([m0, m1] == MAGIC).then_some(Stamp {
            trial: u16::from_be_bytes([t0, t1]),
            flow: u16::from_be_bytes([f0, f1]),
            seq: u32::from_be_bytes([s0, s1, s2, s3]),
            time: u64::from_be_bytes(time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_read_back() {
        let stamp = Stamp { trial: 0x1234, flow: 0xfedc, seq: 0x89ab_cdef, time: 0x0123_4567_89ab_cdef };
        let mut bytes = stamp.to_bytes().to_vec();
        bytes.push(0xee);
        assert_eq!(Stamp::read(&bytes), Some(stamp));
        assert_eq!(Stamp::read(&bytes[..LEN - 1]), None);
        bytes[0] ^= 1;
        assert_eq!(Stamp::read(&bytes), None);
    }
}
