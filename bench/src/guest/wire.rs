//! The far end of an emulated NIC's cable: each datagram is a frame.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};

/// How long QEMU may take to make room for a frame.
const PATIENCE: Duration = Duration::from_secs(10);

/// A cable's end on this machine.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) socket: UnixDatagram,
    host: PathBuf,
    /// The NIC's end; QEMU makes it.
    nic: PathBuf,
}

impl Wire {
    /// Makes the end `PATH.host` of a cable whose other one is `PATH.nic`.
    pub(super) fn new(path: &Path) -> Result<Wire> {
        let (host, nic) = (path.with_extension("host"), path.with_extension("nic"));
        let socket =
            UnixDatagram::bind(&host).with_context(|| format!("make the socket {}", host.display()))?;
        socket.set_write_timeout(Some(PATIENCE)).context("set a time limit")?;
        // More room than an ordinary user may have is good for bursts, but not needed.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20));
        Ok(Wire { socket, host, nic })
    }

    /// QEMU's words for the NIC's end.
    pub(super) fn netdev(&self, id: &str) -> String {
        format!(
            "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
            self.nic.display(),
            self.host.display()
        )
    }

    /// Connects it, once QEMU has made the NIC's end.
    pub(super) fn connect(&self) -> Result<()> {
        self.socket.connect(&self.nic).with_context(|| format!("connect to {}", self.nic.display()))
    }
}
