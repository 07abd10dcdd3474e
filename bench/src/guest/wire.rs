//! The far end of an emulated NIC's cable: each datagram is a frame.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

/// How long QEMU may take to make room for a frame.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest frame, with room.
const FRAME: usize = 16 << 10;

/// A cable's end on this machine.
#[derive(Debug)]
pub struct Wire {
    socket: UnixDatagram,
    /// The NIC's end; QEMU makes it.
    nic: PathBuf,
}

impl Wire {
    /// Makes the end `PATH.host` of a cable whose other one is `PATH.nic`.
    pub(super) fn new(path: &Path) -> Result<Wire> {
        let (host, nic) = (path.with_extension("host"), path.with_extension("nic"));
        let socket =
            UnixDatagram::bind(&host).with_context(|| format!("make the socket {}", host.display()))?;
        socket.set_nonblocking(true).context("set a socket to not block")?;
        // More room than an ordinary user may have is good for bursts, but not needed.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20));
        Ok(Wire { socket, nic })
    }

    /// QEMU's words for the NIC's end.
    pub(super) fn netdev(&self, id: &str, path: &Path) -> String {
        format!(
            "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            self.nic.display(),
            path.with_extension("host").display()
        )
    }

    /// Sends a frame to the NIC.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.socket.send_to(frame, &self.nic) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    ensure!(Instant::now() < end, "QEMU takes no frame at {}", self.nic.display());
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(e) => return Err(e).with_context(|| format!("send to {}", self.nic.display())),
            }
        }
    }

    /// The next frame that the NIC sent, if there is one now.
    pub fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; FRAME];
        match self.socket.recv(&mut frame) {
            Ok(n) => {
                frame.truncate(n);
                Ok(Some(frame))
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e).context("receive from QEMU"),
        }
    }

    /// Waits until one of these has a frame, or for `limit`.
    pub fn wait(wires: &[&Wire], limit: Duration) -> Result<()> {
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut fds: Vec<PollFd> =
            wires.iter().map(|w| PollFd::new(w.socket.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(e) => Err(e).context("wait for frames"),
        }
    }
}
