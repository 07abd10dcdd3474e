//! EAL and pools without hugepages, for the tests.
#![allow(dead_code)]

use std::sync::Arc;

use forwarder::config::Device;
use forwarder::dpdk::{Eal, EalOptions, Mbuf, Mempool, PortSettings};
use forwarder::io::PacketBuf;
use forwarder::pools::data_room_for;
use forwarder::wire::Tags;

pub(crate) fn options() -> EalOptions {
    let main_core = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))
        .map(|set| (0..nix::sched::CpuSet::count()).find(|c| set.is_set(*c) == Ok(true)))
        .unwrap()
        .unwrap();
    EalOptions { huge: false, memory_mb: 64, main_core, ..EalOptions::default() }
}

pub(crate) fn eal() -> Arc<Eal> {
    Eal::init(&options()).unwrap()
}

pub(crate) fn pool(eal: &Arc<Eal>, count: u32) -> Arc<Mempool> {
    Mempool::new(eal, "test", count, 0, data_room_for(1500), None).unwrap()
}

pub(crate) fn settings(device: Device) -> PortSettings {
    PortSettings {
        index: 0,
        name: "lan".to_owned(),
        device,
        queues: 1,
        mtu: 1500,
        rx_descriptors: 256,
        tx_descriptors: 256,
        multicast: Vec::new(),
        tags: vec![Tags::NONE],
        one_pool: true,
        steer: None,
    }
}

/// A frame of these bytes.
pub(crate) fn frame(pool: &Mempool, bytes: &[u8]) -> Mbuf {
    let mut frame = pool.alloc().expect("pool is empty");
    assert!(frame.resize(bytes.len()));
    frame.head_mut().copy_from_slice(bytes);
    frame
}
