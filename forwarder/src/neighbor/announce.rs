//! What we say unasked about our own addresses: that we have them, and that we keep them when another claims them.

use std::net::{IpAddr, Ipv6Addr};

use super::{PortL2, Rival};
use crate::io::PortIndex;
use crate::wire::arp::{self, Arp};
use crate::wire::icmpv6::{self, Advertisement};
use crate::wire::{Mac, WireError};

/// Announcements of an IPv4 address, and milliseconds between them (RFC 5227 section 1.1, ANNOUNCE_NUM, ANNOUNCE_INTERVAL).
const ARP: (u8, u32) = (2, 2_000);
/// The same of an IPv6 address (RFC 4861 section 10, MAX_NEIGHBOR_ADVERTISEMENT, RETRANS_TIMER).
const ND: (u8, u32) = (3, 1_000);
/// Milliseconds between two defences of an address (RFC 5227 section 1.1, DEFEND_INTERVAL).
const DEFEND_INTERVAL: u32 = 10_000;
/// Most addresses looked at in a tick, and most of them announced.
const SCAN: usize = 256;
const AT_ONCE: usize = 16;

/// All nodes of a link (RFC 4291 section 2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// To be told to everybody on a link: we have this address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Port to tell it at.
    pub port: PortIndex,
    /// The address.
    pub address: IpAddr,
}

impl Announcement {
    /// Longest frame that [`Announcement::write`] makes.
    pub const FRAME_MAX: usize = icmpv6::FRAME_MAX;

    /// Writes the gratuitous ARP request (RFC 5227 section 2.3) or the unsolicited advertisement that overrides (RFC 4861
    /// section 7.2.6) and returns its length. `port` is the one to send from.
    ///
    /// [`WireError::NoRoom`] when `buf` is smaller than [`Announcement::FRAME_MAX`].
    pub fn write(&self, buf: &mut [u8], port: &PortL2) -> Result<usize, WireError> {
        match self.address {
            IpAddr::V4(own) => {
                let packet = Arp { op: arp::REQUEST, sha: port.mac, spa: own, tha: Mac::default(), tpa: own };
                arp::write(buf, Mac::BROADCAST, port.tags, &packet)
            }
            IpAddr::V6(target) => {
                let mac = Some(port.mac);
                let adv = Advertisement { target, mac, solicited: false, overrides: true, router: false };
                let dst_mac = Mac::ipv6_multicast(ALL_NODES);
                icmpv6::write_advertisement(buf, port.mac, port.tags, dst_mac, ALL_NODES, &adv)
            }
        }
    }
}

/// An address of ours that another station claimed while we had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contested {
    /// Port it belongs to.
    pub port: PortIndex,
    /// The address.
    pub address: IpAddr,
    /// MAC address of the last one that claimed it.
    pub mac: Mac,
    /// How often it was claimed.
    pub times: u64,
    /// Milliseconds since it last was; meaningless after 49 days, when their count wraps.
    pub ago: u32,
}

#[derive(Debug)]
struct Own {
    port: PortIndex,
    address: IpAddr,
    /// Announcements still to make, and when the next is due.
    left: u8,
    due: u32,
    defended: Option<u32>,
    /// The last one who claimed it, and when.
    rival: Option<(Mac, u32)>,
    times: u64,
}

/// Own addresses, as one worker announces and defends them. Time is given, in milliseconds that may wrap; nothing is allocated
/// after [`Announcer::new`].
#[derive(Debug)]
pub struct Announcer {
    own: Vec<Own>,
    announces: bool,
    defends: bool,
    /// Where the next tick goes on, and addresses with announcements left.
    cursor: usize,
    unfinished: usize,
}

impl Announcer {
    /// For the addresses of `ports`, in the order of [`PortIndex`]. One worker `announces`, each `defends`.
    pub fn new(ports: &[PortL2], announces: bool, defends: bool) -> Announcer {
        let mut own = Vec::new();
        for (port, l2) in (0..).zip(ports) {
            for address in l2.addresses() {
                own.push(Own { port, address, left: 0, due: 0, defended: None, rival: None, times: 0 });
            }
        }
        let mut announcer = Announcer { own, announces, defends, cursor: 0, unfinished: 0 };
        announcer.again(0, |_| true);
        announcer
    }

    /// Has the addresses of the ports that are `of` interest announced from the beginning: their link is new, and what was
    /// said before reached nobody, or another switch (RFC 5227 section 2.3).
    pub fn again(&mut self, now: u32, of: impl Fn(PortIndex) -> bool) {
        if !self.announces {
            return;
        }
        for own in self.own.iter_mut().filter(|o| of(o.port)) {
            own.left = if own.address.is_ipv4() { ARP.0 } else { ND.0 };
            own.due = now;
        }
        self.unfinished = self.own.iter().filter(|o| o.left > 0).count();
    }

    /// Lets time pass; to be called about every 100 ms. Gives `emit` a bounded number of announcements.
    pub fn tick(&mut self, now: u32, emit: &mut dyn FnMut(Announcement)) {
        if self.unfinished == 0 {
            return;
        }
        let mut room = AT_ONCE;
        for _ in 0..SCAN.min(self.own.len()) {
            if room == 0 {
                break;
            }
            let at = self.cursor;
            self.cursor = (at + 1) % self.own.len();
            let Some(own) = self.own.get_mut(at).filter(|o| o.left > 0) else { continue };
            // Not due yet, also across the wrap.
            if now.wrapping_sub(own.due) > u32::MAX / 2 {
                continue;
            }
            own.left -= 1;
            own.due = now.wrapping_add(if own.address.is_ipv4() { ARP.1 } else { ND.1 });
            self.unfinished -= usize::from(own.left == 0);
            room -= 1;
            emit(Announcement { port: own.port, address: own.address });
        }
    }

    /// Takes in that another claims an address of `port`. Returns what to say against it: once in
    /// [`DEFEND_INTERVAL`] at most, so that two who both defend make no storm (RFC 5227 section 2.4 (c)). A rival who was
    /// `answered` has been told so already.
    pub fn contested(
        &mut self,
        port: PortIndex,
        rival: &Rival,
        answered: bool,
        now: u32,
    ) -> Option<Announcement> {
        let own = self.own.iter_mut().find(|o| o.port == port && o.address == rival.address)?;
        own.rival = Some((rival.mac, now));
        own.times += 1;
        let lately = own.defended.is_some_and(|at| now.wrapping_sub(at) < DEFEND_INTERVAL);
        if answered || lately || !self.defends {
            return None;
        }
        own.defended = Some(now);
        Some(Announcement { port, address: own.address })
    }

    /// The addresses that were claimed by others, each with its last rival.
    pub fn claimed_by_others(&self, now: u32) -> impl Iterator<Item = Contested> + '_ {
        self.own.iter().filter_map(move |o| {
            let (mac, at) = o.rival?;
            let Own { port, address, times, .. } = *o;
            Some(Contested { port, address, mac, times, ago: now.wrapping_sub(at) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Tags;

    const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);

    fn port(addresses: u8) -> PortL2 {
        PortL2 {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            tags: Tags::NONE,
            mtu: 1500,
            ipv4: (0..addresses).map(|n| [10, 0, 0, n].into()).collect(),
            ipv6: vec!["fe80::1".parse().unwrap()],
        }
    }

    /// When each address was announced, with ticks of 100 ms from `begin`.
    fn times(announcer: &mut Announcer, begin: u32, ticks: u32) -> Vec<(u32, IpAddr)> {
        let mut said = Vec::new();
        for n in 1..=ticks {
            announcer.tick(begin.wrapping_add(100 * n), &mut |a| said.push((100 * n, a.address)));
        }
        said
    }

    #[test]
    fn each_address_is_announced_as_often_as_its_family_asks() {
        let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 0].into(), "fe80::1".parse().unwrap());
        let expected = [(100, v4), (100, v6), (1100, v6), (2100, v4), (2100, v6)];
        assert_eq!(times(&mut Announcer::new(&[port(1)], true, true), 0, 100), expected);
        assert_eq!(times(&mut Announcer::new(&[port(1)], false, true), 0, 100), []);
    }

    #[test]
    fn a_new_link_is_told_again_and_others_are_not() {
        let mut announcer = Announcer::new(&[port(1), port(2)], true, true);
        assert_eq!(times(&mut announcer, 0, 100).len(), (2 + 3) + (2 * 2 + 3));
        let mut said = Vec::new();
        // In the middle of it once more, and across the wrap of time.
        announcer.again(u32::MAX - 1_000, |port| port == 1);
        announcer.tick(u32::MAX - 950, &mut |a| said.push(a));
        assert_eq!(said.len(), 3, "{said:?}");
        announcer.again(u32::MAX - 900, |port| port == 1);
        for n in 1..=100 {
            announcer.tick((u32::MAX - 900).wrapping_add(100 * n), &mut |a| said.push(a));
        }
        assert_eq!(said.len(), 3 + 2 * 2 + 3, "{said:?}");
        assert!(said.iter().all(|a| a.port == 1));
        let mut silent = Announcer::new(&[port(1)], false, true);
        silent.again(0, |_| true);
        assert_eq!(times(&mut silent, 0, 100), []);
    }

    #[test]
    fn many_addresses_take_turns() {
        let mut announcer = Announcer::new(&[port(200)], true, true);
        let said = times(&mut announcer, 0, 100);
        assert_eq!(said.len(), 200 * 2 + 3);
        for tick in 1..=100 {
            assert!(said.iter().filter(|(at, _)| *at == 100 * tick).count() <= AT_ONCE);
        }
        for n in 0..200 {
            let at: Vec<u32> = said.iter().filter(|(_, a)| *a == port(200).ipv4[n]).map(|s| s.0).collect();
            assert!(at.len() == 2 && at[1] - at[0] >= 2000, "{n}: {at:?}");
        }
    }

    #[test]
    fn a_defence_is_not_repeated_within_ten_seconds() {
        let address = IpAddr::from([10, 0, 0, 0]);
        let rival = Rival { address, mac: OTHER };
        let mut announcer = Announcer::new(&[port(2)], false, true);
        let defence = Some(Announcement { port: 0, address });
        let mut now = u32::MAX - 5_000;
        assert_eq!(announcer.contested(0, &rival, true, now), None, "answered");
        assert_eq!(announcer.contested(0, &rival, false, now), defence);
        for _ in 0..99 {
            now = now.wrapping_add(100);
            assert_eq!(announcer.contested(0, &rival, false, now), None);
        }
        // Another address has a time of its own.
        let second = Rival { address: [10, 0, 0, 1].into(), mac: OTHER };
        assert!(announcer.contested(0, &second, false, now).is_some());
        now = now.wrapping_add(100);
        assert_eq!(announcer.contested(0, &rival, false, now), defence);
        let claimed: Vec<_> = announcer.claimed_by_others(now.wrapping_add(7)).collect();
        assert_eq!(claimed.len(), 2);
        assert_eq!(claimed[0], Contested { port: 0, address, mac: OTHER, times: 102, ago: 7 });
    }

    #[test]
    fn what_is_not_ours_is_not_defended() {
        let mut announcer = Announcer::new(&[port(1)], false, true);
        let stranger = Rival { address: [10, 0, 0, 77].into(), mac: OTHER };
        assert_eq!(announcer.contested(0, &stranger, false, 0), None);
        let ours = Rival { address: [10, 0, 0, 0].into(), mac: OTHER };
        assert_eq!(announcer.contested(1, &ours, false, 0), None, "of another port");
        let mut silent = Announcer::new(&[port(1)], false, false);
        assert_eq!(silent.contested(0, &ours, false, 0), None);
        assert_eq!(silent.claimed_by_others(0).count(), 1, "told all the same");
    }
}
