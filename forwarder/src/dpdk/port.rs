use std::collections::BTreeSet;
use std::ffi::CStr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::capability::{Capabilities, Multicast, Setup};
use super::device::{Attached, Fault, give_mac, interface_runs, kernel_interface, sizes_frames_itself};
use super::eal::Eal;
use super::error::{DpdkError, errno_text};
use super::event::Event;
use super::mempool::Mempool;
use super::queue::Queue;
use super::ring::{self, Ring, RingPair};
use super::rss::{self, Rss};
use super::vhost::{self, Guest};
use crate::api::Offload;
use crate::config::Device;
use crate::flow::{Steering, toeplitz};
use crate::io::PortIndex;
use crate::net::link_local;
use crate::pools::AF_XDP_KEEPS;
use crate::wire::icmpv6::solicited_node;
use crate::wire::{Mac, Tags};

/// What a port is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSettings {
    /// Place in the configuration.
    pub index: PortIndex,
    /// Name in the configuration, for errors.
    pub name: String,
    /// What is behind it.
    pub device: Device,
    /// Queue pairs, one a worker.
    pub queues: u16,
    /// Largest layer-3 packet, in bytes.
    pub mtu: u16,
    /// Receive descriptors a queue; the driver may adjust the number.
    pub rx_descriptors: u16,
    /// Send descriptors a queue; the driver may adjust the number.
    pub tx_descriptors: u16,
    /// Multicast MAC addresses it must receive; the link-local address's group is added when there is any.
    pub multicast: Vec<[u8; 6]>,
    /// The tags of the frames it must receive, by id, one entry a port that shares the device. They stay in the frames.
    pub tags: Vec<Tags>,
    /// Every frame that is ever sent here comes from the pool the port receives into.
    pub one_pool: bool,
    /// What the device is to bring to its workers by itself; none leaves it to the workers.
    pub steer: Option<Steer>,
}

impl PortSettings {
    /// Ids that a filter of the device must pass: it looks at the outermost tag.
    pub(super) fn filtered_ids(&self) -> impl Iterator<Item = u16> + '_ {
        self.tags.iter().filter_map(|tags| tags.outer.or(tags.inner))
    }

    /// How many tags its frames have, each number once.
    pub(super) fn tag_counts(&self) -> Vec<u32> {
        let count = |t: &Tags| u32::from(t.outer.is_some()) + u32::from(t.inner.is_some());
        let mut counts: Vec<u32> = self.tags.iter().map(count).collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    }
}

/// Return traffic, for a device to steer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steer {
    /// Destination ports of return traffic.
    pub source_ports: RangeInclusive<u16>,
    /// The port has IPv4 addresses.
    pub v4: bool,
    /// The port has IPv6 addresses.
    pub v6: bool,
}

/// An Ethernet device in use. When the last handle goes - each [`Queue`] holds one - it is stopped, closed and detached.
#[derive(Debug)]
pub struct Port {
    // Fields are dropped in this order: the device, then what its queues hold.
    device: Attached,
    _rings: Vec<Arc<Ring>>,
    pool: Arc<Mempool>,
    settings: PortSettings,
    facts: Facts,
    identity: Identity,
}

/// What others know a port by, and so has to be the same when its device comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// In neighbors' tables, and in the link-local address.
    mac: [u8; 6],
    /// Key of the hash that tells packets' workers.
    key: [u8; toeplitz::KEY],
    /// How packets come to their workers: source ports were chosen by it.
    steering: Steering,
}

/// What was found out about a device when it was opened.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The driver's name, such as `net_af_packet`.
    pub driver: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// NUMA node of the device, when it has one.
    pub numa_node: Option<i32>,
    /// DPDK's bus: `pci` or `vdev`.
    pub bus: &'static str,
    /// Its name there.
    pub place: String,
    /// The kernel's interface, when it has one.
    pub interface: Option<String>,
    /// Firmware version, when the driver tells.
    pub firmware: Option<String>,
    /// What the device can do.
    pub capabilities: Capabilities,
    /// Receive descriptors of a queue.
    pub rx_descriptors: u16,
    /// Send descriptors of a queue.
    pub tx_descriptors: u16,
    /// Who does what.
    pub offloads: Vec<Offload>,
    /// Why packets come to their workers as they do.
    pub steering_why: String,
}

/// A port over rings, its queues, and the far ends of these.
pub type RingPort = (Arc<Port>, Vec<Queue>, Vec<RingPair>);

/// State of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Frames can pass.
    pub up: bool,
    /// Mbit/s, when known.
    pub speed: Option<u32>,
    /// Both directions at once.
    pub full_duplex: bool,
    /// Speed and duplex were agreed with the other end.
    pub autoneg: bool,
}

/// The device's own counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames given to workers.
    pub received: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames lost because workers were too slow (imissed).
    pub missed: u64,
    /// Frames received with errors (ierrors).
    pub rx_errors: u64,
    /// Frames lost because the pool was empty (rx_nombuf).
    pub no_buffer: u64,
    /// Frames the driver counts as not sent (oerrors). Some, net_ring among them, count those they left with the caller too.
    pub tx_errors: u64,
}

impl Port {
    /// Plugs the device in, sets it up, starts it, and hands out its queues.
    ///
    /// # Errors
    /// The device or interface does not exist, is in use or bound to another driver; a capability is missing; it has too few
    /// queues, or cannot carry the MTU. Frames larger than the pool's buffers need a device that spreads them over several, and
    /// sends such. Whatever was plugged in is detached again.
    pub fn open(
        eal: &Arc<Eal>,
        settings: PortSettings,
        pool: &Arc<Mempool>,
    ) -> Result<(Arc<Self>, Vec<Queue>), DpdkError> {
        match Attached::attach(eal, &settings) {
            Ok(device) => Self::set_up(device, settings, pool, Vec::new(), None),
            Err(fault) => Err(fault.of(&settings)),
        }
    }

    /// Opens a device that has come back, in place of the port that it was: with the same MAC address, which it is given when it has
    /// another, and the same way to its workers.
    ///
    /// # Errors
    /// As [`Port::open`]; and when it cannot be what it was.
    pub fn reopen(
        eal: &Arc<Eal>,
        settings: PortSettings,
        pool: &Arc<Mempool>,
        identity: &Identity,
    ) -> Result<(Arc<Self>, Vec<Queue>), DpdkError> {
        let attached = give_mac(&settings, identity.mac).and_then(|()| Attached::attach(eal, &settings));
        match attached {
            Ok(device) => Self::set_up(device, settings, pool, Vec::new(), Some(identity)),
            Err(fault) => Err(fault.of(&settings)),
        }
    }

    /// A port without a device: each of its queues ends in two rings of `ring_size` (a power of two) less one frames, whose
    /// far ends the caller holds. `settings.device` is used in errors only.
    ///
    /// # Errors
    /// There is no memory, or the port's index is in use.
    pub fn from_rings(
        settings: PortSettings,
        ring_size: u32,
        pool: &Arc<Mempool>,
    ) -> Result<RingPort, DpdkError> {
        let (device, rings, far_ends) =
            ring::port(&settings, ring_size, pool).map_err(|f| f.of(&settings))?;
        let (port, queues) = Self::set_up(device, settings, pool, rings, None)?;
        Ok((port, queues, far_ends))
    }

    fn set_up(
        mut device: Attached,
        settings: PortSettings,
        pool: &Arc<Mempool>,
        rings: Vec<Arc<Ring>>,
        before: Option<&Identity>,
    ) -> Result<(Arc<Self>, Vec<Queue>), DpdkError> {
        let (facts, identity) = match configure(&mut device, &settings, pool, before) {
            Ok(made) => made,
            Err(fault) => return Err(fault.of(&settings)),
        };
        let queues = settings.queues;
        let may_strip = facts.capabilities.vlan_strip;
        let sockets = device.sockets(queues);
        let port =
            Arc::new(Self { device, _rings: rings, pool: Arc::clone(pool), settings, facts, identity });
        let queue = |id| Queue::new(Arc::clone(&port), id, may_strip, sockets.get(usize::from(id)).copied());
        let queues = (0..queues).map(queue).collect();
        Ok((port, queues))
    }

    /// Place in the configuration.
    #[must_use]
    pub fn index(&self) -> PortIndex {
        self.settings.index
    }

    /// What it was opened with.
    #[must_use]
    pub fn settings(&self) -> &PortSettings {
        &self.settings
    }

    /// The pool it receives into.
    #[must_use]
    pub fn pool(&self) -> &Arc<Mempool> {
        &self.pool
    }

    /// The driver's name, such as `net_af_packet`.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.facts.driver
    }

    /// MAC address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.facts.mac
    }

    /// What was found out about the device when it was opened.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What others know it by.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether an event is about this port.
    #[must_use]
    pub fn concerns(&self, event: &Event) -> bool {
        match event {
            Event::Link(id) | Event::Broken(id, _) => *id == self.port_id(),
            Event::Removed(place) => *place == self.facts.place,
        }
    }

    /// How packets come to the queue of the worker they belong to.
    #[must_use]
    pub fn steering(&self) -> &Steering {
        &self.identity.steering
    }

    /// NUMA node of the device, when it has one.
    #[must_use]
    pub fn numa_node(&self) -> Option<i32> {
        self.facts.numa_node
    }

    /// State of the link now, without waiting for it to change; none when the driver does not tell.
    #[must_use]
    pub fn link(&self) -> Option<Link> {
        let mut state = dpdk_sys::s2_link_state::default();
        // SAFETY: the port is open; a place for the answer.
        let err = unsafe { dpdk_sys::s2_link(self.port_id(), &raw mut state) };
        // Drivers of kernel interfaces take these to be up always.
        let running = kernel_interface(&self.settings.device).and_then(interface_runs).unwrap_or(true);
        (err == 0).then_some(Link {
            up: state.up && running,
            speed: (state.mbps != 0).then_some(state.mbps),
            full_duplex: state.full_duplex,
            autoneg: state.autoneg,
        })
    }

    /// The virtual machine connected to a vhost port; none when there is none, and on other ports.
    #[must_use]
    pub fn guest(&self) -> Option<Guest> {
        matches!(self.settings.device, Device::Vhost(_)).then(|| vhost::guest(self.port_id()))?
    }

    /// The device's counters since it was started; zeros when the driver has none.
    #[must_use]
    pub fn stats(&self) -> PortStats {
        let mut raw = dpdk_sys::rte_eth_stats::default();
        // SAFETY: the port is open; a place for the answer.
        if unsafe { dpdk_sys::rte_eth_stats_get(self.port_id(), &raw mut raw) } != 0 {
            return PortStats::default();
        }
        PortStats {
            received: raw.ipackets,
            sent: raw.opackets,
            missed: raw.imissed,
            rx_errors: raw.ierrors,
            no_buffer: raw.rx_nombuf,
            tx_errors: raw.oerrors,
        }
    }

    /// The driver's own counters by DPDK's names; none when it has none.
    #[must_use]
    pub fn xstats(&self) -> Vec<(String, u64)> {
        // Those of net_vhost are the vhost library's, which frees them when the guest goes, whoever reads.
        if matches!(self.settings.device, Device::Vhost(_)) {
            return Vec::new();
        }
        // SAFETY: the port is open; null and 0 ask for the number.
        let count = unsafe { dpdk_sys::rte_eth_xstats_get_names(self.port_id(), std::ptr::null_mut(), 0) };
        let Ok(count) = u32::try_from(count) else { return Vec::new() };
        let mut names = vec![dpdk_sys::rte_eth_xstat_name::default(); count as usize];
        let mut values = vec![dpdk_sys::rte_eth_xstat::default(); count as usize];
        // SAFETY: the port is open; places for as many answers as said.
        let (named, valued) = unsafe {
            (
                dpdk_sys::rte_eth_xstats_get_names(self.port_id(), names.as_mut_ptr(), count),
                dpdk_sys::rte_eth_xstats_get(self.port_id(), values.as_mut_ptr(), count),
            )
        };
        let valued = usize::try_from(valued).unwrap_or(0);
        if usize::try_from(named).unwrap_or(0) > names.len() || valued > values.len() {
            return Vec::new();
        }
        let name = |id: u64| {
            let bytes = names.get(usize::try_from(id).ok()?)?.name.map(|c| c as u8);
            Some(CStr::from_bytes_until_nul(&bytes).ok()?.to_string_lossy().into_owned())
        };
        values[..valued].iter().filter_map(|v| Some((name(v.id)?, v.value))).collect()
    }

    /// Receives frames for everybody from now on, as a wire does.
    ///
    /// # Errors
    /// The device refuses; one that has no filter, and so cannot, does not.
    pub fn promiscuous(&self) -> Result<(), DpdkError> {
        // SAFETY: the port is open.
        match unsafe { dpdk_sys::rte_eth_promiscuous_enable(self.port_id()) } {
            err if err < 0 && err != -libc::ENOTSUP => Err(Fault::new(
                format!("it does not receive frames for others ({})", errno_text(err)),
                "use another device",
            )
            .of(&self.settings)),
            _ => Ok(()),
        }
    }

    pub(super) fn port_id(&self) -> u16 {
        self.device.port_id()
    }
}

/// From plugged in to running.
fn configure(
    device: &mut Attached,
    settings: &PortSettings,
    pool: &Arc<Mempool>,
    before: Option<&Identity>,
) -> Result<(Facts, Identity), Fault> {
    let id = device.port_id();
    let failed =
        |what: &str, err: i32, mend: &str| Fault::new(format!("{what} failed ({})", errno_text(err)), mend);

    let mut info = dpdk_sys::rte_eth_dev_info::default();
    // SAFETY: the port is ours; a place for the answer.
    let err = unsafe { dpdk_sys::rte_eth_dev_info_get(id, &raw mut info) };
    if err < 0 {
        return Err(failed("asking the driver for its limits", err, "use another device"));
    }
    // SAFETY: a driver that gives its flags gives them for as long as it is loaded.
    let dev_flags = unsafe { info.dev_flags.as_ref() }.copied().unwrap_or(0);
    let driver = if info.driver_name.is_null() {
        String::new()
    } else {
        // SAFETY: the driver's name is a C string that lives as long as the driver.
        unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
    };
    let capabilities = Capabilities::of(&info, dev_flags, &driver);
    check_limits(settings, &info, &capabilities, pool)?;

    let mut rss = Rss::plan(settings, &info, before.map(|b| &b.key))?;
    let config = config(settings, &info, &capabilities, pool, &mut rss);
    let queues = settings.queues;
    // SAFETY: the port is ours and stopped.
    let err = unsafe { dpdk_sys::rte_eth_dev_configure(id, queues, queues, &raw const config) };
    if err < 0 {
        return Err(failed(
            &format!("setting up {queues} queues for MTU {}", settings.mtu),
            err,
            "lower the port's queues or mtu; the lines above tell what the driver dislikes",
        ));
    }

    let (mut rx, mut tx) = (settings.rx_descriptors, settings.tx_descriptors);
    // SAFETY: the port is configured; a place for both answers.
    let err = unsafe { dpdk_sys::rte_eth_dev_adjust_nb_rx_tx_desc(id, &raw mut rx, &raw mut tx) };
    if err < 0 {
        return Err(failed("choosing the number of descriptors", err, "use the default numbers"));
    }
    // SAFETY: the port is ours.
    let numa_node = unsafe { dpdk_sys::rte_eth_dev_socket_id(id) };
    let node = u32::try_from(numa_node).unwrap_or(dpdk_sys::S2_SOCKET_ANY.cast_unsigned());
    for queue in 0..queues {
        // SAFETY: the port is configured with that many queues, null asks for the driver's defaults, and the port keeps the
        // pool alive.
        let err =
            unsafe { dpdk_sys::rte_eth_rx_queue_setup(id, queue, rx, node, std::ptr::null(), pool.raw()) };
        if err < 0 && matches!(settings.device, Device::AfXdp(_)) && pool.available() < AF_XDP_KEEPS {
            return Err(Fault::new(
                format!(
                    "of {} packet buffers {} are free: its driver keeps those that the interface had when it went",
                    pool.count(),
                    pool.available()
                ),
                "start s2ds again",
            ));
        }
        if err < 0 {
            return Err(failed(
                &format!("setting up receive queue {queue} with {rx} descriptors"),
                err,
                "use fewer descriptors, or larger or more packet buffers",
            ));
        }
        // SAFETY: as above.
        let err = unsafe { dpdk_sys::rte_eth_tx_queue_setup(id, queue, tx, node, std::ptr::null()) };
        if err < 0 {
            let what = format!("setting up send queue {queue} with {tx} descriptors");
            return Err(failed(&what, err, "use fewer descriptors"));
        }
    }

    if !sizes_frames_itself(&settings.device) {
        // SAFETY: the port is ours.
        let err = unsafe { dpdk_sys::rte_eth_dev_set_mtu(id, settings.mtu) };
        if err < 0 && err != -libc::ENOTSUP {
            return Err(failed(&format!("setting MTU {}", settings.mtu), err, "lower the port's mtu"));
        }
    }
    device.start().map_err(|err| failed("starting the device", err, "see the lines above"))?;
    let read_mac = || device.mac().ok_or_else(|| Fault::new("it has no MAC address", "use another device"));
    let mut mac = read_mac()?;
    if let Some(before) = before {
        if mac != before.mac {
            let mut old = dpdk_sys::rte_ether_addr { addr_bytes: before.mac };
            // SAFETY: the port is ours; the address is copied.
            unsafe { dpdk_sys::rte_eth_dev_default_mac_addr_set(id, &raw mut old) };
            mac = read_mac()?;
        }
        if mac != before.mac {
            return Err(Fault::new(
                format!("it came back with MAC address {} and does not take {}", Mac(mac), Mac(before.mac)),
                "restart s2ds",
            ));
        }
    }
    admit_vlan(id, settings, &config);
    let multicast = admit_multicast(id, settings, mac)?;
    let (steering, steering_why) = rss::steer(device, settings, &rss);

    if before.is_some_and(|before| steering != before.steering) {
        return Err(Fault::new(
            format!("it came back with another way to bring packets to workers ({steering_why})"),
            "restart s2ds",
        ));
    }
    let identity = Identity { mac, key: rss.used(), steering };
    device.admit_guests(&settings.device)?;
    let setup = Setup {
        settings,
        can: &capabilities,
        data_room: pool.data_room(),
        outgrows: outgrows(settings, pool),
        multicast,
        how: identity.steering.how(),
        steering_why: &steering_why,
    };
    let mut offloads = setup.offloads();
    if matches!(settings.device, Device::Vhost(_)) {
        offloads.extend(vhost::offloads());
    }
    let (bus, place) = device.place();
    let facts = Facts {
        driver,
        mac,
        numa_node: (numa_node >= 0).then_some(numa_node),
        bus,
        place,
        interface: kernel_interface(&settings.device)
            .map(str::to_owned)
            .or_else(|| interface_name(info.if_index)),
        firmware: firmware(id),
        capabilities,
        rx_descriptors: rx,
        tx_descriptors: tx,
        offloads,
        steering_why,
    };
    Ok((facts, identity))
}

/// The version of the device's firmware, when the driver tells.
fn firmware(id: u16) -> Option<String> {
    let mut text = [0u8; 128];
    // SAFETY: the port is ours; a place for the answer, of that length.
    let err = unsafe { dpdk_sys::rte_eth_dev_fw_version_get(id, text.as_mut_ptr().cast(), text.len()) };
    let text = CStr::from_bytes_until_nul(&text).ok()?.to_string_lossy().trim().to_owned();
    (err == 0 && !text.is_empty()).then_some(text)
}

/// The name of a kernel interface; 0 is none.
fn interface_name(index: u32) -> Option<String> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: a place for a name, of the length that is asked for.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    (!found.is_null()).then(|| CStr::from_bytes_until_nul(&name).ok()?.to_str().ok().map(str::to_owned))?
}

fn check_limits(
    settings: &PortSettings,
    info: &dpdk_sys::rte_eth_dev_info,
    can: &Capabilities,
    pool: &Arc<Mempool>,
) -> Result<(), Fault> {
    let has = can.max_queues;
    if has < settings.queues {
        return Err(Fault::new(
            format!("{} queues are wanted and the device has {has}", settings.queues),
            format!("set queues = {has} or run that many workers"),
        ));
    }
    if info.max_mtu != 0 && settings.mtu > info.max_mtu {
        return Err(Fault::new(
            format!("MTU {} is wanted and the device carries at most {}", settings.mtu, info.max_mtu),
            "lower the port's mtu",
        ));
    }
    if outgrows(settings, pool) && !can.chains {
        return Err(Fault::new(
            format!(
                "a frame of MTU {} does not fit into packet buffers of {} bytes, and the device takes one a frame",
                settings.mtu,
                pool.data_room()
            ),
            "use larger buffers or a lower mtu",
        ));
    }
    Ok(())
}

/// Whether the port's largest frame takes several buffers. A frame in several buffers is larger than one, so a port that may
/// be asked to send one is itself a port of which this is true.
fn outgrows(settings: &PortSettings, pool: &Mempool) -> bool {
    /// Ethernet header and two VLAN tags.
    const FRAMING: u16 = 22;
    settings.mtu.saturating_add(FRAMING) > pool.data_room()
}

/// Points to the key in `rss`.
fn config(
    settings: &PortSettings,
    info: &dpdk_sys::rte_eth_dev_info,
    can: &Capabilities,
    pool: &Mempool,
    rss: &mut Rss,
) -> dpdk_sys::rte_eth_conf {
    let mut config = dpdk_sys::rte_eth_conf::default();
    config.intr_conf.set_lsc(u32::from(can.link_interrupt));
    config.intr_conf.set_rmv(u32::from(can.removal_interrupt));
    if !sizes_frames_itself(&settings.device) {
        config.rxmode.mtu = u32::from(settings.mtu);
    }
    // A device that cannot hash has its own way to share packets out, such as AF_PACKET's fanout.
    if settings.queues > 1 && rss.types != 0 {
        config.rxmode.mq_mode = dpdk_sys::RTE_ETH_MQ_RX_RSS;
        let conf = &mut config.rx_adv_conf.rss_conf;
        conf.rss_hf = rss.types;
        if let Some(key) = rss.key() {
            conf.rss_key = key.as_mut_ptr();
            conf.rss_key_len = key.len() as u8;
        }
    }
    if settings.filtered_ids().next().is_some() {
        config.rxmode.offloads |= info.rx_offload_capa & dpdk_sys::S2_RX_OFFLOAD_VLAN_FILTER;
    }
    if outgrows(settings, pool) {
        config.rxmode.offloads |= dpdk_sys::S2_RX_OFFLOAD_SCATTER;
        config.txmode.offloads |= dpdk_sys::S2_TX_OFFLOAD_MULTI_SEGS;
    } else if settings.one_pool {
        // Some drivers take it for a promise of one buffer a frame, too.
        config.txmode.offloads |= info.tx_offload_capa & dpdk_sys::S2_TX_OFFLOAD_MBUF_FAST_FREE;
    }
    if matches!(settings.device, Device::Vhost(_)) {
        config.rxmode.offloads &= !vhost::REFUSED_RX_OFFLOADS;
    }
    config
}

/// Some virtual functions pass no tagged frame unless told; a device without a filter passes all.
fn admit_vlan(id: u16, settings: &PortSettings, config: &dpdk_sys::rte_eth_conf) {
    if config.rxmode.offloads & dpdk_sys::S2_RX_OFFLOAD_VLAN_FILTER != 0 {
        for vlan in settings.filtered_ids() {
            // SAFETY: the port is ours. On failure the worst is a filter that was refused.
            unsafe { dpdk_sys::rte_eth_dev_vlan_filter(id, vlan, 1) };
        }
    }
}

/// Neighbour discovery (RFC 4861) needs multicast: by address, else all of it, else everything. A device that knows none
/// of the three has no filter.
fn admit_multicast(id: u16, settings: &PortSettings, mac: [u8; 6]) -> Result<Multicast, Fault> {
    if settings.multicast.is_empty() {
        return Ok(Multicast::Unwanted);
    }
    // The group of the link-local address that follows from the MAC address (RFC 4291 section 2.7.1).
    let link_local = Mac::ipv6_multicast(solicited_node(link_local(Mac(mac)))).0;
    let groups: BTreeSet<[u8; 6]> = settings.multicast.iter().copied().chain([link_local]).collect();
    let mut list: Vec<dpdk_sys::rte_ether_addr> =
        groups.into_iter().map(|mac| dpdk_sys::rte_ether_addr { addr_bytes: mac }).collect();
    let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
    // SAFETY: the port is ours, and the driver copies the list.
    let mut by_address = || unsafe { dpdk_sys::rte_eth_dev_set_mc_addr_list(id, list.as_mut_ptr(), count) };
    // SAFETY: the port is ours.
    let mut all_multicast = || unsafe { dpdk_sys::rte_eth_allmulticast_enable(id) };
    // SAFETY: the port is ours.
    let mut everything = || unsafe { dpdk_sys::rte_eth_promiscuous_enable(id) };
    let ways: [(Multicast, &mut dyn FnMut() -> i32); 3] = [
        (Multicast::ByAddress, &mut by_address),
        (Multicast::All, &mut all_multicast),
        (Multicast::Everything, &mut everything),
    ];
    let mut refusal = None;
    for (kind, way) in ways {
        match way() {
            0 => return Ok(kind),
            err if err == -libc::ENOTSUP => {}
            err => refusal = Some(err),
        }
    }
    let Some(err) = refusal else { return Ok(Multicast::NoFilter) };
    Err(Fault::new(
        format!("it cannot be made to receive multicast ({})", errno_text(err)),
        "use another device, or remove the port's IPv6 addresses",
    ))
}
