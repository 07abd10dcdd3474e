//! The socket's file: made so that nobody can connect before its mode and group are right, removed when it is still ours.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_to, connect, listen, socket,
};
use nix::unistd::{Gid, Group};

use crate::config::ServiceConfig;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Somebody answers there.
    #[error("address in use: another process answers on control socket {}; stop it, or give another --socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Another process is between looking and binding.
    #[error("another process is making a control socket in {} at this moment; try again", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// A file of another kind has the name.
    #[error("{} exists and is no socket; remove it, or give another --socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The configured group does not exist.
    #[error("group {group:?} for the control socket does not exist; create it, or change [service] group")]
    NoGroup {
        /// Its name.
        group: String,
    },
    /// The file system or kernel refuses.
    #[error("cannot {action} for the control socket {} ({source}); check its directory's owner and mode, or give another --socket",
            path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The service's threads cannot start.
    #[error(
        "the control socket's threads cannot start ({source}); check the limits on processes and open files"
    )]
    Start {
        /// Why not.
        source: io::Error,
    },
}

/// The socket's name in the file system, and which file it stood for.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode; none once removed.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Removes the socket, unless another has taken its name.
    pub(super) fn remove(&mut self) {
        let Some(identity) = self.identity.take() else { return };
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == identity) {
            _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

pub(super) fn bind(config: &ServiceConfig) -> Result<(UnixListener, SocketFile, Option<Gid>), ServiceError> {
    let path = config.socket.as_path();
    let failed =
        |action| move |source: io::Error| ServiceError::File { action, path: path.to_owned(), source };
    let group = config.group.as_deref().map(group_id).transpose()?;

    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o755).create(directory).map_err(failed("create the directory"))?;
    // Two that start at once would each take the other's fresh socket for a stale one.
    let _lock = lock(directory, path)?;
    clear_stale(path)?;

    let address = UnixAddr::new(path).map_err(|e| failed("use the name")(e.into()))?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|e| failed("open a socket")(e.into()))?;
    bind_to(fd.as_raw_fd(), &address).map_err(|e| failed("bind")(e.into()))?;
    let meta = std::fs::symlink_metadata(path).map_err(failed("look at the file"))?;
    let file = SocketFile { path: path.to_owned(), identity: Some((meta.dev(), meta.ino())) };
    // Until `listen` every connect is refused, so no one comes in under the wrong mode.
    if let Some(group) = group {
        chown(path, None, Some(group.as_raw())).map_err(failed("set the group"))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(config.mode)).map_err(failed("set the mode"))?;
    let backlog = Backlog::new(128).map_err(|e| failed("listen")(e.into()))?;
    listen(&fd, backlog).map_err(|e| failed("listen")(e.into()))?;
    Ok((UnixListener::from(fd), file, group))
}

fn group_id(name: &str) -> Result<Gid, ServiceError> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        _ => Err(ServiceError::NoGroup { group: name.to_owned() }),
    }
}

/// Holds the directory's lock; a file beside the socket would stay behind.
fn lock(directory: &Path, socket: &Path) -> Result<Flock<File>, ServiceError> {
    let failed =
        |source| ServiceError::File { action: "lock the directory", path: socket.to_owned(), source };
    let mut file = File::open(directory).map_err(failed)?;
    for _ in 0..20 {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, errno)) => return Err(failed(errno.into())),
        };
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(ServiceError::Busy { path: directory.to_owned() })
}

/// Removes a socket on which nobody answers.
fn clear_stale(path: &Path) -> Result<(), ServiceError> {
    let failed =
        |action| move |source: io::Error| ServiceError::File { action, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at the file")(e)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ServiceError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let address = UnixAddr::new(path).map_err(|e| failed("use the name")(e.into()))?;
    // Not blocking: a process that is alive but accepts nobody would keep us.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(|e| failed("open a socket")(e.into()))?;
    match connect(probe.as_raw_fd(), &address) {
        Err(Errno::ECONNREFUSED) => std::fs::remove_file(path).map_err(failed("remove the stale file")),
        Err(Errno::ENOENT) => Ok(()),
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS) => {
            Err(ServiceError::InUse { path: path.to_owned() })
        }
        Err(errno) => Err(failed("probe the file")(errno.into())),
    }
}
