//! Port numbers of listeners: each is free or taken, and which comes next cannot be foretold.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use forwarder::api::Proto;

use crate::session::random;

/// The port numbers of one range, on any addresses. TCP and UDP have each their own.
#[derive(Debug)]
pub(crate) struct Ports {
    range: RangeInclusive<u16>,
    /// Free ones, in no order. An address that is not here has all of them free.
    free: HashMap<(Proto, IpAddr), Vec<u16>>,
}

impl Ports {
    /// All of `range` free on every address.
    pub(crate) fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, free: HashMap::new() }
    }

    /// Takes `count` of an address, leaving out those that `skip` says somebody else has. None, and nothing taken, when so many
    /// are not free.
    pub(crate) fn take(
        &mut self,
        proto: Proto,
        ip: IpAddr,
        count: usize,
        skip: impl Fn(SocketAddr) -> bool,
    ) -> Option<Vec<SocketAddr>> {
        let free = self.free.entry((proto, ip)).or_insert_with(|| self.range.clone().collect());
        let mut taken = Vec::with_capacity(count.min(free.len()));
        let mut skipped = Vec::new();
        while taken.len() < count && !free.is_empty() {
            let port = free.swap_remove(below(free.len()));
            match skip(SocketAddr::new(ip, port)) {
                true => skipped.push(port),
                false => taken.push(port),
            }
        }
        free.extend(skipped);
        if taken.len() < count {
            free.extend(taken);
            return None;
        }
        Some(taken.into_iter().map(|port| SocketAddr::new(ip, port)).collect())
    }

    /// Takes the very ones that sessions have which were kept from before. One that is not of the range any more changes
    /// nothing.
    pub(crate) fn claim(&mut self, kept: impl IntoIterator<Item = (Proto, SocketAddr)>) {
        let mut claimed: HashMap<(Proto, IpAddr), HashSet<u16>> = HashMap::new();
        for (proto, listener) in kept {
            claimed.entry((proto, listener.ip())).or_default().insert(listener.port());
        }
        for (place, ports) in claimed {
            let free = self.free.entry(place).or_insert_with(|| self.range.clone().collect());
            free.retain(|port| !ports.contains(port));
        }
    }

    /// Gives back what was taken. What is not of the range any more stays out.
    pub(crate) fn give(&mut self, proto: Proto, listeners: &[SocketAddr]) {
        for listener in listeners.iter().filter(|l| self.range.contains(&l.port())) {
            if let Some(free) = self.free.get_mut(&(proto, listener.ip())) {
                free.push(listener.port());
            }
        }
    }

    /// How many are free on an address.
    pub(crate) fn free(&self, proto: Proto, ip: IpAddr) -> usize {
        self.free.get(&(proto, ip)).map_or(self.range.len(), Vec::len)
    }
}

/// A number below `n`, which is not 0, that cannot be foretold. Of a few thousand the first are not noticeably more likely.
fn below(n: usize) -> usize {
    (random() % n as u64) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn every_port_is_taken_once_and_comes_back() {
        let mut ports = Ports::new(100..=199);
        for _ in 0..3 {
            let mut seen = HashSet::new();
            let some = (0..20).map(|_| ports.take(Proto::Tcp, IP, 5, |_| false).unwrap()).collect::<Vec<_>>();
            assert!(some.iter().flatten().all(|l| seen.insert(l.port()) && (100..200).contains(&l.port())));
            assert_eq!(ports.take(Proto::Tcp, IP, 1, |_| false), None);
            assert_eq!(
                ports.take(Proto::Udp, IP, 100, |_| false).map(|l| ports.give(Proto::Udp, &l)),
                Some(())
            );
            some.iter().for_each(|l| ports.give(Proto::Tcp, l));
            assert_eq!(ports.free(Proto::Tcp, IP), 100);
        }
    }

    #[test]
    fn too_many_take_none_and_others_ports_are_left_out() {
        let mut ports = Ports::new(100..=109);
        assert_eq!(ports.take(Proto::Tcp, IP, 10, |l| l.port() == 104), None);
        assert_eq!(ports.free(Proto::Tcp, IP), 10);
        let nine = ports.take(Proto::Tcp, IP, 9, |l| l.port() == 104).unwrap();
        assert!(nine.iter().all(|l| l.port() != 104));
    }

    #[test]
    fn kept_ports_are_not_given_to_others() {
        let mut ports = Ports::new(100..=102);
        let kept = [SocketAddr::new(IP, 101), SocketAddr::new(IP, 9)];
        ports.claim(kept.map(|l| (Proto::Tcp, l)));
        let rest = ports.take(Proto::Tcp, IP, 2, |_| false).unwrap();
        assert!(rest.iter().all(|l| l.port() != 101));
        ports.give(Proto::Tcp, &kept);
        assert_eq!(ports.take(Proto::Tcp, IP, 1, |_| false).unwrap(), kept[..1]);
    }

    #[test]
    fn the_next_port_cannot_be_foretold() {
        let order = || {
            let mut ports = Ports::new(1000..=1999);
            ports.take(Proto::Tcp, IP, 1000, |_| false).unwrap()
        };
        assert_ne!(order(), order());
    }
}
