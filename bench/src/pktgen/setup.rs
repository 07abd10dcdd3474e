//! Devices, cores and memory, before anything is sent.

use std::net::IpAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forwarder::config::Device;
use forwarder::dpdk::{Eal, EalOptions, Port, PortSettings, WorkerThread};
use forwarder::neighbor::PortL2;
use forwarder::pools;
use forwarder::sync::StopFlag;
use forwarder::topology::Machine;
use forwarder::wire::{Mac, Tags, icmpv6};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::threads::Place;
use crate::topology;

/// Descriptors of a queue; drivers take fewer where they have fewer.
const DESCRIPTORS: u16 = 2048;
/// How long a link may take to come up.
const LINK: Duration = Duration::from_secs(10);

/// What a session is opened with.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The device that sends.
    pub tx: Device,
    /// The device that receives, the same or another; none: nobody does.
    pub rx: Option<Device>,
    /// VLAN tag of what is sent, and of what is received.
    pub vlans: (Option<u16>, Option<u16>),
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Addresses to answer for on the device that sends, and on the one that receives.
    pub addresses: (Vec<IpAddr>, Vec<IpAddr>),
    /// Cores of the sender and of the receiver; none: the last of those there are.
    pub cores: Option<(usize, usize)>,
    /// Packet memory from hugepages.
    pub huge: bool,
    /// Further EAL options.
    pub eal: Vec<String>,
    /// Look at the checksum of every payload received.
    pub verify: bool,
    /// How much a late sender catches up at full speed; what was due before is not sent.
    pub catch_up: Duration,
}
/// Cores for EAL, the sender and the receiver: the last ones of the NUMA node, unless they are chosen.
pub(super) fn cores(chosen: Option<(usize, usize)>, node: Option<i32>) -> (usize, usize, usize) {
    let have = topology::cores();
    let machine = Machine::here().unwrap_or_default();
    let mut near = have.clone();
    near.retain(|core| node.is_none() || machine.core_node(*core) == node);
    let near = if near.is_empty() { &have } else { &near };
    let at = |from_end: usize| near.iter().rev().nth(from_end).or(near.first()).copied().unwrap_or(0);
    let (tx, rx) = chosen.unwrap_or_else(|| (at(0), at(1)));
    (have.iter().copied().find(|c| *c != tx && *c != rx).unwrap_or(rx), tx, rx)
}

/// Starts EAL on the calling thread with memory for so many packet buffers.
pub(super) fn eal(setup: &Setup, main: usize, buffers: u32) -> Result<Arc<Eal>> {
    let room = pools::data_room_for(setup.mtu);
    Ok(Eal::init(&EalOptions {
        huge: setup.huge,
        memory_mb: pools::memory_mb(buffers, room, setup.huge) + 64,
        main_core: main,
        pci: EalOptions::pci_of([Some(&setup.tx), setup.rx.as_ref()].into_iter().flatten()),
        // Its socket is of no use to anybody, and would be left behind by a kill.
        args: [&["--no-telemetry".to_owned()], &setup.eal[..]].concat(),
        ..EalOptions::default()
    })?)
}

/// What a device is opened with.
pub(super) fn port_settings(setup: &Setup, place: Place) -> PortSettings {
    let same = setup.rx.as_ref() == Some(&setup.tx);
    let (name, device) = match (&setup.rx, place) {
        (Some(rx), 1) => ("rx", rx.clone()),
        _ => ("tx", setup.tx.clone()),
    };
    let tags = |place| Tags::one(if place == 0 { setup.vlans.0 } else { setup.vlans.1 });
    let mut all = vec![tags(place)];
    if same && setup.vlans.0 != setup.vlans.1 {
        all.push(tags(1));
    }
    // A kernel interface keeps the MTU it has, which need only suffice; a NIC has one that is usual.
    let least = if matches!(device, Device::AfPacket(_) | Device::AfXdp(_)) { 576 } else { 1500 };
    let v6 = addresses(setup, place).into_iter().filter_map(|a| match a {
        IpAddr::V6(a) => Some(Mac::ipv6_multicast(icmpv6::solicited_node(a)).0),
        IpAddr::V4(_) => None,
    });
    let mut multicast: Vec<[u8; 6]> = v6.collect();
    multicast.sort_unstable();
    multicast.dedup();
    PortSettings {
        index: place as u8,
        name: name.to_owned(),
        device,
        queues: 1,
        mtu: setup.mtu.max(least),
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        multicast,
        tags: all,
        one_pool: false,
        steer: None,
    }
}

/// Addresses to answer for on a device.
fn addresses(setup: &Setup, place: Place) -> Vec<IpAddr> {
    let (tx, rx) = &setup.addresses;
    match place {
        0 if setup.rx.as_ref() == Some(&setup.tx) => tx.iter().chain(rx).copied().collect(),
        0 => tx.clone(),
        _ => rx.clone(),
    }
}

/// The layer 2 side of a device.
pub(super) fn l2(setup: &Setup, place: Place, mac: Mac) -> PortL2 {
    let all = addresses(setup, place);
    let vlan = if place == 0 { setup.vlans.0 } else { setup.vlans.1 };
    let mut l2 = PortL2 { mac, tags: Tags::one(vlan), mtu: setup.mtu, ipv4: Vec::new(), ipv6: Vec::new() };
    for address in all {
        match address {
            IpAddr::V4(a) => l2.ipv4.push(a),
            IpAddr::V6(a) => l2.ipv6.push(a),
        }
    }
    l2
}

/// Waits until a link is up, as far as the driver tells.
pub(super) fn wait_for_link(port: &Port, interrupted: &StopFlag) -> Result<()> {
    let until = Instant::now() + LINK;
    while port.link().is_some_and(|link| !link.up) && !interrupted.stopped() {
        ensure!(
            Instant::now() < until,
            "the link of {} ({}) is down; check the cable and the far end",
            port.settings().device,
            port.driver()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Starts a thread on a core, known to EAL.
pub(super) fn on_core<T: Send + 'static>(
    eal: &Arc<Eal>,
    (name, core): (&str, usize),
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<Option<T>>> {
    let (ready, readiness) = mpsc::channel();
    let eal = Arc::clone(eal);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let mut only = CpuSet::new();
        let pinned = only.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
        let registered = pinned
            .with_context(|| format!("core {core} cannot be had; choose others with --cores"))
            .and_then(|()| Ok(WorkerThread::register(&eal)?));
        let registered = match registered {
            Ok(registered) => registered,
            Err(e) => {
                let _ = ready.send(Err(e));
                return None;
            }
        };
        let _ = ready.send(Ok(()));
        let result = run();
        drop(registered);
        Some(result)
    })?;
    readiness.recv().context("a thread ended before it began")??;
    Ok(thread)
}
