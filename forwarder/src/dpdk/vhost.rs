//! A virtual machine's virtio NIC, served over vhost-user by DPDK's net_vhost and vhost library.
//!
//! What is negotiated with the guest keeps one promise: each frame a worker gets lies in one buffer, is no longer than the wire
//! allows, and has its checksums in it. The relay changes checksums by what it changes in the packet (RFC 1624), which is right
//! for whole ones only.
//!
//! - **Checksums** the guest leaves to its NIC (VIRTIO_NET_F_CSUM) are completed by net_vhost as it takes the frame, as long as
//!   the port is configured without receive checksum offload ([`REFUSED_RX_OFFLOADS`]) and `legacy-ol-flags=0`.
//! - **Frames to be segmented later** are refused ([`SEGMENTED_LATER`]): every way out would have to segment them, net_vhost
//!   itself does not, and most of what is relayed leaves by other ports. The guest's kernel segments.
//! - **Chained buffers** are refused (`linear-buffer=1`): a frame that does not fit the pool's buffers, which are made for the
//!   largest MTU of all ports, is one that no port could send.
//! - **Mergeable buffers**, multiple queues, packed rings and what else concerns only the copying between the two are taken.

use std::fs::{self, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::{Gid, Group};

use super::device::Fault;
use crate::api::{Offload, OffloadBy};
use crate::config::VhostSocket;

/// Mode of a socket on which the forwarder listens.
const MODE: u32 = 0o660;

/// Checksum offloads that a vhost port must not be configured with: each makes net_vhost leave checksums to whoever sends the
/// frame on.
pub(super) const REFUSED_RX_OFFLOADS: u64 =
    dpdk_sys::S2_RX_OFFLOAD_TCP_CKSUM | dpdk_sys::S2_RX_OFFLOAD_UDP_CKSUM;

/// Feature bits (virtio 1.2 section 5.1.3 and 5.1.3.2) with which a guest would send frames that are to be segmented.
const SEGMENTED_LATER: u64 = GSO | HOST_TSO4 | HOST_TSO6 | HOST_ECN | HOST_UFO | HOST_USO;
/// Any kind of segmentation, for drivers from before virtio 1.0. `tso=0` leaves it on offer.
const GSO: u64 = 1 << 6;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
const HOST_UFO: u64 = 1 << 14;
const HOST_USO: u64 = 1 << 56;

/// Names of the feature bits that say something about frames, as virtio has them.
const NAMES: [(u64, &str); 18] = [
    (1 << 0, "CSUM"),
    (1 << 1, "GUEST_CSUM"),
    (1 << 3, "MTU"),
    (GSO, "GSO"),
    (1 << 7, "GUEST_TSO4"),
    (1 << 8, "GUEST_TSO6"),
    (1 << 9, "GUEST_ECN"),
    (1 << 10, "GUEST_UFO"),
    (HOST_TSO4, "HOST_TSO4"),
    (HOST_TSO6, "HOST_TSO6"),
    (HOST_ECN, "HOST_ECN"),
    (HOST_UFO, "HOST_UFO"),
    (MRG_RXBUF, "MRG_RXBUF"),
    (1 << 22, "MQ"),
    (1 << 32, "VERSION_1"),
    (1 << 34, "RING_PACKED"),
    (1 << 35, "IN_ORDER"),
    (HOST_USO, "HOST_USO"),
];
const MRG_RXBUF: u64 = 1 << 15;

/// What a guest has agreed to, and how much of its NIC it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// Feature bits of virtio that both sides have.
    pub features: u64,
    /// Queue pairs that the guest has enabled, from the first on. The workers beyond cannot send to it.
    pub queue_pairs: u16,
    /// Largest packet it was told to send (QEMU's host_mtu); none when it was told none.
    pub mtu: Option<u16>,
}

impl Guest {
    /// Names of the features that say something about frames, as virtio has them.
    pub fn feature_names(&self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(|(bit, _)| self.features & bit != 0).map(|(_, name)| *name)
    }

    /// A frame may take several of the guest's receive buffers. Without, one longer than its buffers blocks its queue.
    #[must_use]
    pub fn merges_buffers(&self) -> bool {
        self.features & MRG_RXBUF != 0
    }
}

/// The guest behind a port that [`Served`] watches; none when nobody is connected.
pub(super) fn guest(port_id: u16) -> Option<Guest> {
    let mut raw = dpdk_sys::s2_vhost_guest::default();
    // SAFETY: a place for the answer; any port number will do.
    if !unsafe { dpdk_sys::s2_vhost_guest_of(port_id, &raw mut raw) } {
        return None;
    }
    // A pair is usable when the guest has enabled both directions.
    let queue_pairs = (raw.rx & raw.tx).trailing_ones() as u16;
    Some(Guest { features: raw.features, queue_pairs, mtu: (raw.mtu != 0).then_some(raw.mtu) })
}

/// What a guest may leave to its NIC, and who does it.
pub(super) fn offloads() -> [Offload; 3] {
    [
        ("guest's checksums", OffloadBy::Software, "completed as the frame is taken, before it is relayed"),
        (
            "guest's segmentation",
            OffloadBy::Off,
            "not offered: no way out would do it; the guest's kernel does",
        ),
        (
            "guest's mergeable buffers",
            OffloadBy::Software,
            "offered: a frame may take several of the guest's receive buffers",
        ),
    ]
    .map(|(name, by, why)| Offload { name: name.to_owned(), by, why: why.to_owned() })
}

/// Arguments of net_vhost. What decides about correctness is said though it is the driver's default.
pub(super) fn args(socket: &VhostSocket, queues: u16) -> String {
    let iface = if socket.client { socket.path.clone() } else { staged(&socket.path) };
    format!(
        "iface={},queues={queues},client={},tso=0,linear-buffer=1,ext-buffer=0,legacy-ol-flags=0,iommu-support=0,\
         postcopy-support=0",
        iface.display(),
        u8::from(socket.client)
    )
}

/// The name under which net_vhost makes the socket. It gets its own name when everything about it is right.
fn staged(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".s2ds");
    name.into()
}

/// What net_vhost would not tell: a name that is too long, a group that does not exist, a socket that is somebody's.
pub(super) fn check(socket: &VhostSocket) -> Result<(), Fault> {
    let path = &socket.path;
    if UnixAddr::new(&staged(path)).is_err() {
        return Err(Fault::new(
            format!("the socket's name has {} bytes, which is too long", path.as_os_str().len()),
            "choose one of at most 100",
        ));
    }
    if socket.client {
        return Ok(());
    }
    group(socket)?;
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(Fault::new(
                "a file that is no socket has its name",
                "remove it, or choose another name",
            ));
        }
        Ok(_) if answers(path) => {
            return Err(Fault::new(
                "another program listens on it",
                "end that program, or write vhost:SOCKET,client if it is the virtual machine's monitor",
            ));
        }
        _ => {}
    }
    // From a start that was cut short. Failure shows when the driver cannot bind there.
    _ = fs::remove_file(staged(path));
    Ok(())
}

fn group(socket: &VhostSocket) -> Result<Option<Gid>, Fault> {
    let Some(name) = &socket.group else { return Ok(None) };
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(Some(group.gid)),
        _ => Err(Fault::new(format!("there is no group {name:?}"), "create it, or correct the name")),
    }
}

/// Whether somebody accepts connections there.
fn answers(path: &Path) -> bool {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connected = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .and_then(|socket| connect(socket.as_raw_fd(), &UnixAddr::new(path)?));
    // A full backlog is somebody's, too.
    matches!(connected, Ok(()) | Err(Errno::EAGAIN))
}

/// A port's socket in use. Dropping it takes the socket's name away; to be dropped before the port is closed.
#[derive(Debug)]
pub(super) struct Served {
    port_id: u16,
    /// The name, and device and inode of what has it.
    file: Option<(PathBuf, (u64, u64))>,
}

impl Served {
    /// Lets guests come to a port that runs. Until then none can have connected to a socket on which we listen; where we call,
    /// one that agreed to what is refused here is disconnected by the vhost library as soon as it says so.
    pub(super) fn open(socket: &VhostSocket, port_id: u16) -> Result<Self, Fault> {
        let failed = |what: &str, e: &dyn std::fmt::Display| {
            Fault::new(
                format!("{what} failed ({e})"),
                "check the owner and mode of the socket's folder, and that the forwarder may give files to the group",
            )
        };
        let made = if socket.client { socket.path.clone() } else { staged(&socket.path) };
        let name = std::ffi::CString::new(made.as_os_str().as_encoded_bytes())
            .map_err(|_| Fault::new("its text contains a NUL byte", "remove it"))?;
        // SAFETY: a C string; the library looks it up.
        if unsafe { dpdk_sys::rte_vhost_driver_disable_features(name.as_ptr(), SEGMENTED_LATER) } != 0 {
            return Err(Fault::new("the vhost library does not know the socket", "see the lines above"));
        }
        // SAFETY: the port is open.
        let err = unsafe { dpdk_sys::s2_vhost_watch(port_id) };
        let mut served = Self { port_id, file: None };
        if err != 0 {
            return Err(failed("watching the guest", &super::error::errno_text(err)));
        }
        if socket.client {
            return Ok(served);
        }
        if let Some(gid) = group(socket)? {
            chown(&made, None, Some(gid.as_raw())).map_err(|e| failed("setting the socket's group", &e))?;
        }
        fs::set_permissions(&made, Permissions::from_mode(MODE))
            .map_err(|e| failed("setting the socket's mode", &e))?;
        let meta = fs::symlink_metadata(&made).map_err(|e| failed("looking at the socket", &e))?;
        // Takes the place of a socket that was left behind.
        fs::rename(&made, &socket.path).map_err(|e| failed("naming the socket", &e))?;
        served.file = Some((socket.path.clone(), (meta.dev(), meta.ino())));
        Ok(served)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // SAFETY: any port number will do.
        unsafe { dpdk_sys::s2_vhost_unwatch(self.port_id) };
        let Some((path, identity)) = self.file.take() else { return };
        if fs::symlink_metadata(&path).is_ok_and(|m| (m.dev(), m.ino()) == identity) {
            _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(path: &Path) -> VhostSocket {
        VhostSocket { path: path.to_owned(), client: false, group: None }
    }

    #[test]
    fn arguments_say_what_decides() {
        let socket = serves(Path::new("/run/vm.sock"));
        let args = args(&socket, 3);
        assert!(
            args.starts_with("iface=/run/vm.sock.s2ds,queues=3,client=0,tso=0,linear-buffer=1,"),
            "{args}"
        );
        assert!(args.contains(",legacy-ol-flags=0,"), "{args}");
        let calls = super::args(&VhostSocket { client: true, ..socket }, 1);
        assert!(calls.starts_with("iface=/run/vm.sock,queues=1,client=1,"), "{calls}");
    }

    #[test]
    fn a_socket_that_is_somebodys_is_left_alone() {
        let folder = std::env::temp_dir().join(format!("s2-vhost-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("vm.sock");
        let problem = |socket: &VhostSocket| check(socket).err().map(|fault| format!("{fault:?}"));
        assert_eq!(problem(&serves(&path)), None);
        fs::write(&path, "text").unwrap();
        assert!(problem(&serves(&path)).unwrap().contains("no socket"));
        fs::remove_file(&path).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(problem(&serves(&path)).unwrap().contains("another program listens"));
        assert_eq!(problem(&VhostSocket { client: true, ..serves(&path) }), None);
        drop(listener);
        assert_eq!(problem(&serves(&path)), None, "nobody listens any more");
        let group = Some("no-such-group".to_owned());
        assert!(problem(&VhostSocket { group, ..serves(&path) }).unwrap().contains("no-such-group"));
        let long = folder.join("x".repeat(110));
        assert!(problem(&serves(&long)).unwrap().contains("too long"));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn features_have_names_and_none_that_is_refused_is_silent() {
        let all = NAMES.iter().fold(0, |bits, (bit, _)| bits | bit);
        assert_eq!(all & SEGMENTED_LATER, SEGMENTED_LATER);
        assert_eq!(all.count_ones() as usize, NAMES.len());
        let guest = Guest { features: MRG_RXBUF | 1, queue_pairs: 1, mtu: None };
        assert_eq!(guest.feature_names().collect::<Vec<_>>(), ["CSUM", "MRG_RXBUF"]);
        assert!(guest.merges_buffers());
    }
}
