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
