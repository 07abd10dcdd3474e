//! A WAN that reorders and doubles frames, as links of several lanes, reroutes and radio do.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};

use super::{Netns, TopologyError, Workdir};

/// One frame of so many is held back until a few others have passed it. Prime, so that it hits every fragment in turn.
const HELD: u64 = 7;
/// So many others.
const PASSED_BY: u8 = 4;
/// One frame of so many comes twice.
const DOUBLED: u64 = 101;
/// After so many milliseconds of silence nothing comes that could pass a held frame.
const SILENCE: u8 = 2;
/// Room for the frames of a burst, in bytes; s2ds sends faster than one thread takes.
const BACKLOG: usize = 32 << 20;
/// Frames of one direction before the other has its turn.
const BURST: u32 = 64;
/// Longest frame.
const FRAME: usize = 10_000;

/// The running WAN; it stops when dropped.
#[derive(Debug)]
pub(super) struct Shuffle {
    stop: Arc<AtomicBool>,
    overtaken: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    _netns: Netns,
}

/// Joins the devices `wan` of two gateways.
pub(super) fn join(near: &Netns, far: &Netns, mtu: u16, dir: Arc<Workdir>) -> Result<Shuffle, TopologyError> {
    let netns = Netns::new("wan", dir)?;
    let mut ends = Vec::new();
    for (gateway, device) in [(near, "near"), (far, "far")] {
        gateway.join("wan", &netns, device, mtu)?;
        netns.silence(device)?;
        let opened = netns.run(move || raw_socket(device))?;
        ends.push(opened.map_err(|e| TopologyError::io(format!("open a raw socket on {device}"))(e.into()))?);
    }
    let (stop, overtaken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopping, counted) = (stop.clone(), overtaken.clone());
    let thread = std::thread::Builder::new()
        .name("shuffle".into())
        .spawn(move || carry(&ends, &stopping, &counted))
        .map_err(TopologyError::io("start a thread"))?;
    Ok(Shuffle { stop, overtaken, thread: Some(thread), _netns: netns })
}

impl Shuffle {
    /// Frames that were overtaken by others so far.
    pub(super) fn overtaken(&self) -> u64 {
        self.overtaken.load(Ordering::Relaxed)
    }
}

impl Drop for Shuffle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket for whole frames of a device; it does not see those that it sends.
fn raw_socket(device: &str) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
    // More than an ordinary user may have spares losses, but is not needed.
    let _ = setsockopt(&fd, sockopt::RcvBufForce, &BACKLOG);
    let address = nix::ifaddrs::getifaddrs()?
        .filter(|i| i.interface_name == device)
        .find_map(|i| i.address?.as_link_addr().copied())
        .ok_or(Errno::ENODEV)?;
    bind(fd.as_raw_fd(), &address)?;
    Ok(fd)
}

/// One direction.
#[derive(Default)]
struct Lane {
    seen: u64,
    /// Frames held back, and how many others are still to pass each.
    held: VecDeque<(Vec<u8>, u8)>,
}

impl Lane {
    /// Takes a frame and sends what is due.
    fn take(&mut self, frame: &[u8], overtaken: &AtomicU64, mut send: impl FnMut(&[u8])) {
        self.seen += 1;
        if self.seen.is_multiple_of(HELD) {
            self.held.push_back((frame.to_vec(), PASSED_BY));
            return;
        }
        send(frame);
        if self.seen.is_multiple_of(DOUBLED) {
            send(frame);
        }
        for (_, left) in &mut self.held {
            *left -= 1;
        }
        while let Some((frame, _)) = self.held.pop_front_if(|(_, left)| *left == 0) {
            overtaken.fetch_add(1, Ordering::Relaxed);
            send(&frame);
        }
    }

    /// Sends what is held, since nothing comes to pass it.
    fn flush(&mut self, mut send: impl FnMut(&[u8])) {
        for (frame, _) in self.held.drain(..) {
            send(&frame);
        }
    }
}

fn carry(ends: &[OwnedFd], stop: &AtomicBool, overtaken: &AtomicU64) {
    let [near, far] = ends else { return };
    let mut lanes = [(near, far, Lane::default()), (far, near, Lane::default())];
    let mut buffer = vec![0; FRAME];
    while !stop.load(Ordering::Relaxed) {
        let mut silent = true;
        for (from, to, lane) in &mut lanes {
            // A gateway that is gone, or slow, loses frames as on any link.
            let mut give = |frame: &[u8]| {
                let _ = send(to.as_raw_fd(), frame, MsgFlags::empty());
            };
            for _ in 0..BURST {
                let Ok(n) = recv(from.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { break };
                silent = false;
                lane.take(&buffer[..n], overtaken, &mut give);
            }
        }
        if silent {
            let mut fds = [near, far].map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            if poll(&mut fds, PollTimeout::from(SILENCE)) == Ok(0) {
                for (_, to, lane) in &mut lanes {
                    lane.flush(|frame| {
                        let _ = send(to.as_raw_fd(), frame, MsgFlags::empty());
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seventh_frame_is_passed_by_four_and_none_is_lost() {
        let (mut lane, overtaken, mut out) = (Lane::default(), AtomicU64::new(0), Vec::new());
        for n in 1..=20 {
            lane.take(&[n], &overtaken, |frame| out.push(frame[0]));
        }
        lane.flush(|frame| out.push(frame[0]));
        assert_eq!(out, [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 7, 12, 13, 15, 16, 17, 18, 14, 19, 20]);
        assert_eq!(overtaken.into_inner(), 2);
        for n in 21..=101 {
            lane.take(&[n], &AtomicU64::new(0), |frame| out.push(frame[0]));
        }
        assert_eq!(out.iter().filter(|n| **n == 101).count(), 2);
    }
}
