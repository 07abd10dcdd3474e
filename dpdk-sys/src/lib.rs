//! Raw bindings to DPDK 22.11 to 25.11, and a small C shim for what bindgen cannot bind.
//!
//! Nothing here is safe or convenient; `forwarder::dpdk` is. Per-packet work crosses into C once a burst (`s2_rx_burst`
//! and its like); the fields of an mbuf are read inline through the `S2_OFF_*` offsets, which the C compiler computed
//! from the installed headers.
// Generated names and shapes are C's.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    missing_docs,
    unsafe_op_in_unsafe_fn,
    unreachable_pub,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]

macro_rules! opaque {
    ($($name:ident)*) => { $(
        #[repr(C)]
        #[derive(Debug)]
        pub struct $name { _private: [u8; 0] }
    )* };
}
opaque! { rte_mbuf rte_mempool rte_ring rte_device rte_tel_data }

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
