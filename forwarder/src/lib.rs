//! SciStream's data server (S2DS): a relay that rewrites packets in place between two networks.
//!
//! The crate is a pure core with a thin edge. [`wire`], [`flow`], [`nat`], [`neighbor`] and [`engine`] work on byte
//! slices and on [`io::PacketBuf`]; they see no device, no clock and no socket, and forbid `unsafe`. [`dpdk`] binds
//! them to real devices, [`service`] to the operator. `docs/architecture.md` follows one packet through them.

pub mod api;
pub mod config;
pub mod counters;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod engine;
pub mod flow;
pub mod gateway;
pub mod io;
#[cfg(feature = "manual")]
pub mod manual;
pub mod nat;
pub mod neighbor;
pub mod net;
#[cfg(feature = "dpdk")]
pub mod notify;
pub mod pools;
#[cfg(feature = "dpdk")]
pub mod privilege;
pub mod residence;
#[cfg(feature = "dpdk")]
pub mod server;
pub mod service;
pub mod sync;
pub mod topology;
pub mod wire;
pub mod worker;
