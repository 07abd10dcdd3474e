//! What source and sink set on their sockets.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

/// Asks for buffers of so many bytes each way; none: the system's choice. The kernel grants at most net.core.[rw]mem_max; how
/// much it gave for receiving is returned when that is less.
pub(super) fn set_buffers(socket: &impl AsFd, bytes: Option<u64>) -> io::Result<Option<usize>> {
    let Some(bytes) = bytes else { return Ok(None) };
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(i32::MAX as usize);
    setsockopt(socket, sockopt::SndBuf, &bytes)?;
    setsockopt(socket, sockopt::RcvBuf, &bytes)?;
    // The kernel doubles what it is asked for, for its own needs (socket(7)).
    let granted = getsockopt(socket, sockopt::RcvBuf)? / 2;
    Ok((granted < bytes).then_some(granted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_is_known() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(set_buffers(&socket, None).unwrap(), None);
        assert_eq!(set_buffers(&socket, Some(65_536)).unwrap(), None);
        let most: usize =
            std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
        if most < 1 << 30 {
            assert_eq!(set_buffers(&socket, Some(1 << 30)).unwrap(), Some(most));
        }
    }
}
