//! Files that are looked at whenever somebody's identity depends on them.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use crate::file::{self, Watched};

/// Reads `path`.
///
/// # Errors
/// A sentence that names the file, when it cannot be read or parsed.
pub(super) fn open<T: 'static>(
    path: PathBuf,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Watched<T, String>, String> {
    Watched::open(vec![path.clone()], move || {
        let text = file::read(&path).map_err(|e| e.to_string())?;
        parse(&text).map_err(|problem| format!("{}: {problem}", path.display()))
    })
}

/// The content as of now. A version that cannot be read or parsed leaves the one before in force, with a warning: a slip of the
/// operator's pen shuts nobody out.
pub(super) fn current<T>(file: &Watched<T, String>) -> Arc<T> {
    if let Some(Err(problem)) = file.refresh() {
        tracing::warn!("{problem}; what was read before stays in force");
    }
    file.get()
}
