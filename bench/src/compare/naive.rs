//! The naive data server: buffer and forward, in user space.
//!
//! It stands for the first S2DS of SciStream (HPDC'22, "SciStream: Architecture and Toolkit for Data Streaming between Federated
//! Science Instruments"), by its description alone; the program is ours. What that one is known to do, this one does: four
//! threads a connection, of which two read from a socket into a ring and two send from a ring; a ring of 40,960 bytes in each
//! direction, guarded by a lock; a thread that finds its ring full or empty sleeps for 10 microseconds and looks again. Each
//! byte is copied from the kernel to a buffer, to the ring, to another buffer and to the kernel.
//!
//! It differs where fidelity would only have cost runs: it accepts connections for ever, and passes on the end of each
//! direction by itself.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// What a naive data server is told.
#[derive(Debug, Clone, Copy)]
pub struct Naive {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it connects to for each connection.
    pub target: SocketAddr,
    /// Bytes of each ring.
    pub ring: usize,
    /// How long a thread sleeps that can do nothing.
    pub sleep: Duration,
}

impl Naive {
    /// Listens.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn bind(&self) -> Result<TcpListener> {
        TcpListener::bind(self.listen)
            .with_context(|| format!("cannot listen on {}; choose a free address of this host", self.listen))
    }

    /// Relays connections for ever; a connection that fails is told on standard error and ends alone.
    ///
    /// # Errors
    /// Connections cannot be accepted any more.
    pub fn serve(&self, listener: &TcpListener) -> Result<()> {
        loop {
            let near = match listener.accept() {
                Ok((near, _)) => near,
                // The client went away before it was looked at.
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => continue,
                Err(e) => return Err(e).context("cannot accept connections"),
            };
            let naive = *self;
            thread::Builder::new().name("connection".into()).spawn(move || {
                if let Err(e) = naive.relay(near) {
                    eprintln!("s2bench naive: {e:#}");
                }
            })?;
        }
    }

    /// Relays one connection until both directions have ended.
    fn relay(&self, near: TcpStream) -> Result<()> {
        let far = TcpStream::connect(self.target)
            .with_context(|| format!("cannot connect to the target {}", self.target))?;
        for socket in [&near, &far] {
            socket.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        }
        thread::scope(|scope| {
            for (from, to) in [(&near, &far), (&far, &near)] {
                let ring = Arc::new(Ring::new(self.ring));
                let filled = ring.clone();
                scope.spawn(move || self.read(from, &filled));
                scope.spawn(move || self.send(to, &ring));
            }
        });
        Ok(())
    }

    /// The reading thread of a direction.
    fn read(&self, mut from: &TcpStream, ring: &Ring) {
        let mut buffer = vec![0; self.ring];
        loop {
            let n = match from.read(&mut buffer) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Ok(n @ 1..) => n,
                Ok(_) | Err(_) => break,
            };
            let mut rest = &buffer[..n];
            while !rest.is_empty() {
                match ring.put(rest) {
                    None => return,
                    Some(0) => thread::sleep(self.sleep),
                    Some(taken) => rest = &rest[taken..],
                }
            }
        }
        ring.close();
    }

    /// The sending thread of a direction.
    fn send(&self, mut to: &TcpStream, ring: &Ring) {
        let mut buffer = vec![0; self.ring];
        loop {
            match ring.take(&mut buffer) {
                None => break,
                Some(0) => thread::sleep(self.sleep),
                Some(n) => {
                    if to.write_all(&buffer[..n]).is_err() {
                        ring.close();
                        // Its other direction cannot go on either; both readers see the end.
                        let _ = to.shutdown(Shutdown::Both);
                        return;
                    }
                }
            }
        }
        // Fails only when the connection is gone already.
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// A bounded ring of bytes behind a lock.
struct Ring {
    bound: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    closed: bool,
}

impl Ring {
    fn new(bound: usize) -> Ring {
        let state = State { bytes: VecDeque::with_capacity(bound), closed: false };
        Ring { bound, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies in what there is room for and returns how much; none once it is closed.
    fn put(&self, bytes: &[u8]) -> Option<usize> {
        let mut state = self.lock();
        let n = bytes.len().min(self.bound - state.bytes.len());
        state.bytes.extend(&bytes[..n]);
        (!state.closed).then_some(n)
    }

    /// Copies out what there is and returns how much; none once it is closed and empty.
    fn take(&self, out: &mut [u8]) -> Option<usize> {
        let mut state = self.lock();
        // Reading from a deque copies its first half alone.
        let n = state.bytes.read(out).unwrap_or(0);
        (n > 0 || !state.closed).then_some(n)
    }

    /// Nothing more comes.
    fn close(&self) {
        self.lock().closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_holds_its_bound_and_gives_what_it_got_in_order() {
        let ring = Ring::new(4);
        let mut out = [0; 8];
        assert_eq!(ring.take(&mut out), Some(0));
        assert_eq!(ring.put(b"abcdef"), Some(4));
        assert_eq!(ring.put(b"ef"), Some(0));
        assert_eq!(ring.take(&mut out[..3]), Some(3));
        assert_eq!(&out[..3], b"abc");
        assert_eq!(ring.put(b"ef"), Some(2));
        ring.close();
        assert_eq!(ring.put(b"g"), None);
        let mut rest: Vec<u8> = Vec::new();
        while let Some(n) = ring.take(&mut out) {
            rest.extend(&out[..n]);
        }
        assert_eq!(&rest[..3], b"def");
    }
}
