//! What a device can do, and what of it is used: the plain facts, and the list that operators are shown.
//!
//! The TCP and UDP checksums of relayed packets are updated, never computed anew (RFC 1624, RFC 3022 section 4.2): a packet that was
//! corrupted before it came here keeps a checksum that does not fit, and its receiver notices. A device told to compute them would
//! make a sound packet of it, so that is not asked for, and neither is anything else that is not used.
#![forbid(unsafe_code)]

use super::port::PortSettings;
use crate::api::{Offload, OffloadBy};
use crate::flow::steering::How;

/// What a driver says of its device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest MTU; none when it names no limit.
    pub max_mtu: Option<u16>,
    /// Queue pairs.
    pub max_queues: u16,
    /// Most receive descriptors of a queue; none when it names no limit.
    pub max_rx_descriptors: Option<u16>,
    /// Most send descriptors of a queue; none when it names no limit.
    pub max_tx_descriptors: Option<u16>,
    /// Spreads a received frame over several buffers, and sends such.
    pub chains: bool,
    /// Has a filter of VLAN ids.
    pub vlan_filter: bool,
    /// Can take VLAN tags off, and may do so unasked.
    pub vlan_strip: bool,
    /// Frees sent buffers faster when all are of one pool and one buffer a frame.
    pub fast_free: bool,
    /// Has an interrupt for changes of the link.
    pub link_interrupt: bool,
    /// Has an interrupt for its removal.
    pub removal_interrupt: bool,
}

/// A driver that says that it hears of changes of the link, and does not (QEMU's vmxnet3 under vfio-pci): once asked to, DPDK no
/// longer asks the device, and the link stays as it was at start. Asking once a second always works.
const DEAF: &str = "net_vmxnet3";

impl Capabilities {
    pub(super) fn of(info: &dpdk_sys::rte_eth_dev_info, dev_flags: u32, driver: &str) -> Self {
        let limit = |n: u16| (n != 0 && n != u16::MAX).then_some(n);
        let (rx, tx) = (info.rx_offload_capa, info.tx_offload_capa);
        Self {
            max_mtu: limit(info.max_mtu),
            max_queues: info.max_rx_queues.min(info.max_tx_queues),
            max_rx_descriptors: limit(info.rx_desc_lim.nb_max),
            max_tx_descriptors: limit(info.tx_desc_lim.nb_max),
            chains: rx & dpdk_sys::S2_RX_OFFLOAD_SCATTER != 0 && tx & dpdk_sys::S2_TX_OFFLOAD_MULTI_SEGS != 0,
            vlan_filter: rx & dpdk_sys::S2_RX_OFFLOAD_VLAN_FILTER != 0,
            vlan_strip: rx & dpdk_sys::S2_RX_OFFLOAD_VLAN_STRIP != 0,
            fast_free: tx & dpdk_sys::S2_TX_OFFLOAD_MBUF_FAST_FREE != 0,
            link_interrupt: dev_flags & dpdk_sys::S2_DEV_INTR_LSC as u32 != 0 && driver != DEAF,
            removal_interrupt: dev_flags & dpdk_sys::S2_DEV_INTR_RMV as u32 != 0,
        }
    }
}

/// By which way a device came to receive multicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Multicast {
    /// None is needed.
    Unwanted,
    /// The groups' addresses are in its filter.
    ByAddress,
    /// It passes all multicast.
    All,
    /// It passes every frame.
    Everything,
    /// It has no filter.
    NoFilter,
}

/// What became of a device when it was set up.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    pub(super) settings: &'a PortSettings,
    pub(super) can: &'a Capabilities,
    /// Bytes of a packet buffer.
    pub(super) data_room: u16,
    /// The largest frame takes several buffers.
    pub(super) outgrows: bool,
    pub(super) multicast: Multicast,
    pub(super) how: How,
    pub(super) steering_why: &'a str,
}

impl Setup<'_> {
    /// Who does what, and why.
    pub(super) fn offloads(&self) -> Vec<Offload> {
        let (settings, can) = (self.settings, self.can);
        let row = |name: &str, (by, why): (OffloadBy, String)| Offload { name: name.to_owned(), by, why };
        let soft = |why: &str| (OffloadBy::Software, why.to_owned());
        vec![
            row(
                "IPv4 header checksum",
                soft("verified in every packet received, and updated incrementally (RFC 1624)"),
            ),
            row(
                "TCP and UDP checksums",
                soft("updated incrementally, so that what was corrupted on its way shows at the receiver"),
            ),
            row("steering to workers", self.steering()),
            row("multicast filter", self.multicast()),
            row("VLAN filter", self.vlan_filter()),
            row(
                "VLAN tags",
                soft(if can.vlan_strip {
                    "written with the rest of the header; one that the driver takes off unasked is put back"
                } else {
                    "written with the rest of the header"
                }),
            ),
            row("frames in several buffers", self.chains()),
            row("fast free of sent buffers", self.fast_free()),
            row(
                "segmentation (TSO, LRO)",
                (OffloadBy::Off, format!("packets leave as they came, at most {} bytes", settings.mtu)),
            ),
        ]
    }

    fn steering(&self) -> (OffloadBy, String) {
        let by = match self.how {
            How::OneWorker => OffloadBy::Off,
            How::Rss | How::Rules => OffloadBy::Hardware,
            How::HandOver => OffloadBy::Software,
        };
        (by, self.steering_why.to_owned())
    }

    fn multicast(&self) -> (OffloadBy, String) {
        match self.multicast {
            Multicast::Unwanted => (OffloadBy::Off, "the port has no IPv6 address and needs none".to_owned()),
            Multicast::ByAddress => {
                (OffloadBy::Hardware, "passes the groups of the port's addresses".to_owned())
            }
            Multicast::All => (
                OffloadBy::Software,
                "the device passes all multicast, having no filter by address".to_owned(),
            ),
            Multicast::Everything => (
                OffloadBy::Software,
                "the device passes every frame, having no filter for multicast".to_owned(),
            ),
            Multicast::NoFilter => {
                (OffloadBy::Software, "the device has no filter and passes every frame".to_owned())
            }
        }
    }

    fn vlan_filter(&self) -> (OffloadBy, String) {
        let ids: Vec<String> = self.settings.filtered_ids().map(|id| id.to_string()).collect();
        match (ids.is_empty(), self.can.vlan_filter) {
            (true, _) => (OffloadBy::Off, "frames have no tags".to_owned()),
            (false, true) => (OffloadBy::Hardware, format!("passes VLANs {}", ids.join(", "))),
            (false, false) => {
                (OffloadBy::Software, "the device has none: others are dropped as vlan_mismatch".to_owned())
            }
        }
    }

    fn chains(&self) -> (OffloadBy, String) {
        let (mtu, room) = (self.settings.mtu, self.data_room);
        match self.outgrows {
            true => {
                (OffloadBy::Hardware, format!("a frame of MTU {mtu} takes several buffers of {room} bytes"))
            }
            false => (OffloadBy::Off, format!("a frame of MTU {mtu} fits a buffer of {room} bytes")),
        }
    }

    fn fast_free(&self) -> (OffloadBy, String) {
        match (self.can.fast_free, self.outgrows, self.settings.one_pool) {
            (false, ..) => (OffloadBy::Off, "the driver has no such mode".to_owned()),
            (true, true, _) => (OffloadBy::Off, "a frame may have several buffers".to_owned()),
            (true, false, false) => (OffloadBy::Off, "buffers are of several pools".to_owned()),
            (true, false, true) => {
                (OffloadBy::Hardware, "all buffers are of one pool, one a frame".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Device;
    use crate::wire::Tags;

    fn settings() -> PortSettings {
        PortSettings {
            index: 0,
            name: "lan".to_owned(),
            device: Device::Vdev("net_null0".to_owned()),
            queues: 2,
            mtu: 1500,
            rx_descriptors: 512,
            tx_descriptors: 512,
            multicast: vec![[0x33, 0x33, 0, 0, 0, 1]],
            tags: vec![Tags { outer: None, inner: Some(7) }],
            one_pool: true,
            steer: None,
        }
    }

    #[test]
    fn what_is_told_is_what_is_done() {
        let settings = settings();
        let all =
            Capabilities { vlan_filter: true, fast_free: true, chains: true, ..Capabilities::default() };
        let base = Setup {
            settings: &settings,
            can: &all,
            data_room: 2048,
            outgrows: false,
            multicast: Multicast::ByAddress,
            how: How::Rss,
            steering_why: "why",
        };
        let by = |setup: &Setup<'_>, name: &str| {
            let list = setup.offloads();
            let row = list.iter().find(|o| o.name == name).unwrap_or_else(|| panic!("{name}"));
            assert!(!row.why.is_empty());
            row.by
        };
        use OffloadBy::{Hardware, Off, Software};
        for (name, expected) in [
            ("IPv4 header checksum", Software),
            ("TCP and UDP checksums", Software),
            ("steering to workers", Hardware),
            ("multicast filter", Hardware),
            ("VLAN filter", Hardware),
            ("frames in several buffers", Off),
            ("fast free of sent buffers", Hardware),
            ("segmentation (TSO, LRO)", Off),
        ] {
            assert_eq!(by(&base, name), expected, "{name}");
        }
        let none = Capabilities::default();
        let plain = Setup { can: &none, multicast: Multicast::All, how: How::HandOver, ..base };
        for (name, expected) in [
            ("steering to workers", Software),
            ("multicast filter", Software),
            ("VLAN filter", Software),
            ("fast free of sent buffers", Off),
        ] {
            assert_eq!(by(&plain, name), expected, "{name}");
        }
        let large = Setup { can: &all, outgrows: true, ..plain };
        assert_eq!(by(&large, "frames in several buffers"), Hardware);
        assert_eq!(by(&large, "fast free of sent buffers"), Off);
        let untagged = PortSettings { tags: vec![Tags::NONE], multicast: Vec::new(), ..settings.clone() };
        let bare =
            Setup { settings: &untagged, multicast: Multicast::Unwanted, how: How::OneWorker, ..large };
        for name in ["VLAN filter", "multicast filter", "steering to workers"] {
            assert_eq!(by(&bare, name), Off, "{name}");
        }
    }
}
