//! Sending over TCP: all messages that are due in one call.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::message::{HEADER, Header, Kind};
use super::super::order::{Closing, Order};
use super::super::pace::{Outgoing, Outlet};
use super::{Runs, frame};

/// A sink that takes nothing for so long is gone.
const SILENCE: u16 = 30_000;
/// How long a sink may take to close after the closing, in milliseconds.
const FAREWELL: u16 = 5_000;

/// Serves one order whose bytes have been read already. Blocks until the stream has ended; returns the bytes of messages sent.
pub(crate) fn serve(stream: TcpStream, order: &Order, runs: &Runs) -> io::Result<u64> {
    stream.set_nonblocking(true)?;
    // A message goes out when it is due, not when the one before it has been acknowledged.
    stream.set_nodelay(true)?;
    super::super::socket::set_buffers(&stream, order.socket_buffer)?;
    let mut outlet = Tcp { stream };
    let session = match runs.join(order) {
        Ok(session) => session,
        Err(why) => {
            outlet.write(&mut [IoSlice::new(&frame(&super::Answer::Refused(why.clone())))])?;
            return Err(io::Error::other(why));
        }
    };
    outlet.write(&mut [IoSlice::new(&frame(&session.answer()))])?;
    let closing = session.send(&mut outlet)?;
    outlet.write(&mut [IoSlice::new(&end(&closing))])?;
    outlet.stream.shutdown(Shutdown::Write)?;
    outlet.farewell();
    Ok(closing.bytes)
}

/// The closing as the last message.
pub(super) fn end(closing: &Closing) -> Vec<u8> {
    // As in `frame`.
    let text = serde_json::to_vec(closing).unwrap_or_default();
    let length = u32::try_from(HEADER + text.len()).unwrap_or(u32::MAX);
    let header = Header { kind: Kind::End, length, seq: closing.messages, due: 0, sent: 0, connection: 0 };
    [&header.encode(crc32fast::hash(&text))[..], &text].concat()
}

struct Tcp {
    stream: TcpStream,
}

impl Tcp {
    /// Writes it all and tells whether the socket was full at any time.
    fn write(&mut self, mut slices: &mut [IoSlice<'_>]) -> io::Result<bool> {
        let mut full = false;
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.stream.write_vectored(slices) {
                Ok(n) => IoSlice::advance_slices(&mut slices, n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    full = true;
                    if !self.ready(PollFlags::POLLOUT, SILENCE)? {
                        let limit = Duration::from_millis(SILENCE.into());
                        return Err(io::Error::other(format!("the sink took nothing for {limit:?}")));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) => return Err(e),
            }
        }
        Ok(full)
    }

    /// Waits for `events`, in milliseconds.
    fn ready(&self, events: PollFlags, limit: u16) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.stream.as_fd(), events)];
        loop {
            match poll(&mut fds, PollTimeout::from(limit)) {
                Ok(n) => return Ok(n > 0),
                Err(nix::errno::Errno::EINTR) => (),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits for the sink's end: closing before it would take away what it has not read yet.
    fn farewell(&mut self) {
        let mut rest = [0; 64];
        while self.ready(PollFlags::POLLIN, FAREWELL).unwrap_or(false) {
            match self.stream.read(&mut rest) {
                Ok(1..) => (),
                Ok(0) | Err(_) => return,
            }
        }
    }
}

impl Outlet for Tcp {
    fn send(&mut self, batch: &[Outgoing<'_>]) -> io::Result<bool> {
        let mut slices: Vec<_> =
            batch.iter().flat_map(|m| [IoSlice::new(&m.header), IoSlice::new(m.payload)]).collect();
        self.write(&mut slices)
    }

    fn alive(&mut self) -> io::Result<()> {
        match self.stream.peek(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(()),
        }
    }
}
