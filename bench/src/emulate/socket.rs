//! What source and sink set on their sockets.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// Asks for buffers of so many bytes each way; none: the system's choice. The kernel grants at most net.core.[rw]mem_max.
pub(super) fn set_buffers(socket: &impl AsFd, bytes: Option<u64>) -> io::Result<()> {
    if let Some(bytes) = bytes {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        setsockopt(socket, sockopt::SndBuf, &bytes)?;
        setsockopt(socket, sockopt::RcvBuf, &bytes)?;
    }
    Ok(())
}
