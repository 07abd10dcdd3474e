//! Frames from pcap files: the classic format, both byte orders, micro- and nanoseconds, Ethernet only.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::PortIndex;
use super::memory::MemoryIo;

/// Longest file read, in bytes: recordings for tests are small.
pub const MAX_FILE: u64 = 256 << 20;

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;
const ETHERNET: u32 = 1;

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// The file cannot be opened or read.
    #[error("cannot read the recording: {0}; check its path and permissions")]
    Io(#[from] std::io::Error),
    /// The file is longer than [`MAX_FILE`].
    #[error("the recording is longer than {MAX_FILE} bytes; cut it with `editcap -c`")]
    TooLong,
    /// The magic number is unknown.
    #[error("the file is not a classic pcap file; convert it with `editcap -F pcap`")]
    NotPcap,
    /// The link type is not Ethernet.
    #[error("the recording has link type {0}, not Ethernet (1); record on an Ethernet interface")]
    LinkType(u32),
    /// A record reaches beyond the end of the file.
    #[error("the recording ends within the record at byte {0}; record it anew")]
    Truncated(usize),
}

/// A recording in memory, its file header checked.
#[derive(Debug, Clone)]
pub struct Pcap {
    bytes: Vec<u8>,
    big_endian: bool,
    /// Nanoseconds in a unit of a record's second time field.
    tick: u64,
}

/// A recorded frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Time of capture, in nanoseconds since 1970.
    pub time: u64,
    /// Length the frame had on the wire, in bytes; more than `frame` has when the recording cut it.
    pub wire_len: usize,
    /// The bytes recorded.
    pub frame: &'a [u8],
}

impl Pcap {
    /// Reads a file of at most [`MAX_FILE`] bytes.
    pub fn open(path: &Path) -> Result<Pcap, PcapError> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE { Err(PcapError::TooLong) } else { Pcap::from_bytes(bytes) }
    }

    /// Takes a file's content.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Pcap, PcapError> {
        let header: &[u8; FILE_HEADER] = bytes.first_chunk().ok_or(PcapError::NotPcap)?;
        let (big_endian, tick) = match header {
            [0xa1, 0xb2, 0xc3, 0xd4, ..] => (true, 1000),
            [0xd4, 0xc3, 0xb2, 0xa1, ..] => (false, 1000),
            [0xa1, 0xb2, 0x3c, 0x4d, ..] => (true, 1),
            [0x4d, 0x3c, 0xb2, 0xa1, ..] => (false, 1),
            _ => return Err(PcapError::NotPcap),
        };
        let pcap = Pcap { bytes, big_endian, tick };
        // The upper bits may tell the length of a recorded FCS.
        match pcap.word(20).map(|w| w & 0x0fff_ffff) {
            Some(ETHERNET) => Ok(pcap),
            other => Err(PcapError::LinkType(other.unwrap_or(0))),
        }
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The record at byte `at` and where the next one begins.
    fn record(&self, at: usize) -> Option<(Record<'_>, usize)> {
        let [seconds, fraction, len, wire_len] =
            [self.word(at)?, self.word(at + 4)?, self.word(at + 8)?, self.word(at + 12)?];
        let begin = at + RECORD_HEADER;
        let end = begin.checked_add(len as usize)?;
        let frame = self.bytes.get(begin..end)?;
        let time = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.tick;
        Some((Record { time, wire_len: wire_len as usize, frame }, end))
    }

    /// The frames in order of the file. After an error there are no more.
    pub fn records(&self) -> impl Iterator<Item = Result<Record<'_>, PcapError>> {
        let mut at = FILE_HEADER;
        std::iter::from_fn(move || {
            if at >= self.bytes.len() {
                return None;
            }
            match self.record(at) {
                Some((record, next)) => {
                    at = next;
                    Some(Ok(record))
                }
                None => {
                    let error = PcapError::Truncated(at);
                    at = self.bytes.len();
                    Some(Err(error))
                }
            }
        })
    }

    /// Lets the frames arrive at `port`, from the record `skip` on, until they or the pool's buffers end. Returns how many
    /// arrived.
    pub fn replay(&self, io: &MemoryIo, port: PortIndex, skip: usize) -> Result<usize, PcapError> {
        let mut n = 0;
        for record in self.records().skip(skip) {
            if !io.inject(port, record?.frame) {
                break;
            }
            n += 1;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::PacketBuf;

    fn file(big: bool, magic: u32, link: u32, frames: &[&[u8]]) -> Vec<u8> {
        let word = |w: u32| if big { w.to_be_bytes() } else { w.to_le_bytes() };
        let mut out: Vec<u8> = [word(magic), [0; 4], [0; 4], [0; 4], word(65535), word(link)].concat();
        for (i, frame) in (1..).zip(frames) {
            let len = frame.len() as u32;
            out.extend([word(i), word(7), word(len), word(len + 4)].concat());
            out.extend(*frame);
        }
        out
    }

    #[test]
    fn both_orders_and_both_resolutions() {
        for big in [true, false] {
            for (magic, tick) in [(0xa1b2_c3d4, 1000), (0xa1b2_3c4d, 1)] {
                let pcap = Pcap::from_bytes(file(big, magic, 1, &[b"abc", b""])).unwrap();
                let records: Vec<_> = pcap.records().map(Result::unwrap).collect();
                assert_eq!(
                    records,
                    [
                        Record { time: 1_000_000_000 + 7 * tick, wire_len: 7, frame: b"abc" },
                        Record { time: 2_000_000_000 + 7 * tick, wire_len: 4, frame: b"" },
                    ]
                );
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert!(matches!(Pcap::from_bytes(vec![0; 40]), Err(PcapError::NotPcap)));
        assert!(matches!(Pcap::from_bytes(vec![0xd4, 0xc3]), Err(PcapError::NotPcap)));
        assert!(matches!(Pcap::from_bytes(file(true, 0xa1b2_c3d4, 113, &[])), Err(PcapError::LinkType(113))));
        assert!(matches!(Pcap::open(Path::new("/nonexistent.pcap")), Err(PcapError::Io(_))));
    }

    #[test]
    fn a_cut_or_lying_record_ends_the_recording() {
        let whole = file(false, 0xa1b2_c3d4, 1, &[b"abc", b"defg"]);
        for cut in 1..RECORD_HEADER + 4 {
            let pcap = Pcap::from_bytes(whole[..whole.len() - cut].to_vec()).unwrap();
            let results: Vec<_> = pcap.records().map(|r| r.is_ok()).collect();
            assert_eq!(results, [true, false], "{cut}");
        }
        let mut lying = whole;
        lying[FILE_HEADER + 8..FILE_HEADER + 12].fill(0xff);
        let pcap = Pcap::from_bytes(lying).unwrap();
        assert!(matches!(pcap.records().next(), Some(Err(PcapError::Truncated(24)))));
    }

    #[test]
    fn replay_stops_when_the_buffers_end() {
        let pcap = Pcap::from_bytes(file(true, 0xa1b2_c3d4, 1, &[b"1", b"2", b"3"])).unwrap();
        let mut io = MemoryIo::new(1, 2);
        assert_eq!(pcap.replay(&io, 0, 0).unwrap(), 2);
        let mut burst = crate::io::Burst::new();
        use crate::io::PacketIo;
        io.rx(0, &mut burst);
        assert_eq!(burst.iter().map(PacketBuf::head).collect::<Vec<_>>(), [b"1", b"2"]);
        burst.clear();
        assert_eq!(pcap.replay(&io, 0, 2).unwrap(), 1);
    }
}
