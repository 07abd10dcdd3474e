//! What bindgen made of the headers, against what the C compiler makes of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::mem::{offset_of, size_of};
use std::ptr;

use dpdk_sys::*;

/// The C compiler's values of one kind, by name.
fn in_c(which: u8) -> BTreeMap<String, u64> {
    let mut values = BTreeMap::new();
    for i in 0.. {
        let (mut name, mut value) = (ptr::null(), 0);
        // SAFETY: two places for the answer.
        if unsafe { s2_check(which as _, i, &raw mut name, &raw mut value) } != 0 {
            break;
        }
        // SAFETY: a static C string.
        let name = unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned();
        assert!(values.insert(name, value).is_none());
    }
    values
}

fn compare(which: u8, rust: &[(&str, u64)]) {
    let rust: BTreeMap<String, u64> = rust.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    assert_eq!(in_c(which), rust);
}

macro_rules! named {
    ($($name:ident)*) => { &[$((stringify!($name), $name as u64)),*] };
}

#[test]
fn mbuf_offsets() {
    compare(
        b'o',
        named! {
            S2_OFF_BUF_ADDR S2_OFF_DATA_OFF S2_OFF_REFCNT S2_OFF_NB_SEGS S2_OFF_PORT S2_OFF_OL_FLAGS S2_OFF_PKT_LEN
            S2_OFF_DATA_LEN S2_OFF_VLAN_TCI S2_OFF_BUF_LEN S2_OFF_NEXT
        },
    );
}

#[test]
fn flags_of_64_bits() {
    compare(
        b'f',
        named! {
            S2_RX_VLAN S2_RX_VLAN_STRIPPED S2_RX_OFFLOAD_VLAN_STRIP S2_RX_OFFLOAD_VLAN_FILTER
            S2_RX_OFFLOAD_TCP_CKSUM S2_RX_OFFLOAD_UDP_CKSUM S2_RX_OFFLOAD_SCATTER S2_TX_OFFLOAD_MULTI_SEGS
            S2_TX_OFFLOAD_MBUF_FAST_FREE S2_RSS_IP_TCP_UDP S2_RSS_PORTS S2_RSS_PORTS_EXTENDED
        },
    );
}

#[test]
fn sizes_and_limits() {
    compare(
        b's',
        &[
            ("S2_SIZEOF_MBUF", S2_SIZEOF_MBUF as u64),
            ("S2_HEADROOM", S2_HEADROOM as u64),
            ("S2_MEMPOOL_CACHE_MAX", S2_MEMPOOL_CACHE_MAX as u64),
            ("S2_RING_SP_SC", S2_RING_SP_SC as u64),
            ("S2_TEL_DICT_ENTRIES", S2_TEL_DICT_ENTRIES as u64),
            ("S2_DEV_INTR_LSC", S2_DEV_INTR_LSC as u64),
            ("S2_DEV_INTR_RMV", S2_DEV_INTR_RMV as u64),
            ("S2_ETH_ALL", S2_ETH_ALL as u64),
            ("sizeof s2_link_state", size_of::<s2_link_state>() as u64),
            ("sizeof rte_eth_xstat", size_of::<rte_eth_xstat>() as u64),
            ("sizeof rte_eth_xstat_name", size_of::<rte_eth_xstat_name>() as u64),
            ("sizeof rte_eth_conf", size_of::<rte_eth_conf>() as u64),
            ("sizeof rte_eth_dev_info", size_of::<rte_eth_dev_info>() as u64),
            ("sizeof rte_eth_stats", size_of::<rte_eth_stats>() as u64),
            ("sizeof rte_ether_addr", size_of::<rte_ether_addr>() as u64),
            ("sizeof rte_eth_rss_reta_entry64", size_of::<rte_eth_rss_reta_entry64>() as u64),
            ("offset rte_eth_conf.rx_adv_conf", offset_of!(rte_eth_conf, rx_adv_conf) as u64),
            ("offset rte_eth_dev_info.max_rx_queues", offset_of!(rte_eth_dev_info, max_rx_queues) as u64),
            ("offset rte_eth_dev_info.tx_offload_capa", offset_of!(rte_eth_dev_info, tx_offload_capa) as u64),
        ],
    );
}

#[test]
fn thread_locals_before_eal() {
    // SAFETY: both read this thread's variables, which need no EAL.
    let (lcore, errno) = unsafe { (s2_lcore_id(), s2_errno()) };
    assert_eq!((lcore, errno), (u32::MAX, 0));
    // SAFETY: reads a counter.
    let (first, second) = unsafe { (s2_rdtsc(), s2_rdtsc()) };
    assert!(second > first);
}
