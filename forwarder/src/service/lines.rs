//! Lines over a client's stream, with deadlines, ended at once by the stop pipe.

use std::io::{ErrorKind, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::api::MAX_LINE;

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// There is something to do.
    Yes,
    /// The deadline passed.
    Late,
    /// The service ends.
    Stopped,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its newline.
    Whole(Vec<u8>),
    /// More than [`MAX_LINE`] bytes without a newline.
    TooLong,
    /// Not all of it within its time.
    Late,
}

/// A client's stream, not blocking, and what was read ahead of it.
pub(super) struct Lines<'s> {
    stream: UnixStream,
    stopped: &'s PipeReader,
    ahead: Vec<u8>,
}

/// Waits until `source` can be read.
pub(super) fn wait_readable(source: &impl AsFd, stopped: &PipeReader, until: Option<Instant>) -> Ready {
    wait(source, PollFlags::POLLIN, stopped, until)
}

fn wait(source: &impl AsFd, events: PollFlags, stopped: &PipeReader, until: Option<Instant>) -> Ready {
    loop {
        let timeout = match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(Duration::ZERO) => return Ready::Late,
            // A part of a millisecond would round down to a wait that does not wait.
            Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = [PollFd::new(stopped.as_fd(), PollFlags::POLLIN), PollFd::new(source.as_fd(), events)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) | Ok(0) => {}
            Err(_) => return Ready::Stopped,
            // Nothing is ever written to the pipe; its closing is the event.
            Ok(_) if fds[0].any() == Some(true) => return Ready::Stopped,
            Ok(_) => return Ready::Yes,
        }
    }
}

impl<'s> Lines<'s> {
    /// `stream` must not block.
    pub(super) fn new(stream: UnixStream, stopped: &'s PipeReader) -> Self {
        Self { stream, stopped, ahead: Vec::new() }
    }

    /// The next line: begun within `begin` from now, ended within `whole` from its beginning. None when the client has
    /// gone or the service ends.
    pub(super) fn next(&mut self, begin: Duration, whole: Duration) -> Option<Line> {
        let mut until = Instant::now() + begin;
        let mut begun = false;
        let mut seen = 0;
        loop {
            if let Some(end) = self.ahead[seen..].iter().position(|b| *b == b'\n').map(|at| seen + at) {
                if end > MAX_LINE {
                    return Some(Line::TooLong);
                }
                let mut line: Vec<u8> = self.ahead.drain(..=end).collect();
                line.pop();
                return Some(Line::Whole(line));
            }
            seen = self.ahead.len();
            if seen > MAX_LINE {
                return Some(Line::TooLong);
            }
            if seen > 0 && !begun {
                begun = true;
                until = until.min(Instant::now() + whole);
            }
            match wait_readable(&self.stream, self.stopped, Some(until)) {
                Ready::Yes => self.fill()?,
                Ready::Late => return Some(Line::Late),
                Ready::Stopped => return None,
            }
        }
    }

    /// Reads what is there. None at the end of the stream.
    fn fill(&mut self) -> Option<()> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => None,
            Ok(n) => {
                self.ahead.extend_from_slice(&chunk[..n]);
                Some(())
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Some(()),
            Err(_) => None,
        }
    }

    /// Sends a line whole within `patience`. None when that did not succeed.
    pub(super) fn send(&mut self, mut line: &[u8], patience: Duration) -> Option<()> {
        let until = Instant::now() + patience;
        while !line.is_empty() {
            match self.stream.write(line) {
                Ok(n) => line = &line[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let ready = wait(&self.stream, PollFlags::POLLOUT, self.stopped, Some(until));
                    (ready == Ready::Yes).then_some(())?;
                }
                Err(_) => return None,
            }
        }
        Some(())
    }
}
