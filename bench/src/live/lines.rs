//! The lines of a sink: from a file that grows, a FIFO, or stdin.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Shared;

/// Longest line, in bytes: an end with a thousand connections is far below.
const LONGEST: usize = 8 << 20;
/// Between two looks at a file that did not grow, or is not there.
const PAUSE: Duration = Duration::from_millis(200);

/// Watches in a thread of its own, for as long as the process lives.
pub(super) fn watch(path: PathBuf, shared: Shared) -> Result<()> {
    let watch = move || match path.as_os_str() == "-" {
        true => {
            let mut lines = Lines::default();
            let why = match lines.drain(&mut std::io::stdin().lock(), &shared) {
                Ok(()) => "stdin was closed".to_owned(),
                Err(e) => format!("stdin cannot be read: {e}"),
            };
            shared.lock().stream_is("ended", why);
        }
        false => follow(&path, &shared),
    };
    std::thread::Builder::new().name("lines".into()).spawn(watch).context("cannot start a thread")?;
    Ok(())
}

/// Reads a file again and again, from where it was; from the start when there is another of that name or it was emptied.
fn follow(path: &Path, shared: &Shared) -> ! {
    loop {
        if let Err(e) = one(path, shared) {
            let why = match e.kind() {
                ErrorKind::NotFound => format!("waiting for {}", path.display()),
                _ => format!("{} cannot be read: {e}", path.display()),
            };
            let state = if e.kind() == ErrorKind::NotFound { "waiting" } else { "failed" };
            shared.lock().stream_is(state, why);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Reads one file until there is another in its place; a FIFO until its writer closes it.
fn one(path: &Path, shared: &Shared) -> std::io::Result<()> {
    // Opening a FIFO waits for a writer.
    let mut file = File::open(path)?;
    let opened = file.metadata()?;
    if opened.is_dir() {
        return Err(std::io::Error::new(ErrorKind::IsADirectory, "it is a directory"));
    }
    let fifo = opened.file_type().is_fifo();
    let mut lines = Lines::default();
    loop {
        lines.drain(&mut file, shared)?;
        if fifo {
            shared.lock().stream_is("ended", format!("nobody writes to {} any more", path.display()));
            return Ok(());
        }
        std::thread::sleep(PAUSE);
        let there = std::fs::metadata(path)?;
        if there.ino() != opened.ino() || there.dev() != opened.dev() || there.len() < lines.read {
            return Ok(());
        }
    }
}

/// Takes bytes apart into lines; the last one may still be half.
#[derive(Debug, Default)]
struct Lines {
    half: Vec<u8>,
    /// The line is too long; the rest of it is skipped.
    skipping: bool,
    /// Bytes read in all.
    read: u64,
}

impl Lines {
    /// Reads to the end of what there is.
    fn drain(&mut self, from: &mut impl Read, shared: &Shared) -> std::io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = match from.read(&mut buffer) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            };
            let Some(bytes) = buffer.get(..n).filter(|b| !b.is_empty()) else { return Ok(()) };
            self.read += bytes.len() as u64;
            for line in self.take(bytes) {
                let now = shared.now();
                match line {
                    Ok(line) => shared.lock().line(&line, now),
                    Err(why) => shared.lock().bad_line(&why),
                }
            }
        }
    }

    /// The whole lines that these bytes complete; empty ones are none.
    fn take(&mut self, bytes: &[u8]) -> Vec<Result<String, String>> {
        let mut whole = Vec::new();
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            let ended = part.ends_with(b"\n");
            if !self.skipping {
                self.half.extend_from_slice(part);
            }
            if self.half.len() > LONGEST {
                whole.push(Err(format!("a line is longer than {LONGEST} bytes")));
                (self.half, self.skipping) = (Vec::new(), true);
            }
            if !ended {
                continue;
            }
            let line = std::mem::take(&mut self.half);
            if !std::mem::take(&mut self.skipping) && !line.trim_ascii().is_empty() {
                whole.push(String::from_utf8(line).map_err(|_| "a line is not UTF-8".to_owned()));
            }
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"one\ntw"), [Ok("one\n".to_owned())]);
        assert_eq!(
            lines.take(b"o\n\n \r\n\xff\nthree"),
            [Ok("two\n".to_owned()), Err("a line is not UTF-8".to_owned())]
        );
        assert_eq!(lines.take(b"\n"), [Ok("three\n".to_owned())]);
    }

    #[test]
    fn a_line_without_end_is_skipped_and_bounded() {
        let mut lines = Lines::default();
        let mut said = Vec::new();
        for _ in 0..200 {
            said.extend(lines.take(&vec![b'x'; 64 << 10]));
            assert!(lines.half.len() <= LONGEST);
        }
        assert_eq!(said.len(), 1);
        assert_eq!(lines.take(b"rest\nnext\n"), [Ok("next\n".to_owned())]);
    }
}
