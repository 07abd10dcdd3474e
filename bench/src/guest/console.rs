//! Commands that run in the guest, by its second serial port. `init.sh` is the other end.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// How long an answer may be under way before the guest is nudged. Interrupts of the emulated port are now and then lost while
/// devices change hands, and then both sides wait: what is under way goes on with the next byte.
const NUDGE: Duration = Duration::from_secs(1);

/// What a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Exit status.
    pub status: i32,
    /// Both outputs.
    pub text: String,
}

#[derive(Debug)]
pub(super) struct Console {
    stream: BufReader<UnixStream>,
    line: Vec<u8>,
    asked: u32,
}

impl Console {
    pub(super) fn new(stream: UnixStream) -> Result<Console> {
        stream.set_read_timeout(Some(Duration::from_millis(100))).context("set a time limit")?;
        Ok(Console { stream: BufReader::new(stream), line: Vec::new(), asked: 0 })
    }

    /// The guest's first words: the kernel's release. None when it has said nothing until `end`.
    pub(super) fn greeting(&mut self, end: Instant) -> Result<Option<Said>> {
        self.answer(0, end)
    }

    /// Runs a command, one at a time. None when it has not ended at `limit`; then nothing else can run.
    pub(super) fn run(&mut self, command: &str, limit: Duration) -> Result<Option<Said>> {
        self.asked += 1;
        let line = format!("{} {}\n", self.asked, STANDARD.encode(command));
        self.stream.get_mut().write_all(line.as_bytes()).context("write to the guest's console")?;
        self.answer(self.asked, Instant::now() + limit)
    }

    fn answer(&mut self, number: u32, end: Instant) -> Result<Option<Said>> {
        let mut nudge = Instant::now() + NUDGE;
        loop {
            match self.stream.read_until(b'\n', &mut self.line) {
                Ok(0) => bail!("the guest's console is closed"),
                Ok(_) if self.line.last() == Some(&b'\n') => {
                    let line = std::mem::take(&mut self.line);
                    match parse(&line) {
                        Some((n, said)) if n == number => return Ok(Some(said)),
                        // The kernel clears its throat when it opens the port.
                        _ => continue,
                    }
                }
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) => return Err(e).context("read the guest's console"),
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            if Instant::now() >= nudge && number > 0 {
                self.stream.get_mut().write_all(b"\n").context("write to the guest's console")?;
                nudge = Instant::now() + NUDGE;
            }
        }
    }
}

fn parse(line: &[u8]) -> Option<(u32, Said)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let (number, status) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let text = STANDARD.decode(words.next().unwrap_or_default()).ok()?;
    Some((number, Said { status, text: String::from_utf8_lossy(&text).into_owned() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let said = |status, text: &str| Said { status, text: text.into() };
        assert_eq!(parse(b"7 0 aGVsbG8K\n"), Some((7, said(0, "hello\n"))));
        assert_eq!(parse(b"8 127 \r\n"), Some((8, said(127, ""))));
        for noise in [&b"\xff\xfe\n"[..], b"\n", b"[    0.1] kernel says\n", b"9 0 ?\n"] {
            assert_eq!(parse(noise), None);
        }
    }
}
