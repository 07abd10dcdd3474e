//! Files that are read again when they change.
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use std::{fs, io};

/// What tells two versions of a file apart.
type Stamp = (SystemTime, u64, u64);

/// The parsed content of a file.
#[derive(Debug)]
pub(super) struct Watched<T> {
    path: PathBuf,
    parse: fn(&str) -> Result<T, String>,
    seen: Mutex<(Option<Stamp>, Arc<T>)>,
}

impl<T> Watched<T> {
    /// Reads `path`.
    ///
    /// # Errors
    /// A sentence that names the file, when it cannot be read or parsed.
    pub(super) fn open(path: PathBuf, parse: fn(&str) -> Result<T, String>) -> Result<Watched<T>, String> {
        let stamp = stamp(&path);
        let value = read(&path, parse)?;
        Ok(Watched { path, parse, seen: Mutex::new((stamp.ok(), Arc::new(value))) })
    }

    /// The content as of now. A version that cannot be read or parsed leaves the one before in force, with a warning:
    /// a slip of the operator's pen shuts nobody out.
    pub(super) fn current(&self) -> Arc<T> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the read: a change meanwhile is then seen at the next call.
        let stamp = stamp(&self.path).ok();
        if seen.0 != stamp {
            seen.0 = stamp;
            match read(&self.path, self.parse) {
                Ok(value) => seen.1 = Arc::new(value),
                Err(problem) => tracing::warn!("{problem}; what was read before stays in force"),
            }
        }
        Arc::clone(&seen.1)
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified()?, metadata.len(), metadata.ino()))
}

fn read<T>(path: &Path, parse: fn(&str) -> Result<T, String>) -> Result<T, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    parse(&text).map_err(|problem| format!("{}: {problem}", path.display()))
}
