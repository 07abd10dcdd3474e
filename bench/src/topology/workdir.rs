//! The private directory of a topology: configuration, sockets, logs.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::TopologyError;

const PREFIX: &str = "s2bench-";
/// Names tried before giving up.
const TRIES: u32 = 100;

/// A directory under the system's temporary directory, mode 0700, removed on drop.
///
/// A lock held for life marks it as in use; the next topology sweeps those whose owner was killed.
#[derive(Debug)]
pub struct Workdir {
    path: PathBuf,
    _lock: Flock<fs::File>,
}

impl Workdir {
    /// Makes a fresh one.
    pub fn new() -> Result<Workdir, TopologyError> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let mut n = 0u32;
        loop {
            let path = parent.join(format!("{PREFIX}{}-{n}", std::process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => n += 1,
                Err(e) => return Err(TopologyError::io(format!("make the directory {}", path.display()))(e)),
                Ok(()) => match lock(&path) {
                    Ok(lock) if path.join(".lock").exists() => return Ok(Workdir { path, _lock: lock }),
                    // Another one's sweep came between making and locking, took it for left behind, and removed it.
                    _ if n < TRIES => n += 1,
                    Ok(_) => {
                        return Err(TopologyError::io("keep a working directory")(
                            io::ErrorKind::NotFound.into(),
                        ));
                    }
                    Err(e) => return Err(TopologyError::io(format!("lock {}", path.display()))(e)),
                },
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        // Nobody is left to tell; the next sweep tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn lock(dir: &Path) -> io::Result<Flock<fs::File>> {
    let file = fs::File::create(dir.join(".lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e.into())
}

/// Removes what killed owners left. A directory without a lock file is one being made at this moment.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let dir = entry.path();
        let ours = entry.file_name().to_str().is_some_and(|n| n.starts_with(PREFIX));
        if ours && dir.join(".lock").is_file() && lock(&dir).is_ok() {
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_only_what_nobody_holds() {
        let held = Workdir::new().unwrap();
        // As a killed owner leaves it: the file still there, the lock gone.
        let left = std::env::temp_dir().join(format!("{PREFIX}left-{}", std::process::id()));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(".lock"), "").unwrap();
        let next = Workdir::new().unwrap();
        assert!(held.path().is_dir());
        assert!(next.path().is_dir());
        assert!(!left.exists());
    }
}
