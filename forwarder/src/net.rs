//! The forwarder's place in its networks: ports with addresses, and routes. Fixed while it runs, shared by all workers.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{Config, PortConfig, is_edge};
use crate::flow::Steering;
use crate::io::PortIndex;
use crate::neighbor::PortL2;
use crate::wire::{Mac, Tags};

/// A port as the packet logic sees it.
#[derive(Debug, Clone)]
pub struct PortNet {
    /// Name from the configuration.
    pub name: String,
    /// MAC address.
    pub mac: Mac,
    /// VLAN ids of every frame.
    pub tags: Tags,
    /// The first port of its device: the one whose queue is polled.
    pub device: PortIndex,
    /// Largest layer 3 packet, in bytes.
    pub mtu: u16,
    /// Addresses with their subnets.
    pub addresses: Vec<IpNet>,
    /// The IPv6 link-local address made from the MAC (RFC 4291 appendix A).
    pub link_local: Ipv6Addr,
    /// How its packets come to their workers, when the device has told.
    pub steering: Option<Steering>,
}

/// Ports and routes.
#[derive(Debug, Clone)]
pub struct Network {
    /// In configuration order.
    pub ports: Vec<PortNet>,
    config: Arc<Config>,
}

impl Network {
    /// Joins the configuration with the MAC addresses of its devices, in the order of `config.ports`.
    pub fn new(config: Arc<Config>, macs: &[Mac]) -> Self {
        let port = |(p, mac): (&PortConfig, &Mac)| PortNet {
            name: p.name.clone(),
            mac: *mac,
            tags: p.tags(),
            device: config.first_of_device(p),
            mtu: p.mtu,
            addresses: p.addresses.clone(),
            link_local: link_local(*mac),
            steering: None,
        };
        let ports = config.ports.iter().zip(macs).map(port).collect();
        Self { ports, config }
    }

    /// Says how the ports' packets come to their workers, in the order of the ports.
    #[must_use]
    pub fn steered(mut self, steering: impl IntoIterator<Item = Steering>) -> Self {
        for (port, steering) in self.ports.iter_mut().zip(steering) {
            port.steering = Some(steering);
        }
        self
    }

    /// Of every port, the first port of its device.
    pub fn devices(&self) -> Vec<PortIndex> {
        self.ports.iter().map(|p| p.device).collect()
    }

    /// The port and next hop towards `to`, by longest prefix.
    pub fn route(&self, to: IpAddr) -> Option<(PortIndex, IpAddr)> {
        self.config.network().next_hop(to).map(|hop| (hop.port, hop.address))
    }

    /// May `address` be a neighbor on the link of `port`?
    pub fn on_link(&self, port: PortIndex, address: IpAddr) -> bool {
        self.config.network().on_link(port, address)
    }

    /// The layer 2 sides of the ports.
    pub fn ports_l2(&self) -> Vec<PortL2> {
        let l2 = |p: &PortNet| {
            let mut l2 =
                PortL2 { mac: p.mac, tags: p.tags, mtu: p.mtu, ipv4: Vec::new(), ipv6: vec![p.link_local] };
            for address in &p.addresses {
                match address.addr() {
                    IpAddr::V4(a) => l2.ipv4.push(a),
                    IpAddr::V6(a) => l2.ipv6.push(a),
                }
            }
            l2
        };
        self.ports.iter().map(l2).collect()
    }

    /// Is `address` one of `port`'s own, its link-local one included?
    pub fn owns(&self, port: PortIndex, address: IpAddr) -> bool {
        self.ports.get(usize::from(port)).is_some_and(|p| {
            p.addresses.iter().any(|a| a.addr() == address) || address == IpAddr::V6(p.link_local)
        })
    }

    /// The port that owns `address`.
    pub fn owner(&self, address: IpAddr) -> Option<PortIndex> {
        (0..).zip(&self.ports).find(|(i, _)| self.owns(*i, address)).map(|(i, _)| i)
    }

    /// Is `address` the subnet's broadcast address on `port` (or its network address, which old hosts use for it)?
    pub fn is_subnet_broadcast(&self, port: PortIndex, address: Ipv4Addr) -> bool {
        let on = |p: &PortNet| p.addresses.iter().any(|net| is_edge(*net, address.into()));
        self.ports.get(usize::from(port)).is_some_and(on)
    }

    /// The addresses `port` may use towards `next_hop`: those in its subnet, or all of the family.
    pub fn sources(&self, port: PortIndex, next_hop: IpAddr) -> impl Iterator<Item = IpAddr> + '_ {
        let addresses = self.ports.get(usize::from(port)).map_or(&[][..], |p| &p.addresses);
        let on_link = addresses.iter().any(|a| a.contains(&next_hop));
        addresses
            .iter()
            .filter(move |a| a.addr().is_ipv4() == next_hop.is_ipv4() && (!on_link || a.contains(&next_hop)))
            .map(IpNet::addr)
    }
}

/// `fe80::/64` with the modified EUI-64 of the MAC address, RFC 4291 appendix A.
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let m = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]])
}
