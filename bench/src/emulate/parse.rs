//! Messages out of a stream of bytes, as TCP and QUIC give it, without keeping any of them.

use crc32fast::Hasher;

use super::message::{HEADER, Header, Kind, checksum};
use super::order::Closing;
use super::tally::Tally;

/// Most bytes of a closing.
const MOST_CLOSING: usize = 1 << 20;

/// Where in the stream it is.
#[derive(Debug)]
pub struct Parser {
    /// Of every message with its header.
    message: u32,
    header: [u8; HEADER],
    have: usize,
    body: Option<Body>,
}

#[derive(Debug)]
struct Body {
    header: Header,
    wanted: u32,
    left: usize,
    hasher: Hasher,
    closing: Vec<u8>,
}

/// Something between source and sink changes the stream, or takes parts of it away.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("after message {0} comes no message; something on the path changes the stream")]
pub struct Broken(u64);

impl Parser {
    /// For a stream of messages of so many bytes.
    #[must_use]
    pub fn new(message: u32) -> Parser {
        Parser { message, header: [0; HEADER], have: 0, body: None }
    }

    /// Takes bytes that were read at `now`; returns the closing once it has come.
    ///
    /// # Errors
    /// A header is none: what follows cannot be told apart.
    pub fn push(&mut self, mut bytes: &[u8], now: u64, tally: &mut Tally) -> Result<Option<Closing>, Broken> {
        while !bytes.is_empty() || self.complete() {
            let Some(body) = &mut self.body else {
                let n = bytes.len().min(HEADER - self.have);
                self.header[self.have..self.have + n].copy_from_slice(&bytes[..n]);
                (self.have, bytes) = (self.have + n, &bytes[n..]);
                if self.have == HEADER {
                    self.begin(tally)?;
                }
                continue;
            };
            let n = bytes.len().min(body.left);
            body.hasher.update(&bytes[..n]);
            if body.header.kind == Kind::End {
                body.closing.extend_from_slice(&bytes[..n]);
            }
            (body.left, bytes) = (body.left - n, &bytes[n..]);
            if body.left == 0
                && let Some(body) = self.body.take()
            {
                self.have = 0;
                let right = checksum(body.hasher.finalize(), body.header.length, &self.header) == body.wanted;
                match body.header.kind {
                    Kind::Data if right => tally.arrived(&body.header, now),
                    Kind::Data => tally.corrupt(body.header.seq, now),
                    Kind::End => {
                        let closing = serde_json::from_slice(&body.closing).ok().filter(|_| right);
                        return closing.map(Some).ok_or(Broken(body.header.seq));
                    }
                }
            }
        }
        Ok(None)
    }

    /// A message without payload ends with its header.
    fn complete(&self) -> bool {
        self.body.as_ref().is_some_and(|b| b.left == 0)
    }

    fn begin(&mut self, tally: &Tally) -> Result<(), Broken> {
        let (header, wanted) = Header::decode(&self.header).ok_or(Broken(tally.received()))?;
        let left = header.length as usize - HEADER;
        let fits = match header.kind {
            Kind::Data => header.length == self.message,
            Kind::End => left <= MOST_CLOSING,
        };
        if !fits {
            return Err(Broken(tally.received()));
        }
        self.body = Some(Body { header, wanted, left, hasher: Hasher::new(), closing: Vec::new() });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Payloads;
    use super::super::schedule::{Schedule, Share};
    use super::super::tally::Rules;
    use super::*;

    fn tally() -> Tally {
        let share = Share { schedule: Schedule::Max, connection: 0, connections: 1 };
        Tally::new(Rules { share, duration: 1000, omit: 0, deadline: None, stall: 1000, same_clock: true }, 0)
    }

    /// Messages of `size` bytes and a closing.
    fn stream(size: u32, count: u64) -> Vec<u8> {
        let payloads = Payloads::new(size);
        let mut bytes = Vec::new();
        for seq in 0..count {
            let (payload, sum) = payloads.of(seq);
            let header = Header { kind: Kind::Data, length: size, seq, due: 0, sent: 0, connection: 0 };
            bytes.extend_from_slice(&header.encode(sum));
            bytes.extend_from_slice(payload);
        }
        let text = serde_json::to_vec(&Closing { messages: count, ..Closing::default() }).unwrap();
        let length = (HEADER + text.len()) as u32;
        let header = Header { kind: Kind::End, length, seq: count, due: 0, sent: 0, connection: 0 };
        bytes.extend_from_slice(&header.encode(crc32fast::hash(&text)));
        bytes.extend_from_slice(&text);
        bytes
    }

    #[test]
    fn messages_are_found_however_the_stream_is_cut() {
        for size in [40, 41, 100] {
            let bytes = stream(size, 5);
            for cut in [1, 7, 39, 40, 41, 150, bytes.len()] {
                let (mut parser, mut tally) = (Parser::new(size), tally());
                let mut closing = None;
                for part in bytes.chunks(cut) {
                    closing = closing.or(parser.push(part, 1, &mut tally).unwrap());
                }
                assert_eq!(closing.map(|c| c.messages), Some(5), "{size} {cut}");
                assert_eq!(tally.received(), 5, "{size} {cut}");
            }
        }
    }

    #[test]
    fn a_changed_payload_is_corrupt_and_a_changed_frame_ends_it() {
        let mut bytes = stream(100, 5);
        bytes[250] ^= 1;
        let (mut parser, mut all) = (Parser::new(100), tally());
        let closing = parser.push(&bytes, 1, &mut all).unwrap();
        let sums = all.finish(closing.map(|c| c.messages), 1).sums;
        assert_eq!((sums.packets, sums.corrupt, sums.lost_packets), (4, 1, 0));
        // Magic and length of the fourth message, and the closing.
        let end = 500;
        for at in [300, 307, end, end + 50] {
            let mut bytes = stream(100, 5);
            bytes[at] ^= 1;
            assert!(Parser::new(100).push(&bytes, 1, &mut tally()).is_err(), "{at}");
        }
    }
}
