//! The sockets through which drivers of kernel interfaces receive: what wakes a worker that waits.
//!
//! net_af_packet and net_af_xdp have no interrupts to offer and keep their sockets to themselves. Both open one for each queue, in the
//! queues' order, so they are found among the process's own, as those that were not there before the device was.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::RawFd;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::config::Device;
use crate::io::MAX_DEVICES;

/// Packet and XDP sockets of this process at a moment.
#[derive(Debug)]
pub(super) struct Before(BTreeSet<RawFd>);

impl Before {
    /// Looks before the device is plugged in; ports are opened one after the other.
    pub(super) fn look(device: &Device) -> Option<Self> {
        matches!(device, Device::AfPacket(_) | Device::AfXdp(_)).then(|| Self(frame_sockets()))
    }

    /// The sockets of `queues` queues that were opened since, in order; none when there are more or fewer.
    pub(super) fn opened_since(&self, queues: u16) -> Vec<RawFd> {
        let new: Vec<RawFd> = frame_sockets().difference(&self.0).copied().collect();
        if new.len() == usize::from(queues) { new } else { Vec::new() }
    }
}

fn frame_sockets() -> BTreeSet<RawFd> {
    let names = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|fd| matches!(domain(*fd), Some(libc::AF_PACKET | libc::AF_XDP))).collect()
}

/// The address family of a socket; none when it is none.
fn domain(fd: RawFd) -> Option<i32> {
    let mut domain = 0;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: a place for the answer, of the length that is said; a number that is no socket's is refused.
    let err = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, (&raw mut domain).cast(), &raw mut len)
    };
    (err == 0).then_some(domain)
}

/// Waits until one of them has frames, at most so long. Returns false when one has a fault instead, and would end every wait at
/// once.
pub(super) fn wait(sockets: impl Iterator<Item = RawFd>, at_most: Duration) -> bool {
    let of = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut polled: ArrayVec<libc::pollfd, MAX_DEVICES> = sockets.take(MAX_DEVICES).map(of).collect();
    let at_most =
        libc::timespec { tv_sec: at_most.as_secs() as libc::time_t, tv_nsec: at_most.subsec_nanos().into() };
    // SAFETY: as many entries as said; the time is only read, and no signal mask is given. A socket that was closed is a fault.
    let ready = unsafe {
        libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, &raw const at_most, std::ptr::null())
    };
    ready >= 0 && polled.iter().all(|p| p.revents & !libc::POLLIN == 0)
}
